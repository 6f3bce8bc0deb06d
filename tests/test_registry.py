"""A check is one described function; whatever happens in it becomes a verdict."""

from typing import Any

import pytest

from proofbook.checks.registry import FAMILIES, Check, NotApplicable, Observation, examine, registered
from proofbook.verdict import Blocked, Verdict, overall


def asked(function: Any) -> Any:
    return examine(Check("one", "forward", "a question", function, graphs=True), None)  # type: ignore[arg-type]


def test_every_check_has_a_name_a_family_and_a_description() -> None:
    checks = registered()
    assert {check.family for check in checks} == set(FAMILIES)
    assert len({check.name for check in checks}) == len(checks)
    assert all(len(check.description) > 20 for check in checks)


@pytest.mark.parametrize("passed", [True, False])
def test_an_observation_passes_or_fails(passed: bool) -> None:
    finding = asked(lambda trial: Observation(passed, "3", "2"))
    assert finding.verdict is (Verdict.PASS if passed else Verdict.FAIL)
    assert (finding.observed, finding.allowed) == ("3", "2")


@pytest.mark.parametrize(
    ("raised", "verdict", "says"),
    [
        (NotApplicable("no text"), Verdict.SKIP, "no text"),
        (Blocked("natten", "not installed", "install it"), Verdict.BLOCKED, "natten: not installed. install it"),
        (ValueError("bad"), Verdict.ERROR, "ValueError: bad"),
        (AssertionError(), Verdict.ERROR, "AssertionError"),
    ],
)
def test_an_exception_is_a_verdict_with_its_cause(raised: Exception, verdict: Verdict, says: str) -> None:
    def function(trial: object) -> Observation:
        raise raised

    finding = asked(function)
    assert finding.verdict is verdict
    assert says in finding.detail
    assert bool(finding.traceback) is (verdict is Verdict.ERROR)


def test_the_worst_verdict_decides_and_nothing_asked_is_not_a_pass() -> None:
    assert overall([Verdict.PASS, Verdict.SKIP]) is Verdict.PASS
    assert overall([Verdict.PASS, Verdict.BLOCKED]) is Verdict.BLOCKED
    assert overall([Verdict.BLOCKED, Verdict.FAIL, Verdict.PASS]) is Verdict.FAIL
    assert overall([Verdict.FAIL, Verdict.CRASH]) is Verdict.CRASH
    assert overall([]) is Verdict.NOT_RUN


def test_only_expected_verdicts_do_not_fall_short() -> None:
    expected = {Verdict.PASS, Verdict.SKIP, Verdict.BLOCKED, Verdict.XFAIL}
    assert {verdict for verdict in Verdict if not verdict.fell_short} == expected
