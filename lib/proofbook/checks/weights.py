"""How far back the layers of a decoder attend, by the weights that they hand out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from proofbook.checks.attention import Call


@dataclass(frozen=True)
class Weights:
    """The attention weights of one call of a layer, batch × heads × queries × keys."""

    layer: int
    values: Tensor
    # where a mask was given and hides nothing: queries × keys, booleans
    visible: Tensor
    # tokens read, those of this call included: its last query is the last of them, and its last key as well
    read: int

    def misplaced(self, span: int, begin: int) -> str:
        """In words, which distance between a query and a key is attended although it may not be, or the reverse.

        Args:
            span: how many tokens a query attends to, itself among them.
            begin: the queries before that token are not asked: tokens of one picture may attend to each other.
        """
        most = self.values.abs().amax(dim=(0, 1)).cpu()
        queries, keys = most.shape
        at = torch.arange(self.read - queries, self.read)
        distances = at[:, None] - torch.arange(self.read - keys, self.read)
        asked = (at >= min(begin, self.read - 1))[:, None].expand_as(most)
        attended = set(distances[asked & (most > 0)].tolist())
        place = f"layer {self.layer}, {queries} tokens behind {self.read - queries}"
        furthest = min(span, self.read) - 1
        if wrong := sorted(one for one in attended if not 0 <= one <= furthest):
            return f"{place}: attends {wrong[-1]} tokens back, where {furthest} are allowed"
        # a weight may be too small for its dtype, where nothing hides a key
        attended.update(distances[asked & self.visible].tolist())
        if missing := sorted(set(range(furthest + 1)) - attended):
            return f"{place}: never attends {missing[-1]} tokens back, where {furthest} are in reach"
        return ""


def attended(calls: Sequence[Call], read: int, new: int) -> Iterator[Weights]:
    """The weights that layers returned in these calls of attention, of those that know their place in the stack.

    Args:
        calls: as they were watched.
        read: tokens read so far.
        new: how many of them these calls read; what attends with another number of queries reads pictures or sound.
    """
    for one in calls:
        index = getattr(one.layer, "layer_idx", None)
        weights = one.found[1] if isinstance(one.found, tuple) and len(one.found) > 1 else None
        if isinstance(index, int) and isinstance(weights, Tensor) and weights.dim() == 4 and weights.shape[2] == new:
            visible = torch.zeros(weights.shape[2:], dtype=torch.bool)
            if isinstance(one.mask, Tensor) and one.mask.is_floating_point() and one.mask.dim() == 4:
                visible = visible | (one.mask == 0).amax(dim=(0, 1)).cpu()
            yield Weights(index, weights.detach(), visible, read)
