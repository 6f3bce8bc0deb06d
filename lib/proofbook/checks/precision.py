"""Does the model work in half precision as well as half precision allows?"""

from proofbook.checks.conditioning import judged
from proofbook.checks.registry import NotApplicable, Observation, check
from proofbook.checks.trial import Trial


@check
def bfloat16(trial: Trial) -> Observation:
    """Loaded in bfloat16, every output lies within a multiple of that precision's own noise of float64 truth."""
    return _in_half(trial, "bfloat16")


@check
def float16(trial: Trial) -> Observation:
    """Loaded in float16, every output lies within a multiple of that precision's own noise of float64 truth."""
    return _in_half(trial, "float16")


def _in_half(trial: Trial, dtype: str) -> Observation:
    if trial.target.dtype != "float32":
        raise NotApplicable(f"asked of a model in float32; this target is one of {trial.target.dtype} itself")
    half = trial.in_dtype(dtype)
    comparisons = half.compare_to_truth()
    return judged(half, comparisons, f"1 in each of {len(comparisons)} outputs", executions=half.beside_truth)
