"""Nothing is done twice: the key of a case, and results of earlier runs that have the same.

A case's key is the hash of all that its outcome depends on: the cells of its notebook, its parameters, the packages of
its environment, the code of proofbook that computes it, what ``params/`` says of its model and target, the machine.
Where an earlier run has an answer under the same key, its notebook is copied, and says of itself whose result it is.

An answer is what checks came to: ``pass``, ``fail``, ``xfail``, ``xpass`` or ``skip``. A failure counts as one, since
doing it again until it passes is what must not happen. What ended otherwise (``timeout``, ``crash``, ``error``,
``blocked``) may owe it to the hour, a full disk or a missing package, and runs again.
"""

import hashlib
import json
import os
import platform
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

from proofbook.batch.kernels import kernel_environment
from proofbook.batch.machine import MachineryFailed, cores, devices, found, threads
from proofbook.batch.plan import PlannedCase
from proofbook.catalog import Catalog, Model, Timings, UnknownName, Weights
from proofbook.environments import editable, packages

# the parts of proofbook by which a case is executed, counted and shown, but not computed
_BESIDE = ("batch", "cli", "report", "selftest")
# what variables are called that libraries of numbers read
_VARIABLES = (
    *("ATEN_", "BLIS_", "CUBLAS_", "CUDA_", "CUDNN_", "DNNL_", "HF_", "HIP_", "KMP_", "MKL_", "NVIDIA_", "OMP_"),
    *("ONEDNN_", "OPENBLAS_", "PYTORCH_", "TORCH", "TRANSFORMERS_", "XPU_", "ZE_"),
)
_PARAMETERS = {"model", "target", "weights", "environment", "variant", "sweep", "seed"}


class Keys:
    """The keys of cases, as things stood when this was made. Safe to use from several threads.

    Args:
        catalog: what ``params/`` says.
        params: where it was read from.
        notebooks: the folder of the category notebooks.
        timings: among what calls are timed.
        today: known faults count as long as they have not expired by then.
    """

    def __init__(self, catalog: Catalog, params: Path, notebooks: Path, timings: Timings, today: date) -> None:
        self._catalog, self._notebooks, self._timings, self._today = catalog, notebooks, timings, today
        self._sources = [*_code_files(), *sorted(params.rglob("*.yaml")), *sorted(notebooks.glob("*.ipynb"))]
        self._stamp = self._stamped()
        self._lock = threading.Lock()
        self._common = {
            "code": _digest(part for path in _code_files() for part in (path.name.encode(), path.read_bytes())),
            "machine": _machine(),
            "tolerances": {name: one.model_dump(mode="json") for name, one in catalog.tolerances.items()},
            "timings": timings,
        }
        self._made: dict[PlannedCase, str] = {}

    def of(self, case: PlannedCase) -> str:
        """The key of a case; empty where what it depends on can't be told by names and versions.

        That is so with other than tiny weights, whose folder or repository may have changed, and where a package is
        installed from sources that can be edited.
        """
        if not _is_told(case):
            return ""
        with self._lock:
            if case not in self._made:
                self._made[case] = self._key(case)
            return self._made[case]

    def ask_ahead(self, case: PlannedCase) -> None:
        """Have asked, while a case runs, what its key will need to know of the machine."""
        target = self._catalog.targets.get(case.target)
        if _is_told(case) and target and target.runtime != "eager":
            threading.Thread(target=_ask, name="machine", daemon=True).start()

    def hold(self) -> bool:
        """Whether the files of proofbook are still those that they were when this was made."""
        return self._stamped() == self._stamp

    def _key(self, case: PlannedCase) -> str:
        try:
            model, target = self._catalog.model(case.model), self._catalog.target(case.target)
            cells = _cells(self._notebooks / f"{case.category}.ipynb")
        except (UnknownName, OSError, ValueError):  # it will say so when it runs
            return ""
        facts = {
            **self._common,
            "notebook": cells,
            "parameters": case.model_dump(mode="json", include=_PARAMETERS),
            "packages": packages(case.environment),
            "model": model.model_dump(mode="json"),
            "faults": [fault.expires >= self._today for fault in model.known_faults],
            "switched": self._switched(model) if case.variant else [],
            "target": target.model_dump(mode="json"),
            "device": "" if target.device == "cpu" else devices()[target.device].model_dump(mode="json"),
            "beside": {} if target.runtime == "eager" else found().releases.get(target.runtime, {}),
            "variables": _variables({**os.environ, **kernel_environment(threads(case.weights))}),
        }
        return _digest([json.dumps(facts, sort_keys=True).encode()])

    def _switched(self, model: Model) -> list[tuple[dict[str, Any], list[bool]]]:
        """What may show in a variant of a model, and which of its faults have not expired."""
        return [
            (one.model_dump(mode="json"), [fault.expires >= self._today for fault in one.known_faults])
            for one in self._catalog.switched
            if one.concerns(model)
        ]

    def _stamped(self) -> list[tuple[int, int] | None]:
        return [
            (status.st_mtime_ns, status.st_size) if path.is_file() and (status := path.stat()) else None
            for path in self._sources
        ]


@dataclass(frozen=True)
class Earlier:
    """A notebook of an earlier run, by its folder and its place therein."""

    run: Path
    notebook: str


def earlier(outputs: Path, damaged: list[str]) -> dict[str, list[Earlier]]:
    """The executed notebooks of a folder of runs by their keys, the newest first.

    The notebooks of a run that was killed, and so has no ledger, are looked at one by one, as are those of one whose
    ledger is damaged. What can't be read is said in ``damaged``.
    """
    from proofbook.batch.history import ledgers, read_columns
    from proofbook.batch.ledger import CASES_FILE

    found: defaultdict[str, list[Earlier]] = defaultdict(list)
    silent = [run for run in outputs.glob("*") if not run.is_symlink() and not (run / CASES_FILE).exists()]
    for path in reversed(ledgers(outputs)):
        run = path.parents[1]
        try:
            rows = read_columns(path, ("key", "notebook"))
        except Exception as error:  # pyarrow raises whatever a damaged file makes of it
            damaged.append(f"{path} can't be read, so its notebooks are: {type(error).__name__}")
            silent.append(run)
            continue
        for row in rows:
            if row.get("key"):
                found[row["key"]].append(Earlier(run, row["notebook"]))
    for run in silent:
        for key, notebook in _keys_in(run, damaged):
            found[key].append(Earlier(run, notebook))
    return found


def _keys_in(run: Path, damaged: list[str]) -> Iterator[tuple[str, str]]:
    from proofbook.batch.account import execution_of

    for path in run.glob("cases/*/[!.]*.ipynb"):
        try:
            metadata = json.loads(path.read_bytes())["metadata"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            damaged.append(f"{path} can't be read: {type(error).__name__}")
            continue
        if isinstance(metadata, dict) and (key := execution_of(metadata).key):
            yield key, path.relative_to(run).as_posix()


def _is_told(case: PlannedCase) -> bool:
    """Whether names and versions tell what a case depends on."""
    return case.weights is Weights.TINY and not editable()


def _ask() -> None:
    with suppress(MachineryFailed):  # which is told where the answer is needed
        found()


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


def _code_files() -> list[Path]:
    root = Path(__file__).parents[1]
    files = sorted([*root.rglob("*.py"), *root.rglob("*.mjs")])
    return [path for path in files if path.relative_to(root).parts[0] not in _BESIDE]


def _cells(notebook: Path) -> str:
    """The hash of a notebook's cells; outputs that somebody left in it don't count."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    telling = [(cell["cell_type"], "".join(cell["source"]), cell["metadata"].get("tags")) for cell in cells]
    return _digest([json.dumps(telling).encode()])


def _variables(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_VARIABLES)}


@cache
def _machine() -> dict[str, Any]:
    """What of the machine decides numbers and speed: its processor and what that is capable of, cores, libraries."""
    told = Path("/proc/cpuinfo")  # of Linux
    lines = told.read_text().splitlines() if told.is_file() else [platform.processor()]
    about = sorted({line for line in lines if line.startswith(("model name", "flags", "Features")) or len(lines) == 1})
    return {
        "cpu": about,
        "cores": cores(),
        "system": [platform.system(), platform.machine(), *platform.libc_ver()],
        "python": platform.python_version(),
    }
