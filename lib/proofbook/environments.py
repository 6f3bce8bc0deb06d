"""The environments that this machine has: which are made, where, and which of them this process runs in.

An environment is a virtual environment of its own whose search path continues with the packages of the interpreter
that made it: only what differs is installed twice. It lies below the prefix of that interpreter, and goes with it.
Only one that holds its :data:`MARKER`, which is written last, is ever used.
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from pydantic import BaseModel, ConfigDict, ValidationError

from proofbook.catalog.environments import CURRENT, met
from proofbook.verdict import Blocked

MARKER = "proofbook-environment.json"


class Made(BaseModel):
    """What an environment says of itself."""

    model_config = ConfigDict(frozen=True)

    name: str
    description: str
    requirements: tuple[str, ...]
    # of the distributions that it has for itself, by canonical name
    versions: dict[str, str]
    # the folders of packages that it shares
    shares: tuple[str, ...]

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return interpreter_in(folder_of(self.name))

    @property
    def usable(self) -> bool:
        """Whether what it was made of is still there."""
        return self.python.exists() and all(Path(folder).is_dir() for folder in self.shares)

    def meets(self, needs: Iterable[str]) -> bool:
        """Whether its packages, its own and the shared ones, are what an entry's ``needs`` ask for."""
        needs = tuple(needs)
        return met(needs, {**_installed(needs), **self.versions})


def prefix() -> Path:
    """Below which environments and their kernelspecs lie: ``$PROOFBOOK_PREFIX``, else this interpreter's own prefix."""
    return Path(os.environ.get("PROOFBOOK_PREFIX") or sys.prefix)


def folder_of(name: str) -> Path:
    """Where an environment of that name lies, made or not."""
    return prefix() / "share" / "proofbook" / "environments" / name


def kernelspec_of(name: str) -> Path:
    """Where Jupyter finds the kernel of an environment."""
    return prefix() / "share" / "jupyter" / "kernels" / kernel_name(name)


def jupyter_path() -> dict[str, str]:
    """The variable by which JupyterLab finds the kernels of environments wherever they lie."""
    own = str(prefix() / "share" / "jupyter")
    return {"JUPYTER_PATH": os.pathsep.join(filter(None, (own, os.environ.get("JUPYTER_PATH"))))}


def kernel_name(name: str) -> str:
    """The name of an environment's kernel in Jupyter; that of the current one is Jupyter's default."""
    return "python3" if name == own_name() else f"proofbook-{name}"


def interpreter_in(folder: Path) -> Path:
    """The interpreter of a virtual environment."""
    return folder / "Scripts" / "python.exe" if os.name == "nt" else folder / "bin" / "python"


def made() -> dict[str, Made]:
    """The environments that can be used, by name, the newest release of transformers first."""
    newest_first = sorted(_found(), key=lambda one: Version(one.versions["transformers"]), reverse=True)
    return {one.name: one for one in newest_first if one.usable}


def _found() -> Iterator[Made]:
    for marker in sorted(folder_of("_").parent.glob(f"*/{MARKER}")):
        try:
            yield Made.model_validate_json(marker.read_bytes())
        except (ValidationError, OSError):
            continue  # of another version's shape: to be made again, as one that is not there


@cache
def own_name() -> str:
    """The environment that this process runs in."""
    try:
        return Made.model_validate_json((Path(sys.prefix) / MARKER).read_bytes()).name
    except FileNotFoundError:
        return CURRENT


def interpreter(name: str) -> str:
    """The interpreter of an environment.

    Raises:
        Blocked: it is not made on this machine.
    """
    if name in (CURRENT, own_name()):
        return sys.executable
    there = made()
    if name not in there:
        has = ", ".join((CURRENT, *there))
        raise Blocked(name, f"this machine has no such environment; it has: {has}", f"`proofbook env create {name}`")
    return str(there[name].python)


def here(needs: Iterable[str]) -> bool:
    """Whether what this process imports is what some ``needs`` ask for."""
    needs = tuple(needs)
    return met(needs, _installed(needs))


def chosen_for(needs: Iterable[str]) -> str:
    """The environment for an entry's ``needs``: this one where it meets them, or where none does."""
    needs = tuple(needs)
    if here(needs):
        return own_name()
    return next((one.name for one in made().values() if one.meets(needs)), own_name())


def packages(name: str) -> dict[str, str]:
    """The releases of all packages that an environment has, its own and the shared ones, by canonical name."""
    own = made()[name].versions if name in made() and name != own_name() else {}
    return {**_releases(), **own}


@cache
def editable() -> list[str]:
    """The packages other than proofbook whose sources lie where they can be edited: their releases tell nothing."""
    found = []
    for one in distributions():
        origin = json.loads(one.read_text("direct_url.json") or "{}")
        if origin.get("dir_info", {}).get("editable") and canonicalize_name(one.name) != "proofbook":
            found.append(one.name)
    return sorted(found)


@cache
def _releases() -> dict[str, str]:
    return {canonicalize_name(one.name): one.version for one in distributions() if one.name}


def _installed(needs: Iterable[str]) -> dict[str, str]:
    """The releases that this interpreter has of what some ``needs`` name."""
    found: dict[str, str] = {}
    for need in needs:
        name = Requirement(need).name
        try:
            found[canonicalize_name(name)] = version(name)
        except PackageNotFoundError:
            continue
    return found
