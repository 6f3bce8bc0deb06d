"""Weights in integers: the levels that they may take, and what a runtime holds of them."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad


@dataclass(frozen=True)
class Grid:
    """Evenly spaced levels over the range of each group of a weight's inputs, for each output.

    A symmetric grid spans the largest magnitude on both sides of zero; one that is not, the lowest to the highest
    value, and zero (Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference, 2018).
    """

    # how many levels there are
    levels: int
    # how many inputs share a scale; the last group of an output may be shorter
    group: int
    symmetric: bool

    def steps(self, weight: Tensor) -> Tensor:
        """The distance between two levels for each element of a weight, outputs × inputs."""
        low, high = self._ranges(weight)
        return self._spread((high - low) / (self.levels - 1), weight)

    def rounded(self, weight: Tensor) -> Tensor:
        """The weight with each element at its nearest level."""
        low, high = self._ranges(weight)
        steps = ((high - low) / (self.levels - 1)).clamp(min=torch.finfo(weight.dtype).tiny)
        first = -(self.levels // 2) if self.symmetric else -(-low / steps).round()
        first, steps = (self._spread(one, weight) for one in (torch.as_tensor(first).expand_as(steps), steps))
        return (weight / steps).round().clamp(first, first + self.levels - 1) * steps

    def _ranges(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The ends of the levels, outputs × groups."""
        whole = pad(weight, (0, -weight.shape[1] % self.group)).unflatten(1, (-1, self.group))
        if self.symmetric:
            most = whole.abs().amax(-1)
            return -most, most
        return whole.amin(-1).clamp(max=0), whole.amax(-1).clamp(min=0)

    def _spread(self, of_groups: Tensor, weight: Tensor) -> Tensor:
        return of_groups.repeat_interleave(self.group, 1)[:, : weight.shape[1]]


@dataclass(frozen=True)
class Quantised:
    """A weight as a runtime holds it: ``(codes - zeros) * scales``."""

    # outputs × inputs
    codes: Tensor
    # outputs × groups
    scales: Tensor
    zeros: Tensor
    grid: Grid
    # bytes of all that is held of it
    nbytes: int

    def values(self) -> Tensor:
        """The weight that it stands for, outputs × inputs, in float64."""
        group, inputs = self.grid.group, self.codes.shape[1]
        scales, zeros = (one.double().repeat_interleave(group, 1)[:, :inputs] for one in (self.scales, self.zeros))
        return (self.codes.double() - zeros) * scales


def quantised(weight: Tensor) -> Quantised | None:
    """What a tensor of torchao holds, on the CPU; None of any other, and of those that are packed for a kernel."""
    held: Any = weight
    if not (hasattr(weight, "qdata") and weight.dim() == 2 and held.qdata.shape == weight.shape):
        return None
    codes, scales = held.qdata.cpu(), held.scale.cpu()
    zeros = torch.zeros_like(scales) if held.zero_point is None else held.zero_point.cpu()
    bits = int(str(getattr(held, "target_dtype", torch.int8)).removeprefix("torch.int"))
    grid = Grid(2**bits, held.block_size[-1], symmetric=True)
    nbytes = sum(one.numel() * one.element_size() for one in (codes, scales, zeros))
    return Quantised(codes, scales, zeros, grid, nbytes)


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of a model by their paths."""
    return {path: one for path, one in model.named_modules() if isinstance(one, nn.Linear)}


def dequantised(model: nn.Module) -> None:
    """Put the values that quantised weights stand for in their place."""
    for layer in linear_layers(model).values():
        held = quantised(layer.weight)
        if held is not None:
            layer.weight = nn.Parameter(held.values(), requires_grad=False)


def rounding_inputs(model: nn.Module, paths: Iterable[str]) -> nn.Module:
    """A copy of a model whose linear layers, those at some paths, round their inputs to 256 levels over the range of
    these and zero in each call: as ONNX defines DynamicQuantizeLinear."""

    def rounded(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        whole = inputs[0].reshape(1, -1)
        return (Grid(256, whole.numel(), symmetric=False).rounded(whole).reshape(inputs[0].shape), *inputs[1:])

    other = copy.deepcopy(model)
    layers = linear_layers(other)
    for path in paths:
        layers[path].register_forward_pre_hook(rounded)
    return other


def holding(model: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """A copy of a model with other weights of linear layers, by their paths, from which references are made; what was
    tied to them stays as it is."""
    other = copy.deepcopy(model)
    layers = linear_layers(other)
    for path, weight in weights.items():
        layers[path].weight = nn.Parameter(weight, requires_grad=False)
    return other
