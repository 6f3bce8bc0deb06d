"""What a person looks at next: the cases that fell short, what each check covered, what is missing, known faults."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from statistics import median

from markupsafe import Markup

from proofbook.report.collect import Results
from proofbook.report.markup import TRIAGE, chip, clip, count_of, empty, fold, table
from proofbook.report.overview import duration
from proofbook.verdict import Verdict
from proofbook.workbook.html import Html
from proofbook.workbook.records import CaseRecord, CheckRecord

SHORT = tuple(verdict for verdict in TRIAGE if verdict.fell_short)
# verdicts under which a check gave an answer about its case
ANSWERED = (Verdict.PASS, Verdict.FAIL, Verdict.XFAIL, Verdict.XPASS)
# a check that is skipped on this share of its cases proves little
RARE = 0.9
# how many cases of one verdict are shown before the rest is folded away
SHOWN = 40


def failures(results: Results) -> Html:
    """Every case that fell short: why, by which checks, and the command that opens it for debugging."""
    short = results.having(*SHORT)
    if not short:
        idle = results.ledger.blocked_targets()
        missing = f", but not one could run on {' and '.join(idle)}: see what was missing" if idle else ""
        return empty(f"No case of {len(results.cases):,} fell short{missing}.")
    parts = [_group(results, verdict, list(cases)) for verdict, cases in groupby(short, lambda case: case.verdict)]
    return Html(Markup("\n").join(parts), "\n".join(failure_text(results, case) for case in short))


def _group(results: Results, verdict: Verdict, cases: list[CaseRecord]) -> Markup:
    title = Markup("<h4>{}</h4>").format(chip(verdict, count=len(cases)))
    if verdict is Verdict.NOT_RUN:
        names = Markup(", ").join(results.linked(case, case.case) for case in cases)
        resume = Markup("<pre><code>proofbook run --resume {}</code></pre>").format(results.name)
        return title + fold(f"{count_of(len(cases), 'case')} not reached", names) + resume
    rows = [(results.linked(case, case.case), _story(results, case)) for case in cases]
    markup = title + table(["case", "what happened, and how to open it"], rows[:SHOWN], kind="failures")
    if len(rows) > SHOWN:
        rest = table(["case", "what happened, and how to open it"], rows[SHOWN:], kind="failures")
        markup += fold(f"{len(rows) - SHOWN} more with this verdict", rest)
    return markup


def _story(results: Results, case: CaseRecord) -> Markup:
    checks = short_checks(results, case)
    listed = Markup("").join(
        Markup("<div>{} <strong>{}</strong> {}</div>").format(
            chip(check.verdict), check.check, clip(finding(check), 400)
        )
        for check in checks
    )
    # a case's reason is most often that of its first check that fell short
    told = any(case.reason == f"{check.check}: {check.detail or check.observed or ''}" for check in checks)
    reason = "" if told else Markup("<div>{}</div>").format(clip(case.reason or "no reason was given"))
    script = results.reproduced(case)
    return Markup("{}{}{}<pre><code>{}</code></pre>").format(
        reason, listed, Markup("<div>{}</div>").format(script) if script else "", case.rerun
    )


def short_checks(results: Results, case: CaseRecord) -> list[CheckRecord]:
    """The checks of a case that were asked and fell short."""
    checks = results.checks_of.get(case.case, [])
    return [check for check in checks if check.verdict.fell_short and check.verdict is not Verdict.NOT_RUN]


def failure_text(results: Results, case: CaseRecord) -> str:
    """One failed case in plain words: verdict, reason, the checks that fell short, the command."""
    lines = [f"{case.verdict}: {case.case}: {case.reason}"]
    lines += [f"  {check.verdict}: {check.check}: {finding(check)}" for check in short_checks(results, case)]
    return "\n".join([*lines, f"  {case.rerun}"])


def finding(check: CheckRecord) -> str:
    """What a check found: ``observed 1e-3, allowed 0; the detail``."""
    figures = [f"{word} {value}" for word in ("observed", "allowed") if (value := getattr(check, word))]
    return "; ".join(part for part in (", ".join(figures), check.detail) if part)


def coverage(results: Results) -> Html:
    """What each check covered: on how many models it gave an answer, what it answered, why it was skipped.

    A check that is skipped nearly everywhere proves little, and is marked.
    """
    if not results.checks:
        return empty("No case recorded a check.")
    model_of = {case.case: case.model for case in results.cases}
    tried = {model_of[check.case] for check in results.checks}
    columns = [v for v in TRIAGE if any(check.verdict is v for check in results.checks)]
    by_check: dict[tuple[str, str], list[CheckRecord]] = {}
    for check in results.checks:
        by_check.setdefault((check.family, check.check), []).append(check)
    rows = [[family, name, *_covered(rows, model_of, len(tried), columns)] for (family, name), rows in by_check.items()]
    head = ["family", "check", "models", *map(chip, columns), "median", "in all", "why skipped, most often"]
    markup = table(head, rows, numbers=range(2, 5 + len(columns)), kind="coverage")
    text = "\n".join(f"{row[1]}: answered on {row[2]} models" for row in rows)
    return Html(markup, text)


def _covered(
    rows: Sequence[CheckRecord], model_of: Mapping[str, str], tried: int, columns: Sequence[Verdict]
) -> list[object]:
    answered = len({model_of[row.case] for row in rows if row.verdict in ANSWERED})
    counts = Counter(row.verdict for row in rows)
    seconds = [row.seconds for row in rows if row.seconds is not None]
    return [
        f"{answered} / {tried}",
        *(counts[verdict] or "" for verdict in columns),
        duration(median(seconds)) if seconds else "",
        duration(sum(seconds)) if seconds else "",
        _skips(rows),
    ]


def _skips(rows: Sequence[CheckRecord]) -> Markup | None:
    reasons = Counter(row.detail or "no reason was given" for row in rows if row.verdict is Verdict.SKIP)
    if not reasons:
        return None
    share = reasons.total() / len(rows)
    mark = Markup("<strong>⚠ skipped on {:.0%}</strong>: ").format(share) if share >= RARE else ""
    return Markup("{}{}").format(mark, clip(reasons.most_common(1)[0][0], 160))


def blocked(results: Results) -> Html:
    """What is missing on this machine, what to do about it, and the cases that wait for it."""
    return _by_reason(results, Verdict.BLOCKED, "Nothing was missing: no case was blocked.")


def known_faults(results: Results) -> Html:
    """The known faults that showed, with the issue and expiry date that their entry names."""
    return _by_reason(results, Verdict.XFAIL, "No known fault showed.")


def _by_reason(results: Results, verdict: Verdict, none: str) -> Html:
    groups = by_cause(results, verdict)
    if not groups:
        return empty(none)
    rows = [(name, said, len(cases), _names(results, cases)) for (name, said), cases in groups.items()]
    markup = table(["what", "why, and what to do", "cases", "which"], rows, numbers={2}, kind="reasons")
    lines = [f"{name}: {said}: {count_of(len(cases), 'case')}" for (name, said), cases in groups.items()]
    return Html(markup, "\n".join(lines))


def by_cause(results: Results, verdict: Verdict) -> dict[tuple[str, str], list[CaseRecord]]:
    """The cases of a verdict by what the first check that has it observed and says, the largest group first."""
    groups: dict[tuple[str, str], list[CaseRecord]] = {}
    for case in results.having(verdict):
        deciding = (check for check in results.checks_of.get(case.case, []) if check.verdict is verdict)
        check = next(deciding, None)
        name, said = (check.observed or check.check, check.detail) if check else ("", case.reason)
        cause = name, said.removeprefix(f"{name}: ")
        groups.setdefault(cause, []).append(case)
    return dict(sorted(groups.items(), key=lambda group: -len(group[1])))


def _names(results: Results, cases: Sequence[CaseRecord]) -> Markup:
    scripts = [results.reproduced(case) for case in cases]
    names = Markup(", ").join(
        results.linked(case, case.case) + (Markup(" ({})").format(script) if script else "")
        for case, script in zip(cases, scripts, strict=True)
    )
    return names if len(cases) <= 8 else fold(count_of(len(cases), "case"), names)
