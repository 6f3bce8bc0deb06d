"""Faults of what goes in: ignored, misplaced, or in the wrong order."""

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from proofbook.checks.registry import NotApplicable
from proofbook.checks.trial import Trial
from proofbook.selftest.planting import (
    arguments_changed,
    called,
    hooked_everywhere,
    intercepted,
    returning,
    spoiled,
)
from proofbook.selftest.register import Reach, fault

# masks beside the one of tokens: of pixels, frames and samples
_MASKS = ("pixel_mask", "pixel_attention_mask", "bool_masked_pos", "padding_mask", "input_features_mask")


def _floating_input(trial: Trial, pattern: str) -> str:
    for name, value in trial.inputs.items():
        if re.match(pattern, name) and isinstance(value, Tensor) and value.is_floating_point():
            return name
    raise NotApplicable(f"takes no {pattern.partition('|')[0]}")


@fault(Reach.LIBRARY)
def segments_ignored(trial: Trial) -> Iterator[None]:
    """The ids of segments are taken and not read."""
    given = trial.inputs.get("token_type_ids")
    if given is None or "token_type_ids" in (trial.spec.idle or {}) or bool((given == given.flatten()[0]).all()):
        raise NotApplicable("takes no ids of segments that differ")

    def zeros(arguments: dict[str, Any]) -> dict[str, Any]:
        ids = arguments.get("token_type_ids")
        return arguments | ({} if ids is None else {"token_type_ids": torch.zeros_like(ids)})

    with arguments_changed(trial, zeros):
        yield


@fault(Reach.LIBRARY)
def mask_of_frames_or_pixels_ignored(trial: Trial) -> Iterator[None]:
    """A mask of pixels or of sound is taken and not read."""
    heard = any(name in trial.inputs for name in ("input_values", "input_features"))
    names = [
        name
        for name in (*_MASKS, *(("attention_mask",) if heard else ()))
        if isinstance(mask := trial.inputs.get(name), Tensor) and not bool(mask.all()) and name not in trial.spec.idle
    ]
    if not names:
        raise NotApplicable("no mask of pixels or sound hides anything")

    def ones(arguments: dict[str, Any]) -> dict[str, Any]:
        masks = {name: torch.ones_like(arguments[name]) for name in names if arguments.get(name) is not None}
        return arguments | masks

    with arguments_changed(trial, ones):
        yield


@fault(Reach.LIBRARY)
def positions_ignored(trial: Trial) -> Iterator[None]:
    """Every token has the position of the first."""
    names = re.compile(r"(pos(ition)?_?emb\w*|embed_positions|wpe|\w*position_embeddings|\w*rotary\w*)$", re.I)
    found = [module for name, module in called(trial, nn.Module) if names.search(name)]
    if not found or not any(name.endswith("input_ids") for name in trial.inputs):
        raise NotApplicable("has no module of positions of tokens")
    kinds = {type(module) for module in found if type(module) is not nn.Embedding}
    if not kinds:
        raise NotApplicable("its positions are a plain table, which other tables share a class with")

    def first(module: nn.Module, output: Any) -> Any:
        if isinstance(output, Tensor):
            return output[..., :1, :].expand_as(output) if output.dim() > 1 else output
        return tuple(first(module, one) for one in output) if isinstance(output, tuple) else output

    with hooked_everywhere(next(iter(kinds)), first):
        yield


@fault(Reach.TARGET)
def image_tokens_misplaced(trial: Trial) -> Iterator[None]:
    """The features of a picture are put into the text one place off."""
    _floating_input(trial, "pixel_values|image")

    def rolled(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        source = kwargs.pop("source") if "source" in kwargs else args[2]
        return function(
            *args[:2], **kwargs, source=source.reshape(-1, source.shape[-1]).roll(1, 0).reshape(source.shape)
        )

    with intercepted(trial, [Tensor.masked_scatter, torch.masked_scatter], rolled):
        yield


@fault(Reach.TARGET)
def channels_swapped(trial: Trial) -> Iterator[None]:
    """Pictures come in as blue, green, red."""
    name = _floating_input(trial, "pixel_values|images")
    dims = [dim for dim, size in enumerate(trial.inputs[name].shape) if size == 3 and dim]
    if not dims:
        raise NotApplicable("its pixels come as patches, without a dimension of three colours")

    def swapped(arguments: dict[str, Any]) -> dict[str, Any]:
        pixels = arguments.get(name)
        return arguments | ({} if pixels is None else {name: pixels.flip(dims[0])})

    with arguments_changed(trial, swapped):
        yield


@fault(Reach.TARGET)
def patches_transposed(trial: Trial) -> Iterator[None]:
    """Patches are read column by column."""
    _floating_input(trial, "pixel_values|images")

    def transposed(output: Tensor) -> Tensor:
        return output.transpose(-1, -2).contiguous() if output.shape[-1] == output.shape[-2] else output

    name, first = called(trial, nn.Conv2d)[0]
    if isinstance(first, nn.Conv2d) and first.kernel_size == (1, 1):
        raise NotApplicable("its first convolution is of single pixels")
    with spoiled(trial, [name], partial(returning, transposed)):
        yield


@fault(Reach.LIBRARY)
def rows_leak(trial: Trial) -> Iterator[None]:
    """A little of the mean of all rows gets into each row."""
    size = len(trial.rows)
    # the first layer whose output has one entry a row; what all rows share stays as it is
    layers = called(trial, nn.LayerNorm, nn.Linear, nn.Conv1d, nn.Conv2d)
    kind = type(layers[len(layers) // 2][1])

    def mixed(_: nn.Module, output: Any) -> Any:
        if not isinstance(output, Tensor) or output.dim() < 2 or output.shape[0] != size:
            return output
        return output + 0.01 * output.mean(0, keepdim=True)

    with hooked_everywhere(kind, mixed):
        yield
