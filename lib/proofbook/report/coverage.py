"""What runs where: per category and architecture, on each target, since which release, and what is blocked by what.

Made of ledgers alone: that of the run, and, for the first release with which an architecture passed, those of the
runs that lie beside it.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from packaging.version import InvalidVersion, Version

from proofbook.batch.ledger import CASES_FILE
from proofbook.catalog import Category
from proofbook.report.collect import Results
from proofbook.report.findings import by_cause
from proofbook.report.markdown import code, plain, table_of
from proofbook.report.markup import TRIAGE, chip, count_of, empty, label, table
from proofbook.verdict import Verdict
from proofbook.workbook.html import Html
from proofbook.workbook.records import CaseRecord

LIBRARY = "transformers"


@dataclass(frozen=True)
class Architecture:
    """What came out for one model type of one category."""

    name: str
    cases: tuple[CaseRecord, ...]
    # the first release of transformers with which a case of it passed; empty where none did
    since: str
    # names of what was missing
    blocked_by: tuple[str, ...]

    @property
    def models(self) -> tuple[str, ...]:
        """The models of this architecture, in the plan's order."""
        return tuple(dict.fromkeys(case.model for case in self.cases))

    def on(self, target: str) -> Counter[Verdict]:
        """The number of its cases on a target by verdict."""
        return Counter(case.verdict for case in self.cases if case.target == target)

    def passes_on(self, target: str) -> bool:
        """Whether it has cases on a target and all of them passed."""
        return set(self.on(target)) == {Verdict.PASS}


def architectures(results: Results) -> dict[Category, list[Architecture]]:
    """The architectures of each category that has any, by name."""
    first = _first_releases(results)
    missing = {
        case.case: name for (name, _), cases in by_cause(results, Verdict.BLOCKED).items() for case in cases if name
    }
    found = {}
    for category, cases in results.by_category.items():
        grouped: dict[str, list[CaseRecord]] = {}
        for case in cases:
            grouped.setdefault(case.model_type, []).append(case)
        found[category] = [
            Architecture(
                name,
                tuple(own),
                str(first.get(name, "")),
                tuple(sorted({missing[case.case] for case in own if case.case in missing})),
            )
            for name, own in sorted(grouped.items())
        ]
    return found


def coverage_page(results: Results) -> Html:
    """The tables as HTML, a headline for each category; models, and cells of a single case, link to a notebook."""
    parts, text = [], []
    for category, rows in architectures(results).items():
        said = headline(results, rows)
        lines = [
            [
                row.name,
                Markup(", ").join(_model(results, row, model) for model in row.models),
                *(_cell(results, row, target) for target in results.targets),
                row.since,
                ", ".join(row.blocked_by),
            ]
            for row in rows
        ]
        head = ["architecture", "models", *results.targets, f"since {LIBRARY}", "blocked by"]
        shown = table(head, lines, kind="coverage")
        parts.append(Markup("<h2>{}</h2><p>{}</p>{}").format(category, said, shown))
        text.append(f"{category}: {said}")
    return Html(Markup("\n").join(parts), "\n".join(text)) if parts else empty("No case was planned.")


def coverage_markdown(results: Results) -> str:
    """The same in Markdown."""
    parts = [f"# Coverage: {plain(results.name)}", EXPLANATION]
    for category, rows in architectures(results).items():
        head = ["architecture", "models", *results.targets, f"since {LIBRARY}", "blocked by"]
        lines = [
            [
                code(row.name),
                plain(", ".join(row.models)),
                *(_words(row.on(target)) for target in results.targets),
                plain(row.since),
                plain(", ".join(row.blocked_by)),
            ]
            for row in rows
        ]
        parts += [f"## {category}", plain(headline(results, rows)), table_of(head, lines)]
    return "\n\n".join(parts) + "\n"


EXPLANATION = (
    "Made from the ledger. A cell counts the cases of an architecture on a target by verdict; `since` is the first "
    f"release of {LIBRARY} with which one of its cases passed, in this run or in a run beside it."
)


def headline(results: Results, rows: list[Architecture]) -> str:
    """On how many targets how many architectures pass whole."""
    counts = (f"{sum(row.passes_on(target) for row in rows)} pass on {target}" for target in results.targets)
    return f"{count_of(len(rows), 'architecture')}: {', '.join(counts)}."


def _model(results: Results, row: Architecture, model: str) -> Markup:
    return results.linked(next(case for case in row.cases if case.model == model), model)


def _cell(results: Results, row: Architecture, target: str) -> Markup:
    cases = [case for case in row.cases if case.target == target]
    if len(cases) == 1:
        return results.linked(cases[0], chip(cases[0].verdict, title=cases[0].reason[:300]))
    counts = row.on(target)
    return Markup(" ").join(chip(verdict, count=counts[verdict]) for verdict in TRIAGE if counts[verdict])


def _words(counts: Mapping[Verdict, int]) -> str:
    several = sum(counts.values()) > 1
    return ", ".join(f"{counts[v]} × {label(v)}" if several else label(v) for v in TRIAGE if counts.get(v))


def _first_releases(results: Results) -> dict[str, Version]:
    """By model type the first release with which a case passed, in this run and in the ledgers beside it."""
    rows = [(case.model_type, case.verdict, case.versions) for case in results.cases]
    found: dict[str, Version] = {}
    for model_type, verdict, versions in (*rows, *_beside(results.folder)):
        if verdict != Verdict.PASS or LIBRARY not in versions:
            continue
        try:
            release = Version(versions[LIBRARY])
        except InvalidVersion:  # of a build that names itself after a branch
            continue
        found[model_type] = min(found.get(model_type, release), release)
    return found


def _beside(folder: Path) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Model type, verdict and versions of each case in the ledgers of the runs beside one."""
    import pyarrow
    import pyarrow.parquet as pq

    for path in sorted(folder.parent.glob(f"*/{CASES_FILE}")):
        if path == folder / CASES_FILE:
            continue
        try:
            rows = pq.read_table(path, columns=["model_type", "verdict", "versions"]).to_pylist()
        except (OSError, pyarrow.ArrowException):  # another run's damage is told in that run's own report
            continue
        for row in rows:
            yield row["model_type"], row["verdict"], json.loads(row["versions"])
