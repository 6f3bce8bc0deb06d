"""Is a picture read whole, in its place, in any size that the model takes and in any layout of memory?"""

import copy
import inspect
from typing import Any

import torch
from torch import Tensor

from proofbook.checks.against import against_truth
from proofbook.checks.influence import Measure, arranged
from proofbook.checks.localise import Execution
from proofbook.checks.registry import NotApplicable, Observation, check
from proofbook.checks.signal import only_drawn
from proofbook.checks.trial import Trial

# the side of what is changed in a corner, as a share of the picture's
CORNER = 1 / 8
# what a larger picture has more, as shares of height and width: unlike, so that exchanged axes show
GROWTH = (2, 1.5)
INTERPOLATES = "interpolate_pos_encoding"


@check
def every_corner(trial: Trial) -> Observation:
    """A patch changed in each corner of the picture, the far ones too, moves outputs far beyond the tolerance."""
    only_drawn(trial)
    pixels = _pixels(trial)
    measure = Measure(trial.outputs, trial.noise, trial.tolerance)
    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0)) * pixels.std()
    least = {}
    for place, corner in _corners(trial, pixels).items():
        changed = torch.where(corner, pixels + noise, pixels)
        outputs = trial.run({**trial.inputs, "pixel_values": changed})
        least[place] = min(measure.moved(outputs, _row(row, len(pixels))) for row in range(len(pixels)))
    dead = [place for place, share in least.items() if share < trial.tolerance.signal]
    return Observation(
        passed=not dead,
        observed=", ".join(f"{place} {share:.2g}" for place, share in least.items()) + " times the error allowed",
        allowed=f"{trial.tolerance.signal:g} times or more in every row",
        detail=f"not read: {', '.join(dead)}" if dead else "",
    )


@check
def order_of_patches(trial: Trial) -> Observation:
    """Two quarters of the picture exchanged change the outputs by more than their order: places are read."""
    only_drawn(trial)
    pixels = _pixels(trial)
    exchanged = pixels.clone()
    height, width = (side // 2 for side in pixels.shape[-2:])
    exchanged[..., :height, :width] = pixels[..., -height:, -width:]
    exchanged[..., -height:, -width:] = pixels[..., :height, :width]
    measure = Measure({name: arranged(one) for name, one in trial.outputs.items()}, trial.noise, trial.tolerance)
    outputs = trial.run({**trial.inputs, "pixel_values": exchanged})
    moved = measure.moved({name: arranged(one) for name, one in outputs.items()})
    return Observation(
        passed=moved >= trial.tolerance.signal,
        observed=f"outputs, sorted in each row, moved by {moved:.2g} times the error allowed",
        allowed=f"{trial.tolerance.signal:g} times or more",
    )


@check
def resolution(trial: Trial) -> Observation:
    """A larger, oblong picture is right by its own truth; interpolated to their own size, positions stay what they are."""
    pixels = _pixels(trial)
    interpolates = INTERPOLATES in inspect.signature(trial.called.forward).parameters
    asked = {INTERPOLATES: True} if interpolates else {}
    inputs = _enlarged(trial, pixels) | asked
    try:
        trial.run(inputs)
    except Exception as error:  # each class refuses in its own way; who offers to interpolate may not
        if interpolates:
            raise
        raise NotApplicable(f"it takes pictures of one size: {type(error).__name__}: {str(error)[:120]}") from error
    height, width = inputs["pixel_values"].shape[-2:]
    comparisons, _ = against_truth(trial, trial.called, inputs, f", {height} × {width}")
    if interpolates:
        comparisons += trial.agree(trial.run(trial.inputs | asked), trial.outputs, ", interpolated to its own size")
    return Observation.of(comparisons, "1 in each output", executions=trial.beside_truth)


@check
def channels_last(trial: Trial) -> Observation:
    """Weights and pictures laid out in memory with their channels last give what they give with channels first."""
    pixels = _pixels(trial)
    if pixels.dim() != 4:
        raise NotApplicable("the layout is one of pictures, of four dimensions")
    model: Any = copy.deepcopy(trial.called).to(memory_format=torch.channels_last)
    inputs = {**trial.inputs, "pixel_values": pixels.contiguous(memory_format=torch.channels_last)}

    def executions() -> tuple[Execution, Execution]:
        return Execution(model, inputs), Execution(trial.called, trial.inputs)

    comparisons = trial.agree(trial.run_module(model, inputs), trial.outputs)
    return Observation.of(comparisons, f"1 in each of {len(comparisons)} outputs", executions=executions)


def _pixels(trial: Trial) -> Tensor:
    """The pictures: rows × … × height × width, one entry a row."""
    pixels = trial.inputs.get("pixel_values")
    if not isinstance(pixels, Tensor) or not pixels.is_floating_point() or pixels.dim() < 4:
        raise NotApplicable("it takes no pictures of height × width")
    if len(pixels) != len(trial.rows):
        raise NotApplicable("the pictures of several rows are packed into one tensor")
    return pixels


def _row(row: int, rows: int) -> Any:
    return lambda output: output[row] if output.dim() and len(output) == rows else output


def _corners(trial: Trial, pixels: Tensor) -> dict[str, Tensor]:
    """The corners of each row's picture without its padding, as booleans of the shape of the pictures."""
    mask = trial.inputs.get("pixel_mask")
    masked = isinstance(mask, Tensor) and mask.shape == (len(pixels), *pixels.shape[-2:])
    places = {f"{y} {x}": torch.zeros(pixels.shape, dtype=torch.bool) for y in ("top", "bottom") for x in ("left", "right")}
    for row in range(len(pixels)):
        seen = mask[row].bool() if masked else torch.ones(pixels.shape[-2:], dtype=torch.bool)
        sides = int(seen.any(1).sum()), int(seen.any(0).sum())
        for place, corner in places.items():
            slices = [
                slice(0, size) if name in ("top", "left") else slice(side - size, side)
                for name, side in zip(place.split(), sides, strict=True)
                for size in (max(1, round(CORNER * side)),)
            ]
            corner[(row, ..., *slices)] = True
    return places


def _enlarged(trial: Trial, pixels: Tensor) -> dict[str, Any]:
    """The inputs with larger pictures; with masks of pixels as large."""
    sides = pixels.shape[-2:]
    size = [int(side * grown) for side, grown in zip(sides, GROWTH, strict=True)]
    found = dict(trial.inputs)
    for name, value in trial.inputs.items():
        if isinstance(value, Tensor) and value.dim() >= 3 and value.shape[-2:] == sides:
            flat = value.reshape(-1, 1, *sides).double()
            mode = "bilinear" if value.is_floating_point() else "nearest"
            grown = torch.nn.functional.interpolate(flat, size=size, mode=mode)
            found[name] = grown.reshape(*value.shape[:-2], *size).to(value.dtype)
    return found
