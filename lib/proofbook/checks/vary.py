"""Another value for an input: one position, one bit of a mask, or one patch of it changed in each row."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# how far into the valid part of a row the change lies: early, so that later positions of a causal model can see it
INTO = 0.3
# the side of a patch, as a share of the side of what it lies in
PATCH = 1 / 8
# the same for masks of pixels and samples, which models read at the resolution of their coarsest features
MASK_PATCH = 1 / 2
# numbers that say how other inputs are laid out: another value does not fit the rest
_LAYOUT = re.compile(r"grid|size|shape|length|ind(ex|ices)|pos(ition)?_?ids|num_")


class Fixed(Exception):
    """This input has no other valid value; the message says why."""


@dataclass(frozen=True)
class Change:
    """An input tensor after the change, and where along its second dimension each entry of the first was changed.

    None stands for an entry that was changed in a patch rather than at one position; entries left out were not
    changed.
    """

    value: Tensor
    at: Mapping[int, int | None]


def vary(name: str, inputs: Mapping[str, Any], kept: Collection[int] = ()) -> Change:
    """Change an input tensor, each entry of its first dimension in one place that no mask hides.

    Numbers in a floating tensor change by noise of its own standard deviation, in a patch; zeros, which are padding,
    stay. A bit of a mask of tokens is flipped; a mask of samples or frames, which models read at a coarser rate, ends
    earlier. Any other integer takes the value of another position.

    Args:
        name: the input to change, a tensor with at least two dimensions.
        inputs: all arguments of the call.
        kept: token ids that neither change nor come up: special tokens, placeholders of images.

    Raises:
        Fixed: there is no other value.
    """
    value: Tensor = inputs[name]
    if value.dim() < 2 or not value.numel():
        raise Fixed("has no positions")
    if "mask" in name and bool(((value == 0) | (value == 1)).all()):
        return _flipped(value) if value.dim() > 2 or _of_tokens(value, inputs) else _shortened(value)
    if value.is_floating_point():
        return _noisy(value, inputs)
    if _LAYOUT.search(name):
        raise Fixed("says how other inputs are laid out")
    return _exchanged(value, _visible(value, inputs), kept if value.dim() == 2 else ())


def _noisy(value: Tensor, inputs: Mapping[str, Any]) -> Change:
    """Noise in a patch of the last dimension, or of the last two where there are three or more; of what masks show."""
    noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(0)).to(value)
    patch = _patch(value, PATCH, _seen(value, inputs))
    changed = value.clone()
    changed[patch] += noise[patch] * value.std() * (value[patch] != 0)
    return Change(changed, dict.fromkeys(range(len(value))))


def _seen(value: Tensor, inputs: Mapping[str, Any]) -> dict[int, range]:
    """By length of a dimension, the positions along it that a mask of the same batch shows in every row."""
    seen = {}
    for name, mask in inputs.items():
        if isinstance(mask, Tensor) and "mask" in name and mask.dim() == 2 and len(mask) == len(value):
            places = mask.bool().all(dim=0).nonzero().flatten().tolist()
            if places and mask.shape[1] in value.shape[1:]:
                seen[mask.shape[1]] = range(places[0], places[-1] + 1)
    return seen


def _patch(value: Tensor, share: float, seen: Mapping[int, range]) -> tuple[Any, ...]:
    sides = [seen.get(side, range(side)) for side in value.shape[1:][-2:]]
    starts = [side.start + int(INTO * len(side)) for side in sides]
    slices = [slice(at, at + max(1, round(share * len(side)))) for at, side in zip(starts, sides, strict=True)]
    return (..., *slices)


def _flipped(value: Tensor) -> Change:
    changed = value.clone()
    if value.dim() > 2:
        patch = _patch(value, MASK_PATCH, {})
        changed[patch] = 1 - changed[patch] if value.dtype is not torch.bool else ~changed[patch]
        return Change(changed, dict.fromkeys(range(len(value))))
    at: dict[int, int | None] = {}
    for row, bits in enumerate(value):
        places = bits.nonzero().flatten().tolist() or list(range(len(bits)))
        place = at[row] = _early(places)
        changed[row, place] = not bits[place]
    return Change(changed, at)


def _of_tokens(mask: Tensor, inputs: Mapping[str, Any]) -> bool:
    """Whether an input beside the mask has an integer at each of its positions."""
    others = (one for one in inputs.values() if isinstance(one, Tensor) and one is not mask)
    return any(one.shape[:2] == mask.shape and not one.is_floating_point() for one in others)


def _shortened(value: Tensor) -> Change:
    changed = value.clone()
    for row, bits in enumerate(value):
        seen = bits.nonzero().flatten()
        changed[row, seen[-max(1, round(MASK_PATCH * len(seen))) :]] = 0
    return Change(changed, dict.fromkeys(range(len(value))))


def _exchanged(value: Tensor, visible: Tensor, kept: Collection[int]) -> Change:
    """Each row's entry at one position becomes that of another position, of its own row if one differs there."""
    usable = visible & ~torch.isin(value, torch.tensor(sorted(kept), dtype=value.dtype)) if kept else visible
    places = [row.nonzero().flatten().tolist() for row in usable]
    changed, at = value.clone(), dict[int, int | None]()
    for row, own in enumerate(places):
        if not own:
            continue
        place = _early(own)
        for other in _others(row, places):
            if not torch.equal(value[other], value[row, place]):
                changed[row, place] = value[other]
                at[row] = place
                break
    if not at:
        raise Fixed("has one value at every position that may change")
    return Change(changed, at)


def _early(places: Sequence[int]) -> int:
    return places[int(INTO * len(places))]


def _others(row: int, places: Sequence[Sequence[int]]) -> Iterator[tuple[int, int]]:
    rows = [row, *(other for other in range(len(places)) if other != row)]
    return ((other, place) for other in rows for place in places[other])


def _visible(value: Tensor, inputs: Mapping[str, Any]) -> Tensor:
    """Where masks of the same batch and length show a position, and put no picture in its place; booleans of the
    first two dimensions."""
    visible = torch.ones(value.shape[:2], dtype=torch.bool)
    for name, mask in inputs.items():
        if isinstance(mask, Tensor) and mask.shape == visible.shape and "mask" in name:
            visible &= ~mask.bool() if "image" in name else mask.bool()
    return visible
