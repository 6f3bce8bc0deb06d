"""A scalar made of all outputs, and its gradient: what a training step would follow."""

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from proofbook.checks import truth
from proofbook.checks.hidden import without_padding
from proofbook.checks.plain import placed
from proofbook.checks.registry import NotApplicable
from proofbook.checks.truth import CALL_SEED, computing_in
from proofbook.runtimes import modes
from proofbook.runtimes.modes import FunctionMode
from proofbook.runtimes.outputs import attached, is_cache

if TYPE_CHECKING:
    from proofbook.checks.trial import Trial

Gradients = dict[str, Tensor | None]


class NothingToTrain(ValueError):
    """No output of a call is one that the goal is made of."""


class Goal:
    """The projection of every floating output of a trial on a direction, in units of the output's own size."""

    def __init__(self, trial: "Trial") -> None:
        self._inputs = trial.inputs
        true = {name: one for name, one in trial.truth.outputs.items() if name in trial.outputs}
        self.directions = directions_of(true, trial.inputs)

    def value(self, module: nn.Module, dtype: torch.dtype, **more: Any) -> Tensor:
        """As :func:`projection`."""
        return projection(module, self._inputs, self.directions, dtype, **more)

    def gradients(self, module: nn.Module, dtype: torch.dtype, **more: Any) -> Gradients:
        """As :func:`gradients_of`.

        Raises:
            NotApplicable: the class asserts in words what keeps it from being trained as it is.
        """
        try:
            return gradients_of(module, self._inputs, self.directions, dtype, **more)
        except AssertionError as refusal:
            if not str(refusal):
                raise
            raise NotApplicable(f"refused: {refusal}") from refusal

    def slope(self, module: nn.Module, direction: Mapping[str, Tensor], step: float) -> float:
        """As :func:`slope_along`."""
        return slope_along(module, self._inputs, self.directions, direction, step)


def directions_of(outputs: Mapping[str, Tensor], inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """A random direction for each floating output, in units of its size.

    Padded positions and caches are left out: nobody trains what comes out there.
    """
    generator = torch.Generator().manual_seed(0)
    directions = {}
    for name, true in outputs.items():
        if not true.is_floating_point() or is_cache(name):
            continue
        # masked values are infinite, or the lowest finite ones
        finite = true.isfinite() & (true.abs() < torch.finfo(torch.float32).max / 2)
        size = float(true[finite].double().square().mean().sqrt()) * math.sqrt(true.numel()) if finite.any() else 0.0
        if size:
            drawn = torch.randn(true.shape, generator=generator, dtype=torch.float64)
            directions[name] = torch.where(finite, drawn / size, 0.0)
    return without_padding(directions, inputs)


def projection(
    module: nn.Module, inputs: Mapping[str, Any], directions: Mapping[str, Tensor], dtype: torch.dtype, **more: Any
) -> Tensor:
    """The sum of the projections of outputs on directions, for one call of a module in that dtype, its noise, where it
    draws any, always the same.

    Raises:
        NothingToTrain: no gradient leads back from any output.
    """
    device = next(module.parameters()).device
    with _same_noise(), computing_in(dtype):
        outputs = attached(module(**{**placed(module, inputs, dtype), **more}))
    terms = []
    for name, direction in directions.items():
        output = outputs.get(name)
        if output is not None and output.shape == direction.shape and output.is_floating_point():
            kept = torch.where(direction.to(device) != 0, output, 0.0).double()
            terms.append((kept * direction.to(device)).sum())
    if not terms:
        raise NothingToTrain("no floating output is there to be trained")
    return torch.stack(terms).sum()


def gradients_of(
    module: nn.Module, inputs: Mapping[str, Any], directions: Mapping[str, Tensor], dtype: torch.dtype, **more: Any
) -> dict[str, Tensor | None]:
    """The gradient of the projection by each trainable parameter, on the CPU; None where no path leads to it."""
    parameters = {name: one for name, one in module.named_parameters() if one.requires_grad}
    with torch.enable_grad():
        value = projection(module, inputs, directions, dtype, **more)
        found = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
    return {name: one if one is None else one.cpu() for name, one in zip(parameters, found, strict=True)}


def slope_along(
    module: nn.Module,
    inputs: Mapping[str, Any],
    directions: Mapping[str, Tensor],
    step: Mapping[str, Tensor],
    size: float,
) -> float:
    """The slope of the projection along a step of the parameters: its central difference in float64."""
    parameters = dict(module.named_parameters())
    before = {name: parameters[name].detach().clone() for name in step}
    values = []
    with torch.no_grad():
        for signed in (size, -size):
            for name, one in step.items():
                parameters[name].copy_(before[name] + signed * one)
            values.append(float(projection(module, inputs, directions, torch.float64)))
        for name, one in before.items():
            parameters[name].copy_(one)
    return (values[0] - values[1]) / (2 * size)


class Cuts(FunctionMode):
    """Where the library's own code keeps gradients from flowing: it detaches, or computes without them.

    ``leaves`` are the ids of parameters that are read alone so, as a table of positions is; ``places`` all others.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[str, None] = {}
        self.leaves: set[int] = set()

    def called(self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        result = function(*args, **kwargs)
        cut = function in (Tensor.detach, Tensor.detach_) or not torch.is_grad_enabled()
        computed = isinstance(result, Tensor) and result.is_floating_point()
        given = [one for one in args if isinstance(one, Tensor) and one.requires_grad]
        if cut and computed and given:
            frame: FrameType | None = sys._getframe(1)
            while frame is not None and _between(Path(frame.f_code.co_filename)):
                frame = frame.f_back
            if frame is not None and "transformers" in Path(frame.f_code.co_filename).parts:
                floating = [one for one in args if isinstance(one, Tensor) and one.is_floating_point()]
                if len(floating) == len(given) and all(one.is_leaf for one in given):
                    self.leaves.update(map(id, given))
                else:
                    self.places[f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"] = None
        return result


def _between(file: Path) -> bool:
    """Whether code of a file only hands calls on: torch, and the modes of ours."""
    return "torch" in file.parts[-6:] or file in (Path(truth.__file__), Path(modes.__file__))


@contextmanager
def _same_noise() -> Iterator[None]:
    """Dropout, skipped layers and masked spans, which some models draw with NumPy, are the same in every call."""
    before = np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(CALL_SEED)
            np.random.seed(CALL_SEED)
            yield
    finally:
        np.random.set_state(before)
