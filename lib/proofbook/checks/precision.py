"""Does the model work in half precision, and in integers, as well as these allow?"""

import re
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from proofbook.checks.accuracy import near_float64
from proofbook.checks.compare import compare_all, errors_between
from proofbook.checks.conditioning import judged
from proofbook.checks.hidden import without_padding
from proofbook.checks.registry import NotApplicable, Observation, check, evidence
from proofbook.checks.reproduction import limits, reproduces
from proofbook.checks.trial import Trial
from proofbook.checks.truth import truth_of
from proofbook.runtimes.quantised import Quantised, holding, linear_layers

# how torch says that an operator of its own, as a Fourier transform, lacks a precision on a device
_LACKS = re.compile(r"^Unsupported dtype \w+$|not implemented for '(BFloat16|Half)'")


@check(floats=True)
def bfloat16(trial: Trial) -> Observation:
    """Loaded in bfloat16, every output lies within a multiple of that precision's own noise of float64 truth."""
    return _in_half(trial, "bfloat16")


@check(floats=True)
def float16(trial: Trial) -> Observation:
    """Loaded in float16, every output lies within a multiple of that precision's own noise of float64 truth."""
    return _in_half(trial, "float16")


@check(graphs=True)
def weights_near_their_levels(trial: Trial) -> Observation:
    """Each weight held in integers is within half a step of the checkpoint's: that of so many levels over its group."""
    held = _held(trial)
    bits = int(str(trial.target.weight_dtype).removeprefix("int"))
    layers = linear_layers(_in_floats(trial))
    worst, wrong = (0.0, ""), []
    for path, one in held.items():
        weight = layers[path].weight.detach().double()
        group = trial.target.weight_group or weight.shape[1]
        if one.grid.group != group or not 2**bits - 2 < one.grid.levels <= 2**bits:
            wrong.append(f"{path} has {one.grid.levels} levels for each {one.grid.group}")
        off = (one.values() - weight).abs() / one.grid.steps(weight).clamp(min=torch.finfo(torch.float64).tiny)
        # the scale is rounded in the dtype of the checkpoint, and taken up to half as many times as there are levels
        slack = one.grid.levels / 2 * torch.finfo(layers[path].weight.dtype).eps
        if off.max() > 0.5 + slack:
            wrong.append(f"{path}: {int((off > 0.5 + slack).sum())} of {off.numel()} weights")
        worst = max(worst, (float(off.max()), path))
    return Observation(
        passed=not wrong,
        observed=f"{worst[0]:.4f} of a step at most in {len(held)} layers, in {worst[1]}",
        allowed="0.5, and the rounding of scales",
        detail="; ".join(wrong[:5]),
    )


@check(graphs=True)
def error_of_quantisation(trial: Trial) -> Observation:
    """Outputs lie no further from float64 truth without quantisation than weights at their nearest levels take them."""
    held = _held(trial)
    tolerance = trial.tolerances[str(trial.target.weight_dtype)]
    original = _in_floats(trial)
    layers = linear_layers(original)
    nearest = {path: one.grid.rounded(layers[path].weight.detach().double()) for path, one in held.items()}
    truth = truth_of(original, trial.inputs)
    rounded = truth_of(trial.rough(holding(original, nearest)), trial.inputs)
    outputs, true, floor = (
        without_padding(one, trial.inputs) for one in (trial.outputs, truth.outputs, rounded.outputs)
    )
    true = {name: one for name, one in true.items() if name in outputs}
    noise = errors_between(floor, true, tolerance)
    beyond = {one.name for one in compare_all(floor, true, tolerance, noise) if not one.passed and one.name in outputs}
    kept = [one for one in compare_all(outputs, true, tolerance, noise) if one.name not in beyond]
    why = f"levels so few decide, in float64 as well, what becomes of {', '.join(sorted(beyond))}"
    if not kept:
        raise NotApplicable(why)
    scale = max((one.errors.rmse / one.scale for one in kept if one.errors and one.scale), default=0.0)
    note = f"an RMSE of {scale:.2g} of the output's scale at most"
    return Observation.of(kept, f"1 in each of {len(kept)} outputs", "; ".join([note, why][: 1 + bool(beyond)]))


def _held(trial: Trial) -> Mapping[str, Quantised]:
    """Raises NotApplicable where nothing is held in integers; that it should be is for `ran-on-target` to say."""
    if trial.target.weight_dtype is None:
        raise NotApplicable("the target holds weights in floating point")
    held = trial.session.held()
    if not held:
        raise NotApplicable(f"no layer is held in {trial.target.weight_dtype}")
    return held


def _in_floats(trial: Trial) -> nn.Module:
    """What the task calls, with the weights of the checkpoint."""
    model: nn.Module = trial.load().model
    return model.get_submodule(trial.encoded.module)


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
