"""Entries that nobody wrote: one for every model type that the installed transformers registers as a model of its own.

The rule for what that is stands in :func:`proofbook.catalog.registered.own_types`. Looking at every model takes half a
minute and imports torch, so another process does it, once for each release of transformers.
"""

import hashlib
import json
import subprocess
import sys
import warnings
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from proofbook.catalog.schema import Model
from proofbook.files import write_atomic
from proofbook.paths import cache_dir, params_dir

_PROGRAM = "proofbook.catalog.registered"


class DiscoveryFailed(RuntimeError):
    """The installed transformers could not be looked at; the message ends with what its import said."""


@cache
def discover() -> Mapping[str, Model]:
    """The derived entries by model type, in the order of transformers' register.

    Raises:
        DiscoveryFailed: transformers or torch can't be imported.
    """
    path = _cache_file()
    try:
        entries = [Model.model_validate(one) for one in json.loads(path.read_bytes())]
    except (OSError, ValueError):  # not looked at yet, or damaged, or of another proofbook
        entries = [Model.model_validate(one) for one in _look(path)]
    return {one.model_type: one for one in entries}


def newer(types: Mapping[str, Model]) -> list[str]:
    """Those of the model types that no transformers had when this proofbook was released."""
    known = released_types()
    return [model_type for model_type in types if model_type not in known]


def released_types() -> frozenset[str]:
    """The model types that were known when this proofbook was released."""
    return frozenset((params_dir() / "known_model_types.txt").read_text(encoding="utf-8").split())


def may_have(model_type: str) -> bool:
    """Whether :func:`discover` may know the type: it costs nothing as it was asked before, or the type was known when
    this proofbook was released, or a package of transformers is named after it. Imports nothing."""
    if _cache_file().is_file() or model_type in released_types():
        return True
    found = find_spec("transformers")
    homes = (found.submodule_search_locations if found else None) or ()
    return any(Path(home, "models", model_type.replace("-", "_")).is_dir() for home in homes)


def _cache_file() -> Path:
    source = Path(__file__).with_name("registered.py").read_bytes()
    edition = hashlib.sha256(source).hexdigest()[:8]
    return cache_dir() / f"registered-{version('transformers')}-{edition}.json"


def _look(path: Path) -> list[dict[str, str]]:
    done = subprocess.run([sys.executable, "-m", _PROGRAM], capture_output=True, text=True, check=False)
    if done.returncode:
        raise DiscoveryFailed(f"transformers {version('transformers')}: {done.stderr.strip()[-2000:]}")
    entries: list[dict[str, str]] = json.loads(done.stdout.splitlines()[-1])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(entries, indent=1))
    except OSError as error:
        warnings.warn(f"{path} can't be written, so discovery starts anew each time: {error}", stacklevel=2)
    return entries
