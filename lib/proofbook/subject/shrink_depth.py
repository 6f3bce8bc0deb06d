"""Which layers of a stack stay: enough that every kind of layer that the stack mixes still appears."""

from collections.abc import Iterable, Mapping
from typing import Any

Kept = Mapping[int, tuple[int, ...]]  # by the number of layers of the whole stack


def kept_layers(depth: int, per_layer: Iterable[list[Any]], indices: Iterable[list[int]]) -> tuple[int, ...]:
    """The indices of the layers that stay, in order.

    Args:
        depth: how many layers the stack has.
        per_layer: lists of that length which say something of each layer.
        indices: lists of some of its layers. The first and the last that a list names stay, all where it names at
            most four, and one layer that it does not name.
    """
    if depth <= 2:
        return tuple(range(depth))
    kept = {0}
    kinds = list(zip(*per_layer, strict=True))
    for kind in {repr(kind): kind for kind in kinds}.values():
        kept.add(kinds.index(kind))
    for named in indices:
        inside = sorted({index for index in named if 0 <= index < depth})
        kept.update(inside if len(inside) <= 4 else (inside[0], inside[-1]))
        kept.update([index for index in range(depth) if index not in inside][:1])
    if len(kept) < 2:
        kept.add(depth - 1)
    return tuple(sorted(kept))


def pick(values: list[Any], kept: tuple[int, ...]) -> list[Any]:
    """The entries of a list by layer that belong to the layers that stay."""
    return [values[index] for index in kept]


def reindex(values: list[int], kept: tuple[int, ...], depth: int) -> list[int]:
    """Indices of layers, counted anew among those that stay; negative ones count from the end, as before."""
    return [
        kept.index(value) if value in kept else len(kept) if value == depth else max(value, -len(kept))
        for value in values
        if value in kept or value < 0 or value == depth
    ]


def stages(depths: list[int]) -> list[int]:
    """Layers by stage: one each; two in the first stage and in the deepest, where they had two."""
    deepest = depths.index(max(depths)) if depths else 0
    return [min(n, 2) if index in (0, deepest) else min(n, 1) for index, n in enumerate(depths)]
