"""How big the models are, and in what surroundings the run was made."""

from collections import Counter

from markupsafe import Markup

from proofbook.report.collect import Results
from proofbook.report.markup import count_of, empty, fold, number, table
from proofbook.workbook.html import Html
from proofbook.workbook.records import CaseRecord


def sizes(results: Results) -> Html:
    """Parameters of the checkpoint's configuration and of what ran, load time and peak memory, by category."""
    parts, lines = [], []
    for category, cases in results.by_category.items():
        shown = [case for case in cases if case.parameters is not None or case.parameters_full is not None]
        if shown:
            parts.append(fold(f"{category} ({count_of(len(shown), 'case')})", _size_table(results, shown)))
            lines += [f"{case.case}: {number(case.parameters_full)} parameters in full" for case in shown]
    if not parts:
        return empty("No case came far enough to build its model.")
    return Html(Markup("\n").join(parts), "\n".join(lines))


def _size_table(results: Results, cases: list[CaseRecord]) -> Markup:
    head = ["case", "parameters in full", "parameters run", "load", "first call", "peak memory"]
    ordered = sorted(cases, key=lambda case: -(case.parameters_full or 0))
    rows = [
        (
            results.linked(case, case.case),
            scaled(case.parameters_full),
            scaled(case.parameters),
            _with_unit(case.load_s, "s"),
            _with_unit(case.first_s, "s"),
            _with_unit(case.peak_mb, "MB"),
        )
        for case in ordered
    ]
    return table(head, rows, numbers={1, 2, 3, 4, 5}, kind="sizes")


def scaled(count: int | None) -> str:
    """A number of parameters as people say it: ``110 M``, ``6.74 B``."""
    if count is None:
        return ""
    for step, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= step:
            return f"{number(count / step)} {unit}"
    return str(count)


def _with_unit(value: float | None, unit: str) -> str:
    return "" if value is None else f"{number(value)} {unit}"


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
