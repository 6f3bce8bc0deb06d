"""By how many times the error allowed do outputs move: when inputs change, and when parameters do."""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from proofbook.catalog import Tolerance
from proofbook.checks.compare import Errors, compare
from proofbook.checks.truth import CALL_SEED, in_dtype
from proofbook.checks.vary import Change
from proofbook.runtimes.outputs import attached, flatten

# a parameter is moved by noise of this share of its own root mean square
STEP = 0.5
# the gradient of one random projection says how far outputs would move within about this factor
MARGIN = 30.0
# how many parameters that their gradient does not settle are stepped each by itself, the most doubtful first
STEPS = 24
# where that moves outputs by this share of enough, so many other values of its size are tried: one direction may move
# little by chance, and what is not loaded is as far off as two draws lie apart
NEARLY, VALUES, ANOTHER = 0.2, 3, math.sqrt(2)


@dataclass(frozen=True)
class Measure:
    """Outputs before a change, and what the error allowed in them follows from: their noise floor."""

    outputs: Mapping[str, Tensor]
    noise: Mapping[str, Errors]
    tolerance: Tolerance

    def moved(
        self,
        outputs: Mapping[str, Tensor],
        select: Callable[[Tensor], Tensor] = lambda one: one,
        enough: float = math.inf,
    ) -> float:
        """The largest share of the error allowed by which outputs moved, or the part of each that ``select`` gives.

        An output that moved by ``enough`` ends the search.
        """
        largest = 0.0
        for name, before in self.outputs.items():
            after = outputs.get(name)
            if after is None or after.shape != before.shape:
                return math.inf  # the change decides what comes out at all
            moved = compare(name, select(after), select(before), self.tolerance, self.noise.get(name))
            largest = max(largest, moved.ratio)
            if largest >= enough:
                break
        return largest

    def unit(self, name: str) -> float:
        """The least RMSE that is allowed in a floating output: what its rounding may come to; 0 for one of zeros."""
        before = self.outputs[name].double()
        finite = before[before.isfinite() & (before.abs() < torch.finfo(torch.float32).max / 2)]
        scale = float(finite.square().mean().sqrt()) if finite.numel() else 0.0
        return self.tolerance.smallest * self.tolerance.eps * scale


def moved_rows(measure: Measure, outputs: Mapping[str, Tensor], change: Change, rows: int) -> list[float]:
    """How far each row's outputs moved that lie elsewhere than at the position changed.

    Where the changed input or an output has not one entry a row, all of the output stands for every row.
    """
    length = change.value.shape[1]
    if len(change.value) != rows:
        return [measure.moved(outputs)]

    def part(row: int, at: int | None) -> Callable[[Tensor], Tensor]:
        def select(output: Tensor) -> Tensor:
            if not output.dim() or output.shape[0] != rows:
                return output
            return output[row] if at is None else without_position(output[row], length, at)

        return select

    return [measure.moved(outputs, part(row, at)) for row, at in change.at.items()]


def without_position(tensor: Tensor, length: int, at: int) -> Tensor:
    """The tensor without index ``at`` of every dimension that is ``length`` long."""
    rest = [index for index in range(length) if index != at]
    for dim, size in enumerate(tensor.shape):
        if size == length:
            tensor = tensor.index_select(dim, torch.tensor(rest, dtype=torch.long))
    return tensor


def arranged(tensor: Tensor) -> Tensor:
    """The values of each entry of the first dimension in ascending order: what no change of their order changes."""
    return tensor.flatten(1).sort(dim=1).values if tensor.dim() > 1 else tensor


@dataclass(frozen=True)
class Influence:
    """What became of the parameters that did not move outputs far enough, by name."""

    total: int
    # no path leads from it to any output of this call
    unused: tuple[str, ...]
    # a path does, but a step makes only this many times the error allowed
    weak: Mapping[str, float]
    # beyond the steps that are taken
    unasked: tuple[str, ...]


def parameter_influence(
    model: nn.Module, part: nn.Module, inputs: Mapping[str, Any], measure: Measure, enough: float
) -> Influence:
    """Whether a step in each parameter tensor moves some output by ``enough`` times the error allowed.

    One backward pass of a random projection of all floating outputs, each in units of its error allowed, estimates it
    for every parameter: the projection's gradient times the step. Where that is not well above ``enough``, or no
    gradient arrives (an argmax lies between), the step is taken and the outputs are looked at.

    Args:
        model: in float32 on the CPU; its parameters are changed and put back.
        part: the module of it that is called.
        inputs: the arguments of the call.
        measure: the outputs of that call.
        enough: how many times the error allowed.
    """
    parameters = {name: one for name, one in model.named_parameters() if one.is_floating_point() and one.numel()}
    gradients = _gradients(part, parameters, inputs, measure)
    estimates = {}
    for name, parameter in parameters.items():
        gradient = gradients[name]
        estimates[name] = 0.0 if gradient is None else float(gradient.norm()) * STEP * _rms(parameter)
    # a NaN, of a gradient that can't be had, is doubtful as well
    doubtful = sorted((name for name, one in estimates.items() if not one > MARGIN * enough), key=estimates.__getitem__)

    def share(names: Iterable[str], step: float = STEP, seed: int = 0) -> float:
        with torch.no_grad(), _stepped({name: parameters[name] for name in names}, step, seed):
            return measure.moved(flatten(call(part, inputs)), enough=enough)

    weak = {}
    unused = [name for name in doubtful if gradients[name] is None]
    if unused and share(unused) < enough:
        doubtful = [name for name in doubtful if name not in unused]
    else:
        unused = []
    for name in doubtful[:STEPS]:
        reached = share([name])
        for seed in range(1, 1 + VALUES):
            if not NEARLY * enough <= reached < enough:
                break
            reached = max(reached, share([name], ANOTHER, seed))
        if reached < enough:
            if gradients[name] is None:
                unused.append(name)
            else:
                weak[name] = reached
    return Influence(len(parameters), tuple(unused), weak, tuple(doubtful[STEPS:]))


def call(module: nn.Module, inputs: Mapping[str, Any]) -> Any:
    """One call in float32, its noise, where the model draws any, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(CALL_SEED)
        return module(**in_dtype(inputs, torch.float32))


def _gradients(
    part: nn.Module, parameters: Mapping[str, nn.Parameter], inputs: Mapping[str, Any], measure: Measure
) -> dict[str, Tensor | None]:
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    generator = torch.Generator().manual_seed(0)
    with torch.enable_grad():
        terms = []
        for name, output in attached(call(part, inputs)).items():
            if not (output.requires_grad and output.is_floating_point()):
                continue
            if unit := measure.unit(name):
                direction = torch.randn(output.shape, generator=generator) / (unit * math.sqrt(output.numel()))
                # masked values are infinite, or the lowest finite ones
                finite = output.isfinite() & (output.abs() < torch.finfo(output.dtype).max / 2)
                terms.append((torch.where(finite, output, 0.0) * direction).sum())
        if not terms:
            return dict.fromkeys(parameters)
        try:
            found = torch.autograd.grad(torch.stack(terms).sum(), list(parameters.values()), allow_unused=True)
        except (RuntimeError, AssertionError):
            # code for inference only, which overwrites what the gradient needs or refuses it: steps will tell
            return dict.fromkeys(parameters)
    return dict(zip(parameters, found, strict=True))


@contextmanager
def _stepped(parameters: Mapping[str, nn.Parameter], step: float, seed: int) -> Iterator[None]:
    before = {name: one.detach().clone() for name, one in parameters.items()}
    generator = torch.Generator().manual_seed(seed)
    try:
        for one in parameters.values():
            one.add_(torch.randn(one.shape, generator=generator), alpha=step * _rms(one))
        yield
    finally:
        for name, one in parameters.items():
            one.copy_(before[name])


def _rms(parameter: Tensor) -> float:
    return float(parameter.detach().square().mean().sqrt()) or 1.0


def grouped(names: Iterable[str]) -> list[str]:
    """Names that differ in their numbers only as one: ``layers.*.bias (2)``."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name), []).append(name)
    return [f"{key} ({len(members)})" if len(members) > 1 else members[0] for key, members in groups.items()]
