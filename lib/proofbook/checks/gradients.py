"""Can it be trained? Gradients are right, reach what matters, and survive checkpointing."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from proofbook.catalog import Weights
from proofbook.checks.compare import rms
from proofbook.checks.conditioning import DRAWS
from proofbook.checks.goal import Cuts, Gradients, NothingToTrain, directions_of, gradients_of, slope_along
from proofbook.checks.plain import call, eager, placed
from proofbook.checks.registry import NotApplicable, Observation, check, evidence
from proofbook.checks.reproduction import limits, reproduces
from proofbook.checks.trial import Trial
from proofbook.checks.truth import copied, eager_copy, rounded_models
from proofbook.compat import checkpoint_activations
from proofbook.runtimes.outputs import attached

# rounding grows on the way forth and back again: so many times what is allowed in outputs
BACKWARD = 16.0
# the noise of gradients by so many times that of outputs at most: the largest seen is 15 times, of Swin2SR
CEILING = 32.0
# a gradient this much smaller than the largest is what is left of terms that cancel, and is judged by their size
CANCELLED = 1e-3
# the same for a parameter of one number, as a scale of logits: it may cancel further than many do on average
CANCELLED_ONE = 0.1
# steps of central differences, as shares of each parameter's root mean square: a kink or a jump may lie within one
STEPS = (1e-6, 1e-7, 1e-8, 1e-9)
# how far a difference may lie from the gradient, as a share of the size of its terms
SLOPE = 1e-4


@check(floats=True)
def gradients(trial: Trial) -> Observation:
    """On the target every parameter gets the gradient that it has in float64, and no value of it is NaN or infinite."""
    _trainable(trial)
    model = copied(trial.called).eval()
    with evidence(leading=list(trial.goal.directions)):
        found = trial.goal.gradients(model, torch.float32)
    true, allowed = trial.true_gradients, limits(trial.tolerance)
    shares = shares_of_allowed(allowed, model, found, true)
    if max(shares.values(), default=0.0) > 1:
        floor = trial.goal.gradients(eager_copy(trial.called, torch.float32), torch.float32)
        shares = shares_of_allowed(allowed, model, found, true, floor)
    loose = _undetermined(trial, {name for name, share in shares.items() if 1 < share < math.inf})
    seen = _judged({name: share for name, share in shares.items() if name not in loose}, found, true)
    why = f"rounding to float32 decides, in float64 as well, which way {len(loose)} gradients go at a kink"
    return replace(seen, detail="; ".join(filter(None, [seen.detail, why]))) if loose else seen


def _undetermined(trial: Trial, names: set[str]) -> set[str]:
    """Those parameters whose gradient in float64 itself moves beyond the error allowed when weights and values change
    by as much as rounding to float32 changes them: at a kink, as of ReLU6, the slope is that of either side."""
    allowed, left = limits(trial.tolerance), set(names)
    for model, rounding in islice(rounded_models(trial.called, torch.float32), DRAWS if names else 0):
        with rounding:
            moved = trial.goal.gradients(model, torch.float64)
        shares = shares_of_allowed(allowed, model, moved, trial.true_gradients)
        left -= {name for name in left if shares[name] > 1}
        if not left:
            break
    return names - left


@reproduces(gradients)
def outputs_lead_back(model: nn.Module, inputs: Mapping[str, Any], dtype: torch.dtype, leading: list[str]) -> None:
    """From the sum of outputs, in evaluation mode, gradients lead back to the parameters."""
    with torch.enable_grad():
        outputs = attached(model(**placed(model, inputs, dtype)))
        torch.stack([outputs[name].sum() for name in leading]).sum().backward()


@reproduces(gradients)
def gradients_are_those_of_float64(
    model: nn.Module, inputs: Mapping[str, Any], dtype: torch.dtype, tolerance: Mapping[str, float]
) -> None:
    """Of random projections of all outputs every parameter gets the gradient that it has in float64."""
    outputs, true = call(model, inputs, dtype), eager(model, inputs, torch.float64)
    directions = directions_of({name: one for name, one in true.items() if name in outputs}, inputs)
    expected = gradients_of(eager_copy(model, torch.float64), inputs, directions, torch.float64)
    floor = gradients_of(eager_copy(model, dtype), inputs, directions, dtype)
    found = gradients_of(model, inputs, directions, dtype)
    for name, share in shares_of_allowed(tolerance, model, found, expected, floor).items():
        assert share <= 1, f"the gradient of {name}: observed {share:.3g} of the error allowed, allowed 1"


@check(floats=True)
def gradients_by_difference(trial: Trial) -> Observation:
    """In float64 the gradient along a random direction of all parameters is the slope of outputs along it."""
    _trainable(trial)
    model = eager_copy(trial.called, torch.float64)
    direction = random_step(model)
    least = _apart(trial, model, direction)
    if least > SLOPE:
        with Cuts() as cuts, torch.enable_grad():
            trial.goal.value(model, torch.float64)
        if cuts.places:
            where = ", ".join(list(cuts.places)[:3])
            raise NotApplicable(f"the class's own code keeps gradients from flowing, at {where}")
        if cuts.leaves:
            trained = {name for name, one in model.named_parameters() if id(one) not in cuts.leaves}
            least = _apart(trial, model, {name: one for name, one in direction.items() if name in trained})
    return Observation(least <= SLOPE, f"{least:.2g} of the gradient apart", f"{SLOPE:g}")


def _apart(trial: Trial, model: nn.Module, direction: Mapping[str, Tensor]) -> float:
    """How far the slope along a direction lies from the gradient along it, as a share of the size of its terms, by the
    step that suits best."""
    true = {name: trial.true_gradients.get(name) for name in direction}
    terms = [float((one * direction[name]).sum()) for name, one in true.items() if one is not None]
    size, least = math.sqrt(sum(term**2 for term in terms)), math.inf
    for step in STEPS:
        least = min(least, abs(trial.goal.slope(model, direction, step) - sum(terms)) / size)
        if least <= SLOPE:
            break
    return least


@reproduces(gradients_by_difference)
def gradient_is_the_slope(model: nn.Module, inputs: Mapping[str, Any], dtype: torch.dtype) -> None:
    """In float64 the gradient along a random step of all parameters is the slope of outputs along it."""
    outputs, true = call(model, inputs, dtype), eager(model, inputs, torch.float64)
    directions = directions_of({name: one for name, one in true.items() if name in outputs}, inputs)
    exact = eager_copy(model, torch.float64)
    found, step = gradients_of(exact, inputs, directions, torch.float64), random_step(exact)
    terms = [float((one * step[name]).sum()) for name, one in found.items() if one is not None]
    size = math.sqrt(sum(term**2 for term in terms))
    apart = (abs(slope_along(exact, inputs, directions, step, each) - sum(terms)) / size for each in STEPS)
    least = min(apart)
    assert least <= SLOPE, f"gradient and slope: observed {least:.2g} of the gradient apart, allowed {SLOPE:g}"


@check(floats=True)
def gradient_checkpointing(trial: Trial) -> Observation:
    """In train mode gradients are the same with gradient checkpointing, which does happen."""
    _trainable(trial)
    if not getattr(trial.model, "supports_gradient_checkpointing", False):
        raise NotApplicable("the class does not support gradient checkpointing")
    uncached = {"use_cache": False} if "use_cache" in inspect.signature(trial.called.forward).parameters else {}
    plain = copied(trial.model).train()
    try:
        usual = trial.goal.gradients(plain.get_submodule(trial.encoded.module), torch.float32, **uncached)
    except NothingToTrain as error:
        raise NotApplicable("in train mode, what it drops decides how long each of its outputs is") from error
    model = copied(trial.model).train()
    with evidence(arguments=uncached):
        calls = checkpointed(model)
        found = trial.goal.gradients(model.get_submodule(trial.encoded.module), torch.float32, **uncached)
    if not calls:
        known = {"arguments": uncached}
        return Observation(False, "nothing was checkpointed", "1 layer or more", evidence=known)
    module = model.get_submodule(trial.encoded.module)
    judged = _judged(shares_of_allowed(limits(trial.tolerance), module, found, usual), found, usual)
    said = f"{judged.observed}; {len(calls)} layers checkpointed"
    return replace(judged, observed=said, evidence={"uncached": uncached})


@reproduces(gradient_checkpointing)
def layers_are_checkpointed(
    model: nn.Module, whole: nn.Module, inputs: Mapping[str, Any], dtype: torch.dtype, arguments: Mapping[str, bool]
) -> None:
    """With gradient checkpointing on, a call in train mode checkpoints layers."""
    calls = checkpointed(whole.train())
    with torch.enable_grad():
        model(**placed(model, inputs, dtype), **arguments)
    assert calls, "observed no layer that was checkpointed, allowed 1 or more"


@reproduces(gradient_checkpointing)
def checkpointing_changes_no_gradient(
    model: nn.Module,
    whole: nn.Module,
    inputs: Mapping[str, Any],
    dtype: torch.dtype,
    tolerance: Mapping[str, float],
    uncached: Mapping[str, bool],
) -> None:
    """In train mode gradients of random projections of outputs are the same with gradient checkpointing."""
    outputs, true = call(model, inputs, dtype), eager(model, inputs, torch.float64)
    directions = directions_of({name: one for name, one in true.items() if name in outputs}, inputs)
    whole.train()
    usual = gradients_of(model, inputs, directions, dtype, **uncached)
    checkpointed(whole)
    found = gradients_of(model, inputs, directions, dtype, **uncached)
    for name, share in shares_of_allowed(tolerance, model, found, usual).items():
        assert share <= 1, f"the gradient of {name}: observed {share:.3g} of the error allowed, allowed 1"


def random_step(model: nn.Module) -> dict[str, Tensor]:
    """A random step of each parameter, of its own size; none in what an embedding layer keeps from being trained."""
    generator = torch.Generator().manual_seed(1)
    direction = {}
    for name, one in model.named_parameters():
        if one.requires_grad:
            step = torch.randn(one.shape, generator=generator, dtype=one.dtype) * (rms(one.detach()) or 1.0)
            owner = model.get_submodule(name.rpartition(".")[0])
            if isinstance(owner, nn.Embedding) and owner.padding_idx is not None:
                step[owner.padding_idx] = 0
            direction[name] = step
    return direction


def _trainable(trial: Trial) -> None:
    if trial.weights is not Weights.TINY:
        raise NotApplicable("the code is the same as with tiny weights, of which it is asked in a fraction of the time")
    if trial.target.precision != "float32":
        raise NotApplicable("asked in float32, in which models are trained")
    if trial.target.runtime != "eager":
        raise NotApplicable(f"{trial.target.runtime} is for inference")


def checkpointed(model: nn.Module) -> list[str]:
    """Switch gradient checkpointing on; the layers that are checkpointed from now on, as they are called."""
    checkpoint_activations(model)
    calls: list[str] = []

    def counting(function: Callable[..., Any], kind: str) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            calls.append(kind)
            return function(*args, **kwargs)

        return counted

    for module in model.modules():
        function: Any = getattr(module, "_gradient_checkpointing_func", None)
        if function is not None:
            module._gradient_checkpointing_func = counting(function, type(module).__name__)  # type: ignore[assignment]
    return calls


def shares_of_allowed(
    tolerance: Mapping[str, float],
    model: nn.Module,
    found: Mapping[str, Tensor | None],
    true: Mapping[str, Tensor | None],
    floor: Mapping[str, Tensor | None] | None = None,
) -> dict[str, float]:
    """By how many times the error allowed each gradient is off, by root mean square."""
    sizes = {name: rms(one.detach()) or 1.0 for name, one in model.named_parameters()}
    most = max((rms(one) * sizes[name] for name, one in true.items() if one is not None), default=0.0)
    shares = {}
    for name, right in true.items():
        got = found[name]
        if right is None or got is None:
            there = got if right is None else right
            shares[name] = 0.0 if there is None or not rms(there) else math.inf
            continue
        # a bias sums the same terms as its weight does, each without its input: of keys they cancel
        whole = true.get(f"{name.rpartition('.')[0]}.weight") if name.endswith(".bias") else None
        least = (CANCELLED if right.numel() > 1 else CANCELLED_ONE) * most / sizes[name]
        terms = max(rms(right), least, rms(whole) if whole is not None else 0.0)
        unit = tolerance["eps"] * terms
        allowed = tolerance["smallest"] * unit
        if floor is not None and (noisy := floor[name]) is not None:
            noise = tolerance["multiple"] * rms(noisy.double() - right)
            allowed = max(allowed, min(noise, CEILING * tolerance["largest"] * unit))
        error = rms(got.double() - right)
        shares[name] = (
            (error / (BACKWARD * allowed) if allowed else math.inf if error else 0.0) if error == error else math.inf
        )
    return shares


def _judged(shares: dict[str, float], found: Gradients, true: Gradients) -> Observation:
    reached = [name for name, one in true.items() if one is not None]
    if not reached:
        raise NotApplicable("no gradient leads from any output to a parameter")
    if not shares:
        raise NotApplicable("rounding to float32 decides, in float64 as well, what becomes of every gradient")
    worst = max(shares, key=shares.__getitem__)
    broken = [name for name, share in shares.items() if not share <= 1]
    kinds = {
        "no gradient": [name for name in broken if found[name] is None],
        "NaN or infinite": [name for name in broken if (one := found[name]) is not None and not one.isfinite().all()],
    }
    said = [f"{kind}: {', '.join(names[:5])}" for kind, names in kinds.items() if names]
    return Observation(
        passed=not broken,
        observed=f"{shares[worst]:.3g} of the error allowed, in {worst}; {len(reached)} of {len(true)} reached",
        allowed=f"1 in each of {len(reached)}",
        detail="; ".join([f"wrong: {', '.join(broken[:5])}"] * bool(broken) + said),
    )
