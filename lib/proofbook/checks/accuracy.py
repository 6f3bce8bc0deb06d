"""Are the numbers right?"""

from proofbook.checks.registry import Observation, check
from proofbook.checks.trial import Trial


@check
def matches_truth(trial: Trial) -> Observation:
    """Every output lies within a multiple of the noise floor of float64 truth, by RMSE, worst row and worst element."""
    comparisons = trial.compare_to_truth()
    worst = max(comparisons, key=lambda one: one.ratio)
    failed = [one for one in comparisons if not one.passed]
    return Observation(
        passed=not failed,
        observed=f"{worst.ratio:.3g} of the error allowed, in {worst.name}",
        allowed=f"1 in each of {len(comparisons)} outputs",
        detail="; ".join(
            [f"{one.name}: {one.broken}" for one in failed[:3]] + ([] if trial.truth.exact else [trial.truth.rule])
        ),
        comparisons=tuple(comparisons),
    )
