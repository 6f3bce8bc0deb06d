"""The ledger: one row a planned case, one a check, one a point of a sweep, by plan and executed notebooks alone.

Its tables say of which state of those files they were made, so that who only looks need not read every notebook again.
"""

import hashlib
import io
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin

import proofbook
from proofbook.batch.account import Efficiency, efficiency, execution_of
from proofbook.batch.plan import PLAN_FILE, Plan, PlannedCase
from proofbook.files import write_atomic
from proofbook.verdict import Verdict
from proofbook.workbook import scraps
from proofbook.workbook.records import CaseRecord, CheckRecord, Record, SweepRecord

if TYPE_CHECKING:
    import pyarrow as pa

CASES_FILE, CHECKS_FILE, SWEEPS_FILE = "ledger/cases.parquet", "ledger/checks.parquet", "ledger/sweeps.parquet"
# the key of a notebook's metadata under which the engine says how an execution ended that did not end well
METADATA = "proofbook"
_Row = TypeVar("_Row", bound=Record)
_OfCase = TypeVar("_OfCase", CheckRecord, SweepRecord)
# the key of a table's metadata under which the state stands of the files that it was made from
_STATE = b"proofbook"


class LedgerOpen(AssertionError):
    """The ledger doesn't close: some planned case has no verdict, or more than one."""


@dataclass(frozen=True)
class Result:
    """What came of one planned case."""

    case: CaseRecord
    checks: tuple[CheckRecord, ...] = ()
    sweep: tuple[SweepRecord, ...] = ()


@dataclass(frozen=True)
class Ledger:
    """All that came of a run, in the order of its plan."""

    plan: Plan
    results: tuple[Result, ...]
    # of the files that it was made from
    state: str = field(default="", compare=False)

    @property
    def cases(self) -> tuple[CaseRecord, ...]:
        """One row a planned case."""
        return tuple(result.case for result in self.results)

    @property
    def checks(self) -> tuple[CheckRecord, ...]:
        """One row a recorded check."""
        return tuple(check for result in self.results for check in result.checks)

    @property
    def sweeps(self) -> tuple[SweepRecord, ...]:
        """One row a point of a sweep."""
        return tuple(point for result in self.results for point in result.sweep)

    @cached_property
    def totals(self) -> Counter[Verdict]:
        """The number of cases by verdict, ``not-run`` included."""
        return Counter(case.verdict for case in self.cases)

    def closes(self) -> str:
        """The closing line, such as ``11 planned = 9 pass + 1 fail + 1 not-run``.

        Raises:
            LedgerOpen: the sum is not the number of planned cases, or a case stands for another.
        """
        parts = [f"{self.totals[verdict]} {verdict}" for verdict in Verdict if self.totals[verdict]]
        line = f"{len(self.plan.cases)} planned = {' + '.join(parts) or 0}"
        planned = Counter(case.case for case in self.plan.cases)
        counted = Counter(case.case for case in self.cases)
        if planned != counted or self.totals.total() != len(self.plan.cases) or max(planned.values(), default=1) > 1:
            differ = sorted((planned - counted) + (counted - planned)) or sorted(planned - Counter(set(planned)))
            raise LedgerOpen(f"the ledger does not close: {line}; see {', '.join(differ)}")
        return line

    @property
    def efficiency(self) -> Efficiency | None:
        """How much of the time of its cores the run spent within cells."""
        return efficiency(self.cases)

    def blocked_targets(self) -> list[str]:
        """The targets on which not one case could run."""
        found: dict[str, set[Verdict]] = {}
        for case in self.cases:
            found.setdefault(case.target, set()).add(case.verdict)
        return [target for target, verdicts in found.items() if verdicts == {Verdict.BLOCKED}]

    @property
    def fell_short(self) -> bool:
        """Whether the run is less than what was expected: a case fell short, or a whole target was blocked."""
        return any(case.verdict.fell_short for case in self.cases) or bool(self.blocked_targets())

    def write(self, folder: Path) -> None:
        """Write the tables into a run's folder, over whatever is there."""
        write_atomic(folder / CASES_FILE, _parquet(CaseRecord, self.cases, self.state))
        write_atomic(folder / CHECKS_FILE, _parquet(CheckRecord, self.checks, self.state))
        write_atomic(folder / SWEEPS_FILE, _parquet(SweepRecord, self.sweeps, self.state))


def read_ledger(folder: Path) -> Ledger:
    """Make the ledger of a run from its plan and notebooks; what ``ledger/`` holds plays no part.

    Raises:
        BadPlan: the folder has no usable plan.
    """
    plan = Plan.load(folder)
    state = _state(folder, plan)
    return Ledger(plan, tuple(read_result(folder, plan.run, case) for case in plan.cases), state)


def current_ledger(folder: Path) -> Ledger:
    """The ledger that ``ledger/`` holds, where neither plan nor notebooks have changed since; else :func:`read_ledger`.

    Raises:
        BadPlan: the folder has no usable plan.
    """
    plan = Plan.load(folder)
    try:
        return _read_tables(folder, plan)
    except Exception:  # a table is missing, older, or damaged, of which pyarrow makes any error
        return read_ledger(folder)


def _read_tables(folder: Path, plan: Plan) -> Ledger:
    state = _state(folder, plan)
    cases = _rows(CaseRecord, folder / CASES_FILE, state)
    checks = _by_case(_rows(CheckRecord, folder / CHECKS_FILE, state))
    sweeps = _by_case(_rows(SweepRecord, folder / SWEEPS_FILE, state))
    results = (Result(case, tuple(checks[case.case]), tuple(sweeps[case.case])) for case in cases)
    return Ledger(plan, tuple(results), state)


def _by_case(rows: Iterable[_OfCase]) -> defaultdict[str, list[_OfCase]]:
    found: defaultdict[str, list[_OfCase]] = defaultdict(list)
    for row in rows:
        found[row.case].append(row)
    return found


def read_result(folder: Path, run: str, planned: PlannedCase) -> Result:
    """What came of one planned case, by its executed notebook.

    The notebook's scraps decide, unless its metadata say that the execution itself went wrong.
    """
    path = folder / planned.notebook
    if not path.is_file():
        return Result(_row(run, planned, Verdict.NOT_RUN, "the run ended before it was this case's turn"))
    try:
        notebook = _notebook(path)
    except ValueError as error:
        return Result(_row(run, planned, Verdict.ERROR, f"{planned.notebook} is not a readable notebook: {error}"))
    metadata = notebook["metadata"]
    account = execution_of(metadata).model_dump()
    try:
        found = scraps.scraps_of(notebook)
    except scraps.NoScraps as error:
        verdict, reason = _without_scraps(planned.notebook, metadata.get(METADATA), error)
        row = _row(run, planned, verdict, reason, seconds=_duration(metadata))
        return Result(row.model_copy(update=account))
    if found.case.case != planned.case:
        reason = f"{planned.notebook} holds the scraps of another case, {found.case.case}"
        return Result(_row(run, planned, Verdict.ERROR, reason))
    verdict, reason = _judged(found.case, metadata)
    row = found.case.model_copy(
        update={
            **account,
            "run": run,
            "notebook": planned.notebook,
            "rerun": planned.rerun,
            "verdict": verdict,
            "reason": reason,
        }
    )
    return Result(row, found.checks, found.sweep)


def is_readable(path: Path) -> bool:
    """Whether a file is there, and a notebook."""
    try:
        return bool(_notebook(path)["metadata"])
    except (FileNotFoundError, ValueError):
        return False


def _notebook(path: Path) -> dict[str, Any]:
    """The JSON of a notebook, which has metadata and cells. Raises ValueError where the file is not one."""
    match json.loads(path.read_bytes()):
        case {"metadata": dict(), "cells": list()} as notebook:
            return dict(notebook)
    raise ValueError("it has no metadata and no cells")


def _without_scraps(notebook: str, execution: Any, error: scraps.NoScraps) -> tuple[Verdict, str]:
    match execution:
        case {"verdict": str(verdict), "reason": str(reason)} if verdict in set(Verdict):
            return Verdict(verdict), reason
    if error.__cause__ is not None:  # there are scraps, and something is wrong with them
        return Verdict.ERROR, " ".join(f"{notebook}: {error}".split())
    return Verdict.CRASH, f"the notebook came to its end without a verdict: {notebook}: {error}"


def _judged(case: CaseRecord, metadata: dict[str, Any]) -> tuple[Verdict, str]:
    """The verdict of a case that glued one: its own, unless the execution contradicts it."""
    match metadata.get(METADATA):
        case {"verdict": Verdict.CRASH | Verdict.TIMEOUT as verdict, "reason": str(reason)}:
            return Verdict(verdict), reason
        case {"reason": str(reason)} if not case.verdict.fell_short:
            return Verdict.ERROR, f"its scraps say {case.verdict}, but {reason}"
    papermill = metadata.get("papermill")
    if isinstance(papermill, dict) and papermill.get("exception") and not case.verdict.fell_short:
        return Verdict.ERROR, f"its scraps say {case.verdict}, but papermill recorded an exception"
    return case.verdict, case.reason


def _duration(metadata: dict[str, Any]) -> float | None:
    """How long the execution took, in seconds, where papermill recorded it."""
    match metadata.get("papermill"):
        case {"duration": float(seconds)}:
            return seconds
    return None


def _row(run: str, planned: PlannedCase, verdict: Verdict, reason: str, seconds: float | None = None) -> CaseRecord:
    """The row of a case that left no scraps."""
    return CaseRecord(
        run=run,
        verdict=verdict,
        reason=reason,
        seconds=seconds,
        **planned.model_dump(include=set(CaseRecord.model_fields)),
    )


def _state(folder: Path, plan: Plan) -> str:
    """What tells whether the plan or a notebook has changed: a hash of the sizes and times of their files."""
    files = (folder / name for name in (PLAN_FILE, *(case.notebook for case in plan.cases)))
    seen = [(found.st_size, found.st_mtime_ns, found.st_ctime_ns) if (found := _stat(file)) else None for file in files]
    return hashlib.sha256(repr((proofbook.__version__, seen)).encode()).hexdigest()


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _parquet(kind: type[Record], rows: Sequence[Record], state: str) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    plain = [
        {name: json.dumps(value) if isinstance(value, dict) else value for name, value in row.items()}
        for row in (row.model_dump(mode="json") for row in rows)
    ]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(plain, schema=_schema(kind, state)), buffer)
    return buffer.getvalue()


def _rows(kind: type[_Row], path: Path, state: str) -> list[_Row]:
    """The rows of a table of that state; raises ValueError where it is of another, or pyarrow's errors."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        if not file.schema_arrow.equals(_schema(kind, state), check_metadata=True):
            raise ValueError(f"{path} was made from other files")
        rows = file.read().to_pylist()
    nested = [name for name, about in kind.model_fields.items() if get_origin(about.annotation) is dict]
    return [kind.model_validate({**row, **{name: json.loads(row[name]) for name in nested}}) for row in rows]


def _schema(kind: type[Record], state: str) -> "pa.Schema":
    import pyarrow as pa

    columns = [(name, _column_type(field.annotation)) for name, field in kind.model_fields.items()]
    return pa.schema(columns, metadata={_STATE: state})


def _column_type(annotation: Any) -> "pa.DataType":
    """The type of a column, which must not depend on whether any row has a value in it. Mappings become JSON text."""
    import pyarrow as pa

    plain = {bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
    kinds = [kind for kind in get_args(annotation) or (annotation,) if kind is not type(None)]
    return plain.get(kinds[0], pa.string())
