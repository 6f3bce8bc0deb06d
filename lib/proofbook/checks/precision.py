"""Does the model work in half precision as well as half precision allows?"""

import re

from proofbook.checks.conditioning import judged
from proofbook.checks.registry import NotApplicable, Observation, check
from proofbook.checks.trial import Trial

# how torch says that an operator of its own, as a Fourier transform, lacks a precision on a device
_LACKS = re.compile(r"^Unsupported dtype \w+$|not implemented for '(BFloat16|Half)'")


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
    try:
        comparisons = half.compare_to_truth()
    except RuntimeError as error:
        if not _LACKS.search(str(error)):
            raise
        raise NotApplicable(f"torch has no such operator on {trial.session.device.type}: {error}") from error
    return judged(half, comparisons, f"1 in each of {len(comparisons)} outputs", executions=half.beside_truth)
