"""What a batch keeps of each execution, in its notebook's metadata, and what it comes to in the end: efficiency."""

import os
import platform
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from proofbook.batch.machine import threads
from proofbook.batch.plan import PlannedCase
from proofbook.catalog import Timings
from proofbook.workbook.records import CaseRecord, Execution

# the key of a notebook's metadata
METADATA = "proofbook_execution"
# the key under which the engine leaves what it measured for the account: fields of it
MEASURED = "proofbook_measured"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _named() -> str:
    """A name that no other batch has, as several machines may begin theirs in the same second."""
    return f"{_now()} {platform.node()}:{os.getpid()}"


@dataclass(frozen=True)
class Batch:
    """One stretch of executing cases: a run has one, and another each time that it is resumed.

    ``cores`` are those that it has for its cases. Durations are by a clock that only goes forward.
    """

    cores: int
    name: str = field(default_factory=_named)
    _start: float = field(default_factory=time.monotonic)

    def begin(self, case: PlannedCase) -> Execution:
        """The account of a case that begins now."""
        return Execution(
            executed=_now(),
            batch=self.name,
            cores=self.cores,
            threads=threads(case.weights),
            began_s=self._passed(),
        )

    def end(self, begun: Execution, notebook: Mapping[str, Any], measured: Mapping[str, Any], key: str) -> Execution:
        """The account of a case that has just ended, by its executed notebook and what the engine measured."""
        ended = {
            "wall_s": round(self._passed() - (begun.began_s or 0), 3),
            "cells_s": seconds_in_cells(notebook),
            "timings": Timings.ALONE if "busy_cores" in measured else Timings.BESIDE,
            "key": key,
        }
        return begun.model_copy(update={**ended, **measured})

    def _passed(self) -> float:
        return round(time.monotonic() - self._start, 3)


def seconds_in_cells(notebook: Mapping[str, Any]) -> float:
    """How long the cells of an executed notebook took, as papermill measured them."""
    records = (cell["metadata"].get("papermill") or {} for cell in notebook["cells"])
    return round(sum(record.get("duration") or 0.0 for record in records), 3)


def execution_of(metadata: Mapping[str, Any]) -> Execution:
    """The account in a notebook's metadata; an empty one where there is none or it is of another shape."""
    try:
        return Execution.model_validate(metadata.get(METADATA, {}))
    except ValidationError:
        return Execution()


@dataclass(frozen=True)
class Efficiency:
    """How much of the time of its cores a run spent within cells, which is what plain notebooks would take."""

    # seconds in cells, times the threads that each case computes with
    core_seconds: float
    # seconds from the beginning of each batch to the end of its last case, times its cores
    available: float
    # seconds of all batches
    wall: float
    cores: int

    @property
    def share(self) -> float:
        """Between 0 and about 1."""
        return self.core_seconds / self.available

    def __str__(self) -> str:
        return (
            f"efficiency {self.share:.0%}: {self.core_seconds:,.0f} s of {self.cores} × {self.wall:,.0f} s "
            "were spent in cells"
        )


def efficiency(cases: Iterable[CaseRecord]) -> Efficiency | None:
    """The efficiency of the batches that executed these cases; None where none says. Reused ones don't count."""
    batches: defaultdict[str, list[CaseRecord]] = defaultdict(list)
    for case in cases:
        if case.batch and not case.reused:
            batches[case.batch].append(case)
    wall = {name: max((case.began_s or 0) + (case.wall_s or 0) for case in of) for name, of in batches.items()}
    cores = {name: max(case.cores or 1 for case in of) for name, of in batches.items()}
    available = sum(wall[name] * cores[name] for name in batches)
    if not available:
        return None
    spent = sum((case.cells_s or 0) * (case.threads or 1) for of in batches.values() for case in of)
    return Efficiency(spent, available, sum(wall.values()), max(cores.values()))
