"""Are the numbers right?"""

from proofbook.checks.registry import Observation, check
from proofbook.checks.trial import Trial


@check
def matches_truth(trial: Trial) -> Observation:
    """Every output lies within a multiple of the noise floor of float64 truth, by RMSE, worst row and worst element."""
    comparisons = trial.compare_to_truth()
    weaker = "" if trial.truth.exact else trial.truth.rule
    return Observation.of(comparisons, f"1 in each of {len(comparisons)} outputs", weaker, trial.beside_truth)
