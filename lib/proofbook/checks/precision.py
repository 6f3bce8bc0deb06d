"""Does the model work in half precision as well as half precision allows?"""

import re
from dataclasses import replace

import torch

from proofbook.checks.accuracy import near_float64
from proofbook.checks.conditioning import judged
from proofbook.checks.registry import NotApplicable, Observation, check, evidence
from proofbook.checks.reproduction import limits, reproduces
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
    known = {"dtype": getattr(torch, dtype), "tolerance": limits(half.tolerance)}
    try:
        with evidence(**known):
            comparisons = half.compare_to_truth()
    except RuntimeError as error:
        if not _LACKS.search(str(error)):
            raise
        raise NotApplicable(f"torch has no such operator on {trial.session.device.type}: {error}") from error
    seen = judged(half, comparisons, f"1 in each of {len(comparisons)} outputs", executions=half.beside_truth)
    return replace(seen, evidence=known)


reproduces(bfloat16, float16)(near_float64)
