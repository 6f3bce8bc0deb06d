"""Is a picture read whole, in its place, in any size that the model takes and in any layout of memory?"""

import inspect
import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from proofbook.checks.against import against_truth
from proofbook.checks.conditioning import judged
from proofbook.checks.influence import Measure, arranged
from proofbook.checks.localise import Execution
from proofbook.checks.plain import agree, call, eager, moved, rounding
from proofbook.checks.registry import NotApplicable, Observation, check, evidence
from proofbook.checks.reproduction import reproduces
from proofbook.checks.signal import only_drawn
from proofbook.checks.streams import rows_of, slice_row, sliceable
from proofbook.checks.trial import Trial
from proofbook.checks.truth import copied

# the side of what is changed in a corner, as a share of the picture's
CORNER = 1 / 8
# what a larger picture has more, as shares of height and width: unlike, so that exchanged axes show
GROWTH = (1.5, 1)
# how often other noise is tried in corners that moved nothing: where a picture is read as codes, a code may stay
DRAWS = 4
# patches that a ground is larger than its picture, on two sides
GROUND = 2
INTERPOLATES = "interpolate_pos_encoding"


@check(graphs=True)
def every_corner(trial: Trial) -> Observation:
    """A patch changed in each corner of a picture, the far ones too, moves outputs far beyond the tolerance."""
    only_drawn(trial)
    pixels = pictures(trial)[:1]
    if pixels.dim() != 4 or not sliceable(trial.inputs, len(trial.rows)):
        raise NotApplicable("a row has not one picture, or the inputs of several rows are packed into one tensor")
    corners = _corners(trial, pixels)
    if getattr(trial.config, "mask_ratio", 0):
        raise NotApplicable("it hides most of a picture from itself, at random")
    batch = rows_of(slice_row(trial.inputs, 0), torch.zeros(len(corners), dtype=torch.long))
    shares = dict.fromkeys(corners, 0.0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(DRAWS):
        noise = torch.randn(pixels.shape, generator=generator) * pixels.std()
        batch["pixel_values"] = torch.cat([torch.where(corner, pixels + noise, pixels) for corner in corners.values()])
        now = _moved_rows(trial, batch, len(corners))
        shares = {place: max(most, share) for (place, most), share in zip(shares.items(), now, strict=True)}
        unread = [place for place, share in shares.items() if share < trial.tolerance.signal]
        if not unread:
            break
    places = {place: where[0].nonzero()[:, -2:].aminmax(dim=0) for place, where in corners.items()}
    return Observation(
        passed=not unread,
        observed=", ".join(f"{place} {share:.2g}" for place, share in shares.items()) + " times the error allowed",
        allowed=f"{trial.tolerance.signal:g} times or more",
        detail=f"not read: {', '.join(unread)}" if unread else "",
        evidence={
            "single": slice_row(trial.inputs, 0),
            "corners": {place: [one.tolist() for one in ends] for place, ends in places.items()},
            "draws": DRAWS,
        },
    )


@reproduces(every_corner)
def corners_move_outputs(
    model: nn.Module,
    dtype: torch.dtype,
    tolerance: Mapping[str, float],
    single: Mapping[str, Any],
    corners: Mapping[str, list[list[int]]],
    draws: int,
) -> None:
    """A patch changed in a corner of a picture moves the outputs, by more than rounding."""
    before, pixels = call(model, single, dtype), single["pixel_values"]
    for place, ((top, left), (bottom, right)) in corners.items():
        most = 0.0
        for seed in range(draws):
            generator = torch.Generator().manual_seed(seed)
            noise = torch.randn(pixels.shape, generator=generator) * pixels.std()
            changed = pixels.clone()
            changed[..., top : bottom + 1, left : right + 1] += noise[..., top : bottom + 1, left : right + 1]
            most = max(most, moved(call(model, {**single, "pixel_values": changed}, dtype), before, tolerance))
        assert most > 1, f"{place}: outputs observed to move by {most:.3g} roundings, allowed 1 at least"


@check(graphs=True)
def order_of_patches(trial: Trial) -> Observation:
    """Two quarters of the picture exchanged change the outputs by more than their order: places are read."""
    only_drawn(trial)
    pixels = pictures(trial)
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


@check(graphs=True)
def resolution(trial: Trial) -> Observation:
    """A larger, oblong picture is right by its own truth; positions interpolated to their own size stay as they are."""
    pixels = pictures(trial)
    interpolates = INTERPOLATES in inspect.signature(trial.called.forward).parameters
    asked = {INTERPOLATES: True} if interpolates else {}
    one = slice_row(trial.inputs, 0) if sliceable(trial.inputs, len(trial.rows)) else trial.inputs
    inputs = _enlarged(one, pixels.shape[-2:]) | asked
    try:
        with evidence(inputs=inputs):
            trial.run(inputs)
    except Exception as error:  # each class refuses in its own way; who offers to interpolate may not
        if interpolates:
            raise
        raise NotApplicable(f"it takes pictures of one size: {type(error).__name__}: {str(error)[:120]}") from error
    height, width = inputs["pixel_values"].shape[-2:]
    if getattr(trial.config, "two_stage", False):
        raise NotApplicable(
            "what it says rests on the ranks of proposals, and two of another picture's may be near a tie"
        )
    comparisons, _ = against_truth(trial, trial.called, inputs, f", {height} × {width}", trial.noise)
    if interpolates:
        comparisons += trial.agree(trial.run(trial.inputs | asked), trial.outputs, ", interpolated to its own size")
    if not comparisons:
        raise NotApplicable(f"rounding to {trial.target.dtype} decides what becomes of every output")
    seen = Observation.of(comparisons, "1 in each output", executions=trial.beside_truth)
    return replace(seen, evidence={"larger": inputs, "asked": asked})


@reproduces(resolution)
def larger_pictures_are_right(
    model: nn.Module,
    inputs: Mapping[str, Any],
    dtype: torch.dtype,
    tolerance: Mapping[str, float],
    larger: Mapping[str, Any],
    asked: Mapping[str, bool],
) -> None:
    """A larger, oblong picture is right by float64; positions interpolated to their own size stay as they are."""
    outputs, true = call(model, larger, dtype), eager(model, larger, torch.float64)
    agree(outputs, {name: true[name] for name in outputs}, tolerance, (eager(model, larger, dtype), true))
    if asked:
        agree(
            call(model, {**inputs, **asked}, dtype),
            call(model, inputs, dtype),
            tolerance,
            rounding(model, inputs, dtype),
        )


@check(graphs=True)
def padded_pictures(trial: Trial) -> Observation:
    """Pictures on a larger ground, which pixel_mask hides, give what they give without: in a row beside larger ones."""
    pixels, mask = pictures(trial), trial.inputs.get("pixel_mask")
    if not isinstance(mask, Tensor) or mask.shape != (len(pixels), *pixels.shape[-2:]):
        raise NotApplicable("its processor makes no pixel_mask")
    if "pixel_mask" in trial.spec.idle or "pixel_mask" not in inspect.signature(trial.called.forward).parameters:
        raise NotApplicable("forward does not read the pixel_mask that its processor makes")
    windows = [one for one in trial.model.modules() if isinstance(one, torch.nn.Conv2d)]
    if any(one.kernel_size != one.stride and max(one.kernel_size) > 1 for one in windows):
        raise NotApplicable("convolutions read across the edge of a picture, as the architecture was published")
    more = max((one.stride for one in windows), default=(GROUND, GROUND))
    sides = (0, GROUND * more[1], 0, GROUND * more[0])
    inputs = {**trial.inputs, "pixel_values": pad(pixels, sides), "pixel_mask": pad(mask, sides)}
    try:
        outputs = trial.run(inputs)
    except (KeyError, ValueError) as refusal:  # Aria names the numbers of patches that it knows
        raise NotApplicable(f"refused: {refusal}") from refusal
    names = [name for name, one in trial.outputs.items() if name in outputs and outputs[name].shape == one.shape]
    if not names:
        raise NotApplicable("each output has an entry for each patch of the ground")
    found, expected = ({name: one[name] for name in names} for one in (outputs, trial.outputs))
    return Observation.of(trial.agree(found, expected), f"1 in each of {len(names)} outputs")


@check
def channels_last(trial: Trial) -> Observation:
    """Weights and pictures laid out in memory with their channels last give what they give with channels first."""
    pixels = pictures(trial)
    if pixels.dim() != 4:
        raise NotApplicable("the layout is one of pictures, of four dimensions")
    model = copied(trial.called)
    for weight in model.parameters():
        if weight.dim() == 4:  # others, as of a convolution over time as well, have no such layout
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    inputs = {**trial.inputs, "pixel_values": pixels.contiguous(memory_format=torch.channels_last)}

    def executions() -> tuple[Execution, Execution]:
        return Execution(model, inputs), Execution(trial.called, trial.inputs)

    comparisons = trial.agree(trial.run_module(model, inputs), trial.outputs)
    return judged(trial, comparisons, f"1 in each of {len(comparisons)} outputs", executions=executions)


def pictures(trial: Trial) -> Tensor:
    """The pictures: pictures × … × height × width."""
    pixels = trial.inputs.get("pixel_values")
    if not isinstance(pixels, Tensor) or not pixels.is_floating_point() or pixels.dim() < 4:
        raise NotApplicable("it takes no pictures of height × width")
    return pixels


def _corners(trial: Trial, picture: Tensor) -> dict[str, Tensor]:
    """The corners of the first picture, without its padding, as booleans of its shape."""
    mask, sizes = (trial.inputs.get(name) for name in ("pixel_mask", "image_sizes"))
    height, width = picture.shape[-2:]
    if isinstance(mask, Tensor) and mask.shape[1:] == (height, width):
        height, width = int(mask[0].any(1).sum()), int(mask[0].any(0).sum())
    elif isinstance(sizes, Tensor):
        # some classes give the sizes of before a picture was resized
        height, width = (min(own, side) for own, side in zip(sizes[0].tolist(), (height, width), strict=True))
    high, wide = max(1, round(CORNER * height)), max(1, round(CORNER * width))
    rows = {"top": slice(0, high), "bottom": slice(height - high, height)}
    columns = {"left": slice(0, wide), "right": slice(width - wide, width)}
    corners = {}
    for (y, row), (x, column) in itertools.product(rows.items(), columns.items()):
        corner = corners[f"{y} {x}"] = torch.zeros(picture.shape, dtype=torch.bool)
        corner[..., row, column] = True
    return corners


def _moved_rows(trial: Trial, batch: Mapping[str, Any], rows: int) -> list[float]:
    """How far outputs of each row of a batch lie from those of the first row of the trial's, in errors allowed."""
    whole = {name: one[:1] for name, one in trial.outputs.items() if one.dim()}
    outputs = {
        name: one
        for name, one in trial.run(batch).items()
        # a likeness of rows × rows has another size
        if name in whole and one.shape == (rows, *whole[name].shape[1:])
    }
    if not outputs:
        raise NotApplicable("no output has an entry a picture")
    measure = Measure({name: whole[name] for name in outputs}, trial.noise, trial.tolerance)
    return [measure.moved({name: one[row : row + 1] for name, one in outputs.items()}) for row in range(rows)]


def _enlarged(inputs: Mapping[str, Any], sides: tuple[int, ...]) -> dict[str, Any]:
    """The inputs with larger pictures in the place of those of height × width, and masks as large."""
    size = [int(side * grown) for side, grown in zip(sides, GROWTH, strict=True)]
    found = dict(inputs)
    for name, value in inputs.items():
        if isinstance(value, Tensor) and value.dim() >= 3 and value.shape[-2:] == sides:
            flat = value.reshape(-1, 1, *sides).double()
            mode = "bilinear" if value.is_floating_point() else "nearest"
            grown = torch.nn.functional.interpolate(flat, size=size, mode=mode)
            found[name] = grown.reshape(*value.shape[:-2], *size).to(value.dtype)
    return found
