"""Can it be trained? Gradients are right, reach what matters, and survive checkpointing."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from proofbook.catalog import Weights
from proofbook.checks.compare import rms
from proofbook.checks.goal import Cuts, Gradients, NothingToTrain
from proofbook.checks.registry import NotApplicable, Observation, check
from proofbook.checks.trial import Trial
from proofbook.checks.truth import copied, reference_model
from proofbook.compat import checkpoint_activations

# rounding grows on the way forth and back again: so many times what is allowed in outputs
BACKWARD = 16.0
# a gradient this much smaller than the largest is what is left of terms that cancel, and is judged by their size
CANCELLED = 1e-3
# steps of central differences, as shares of each parameter's root mean square: a kink or a jump may lie within one
STEPS = (1e-6, 1e-7, 1e-8, 1e-9)
# how far a difference may lie from the gradient, as a share of the size of its terms
SLOPE = 1e-4


@check
def gradients(trial: Trial) -> Observation:
    """On the target every parameter gets the gradient that it has in float64, and no value of it is NaN or infinite."""
    _trainable(trial)
    model = copied(trial.called).eval()
    true, found = trial.true_gradients, trial.goal.gradients(model, torch.float32)
    shares = _shares(trial, model, found, true)
    if max(shares.values(), default=0.0) > 1:
        floor = trial.goal.gradients(reference_model(trial.called, torch.float32), torch.float32)
        shares = _shares(trial, model, found, true, floor)
    return _judged(shares, found, true)


@check
def gradients_by_difference(trial: Trial) -> Observation:
    """In float64 the gradient along a random direction of all parameters is the slope of outputs along it."""
    _trainable(trial)
    model = reference_model(trial.called, torch.float64)
    direction = _direction(model)
    terms = [float((one * direction[name]).sum()) for name, one in trial.true_gradients.items() if one is not None]
    size = math.sqrt(sum(term**2 for term in terms))
    least = math.inf
    for step in STEPS:
        least = min(least, abs(trial.goal.slope(model, direction, step) - sum(terms)) / size)
        if least <= SLOPE:
            break
    if least > SLOPE:
        with Cuts() as cuts, torch.enable_grad():
            trial.goal.value(model, torch.float64)
        if cuts.places:
            where = ", ".join(list(cuts.places)[:3])
            raise NotApplicable(f"the class's own code keeps gradients from flowing, at {where}")
    return Observation(least <= SLOPE, f"{least:.2g} of the gradient apart", f"{SLOPE:g}")


@check
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
    checkpoint_activations(model)
    calls = _counted(model)
    found = trial.goal.gradients(model.get_submodule(trial.encoded.module), torch.float32, **uncached)
    if not calls:
        return Observation(False, "nothing was checkpointed", "1 layer or more")
    judged = _judged(_shares(trial, model.get_submodule(trial.encoded.module), found, usual), found, usual)
    return Observation(
        judged.passed, f"{judged.observed}; {len(calls)} layers checkpointed", judged.allowed, judged.detail
    )


def _direction(model: nn.Module) -> dict[str, Tensor]:
    """A random step in each parameter, of its own size; none in what an embedding layer keeps from being trained."""
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
    if trial.target.dtype != "float32":
        raise NotApplicable("asked in float32, in which models are trained")
    if trial.target.runtime != "eager":
        raise NotApplicable(f"{trial.target.runtime} is for inference")


def _counted(model: nn.Module) -> list[str]:
    """The layers that are checkpointed from now on, as they are called."""
    calls: list[str] = []

    def counting(function: Callable[..., Any], kind: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(kind)
            return function(*args, **kwargs)

        return call

    for module in model.modules():
        function: Any = getattr(module, "_gradient_checkpointing_func", None)
        if function is not None:
            module._gradient_checkpointing_func = counting(function, type(module).__name__)  # type: ignore[assignment]
    return calls


def _shares(
    trial: Trial, model: nn.Module, found: Gradients, true: Gradients, floor: Gradients | None = None
) -> dict[str, float]:
    """By how many times the error allowed each gradient is off, by root mean square."""
    sizes = {name: rms(one.detach()) or 1.0 for name, one in model.named_parameters()}
    most = max((rms(one) * sizes[name] for name, one in true.items() if one is not None), default=0.0)
    eps = torch.finfo(torch.float32).eps
    shares = {}
    for name, right in true.items():
        got = found[name]
        if right is None or got is None:
            there = got if right is None else right
            shares[name] = 0.0 if there is None or not rms(there) else math.inf
            continue
        allowed = trial.tolerance.smallest * eps * max(rms(right), CANCELLED * most / sizes[name])
        if floor is not None and (noisy := floor[name]) is not None:
            allowed = max(allowed, trial.tolerance.multiple * rms(noisy.double() - right))
        error = rms(got.double() - right)
        shares[name] = (
            (error / (BACKWARD * allowed) if allowed else math.inf if error else 0.0) if error == error else math.inf
        )
    return shares


def _judged(shares: dict[str, float], found: Gradients, true: Gradients) -> Observation:
    reached = [name for name, one in true.items() if one is not None]
    if not reached:
        raise NotApplicable("no gradient leads from any output to a parameter")
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
