"""The ledger: one row a planned case and one a check, made from the plan and the executed notebooks alone."""

import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from proofbook.batch.account import Efficiency, efficiency, execution_of
from proofbook.batch.plan import Plan, PlannedCase
from proofbook.files import write_atomic
from proofbook.verdict import Verdict
from proofbook.workbook import scraps
from proofbook.workbook.records import CaseRecord, CheckRecord, Record

if TYPE_CHECKING:
    import pyarrow as pa

CASES_FILE, CHECKS_FILE = "ledger/cases.parquet", "ledger/checks.parquet"
# the key of a notebook's metadata under which the engine says how an execution ended that did not end well
METADATA = "proofbook"


class LedgerOpen(AssertionError):
    """The ledger doesn't close: some planned case has no verdict, or more than one."""


@dataclass(frozen=True)
class Result:
    """What came of one planned case."""

    case: CaseRecord
    checks: tuple[CheckRecord, ...] = ()


@dataclass(frozen=True)
class Ledger:
    """All that came of a run, in the order of its plan."""

    plan: Plan
    results: tuple[Result, ...]

    @property
    def cases(self) -> tuple[CaseRecord, ...]:
        """One row a planned case."""
        return tuple(result.case for result in self.results)

    @property
    def checks(self) -> tuple[CheckRecord, ...]:
        """One row a recorded check."""
        return tuple(check for result in self.results for check in result.checks)

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
        """Write both tables into a run's folder, over whatever is there."""
        write_atomic(folder / CASES_FILE, _parquet(CaseRecord, self.cases))
        write_atomic(folder / CHECKS_FILE, _parquet(CheckRecord, self.checks))


def read_ledger(folder: Path) -> Ledger:
    """Make the ledger of a run from its plan and notebooks; what ``ledger/`` holds plays no part.

    Raises:
        BadPlan: the folder has no usable plan.
    """
    plan = Plan.load(folder)
    return Ledger(plan, tuple(read_result(folder, plan.run, case) for case in plan.cases))


def read_result(folder: Path, run: str, planned: PlannedCase) -> Result:
    """What came of one planned case, by its executed notebook.

    The notebook's scraps decide, unless its metadata say that the execution itself went wrong.
    """
    path = folder / planned.notebook
    if not path.is_file():
        return Result(_row(run, planned, Verdict.NOT_RUN, "the run ended before it was this case's turn"))
    try:
        metadata = _metadata(path)
    except ValueError as error:
        return Result(_row(run, planned, Verdict.ERROR, f"{planned.notebook} is not a readable notebook: {error}"))
    account = execution_of(metadata).model_dump()
    try:
        found = scraps.read(path)
    except scraps.NoScraps as error:
        verdict, reason = _without_scraps(metadata.get(METADATA), error)
        reason = reason.replace(str(path), planned.notebook)
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
    return Result(row, found.checks)


def is_readable(path: Path) -> bool:
    """Whether a file is there, and a notebook."""
    try:
        return bool(_metadata(path))
    except (FileNotFoundError, ValueError):
        return False


def _metadata(path: Path) -> dict[str, Any]:
    """The metadata of a notebook. Raises ValueError where the file is not one."""
    content = json.loads(path.read_text(encoding="utf-8"))
    metadata = content.get("metadata") if isinstance(content, dict) else None
    if not isinstance(metadata, dict) or not isinstance(content.get("cells"), list):
        raise ValueError("it has no metadata and no cells")
    return metadata


def _without_scraps(execution: Any, error: scraps.NoScraps) -> tuple[Verdict, str]:
    match execution:
        case {"verdict": str(verdict), "reason": str(reason)} if verdict in set(Verdict):
            return Verdict(verdict), reason
    if error.__cause__ is not None:  # there are scraps, and something is wrong with them
        return Verdict.ERROR, " ".join(str(error).split())
    return Verdict.CRASH, f"the notebook came to its end without a verdict: {error}"


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


def _parquet(kind: type[Record], rows: Sequence[Record]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, _column_type(field.annotation)) for name, field in kind.model_fields.items()])
    plain = [
        {name: json.dumps(value) if isinstance(value, dict) else value for name, value in row.items()}
        for row in (row.model_dump(mode="json") for row in rows)
    ]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(plain, schema=schema), buffer)
    return buffer.getvalue()


def _column_type(annotation: Any) -> "pa.DataType":
    """The type of a column, which must not depend on whether any row has a value in it. Mappings become JSON text."""
    import pyarrow as pa

    plain = {bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
    kinds = [kind for kind in get_args(annotation) or (annotation,) if kind is not type(None)]
    return plain.get(kinds[0], pa.string())
