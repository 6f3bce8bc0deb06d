"""Brings results of earlier runs over into a new one: notebooks are copied, and marked with whose they are."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proofbook.batch.account import METADATA, execution_of
from proofbook.batch.ledger import Result, read_result
from proofbook.batch.plan import Plan, PlannedCase
from proofbook.batch.reuse import Earlier, Keys, earlier
from proofbook.files import write_atomic
from proofbook.verdict import Verdict
from proofbook.workbook.records import CaseRecord, reproduction_files

ANSWERS = frozenset({Verdict.PASS, Verdict.FAIL, Verdict.XFAIL, Verdict.XPASS, Verdict.SKIP})
"""The verdicts under which checks came to an answer, so that asking again would give the same."""

# the tag of the cell that says so
TAG = "reused"


@dataclass(frozen=True)
class Brought:
    """What was brought over, and what could not be read on the way."""

    cases: tuple[CaseRecord, ...]
    damaged: tuple[str, ...]

    def __str__(self) -> str:
        if not self.cases:
            return "no earlier run has a result that still holds"
        oldest = min(case.executed for case in self.cases)
        runs = sorted({case.reused for case in self.cases})
        whose = ", ".join(runs) if len(runs) <= 3 else f"{len(runs)} runs"
        many = f"{len(self.cases)} result{'s' if len(self.cases) > 1 else ''}"
        return f"{many} brought over from {whose}, the oldest of {oldest}: nothing that they depend on has changed"


def bring_over(plan: Plan, folder: Path, keys: Keys, outputs: Path) -> Brought:
    """Copy what earlier runs in ``outputs`` found for cases of a plan under the same keys into the run's folder.

    Raises:
        OSError: a copy can't be written.
    """
    damaged: list[str] = []
    known = earlier(outputs, damaged)
    brought = []
    for case in plan.cases:
        key = keys.of(case)
        for source in known.get(key, ()) if key else ():
            found = _answer(source, case, key)
            if found is not None and source.run != folder:
                brought.append(_copy(source, found, case, folder))
                break
    return Brought(tuple(brought), tuple(damaged))


def _answer(source: Earlier, case: PlannedCase, key: str) -> Result | None:
    """What an earlier notebook says, which alone decides; None where that is no answer to this case."""
    if source.notebook != case.notebook:
        return None
    found = read_result(source.run, source.run.name, case)
    return found if found.case.key == key and found.case.verdict in ANSWERS else None


def _copy(source: Earlier, found: Result, case: PlannedCase, folder: Path) -> CaseRecord:
    content: dict[str, Any] = json.loads((source.run / source.notebook).read_text(encoding="utf-8"))
    account = execution_of(content["metadata"])
    # a result that was itself brought over stays that of the run that executed it
    account = account.model_copy(update={"reused": account.reused or source.run.name})
    content["metadata"][METADATA] = account.model_dump(mode="json", exclude_defaults=True)
    cells = [cell for cell in content["cells"] if TAG not in cell["metadata"].get("tags", ())]
    said = (
        f"**Brought over, not executed again.** Run `{account.reused}` executed this notebook ({account.executed}). "
        "Nothing that its outcome depends on has changed since: its cells and parameters, the code and `params/` of "
        "proofbook, the packages, the machine, the target."
    )
    note = {"cell_type": "markdown", "id": TAG, "metadata": {"tags": [TAG]}, "source": [said]}
    content["cells"] = [note, *cells]
    write_atomic(folder / case.notebook, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    _copy_reproduction((source.run / source.notebook).parent, (folder / case.notebook).parent, case.case)
    return found.case.model_copy(update=account.model_dump())


def _copy_reproduction(source: Path, target: Path, case: str) -> None:
    for name in reproduction_files(case):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
