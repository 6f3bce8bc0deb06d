"""How big the models are, and in what surroundings the run was made."""

from collections import Counter
from collections.abc import Sequence

from markupsafe import Markup

from proofbook.report.collect import Results
from proofbook.report.markup import count_of, empty, fold, number, table
from proofbook.workbook.html import Html
from proofbook.workbook.records import CaseRecord

# up to this many cases the tables are open from the start
SMALL = 40


def sizes(results: Results) -> Html:
    """Parameters of the checkpoint's configuration and of what ran, and peak memory on each target, by category."""
    parts, lines = [], []
    for category, cases in results.by_category.items():
        rows = _size_rows(results, cases)
        if rows:
            head = ["model", "parameters in full", "as run", *(f"peak on {target}" for target in results.targets)]
            shown = table(head, rows, numbers=range(1, len(head)), kind="sizes")
            parts.append(fold(f"{category} ({count_of(len(rows), 'model')})", shown, open_=len(results.cases) <= SMALL))
            lines += [f"{row[0]}: {row[1]} parameters in full, {row[2]} as run" for row in rows]
    if not parts:
        return empty("No case came far enough to build its model.")
    return Html(Markup("\n").join(parts), "\n".join(lines))


def _size_rows(results: Results, cases: list[CaseRecord]) -> list[Sequence[object]]:
    """A row for each model that any case built, the largest checkpoint first."""
    built = {results.row(case): case for case in cases if case.parameters is not None}
    return [
        [
            name,
            scaled(case.parameters_full),
            scaled(case.parameters),
            *(_peak(results, results.rows[name].get(target)) for target in results.targets),
        ]
        for name, case in sorted(built.items(), key=lambda row: -(row[1].parameters_full or 0))
    ]


def _peak(results: Results, case: CaseRecord | None) -> Markup | None:
    return None if case is None or case.peak_mb is None else results.linked(case, f"{number(case.peak_mb)} MB")


def scaled(count: int | None) -> str:
    """A number of parameters as people say it: ``110 M``, ``6.74 B``."""
    if count is None:
        return ""
    for step, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= step:
            return f"{number(count / step)} {unit}"
    return str(count)


def environment(results: Results) -> Html:
    """What the cases ran on, as their notebooks recorded it; where cases differ, each value with its count."""
    recorded = recorded_versions(results)
    if not recorded:
        return empty("No case recorded its surroundings.")
    rows = [(name, "; ".join(values)) for name, values in recorded.items()]
    return Html(table(["", ""], rows, kind="environment"), "\n".join(f"{name}: {said}" for name, said in rows))


def recorded_versions(results: Results) -> dict[str, list[str]]:
    """By name what the cases recorded under it; more than one value, the most common first, with its count."""
    found: dict[str, Counter[str]] = {}
    for case in results.cases:
        for name, value in case.versions.items():
            found.setdefault(name, Counter())[value] += 1
    return {
        name: [
            value if len(values) == 1 else f"{value} ({count_of(count, 'case')})"
            for value, count in values.most_common()
        ]
        for name, values in found.items()
    }
