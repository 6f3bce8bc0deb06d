"""Faults of arithmetic, and of what a call leaves behind."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from proofbook.checks.hidden import without_padding
from proofbook.checks.registry import NotApplicable
from proofbook.checks.trial import Trial
from proofbook.checks.truth import reference_model
from proofbook.selftest.planting import (
    called,
    first_floating,
    hooked_everywhere,
    intercepted,
    part_called,
    replaced,
    returning,
    rms,
    spoiled,
)
from proofbook.selftest.register import Reach, fault

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)


def _output(trial: Trial, change: Callable[[Tensor], Tensor]) -> AbstractContextManager[None]:
    """Change the first floating output of a call."""

    def make(forward: Any) -> Any:
        @wraps(forward)
        def wrong(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
            return first_floating(forward(self, *args, **kwargs), change)

        return wrong

    return replaced(type(part_called(trial)), "forward", make)


@fault(Reach.TARGET)
def nan_in_one_row(trial: Trial) -> Iterator[None]:
    """One row of the output is NaN."""

    def spoil(output: Tensor) -> Tensor:
        output = output.clone()
        output[0] = torch.nan
        return output

    with _output(trial, spoil):
        yield


@fault(Reach.TARGET)
def output_scaled(trial: Trial) -> Iterator[None]:
    """The output is a thousandth too large, which no correlation sees."""
    with _output(trial, lambda one: one * 1.001):
        yield


@fault(Reach.TARGET)
def one_element_off(trial: Trial) -> Iterator[None]:
    """One element of all is off by a hundredth of the output's scale; it is not one of padding."""
    outputs = without_padding(trial.run(), trial.inputs)
    first = next(one for one in outputs.values() if one.is_floating_point()).flatten()
    seen = (first.isfinite() & (first != 0)).nonzero().flatten()

    def off(output: Tensor) -> Tensor:
        output = output.clone(memory_format=torch.contiguous_format)
        flat = output.view(-1)
        flat[int(seen[len(seen) // 3]) % len(flat)] += 0.01 * rms(output)
        return output

    with _output(trial, off):
        yield


@fault(Reach.TARGET)
def layer_in_low_precision(trial: Trial) -> Iterator[None]:
    """One layer computes in bfloat16."""
    if trial.target.dtype != "float32":
        raise NotApplicable("the target itself computes in half precision")
    names = [name for name, _ in called(trial, *_LAYERS)]
    with spoiled(trial, [names[len(names) // 2]], partial(returning, lambda one: one.bfloat16().to(one.dtype))):
        yield


@fault(Reach.TARGET)
def layers_on_the_cpu(trial: Trial) -> Iterator[None]:
    """Linear layers fall back to the CPU and hand their outputs to the device: the numbers are right."""
    device = trial.session.device
    if device.type == "cpu":
        raise NotApplicable("the target is the CPU itself")

    def fallen(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        args, kwargs = tree_map_only(Tensor, Tensor.cpu, (args, kwargs))
        return function(*args, **kwargs).to(device)

    with intercepted(trial, [nn.functional.linear], fallen):
        yield


@fault(Reach.TARGET)
def activation_approximated(trial: Trial) -> Iterator[None]:
    """The exact GELU is replaced by its approximation with tanh."""

    def approximate(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        return function(args[0], approximate="tanh")

    exact = any(
        isinstance(module, nn.GELU) or "GELU" in type(module).__name__ for _, module in called(trial, nn.Module)
    )
    if not exact or "new" in str(getattr(trial.config, "hidden_act", "")):
        raise NotApplicable("has no exact GELU")
    with intercepted(trial, [nn.functional.gelu], approximate):
        yield


@fault(Reach.TARGET)
def residual_dropped(trial: Trial) -> Iterator[None]:
    """The output of one layer's last projection is halved."""
    names = [name for name, _ in called(trial, *_LAYERS)]
    with spoiled(trial, [names[len(names) // 3]], partial(returning, lambda one: one * 0.5)):
        yield


@fault(Reach.LIBRARY)
def dropout_left_on(trial: Trial) -> Iterator[None]:
    """A dropout drops in evaluation as well."""
    dropouts = [module for _, module in called(trial, nn.Dropout)]

    def drop(_: nn.Module, output: Any) -> Any:
        return nn.functional.dropout(output, 0.1, training=True)

    with hooked_everywhere(type(dropouts[0]), drop):
        yield


@fault(Reach.LIBRARY)
def state_kept_between_calls(trial: Trial) -> Iterator[None]:
    """A layer adds a little more with each call."""
    layers = [module for _, module in called(trial, *_LAYERS)]
    kind, calls = type(layers[-1]), [0]

    def drift(_: nn.Module, output: Tensor) -> Tensor:
        calls[0] += 1
        return output + 1e-5 * calls[0]

    with hooked_everywhere(kind, drift):
        yield


@fault(Reach.LIBRARY)
def gradient_detached(trial: Trial) -> Iterator[None]:
    """No gradient flows back through one kind of layer."""
    reached = trial.goal.gradients(reference_model(trial.called, torch.float64), torch.float64)
    trained = {id(one) for name, one in trial.called.named_parameters() if reached.get(name) is not None}
    layers = [layer for _, layer in called(trial, *_LAYERS) if trained.intersection(map(id, layer.parameters()))]
    if not layers:
        raise NotApplicable("no gradient leads to a layer")
    kind = type(layers[len(layers) // 2])
    with hooked_everywhere(kind, lambda _, output: output.detach()):
        yield


@fault(Reach.LIBRARY)
def outputs_kept_for_ever(trial: Trial) -> Iterator[None]:
    """Each call leaves its activations behind."""
    layers = called(trial, *_LAYERS)
    kept: list[Tensor] = []

    def keep(_: nn.Module, output: Tensor) -> Tensor:
        kept.append(output.detach())
        return output

    with hooked_everywhere(type(layers[-1][1]), keep):
        yield
