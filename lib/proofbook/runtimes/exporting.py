"""A model as one graph of torch.export, its inputs and outputs flat tables of tensors."""

import inspect
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo import config as dynamo
from torch.fx import config
from torch.utils._pytree import tree_flatten_with_path, tree_map_only, tree_unflatten

from proofbook.runtimes.outputs import attached
from proofbook.runtimes.runtime import Tensors

Sizes = tuple[int | None, ...]


@dataclass(frozen=True)
class Program:
    """A graph of torch.export, and how it is called.

    ``example`` are the inputs that it was made with; ``sizes`` says of each input its sizes, None where one is open;
    ``outputs`` are the paths of what it returns. Open sizes may be ``room`` times those of the example, or any if it
    is 0.
    """

    exported: torch.export.ExportedProgram
    example: Tensors
    sizes: Mapping[str, Sizes]
    outputs: tuple[str, ...]
    room: int = 0

    def takes(self, tensors: Tensors) -> bool:
        """Whether inputs are of the kinds and sizes that the graph is for."""
        return list(tensors) == list(self.example) and all(
            one.dtype is self.example[name].dtype
            and len(one.shape) == len(self.sizes[name])
            and all(map(self._fits, self.sizes[name], one.shape, self.example[name].shape))
            for name, one in tensors.items()
        )

    def _fits(self, size: int | None, here: int, example: int) -> bool:
        return size == here or (size is None and (not self.room or here <= self.room * example))

    def run(self, tensors: Tensors) -> Tensors:
        """The outputs as torch computes them."""
        with torch.no_grad():
            return dict(self.exported.module()(dict(tensors)))


def tensors_of(inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """Every tensor in a call's arguments, by its path: a graph reads nothing else."""
    return {_path(path): leaf for path, leaf in tree_flatten_with_path(dict(inputs))[0] if isinstance(leaf, Tensor)}


def export(model: nn.Module, examples: Sequence[Mapping[str, Any]], room: int = 0) -> Program:
    """The graph of a model by the tensors in its inputs, its other arguments being fixed, and without a cache.

    Args:
        model: the module, on its device.
        examples: inputs; it is traced with the first, and sizes in which others of its rank differ from it stay open.
        room: how many times those of the first such sizes may be at most; 0 for any.
    """
    sizes = open_sizes(examples)
    exported = traced(model, examples[0], sizes, room=room)
    return Program(exported, tensors_of(examples[0]), sizes, returned_by(exported), room)


def open_sizes(examples: Sequence[Mapping[str, Any]]) -> dict[str, Sizes]:
    """The sizes of each tensor in the first of several inputs, None where they differ in others of its rank."""
    others = [tensors_of(one) for one in examples[1:]]
    return {name: _open(name, one, others) for name, one in tensors_of(examples[0]).items()}


def traced(
    model: nn.Module,
    inputs: Mapping[str, Any],
    sizes: Mapping[str, Sizes] | None = None,
    open_by: Any = torch.export.Dim.DYNAMIC,
    room: int = 0,
) -> torch.export.ExportedProgram:
    """What torch.export makes of a model: a graph by one argument, the tensors in its inputs by their paths.

    Args:
        sizes: as of :func:`open_sizes`; those of the inputs unless given.
        open_by: what torch.export is told of an open size: with ``Dim.AUTO`` it may fix it.
        room: as of :func:`export`.
    """
    tensors = tensors_of(inputs)
    dims = {
        name: {
            dim: open_by(max=room * tensors[name].shape[dim]) if room else open_by
            for dim, size in enumerate(shape)
            if size is None
        }
        for name, shape in (sizes or {}).items()
    }
    is_open = any(dims.values())
    shapes = (dims,) if is_open else None
    with torch.no_grad(), quiet(), without_traces(), remembering_operators(not is_open):
        return torch.export.export(Flat(model, inputs).eval(), (tensors,), dynamic_shapes=shapes, strict=False)


def returned_by(exported: torch.export.ExportedProgram) -> tuple[str, ...]:
    """The keys of the table that a program returns: of a :class:`Flat` model, the paths of its outputs."""
    table: dict[str, Any] = tree_unflatten([None] * exported.call_spec.out_spec.num_leaves, exported.call_spec.out_spec)
    return tuple(table)


def _open(name: str, tensor: Tensor, others: Sequence[Mapping[str, Tensor]]) -> Sizes:
    """The sizes of an input, None where another example's differs; a size of one can't stay open."""
    same_rank = [other[name].shape for other in others if name in other and other[name].dim() == tensor.dim()]
    return tuple(
        None if size > 1 and any(shape[dim] != size for shape in same_rank) else size
        for dim, size in enumerate(tensor.shape)
    )


class Flat(nn.Module):
    """A model of flat tables of tensors, in and out, whose other arguments are fixed."""

    def __init__(self, model: nn.Module, given: Mapping[str, Any]) -> None:
        super().__init__()
        self.model = model
        self.given = dict(given)
        if "use_cache" in inspect.signature(model.forward).parameters:
            self.given["use_cache"] = False  # a cache is an object of Python, which no graph returns

    def forward(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        values = iter(tensors.values())
        return attached(self.model(**tree_map_only(Tensor, lambda _: next(values), self.given)))


def _path(path: Sequence[Any]) -> str:
    return ".".join(str(getattr(part, "key", getattr(part, "idx", part))) for part in path)


@contextmanager
def experts_by(way: str, model: nn.Module) -> Iterator[None]:
    """Experts are computed in a way that transformers names, where the model offers a choice; in its own if empty."""
    offers = (one for one in model.modules() if hasattr(one, "set_experts_implementation"))
    owner: Any = next(offers, None) if way else None
    before = owner.config._experts_implementation if owner is not None else None
    if before is None:
        yield
        return
    owner.set_experts_implementation(way)
    try:
        yield
    finally:
        owner.set_experts_implementation(before)


@contextmanager
def quiet() -> Iterator[None]:
    """Exporters log, print and warn of what stops them, with the whole graph."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def remembering_operators(kept: bool) -> Iterator[None]:
    """Whether the exporter keeps what each operator makes of which shapes, which takes longer than it saves where sizes
    are open."""
    before, dynamo.fake_tensor_cache_enabled = dynamo.fake_tensor_cache_enabled, kept
    try:
        yield
    finally:
        dynamo.fake_tensor_cache_enabled = before


@contextmanager
def without_traces() -> Iterator[None]:
    """The exporter notes for every operator the lines of Python that called it, a third of its time; nobody reads
    them here."""
    if not hasattr(config, "do_not_emit_stack_traces"):  # of older releases
        yield
        return
    before, config.do_not_emit_stack_traces = config.do_not_emit_stack_traces, True
    try:
        yield
    finally:
        config.do_not_emit_stack_traces = before
