"""Where does an execution part from the truth? Module by module, the first one that adds an error of its own."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from proofbook.checks.truth import computing_in, in_dtype, reference_model
from proofbook.runtimes.outputs import flatten

# an error this many times that of the module's inputs is the module's own
GROWTH = 10.0


@dataclass(frozen=True)
class Step:
    """One call of one module: the relative RMSE of its inputs and of its outputs against truth."""

    module: str
    kind: str
    inputs: float
    outputs: float


def walk(model: nn.Module, inputs: Mapping[str, Any], dtype: torch.dtype) -> list[Step]:
    """Run a model in its dtype and its truth side by side; the steps in the order in which modules return.

    Args:
        model: on any device; its copy runs on the CPU for truth, itself where it is.
        inputs: the arguments of the call.
        dtype: that of the model.
    """
    reference = reference_model(model, torch.float64)
    device = next(model.parameters()).device
    placed = {
        name: value.to(device) if isinstance(value, torch.Tensor) else value
        for name, value in in_dtype(inputs, dtype).items()
    }
    with torch.no_grad():
        with _recorded(model) as seen:
            model(**placed)
        with _recorded(reference) as true, computing_in(torch.float64):
            reference(**in_dtype(inputs, torch.float64))
    kinds = {name: type(module).__name__ for name, module in model.named_modules()}
    return [
        Step(name, kinds[name], _distance(seen[name, call][0], ins), _distance(seen[name, call][1], outs))
        for (name, call), (ins, outs) in true.items()
        if (name, call) in seen
    ]


def first_divergence(steps: list[Step], floor: float) -> Step | None:
    """The first call whose outputs are off by more than the floor although its inputs agree; None if there is none."""
    for step in steps:
        if step.outputs > floor and step.outputs > GROWTH * step.inputs:
            return step
    return None


def steepest(steps: list[Step], floor: float) -> Step | None:
    """The call that multiplies the error of its inputs the most; inputs nearer than the floor count as that far."""
    return max(steps, key=lambda step: step.outputs / max(step.inputs, floor), default=None)


Recording = dict[tuple[str, int], tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]]


@contextmanager
def _recorded(model: nn.Module) -> Iterator[Recording]:
    """Keep what goes into and comes out of every module's call, by the module's name and the number of the call."""
    seen: Recording = {}
    counts: dict[str, int] = {}
    handles = []
    for name, module in model.named_modules():

        def keep(_: nn.Module, args: Any, kwargs: Any, output: Any, name: str = name) -> None:
            call = counts[name] = counts.get(name, -1) + 1
            seen[name, call] = (_copied(flatten([args, kwargs])), _copied(flatten(output)))

        handles.append(module.register_forward_hook(keep, with_kwargs=True))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _copied(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.to("cpu", copy=True) for name, tensor in tensors.items()}


def _distance(actual: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> float:
    """The largest relative RMSE between floating tensors of the same name and shape; masked values count when equal."""
    worst = 0.0
    for name, true in expected.items():
        tensor = actual.get(name)
        if tensor is None or tensor.shape != true.shape or not true.is_floating_point() or "mask" in name:
            continue  # a mask has another form for each attention implementation
        limit = torch.finfo(tensor.dtype if tensor.is_floating_point() else torch.float32).max / 2
        a, b = tensor.double().clamp(-limit, limit), true.double().clamp(-limit, limit)
        valid = (b.abs() < limit) & b.isfinite()
        if valid.any():
            scale = float(b[valid].square().mean().sqrt()) or 1.0
            error = torch.nan_to_num(a[valid] - b[valid], nan=torch.inf)
            worst = max(worst, float(error.square().mean().sqrt()) / scale)
    return worst
