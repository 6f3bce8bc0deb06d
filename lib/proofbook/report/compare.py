"""Two runs held against each other: what broke, what was mended, what got slower."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from proofbook.report.collect import Results
from proofbook.report.facts import recorded_versions
from proofbook.report.findings import finding
from proofbook.report.markdown import code, plain, table_of
from proofbook.report.markup import count_of
from proofbook.verdict import Verdict
from proofbook.workbook.records import CaseRecord, CheckRecord

# how much longer the median of a call takes that got slower, where it is also beyond the 90th percentile of before
SLOWER = 1.5
# the worse, the lower; what has no answer in one of the runs is neither better nor worse
_WORTH = {
    Verdict.PASS: 2,
    Verdict.XPASS: 2,
    Verdict.XFAIL: 1,
    **dict.fromkeys((Verdict.FAIL, Verdict.ERROR, Verdict.TIMEOUT, Verdict.CRASH), 0),
}
# a model, its variant, its weights and its target: the environment is what may differ
Key = tuple[str, str, str, str]


@dataclass(frozen=True)
class Change:
    """What became of one case, or of one check of it."""

    case: str
    # empty for the case as a whole
    check: str
    before: str
    after: str
    why: str
    rerun: str


@dataclass(frozen=True)
class Comparison:
    """What differs between two runs, by the cases that both planned: the same model, variant, weights and target."""

    before: Results
    after: Results

    @cached_property
    def broke(self) -> list[Change]:
        """Cases and checks that are worse than they were; a case that can't run any more is among them."""
        return list(self._moved(lambda before, after: before > after))

    @cached_property
    def mended(self) -> list[Change]:
        """Cases and checks that are better than they were."""
        return list(self._moved(lambda before, after: before < after))

    @cached_property
    def slower(self) -> list[Change]:
        """Cases whose calls take longer by :data:`SLOWER` or more."""
        found = []
        for old, new in self._pairs:
            if old.p50_ms and new.p50_ms and new.p50_ms > max(SLOWER * old.p50_ms, old.p90_ms or 0):
                why = f"{new.p50_ms / old.p50_ms:.2g} times as long"
                found.append(Change(_name(new), "", f"{old.p50_ms:.3g} ms", f"{new.p50_ms:.3g} ms", why, new.rerun))
        return found

    @cached_property
    def alone(self) -> list[str]:
        """The cases that only one of the runs planned, or has an answer for."""
        old, new = _by_key(self.before), _by_key(self.after)
        single = {**old, **new}.items()
        lone = [_name(case) for key, case in single if key not in old or key not in new]
        return lone + [_name(b) for a, b in self._pairs if Verdict.NOT_RUN in (a.verdict, b.verdict)]

    @property
    def _pairs(self) -> list[tuple[CaseRecord, CaseRecord]]:
        old = _by_key(self.before)
        return [(old[key], case) for key, case in _by_key(self.after).items() if key in old]

    def _moved(self, towards: Callable[[int, int], bool]) -> Iterable[Change]:
        for old, new in self._pairs:
            checks = self._checks(old, new, towards)
            if not checks and _differs(_case_worth(old), _case_worth(new), towards):
                yield Change(_name(new), "", old.verdict, new.verdict, new.reason or old.reason, new.rerun)
            yield from checks

    def _checks(self, old: CaseRecord, new: CaseRecord, towards: Callable[[int, int], bool]) -> list[Change]:
        was = {check.check: check for check in self.before.checks_of.get(old.case, ())}
        found = []
        for check in self.after.checks_of.get(new.case, ()):
            past = was.get(check.check)
            if past and _differs(_WORTH.get(past.verdict), _WORTH.get(check.verdict), towards):
                why = finding(_telling(past, check))
                found.append(Change(_name(new), check.check, past.verdict, check.verdict, why, new.rerun))
        return found


def comparison_markdown(found: Comparison) -> str:
    """The comparison for a pull request or a job summary."""
    parts = [f"# {code(found.before.name)} → {code(found.after.name)}", plain(headline(found))]
    differ = versions(found)
    if differ:
        parts.append(table_of(["", "before", "after"], [[plain(cell, 200) for cell in row] for row in differ]))
    for title, changes in sections(found).items():
        rows = [
            [code(one.case), code(one.check) if one.check else "", one.before, one.after, plain(one.why, 300)]
            for one in changes
        ]
        if rows:
            parts += [f"## {title}", table_of(["case", "check", "before", "after", "what is said"], rows)]
    if found.alone:
        parts += ["## Only in one of the runs", ", ".join(map(code, found.alone))]
    return "\n\n".join(parts) + "\n"


def headline(found: Comparison) -> str:
    """The comparison in one sentence."""
    counts = [f"{len({one.case for one in changes})} {title.lower()}" for title, changes in sections(found).items()]
    both = len(_by_key(found.before).keys() & _by_key(found.after).keys())
    return f"Of {count_of(both, 'case')} in both runs: {', '.join(counts)}."


def sections(found: Comparison) -> Mapping[str, list[Change]]:
    """The changes by title, what is worse first."""
    return {"Broke": found.broke, "Mended": found.mended, "Got slower": found.slower}


def versions(found: Comparison) -> list[tuple[str, str, str]]:
    """The libraries and parts of the machine that differ: name, before, after."""
    old, new = recorded_versions(found.before), recorded_versions(found.after)
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return [(name, "; ".join(old.get(name, ())), "; ".join(new.get(name, ()))) for name in names]


def _by_key(results: Results) -> dict[Key, CaseRecord]:
    return {(case.model, case.variant, case.weights, case.target): case for case in results.cases}


def _name(case: CaseRecord) -> str:
    """A case's name without its environment."""
    return case.case.removesuffix(f"@{case.environment}")


def _case_worth(case: CaseRecord) -> int | None:
    """As of a check; what was blocked did not run, which is worse than if it had."""
    return 0 if case.verdict is Verdict.BLOCKED else _WORTH.get(case.verdict)


def _differs(before: int | None, after: int | None, towards: Callable[[int, int], bool]) -> bool:
    return before is not None and after is not None and towards(before, after)


def _telling(before: CheckRecord, after: CheckRecord) -> CheckRecord:
    """Of a check's two answers the one that says what was wrong."""
    return before if after.verdict is Verdict.PASS else after
