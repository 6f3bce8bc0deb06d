"""Why cases of a target do not pass, like causes together: operators it lacks, shapes, wrong numbers, time limits."""

from collections import Counter
from collections.abc import Iterable, Sequence

from markupsafe import Markup

from proofbook.report.collect import Results
from proofbook.report.markup import TRIAGE, chip, count_of, empty, fold, table
from proofbook.verdict import Verdict
from proofbook.workbook.html import Html
from proofbook.workbook.records import CaseRecord, CheckRecord

# the check whose observation is itself a cause: what a runtime's refusal is called
REFUSING = "prepared"
# what a case is called that did not come to a check's answer
_WITHOUT = {
    Verdict.CRASH: "the kernel died",
    Verdict.TIMEOUT: "the time limit",
    Verdict.NOT_RUN: "not reached",
}


def by_target(results: Results) -> Html:
    """Each target's verdicts, and under it what kept cases from passing: the commonest cause first, with its models."""
    rows: list[list[object]] = []
    said = []
    columns = [verdict for verdict in TRIAGE if results.totals[verdict]]
    for target in results.targets:
        cases = on(results, target)
        counts = Counter(case.verdict for case in cases)
        rows.append([Markup("<strong>{}</strong>").format(target), len(cases), *(counts[v] or "" for v in columns), ""])
        said.append(f"{target}: {', '.join(f'{counts[v]} {v}' for v in columns if counts[v])}")
        for cause, own in causes(results, cases).items():
            counts = Counter(case.verdict for case in own)
            rows.append([cause, len(own), *(counts[v] or "" for v in columns), _which(results, own)])
            said.append(f"  {len(own)} {cause}: {', '.join(case.model for case in own)}")
    if not any(results.totals[verdict] for verdict in columns if verdict is not Verdict.PASS):
        return empty("Every case passed.")
    head = ["target, and why not", "cases", *map(chip, columns), "which"]
    return Html(table(head, rows, numbers=range(1, 2 + len(columns)), kind="causes"), "\n".join(said))


def causes(results: Results, cases: Iterable[CaseRecord]) -> dict[str, list[CaseRecord]]:
    """The cases that did not pass by their cause, the commonest first."""
    groups: dict[str, list[CaseRecord]] = {}
    for case in cases:
        if case.verdict is not Verdict.PASS:
            groups.setdefault(cause_of(case, results.checks_of.get(case.case, [])), []).append(case)
    return dict(sorted(groups.items(), key=lambda group: (-len(group[1]), group[0])))


def cause_of(case: CaseRecord, checks: Iterable[CheckRecord]) -> str:
    """Why a case did not pass, in a few words that like cases share: by its first check of the case's own verdict."""
    deciding = next((check for check in checks if check.verdict is case.verdict), None)
    if deciding is None:
        return _WITHOUT.get(case.verdict, "the notebook")
    if case.verdict is Verdict.BLOCKED:
        return f"missing {deciding.observed}"
    if deciding.check == REFUSING and deciding.observed:
        return deciding.observed
    if deciding.observed is None:
        return f"{deciding.check} raises"
    return f"wrong by {deciding.check}"


def on(results: Results, target: str) -> list[CaseRecord]:
    """The cases of a target, in the plan's order."""
    return [case for case in results.cases if case.target == target]


def _which(results: Results, cases: Sequence[CaseRecord]) -> Markup:
    names = Markup(", ").join(results.linked(case, case.model) for case in cases)
    return names if len(cases) <= 8 else fold(count_of(len(cases), "case"), names)
