"""What a precision can't decide: outputs that its rounding moves further than any bound, however they are computed."""

from collections.abc import Collection, Sequence
from itertools import chain, islice

from proofbook.catalog import Tolerance
from proofbook.checks.compare import Comparison, compare_all
from proofbook.checks.floor import Floor
from proofbook.checks.registry import Executions, NotApplicable, Observation
from proofbook.checks.trial import Trial

# how many ways of rounding are tried at most
DRAWS = 12


def judged(
    trial: Trial,
    comparisons: Sequence[Comparison],
    allowed: str,
    note: str = "",
    executions: Executions | None = None,
) -> Observation:
    """What comparisons with truth, or of two executions that should agree, amount to, those left out that the trial's
    precision does not determine.

    Raises:
        NotApplicable: it determines none.
    """
    failed = {one.output or one.name for one in comparisons if not one.passed}
    loose = undetermined(trial.floor, failed, trial.tolerance) if failed and trial.truth.exact else set[str]()
    kept = [one for one in comparisons if (one.output or one.name) not in loose]
    names = ", ".join(sorted(loose))
    why = f"rounding to {trial.target.dtype} decides, in float64 arithmetic as well, what becomes of {names}"
    if not kept:
        raise NotApplicable(why)
    return Observation.of(kept, allowed, "; ".join([note] * bool(note) + [why] * bool(loose)), executions)


def undetermined(floor: Floor, names: Collection[str], tolerance: Tolerance) -> set[str]:
    """Those outputs that float64 truth itself moves beyond any error allowed when each weight is changed by as much as
    rounding to the dtype changes it: a choice lies within it, of a code, an expert or a mask.

    Where a single choice is close, few roundings make the other one: more are drawn while some output seems settled.
    """
    settled = {name: one for name, one in floor.plain.items() if name in names}
    for moved in islice(chain(floor.rounded, floor.rounded_further()), DRAWS):
        there = {name: moved[name] for name in settled if name in moved}
        for one in compare_all(there, settled, tolerance, floor.wider):
            if not one.passed:
                del settled[one.name]
        if not settled:
            break
    return {name for name in floor.plain if name in names} - settled.keys()
