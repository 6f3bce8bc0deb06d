"""A run's results, read back from its plan and its executed notebooks."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from markupsafe import Markup

from proofbook.batch.ledger import Ledger, current_ledger
from proofbook.batch.plan import PLAN_FILE, BadPlan
from proofbook.catalog import Category
from proofbook.paths import outputs_dir
from proofbook.verdict import Verdict
from proofbook.workbook.records import CaseRecord, CheckRecord

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Results:
    """What came out of a run, arranged for looking at it."""

    folder: Path
    ledger: Ledger
    # how links reach the run's folder from the page that shows them: "", or a relative path with a final slash
    base: str = ""

    @property
    def name(self) -> str:
        """The run's name."""
        return self.ledger.plan.run

    @property
    def cases(self) -> tuple[CaseRecord, ...]:
        """One row a planned case, in the plan's order."""
        return self.ledger.cases

    @property
    def checks(self) -> tuple[CheckRecord, ...]:
        """One row a recorded check."""
        return self.ledger.checks

    @property
    def totals(self) -> Counter[Verdict]:
        """The number of cases by verdict."""
        return self.ledger.totals

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets, in the plan's order."""
        return self.ledger.plan.targets

    @cached_property
    def by_category(self) -> Mapping[Category, list[CaseRecord]]:
        """The cases of each category that has any, in the order of the categories."""
        found: dict[Category, list[CaseRecord]] = {category: [] for category in Category}
        for case in self.cases:
            found[case.category].append(case)
        return {category: cases for category, cases in found.items() if cases}

    @cached_property
    def rows(self) -> Mapping[str, Mapping[str, CaseRecord]]:
        """The cases as a matrix: by :meth:`row`, then by target."""
        found: dict[str, dict[str, CaseRecord]] = {}
        for case in self.cases:
            found.setdefault(self.row(case), {})[case.target] = case
        return found

    @cached_property
    def checks_of(self) -> Mapping[str, list[CheckRecord]]:
        """The checks of each case that recorded any, by the case's name."""
        found: dict[str, list[CheckRecord]] = {}
        for check in self.checks:
            found.setdefault(check.case, []).append(check)
        return found

    def having(self, *verdicts: Verdict) -> list[CaseRecord]:
        """The cases with one of these verdicts, in that order of verdicts."""
        return [case for verdict in verdicts for case in self.cases if case.verdict is verdict]

    @staticmethod
    def row(case: CaseRecord) -> str:
        """What a case is called among the cases of its target: by its model and variant, its weights unless they are
        tiny, and its environment unless it is the current one."""
        name, _, behind = case.case.partition("@")
        environment = behind.removeprefix(case.target)
        return f"{name}{environment}"

    def link(self, case: CaseRecord) -> str | None:
        """The relative address of a case's executed notebook; None where there is none."""
        if not (self.folder / case.notebook).is_file():
            return None
        return quote(f"{self.base}{case.notebook}", safe="/@")

    def linked(self, case: CaseRecord, words: str | Markup) -> Markup:
        """The words, as a link to the case's notebook where there is one."""
        link = self.link(case)
        if link is None:
            return Markup("{}").format(words)
        return Markup('<a href="{}" style="text-decoration:none">{}</a>').format(link, words)

    def reproduced(self, case: CaseRecord) -> Markup:
        """A link to the script that reproduces a case's failure; empty where there is none."""
        path = Path(case.notebook).with_name(case.reproduction).as_posix() if case.reproduction else ""
        if not path or not (self.folder / path).is_file():
            return Markup("")
        link = quote(f"{self.base}{path}", safe="/@")
        return Markup('<a href="{}">reproduction</a>').format(link)

    def frames(self) -> "tuple[pd.DataFrame, pd.DataFrame]":
        """Cases and checks as tables to ask one's own questions of; the columns are those of the ledger."""
        import pandas as pd

        rows: tuple[Sequence[CaseRecord], Sequence[CheckRecord]] = (self.cases, self.checks)
        cases, checks = (pd.DataFrame([row.model_dump(mode="json") for row in part]) for part in rows)
        return cases, checks


def collect(run: str | Path = "") -> Results:
    """Read a run, from its ledger as long as that is of the same notebooks, else from these, one by one.

    What a damaged notebook says is lost, and no more than that.

    Args:
        run: the run's folder; empty for the newest one in ``outputs/``.

    Raises:
        BadPlan: the folder is not that of a run, or ``outputs/`` holds none.
    """
    folder = Path(run).resolve() if run else newest_run(outputs_dir())
    base = os.path.relpath(folder).replace(os.sep, "/")
    return Results(folder, current_ledger(folder), "" if base == "." else f"{base}/")


def newest_run(outputs: Path) -> Path:
    """The run that was planned last. Raises :class:`BadPlan` where there is none."""
    plans = sorted(outputs.glob(f"*/{PLAN_FILE}"), key=lambda path: path.stat().st_mtime)
    if not plans:
        raise BadPlan(f"{outputs} holds no run yet: `proofbook run` makes one")
    return plans[-1].parent.resolve()
