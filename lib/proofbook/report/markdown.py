"""The run in Markdown: for a job summary, a pull request, a chat."""

from collections import Counter
from collections.abc import Iterable, Sequence

from proofbook.report.causes import causes, on
from proofbook.report.collect import Results
from proofbook.report.facts import recorded_versions
from proofbook.report.findings import SHORT, by_cause, short_checks
from proofbook.report.markup import TRIAGE, count_of, label
from proofbook.report.overview import day, duration, headline
from proofbook.verdict import Verdict
from proofbook.workbook.records import CaseRecord

# GitHub refuses a job summary above 1 MiB; at most some 600 bytes a row keep a table of this length far below
ROWS = 200


def summary_markdown(results: Results) -> str:
    """Headline, categories × verdicts, failures with reason and rerun command, what was missing, versions."""
    parts = [
        f"# proofbook: {plain(results.name)}",
        headline_line(results),
        _totals(results),
        "## What fell short",
        _failures(results),
        "## What each target takes",
        _causes(results),
        "## What was missing",
        _blocked(results),
        *_brought_over(results),
        "## Versions",
        _versions(results),
    ]
    return "\n\n".join(parts) + "\n"


def headline_line(results: Results) -> str:
    """The first sentence, with the symbol that says whether any case fell short."""
    return f"{'❌' if results.ledger.fell_short else '✅'} {plain(repr(headline(results)))}"


def _totals(results: Results) -> str:
    columns = [verdict for verdict in TRIAGE if results.totals[verdict]]
    head = ["category", "cases", *(label(v) for v in columns), "time"]
    groups: list[tuple[str, Sequence[CaseRecord]]] = [*results.by_category.items(), ("**all**", results.cases)]
    rows = []
    for name, cases in groups:
        counts = Counter(case.verdict for case in cases)
        spent = duration(sum(case.seconds or 0 for case in cases))
        rows.append([name, str(len(cases)), *(str(counts[v] or "") for v in columns), spent])
    return table_of(head, rows)


def _failures(results: Results) -> str:
    short = [case for case in results.having(*SHORT) if case.verdict is not Verdict.NOT_RUN]
    waiting = results.totals[Verdict.NOT_RUN]
    parts = []
    if short:
        rows = [[label(case.verdict), code(case.case), _why(results, case), code(case.rerun)] for case in short[:ROWS]]
        parts.append(table_of(["verdict", "case", "why", "rerun"], rows))
        if len(short) > ROWS:
            parts.append(f"… and {len(short) - ROWS} more, in the summary notebook.")
    if waiting:
        parts.append(f"{count_of(waiting, 'case')} not reached: {code(f'proofbook run --resume {results.name}')}")
    return "\n\n".join(parts) or "No case fell short."


def _why(results: Results, case: CaseRecord) -> str:
    names = ", ".join(code(check.check) for check in short_checks(results, case)[:5])
    reason = plain(case.reason, 300)
    return f"{reason} ({names})" if names else reason


def _causes(results: Results) -> str:
    columns = [verdict for verdict in TRIAGE if results.totals[verdict]]
    rows = []
    for target in results.targets:
        cases = on(results, target)
        for cause, own in {"": cases, **causes(results, cases)}.items():
            counts = Counter(case.verdict for case in own)
            some = ", ".join(code(case.model) for case in own[:8]) if cause else ""
            more = f" and {len(own) - 8} more" if cause and len(own) > 8 else ""
            name = plain(cause, 120) if cause else f"**{plain(target)}**"
            rows.append([name, str(len(own)), *(str(counts[v] or "") for v in columns), some + more])
    return table_of(["target, and why not", "cases", *map(label, columns), "which"], rows[:ROWS])


def _blocked(results: Results) -> str:
    groups = by_cause(results, Verdict.BLOCKED)
    rows = []
    for (name, said), cases in list(groups.items())[:ROWS]:
        some = ", ".join(code(case.case) for case in cases[:5])
        which = some if len(cases) <= 5 else f"{some} and {len(cases) - 5} more"
        rows.append([plain(name, 100), plain(said, 300), str(len(cases)), which])
    return (
        table_of(["what", "why, and what to do", "cases", "which"], rows) if rows else "Nothing: no case was blocked."
    )


def _brought_over(results: Results) -> list[str]:
    """The cases that this run did not execute, by the run that did and its day."""
    groups: dict[tuple[str, str], list[CaseRecord]] = {}
    for case in results.cases:
        if case.reused:
            groups.setdefault((case.reused, day(case.executed)), []).append(case)
    if not groups:
        return []
    rows = []
    for (run, when), cases in sorted(groups.items())[:ROWS]:
        some = ", ".join(code(case.case) for case in cases[:5])
        rows.append(
            [code(run), when, str(len(cases)), some if len(cases) <= 5 else f"{some} and {len(cases) - 5} more"]
        )
    return ["## What was brought over", table_of(["executed by", "on", "cases", "which"], rows)]


def _versions(results: Results) -> str:
    rows = [[plain(name, 60), plain("; ".join(said), 200)] for name, said in recorded_versions(results).items()]
    return table_of(["", ""], rows) if rows else "No case recorded any."


def table_of(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the cells are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plain(words: str, length: int = 600) -> str:
    """Words on one line that no reader of Markdown takes for markup, cut after ``length`` characters."""
    line = " ".join(words.split())
    line = line if len(line) <= length else line[: length - 1].rstrip() + "…"
    for sign in "\\`*_{}[]<>|#~$":
        line = line.replace(sign, f"\\{sign}" if sign not in "<>" else {"<": "&lt;", ">": "&gt;"}[sign])
    return line.replace("@", "&#64;")


def code(words: str) -> str:
    """A name or a command, set as code."""
    return f"`{' '.join(words.split()).replace('`', chr(39)).replace('|', chr(92) + '|')}`"
