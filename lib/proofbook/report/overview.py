"""The run at a glance: the headline, the totals, and the matrix models × targets."""

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime

from markupsafe import Markup

from proofbook.batch.ledger import LedgerOpen
from proofbook.catalog import Category, Timings
from proofbook.report.collect import Results
from proofbook.report.markup import TRIAGE, bar, chip, count_of, empty, label, number, table
from proofbook.verdict import Verdict
from proofbook.workbook.html import Html
from proofbook.workbook.records import CaseRecord

# the sign of a result that was brought over from an earlier run
REUSED = "↺"


def headline(results: Results) -> Html:
    """How many cases passed, fell short and could not run, every verdict's count, and whether the ledger closes."""
    short = sum(count for verdict, count in results.totals.items() if verdict.fell_short)
    first = f"{results.totals[Verdict.PASS]:,} of {count_of(len(results.cases), 'case')} passed"
    second = f"{short:,} fell short" if short else "none fell short"
    if results.totals[Verdict.BLOCKED]:
        second += f", {results.totals[Verdict.BLOCKED]:,} could not run here"
    notes = [about(results), balance(results), *execution(results)]
    notes += [f"Not one case could run on {target}" for target in results.ledger.blocked_targets()]
    chips = Markup(" ").join(chip(v, count=results.totals[v]) for v in TRIAGE if results.totals[v])
    markup = Markup(
        '<div class="headline"><p style="font-size:1.5em"><strong>{}</strong>, {}.</p>{}'
        '<p class="chips">{}</p><p class="about">{}.</p></div>'
    ).format(first, second, bar(results.totals) if results.cases else "", chips, Markup(".<br>").join(notes))
    return Html(markup, f"{first}, {second}; {'; '.join(notes)}.")


def about(results: Results) -> str:
    """What was planned, and when."""
    plan = results.ledger.plan
    models = count_of(len({case.model for case in plan.cases}), "model")
    suite = f"suite {plan.suite}, " if plan.suite else ""
    when = datetime.fromisoformat(plan.created).astimezone(UTC)
    return f"Run {plan.run}: {suite}{models} on {', '.join(plan.targets)}; {when.day} {when:%B %Y, %H:%M} UTC"


def balance(results: Results) -> str:
    """The ledger in words: that planned is the sum of all verdicts, or that it is not."""
    try:
        return f"The ledger closes: {results.ledger.closes()}"
    except LedgerOpen as error:
        return str(error).upper()


def execution(results: Results) -> list[str]:
    """What was not executed in this run but brought over, how well the rest used its cores, and how it was timed."""
    said = []
    reused = [case for case in results.cases if case.reused]
    if reused:
        dates = sorted(day(case.executed) for case in reused)
        when = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
        runs = sorted({case.reused for case in reused})
        whose = ", ".join(runs) if len(runs) <= 3 else f"{len(runs)} runs"
        said.append(f"{count_of(len(reused), 'result')} brought over ({REUSED}), executed {when} by {whose}")
    if results.ledger.efficiency:
        said.append(f"Its {results.ledger.efficiency}")
    alone = [case for case in results.cases if case.timings is Timings.ALONE]
    if alone:
        busy = max(case.busy_cores or 0 for case in alone)
        said.append(
            f"{count_of(len(alone), 'case')} timed while no other case ran, at most {number(busy, 2)} cores of the "
            "machine busy meanwhile"
        )
    return said


def origin(case: CaseRecord) -> str:
    """Whose result a case's is, where this run only brought it over; else empty."""
    return f"Brought over from run {case.reused}, which executed it on {case.executed}" if case.reused else ""


def day(moment: str) -> str:
    """The day of a moment in ISO 8601."""
    return moment.partition("T")[0]


def legend() -> Html:
    """What each verdict means."""
    meanings = {
        Verdict.PASS: "every check that applies passed",
        Verdict.FAIL: "a wrong answer",
        Verdict.ERROR: "an exception",
        Verdict.TIMEOUT: "the time limit passed",
        Verdict.CRASH: "the kernel died: a signal, out of memory",
        Verdict.XPASS: "a known fault that no longer shows: its entry must go",
        Verdict.NOT_RUN: "planned, and not reached",
        Verdict.BLOCKED: "a dependency or device is missing, by name",
        Verdict.XFAIL: "a known fault, with its issue and an expiry date",
        Verdict.SKIP: "not applicable, with the reason",
    }
    items = Markup("").join(Markup("<li>{} {}</li>").format(chip(verdict), meanings[verdict]) for verdict in TRIAGE)
    items += Markup("<li>{} brought over from an earlier run, as nothing that it depends on has changed</li>").format(
        REUSED
    )
    text = "\n".join(f"{label(verdict)}: {meanings[verdict]}" for verdict in TRIAGE)
    return Html(Markup('<ul class="legend" style="list-style:none;padding:0">{}</ul>').format(items), text)


def totals(results: Results) -> Html:
    """Categories × verdicts, with a bar each and a sum."""
    if not results.cases:
        return empty("No case was planned.")
    columns = [verdict for verdict in TRIAGE if results.totals[verdict]]
    head = ["category", "cases", *(chip(v) for v in columns), "time", ""]
    rows = [[category, *_counts(cases, columns)] for category, cases in results.by_category.items()]
    rows.append([Markup("<strong>all</strong>"), *_counts(results.cases, columns)])
    markup = table(head, rows, numbers=set(range(1, len(columns) + 3)), kind="totals")
    return Html(markup, "\n".join(f"{row[0]}: {row[1]} cases" for row in rows))


def _counts(cases: Iterable[CaseRecord], columns: list[Verdict]) -> list[object]:
    cases = list(cases)
    counts = Counter(case.verdict for case in cases)
    spent = duration(sum(case.seconds or 0 for case in cases))
    return [len(cases), *(counts[v] or "" for v in columns), spent, bar(counts)]


def matrix(results: Results) -> Html:
    """One row a model, one column a target, a table a category; each cell links to its executed notebook."""
    if not results.cases:
        return empty("No case was planned.")
    blocks = Markup("\n").join(
        Markup('<div class="block"><h4>{}</h4>{}</div>').format(category, _grid(results, category))
        for category in results.by_category
    )
    # as many columns of tables as the page is wide; where styles are stripped they stand one below the other
    width = 10 + 5.2 * len(results.targets)
    markup = Markup('<div class="matrix" style="column-width:{:.1f}em">{}</div>').format(width, blocks)
    text = "\n".join(f"{case.case}: {case.verdict}" for case in results.cases)
    return Html(markup, text)


def _grid(results: Results, category: Category) -> Markup:
    names = sorted({results.row(case) for case in results.by_category[category]})
    targets = [target for target in results.targets if any(target in results.rows[name] for name in names)]
    lines = [
        [name, *(_cell(results, row[target]) if target in row else None for target in targets)]
        for name in names
        if (row := results.rows[name])
    ]
    return table(["model", *targets], lines, kind="grid")


def _cell(results: Results, case: CaseRecord) -> Markup:
    title = case.reason or (f"p50 {number(case.p50_ms)} ms" if case.p50_ms is not None else "")
    shown = chip(case.verdict, title=f"{case.case}: {title}"[:300])
    if case.reused:
        shown += Markup(' <span title="{}">{}</span>').format(origin(case), REUSED)
    return results.linked(case, shown)


def duration(seconds: float) -> str:
    """Seconds in the units that people use: ``31 ms``, ``4.2 s``, ``3 min 05 s``, ``2 h 10 min``."""
    if 0 < seconds < 1:
        return f"{seconds * 1000:.0f} ms" if seconds >= 0.001 else "<1 ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
