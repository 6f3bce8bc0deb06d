"""The tokens that a model reads: a stream of an encoder or of a decoder, its mask, and what else has an entry a token.

Rows are cut out of a batch without their padding, and laid side by side again with it on either side.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils._pytree import tree_map_only

Side = Literal["left", "right"]
# how arguments end that hold codes of the sound of each token's moment, batch × codebooks × length
CODES = "audio_codes"


@dataclass(frozen=True)
class Stream:
    """The names of the arguments that hold a stream's tokens, batch × length, and its mask."""

    tokens: str
    mask: str

    def length(self, inputs: Mapping[str, Any]) -> int:
        """How many tokens a row has, padding included."""
        return int(inputs[self.tokens].shape[1])

    def members(self, inputs: Mapping[str, Any]) -> list[str]:
        """The inputs with an entry for each token of each row, the tokens and the mask among them."""
        shape, decodes = inputs[self.tokens].shape[:2], self.tokens.startswith("decoder_")
        return [
            name
            for name, value in inputs.items()
            if isinstance(value, Tensor)
            and (len(value), *value.shape[along(name) :][:1]) == shape
            and name.startswith("decoder_") == decodes
        ]

    def visible(self, inputs: Mapping[str, Any]) -> Tensor:
        """Which tokens are text and not padding: booleans, batch × length."""
        mask = inputs.get(self.mask)
        shape = inputs[self.tokens].shape
        return torch.ones(shape, dtype=torch.bool) if mask is None else mask.detach().cpu().bool()

    def unpadded(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """A batch of one row without its padding."""
        seen, members = self.visible(inputs)[0], self.members(inputs)
        kept = seen.nonzero().flatten()
        return {
            name: value.index_select(along(name), kept) if name in members else value for name, value in inputs.items()
        }

    def cut(self, inputs: Mapping[str, Any], start: int, stop: int) -> dict[str, Any]:
        """The inputs with the tokens from ``start`` to before ``stop`` alone."""
        members = self.members(inputs)
        return {
            name: value.narrow(along(name), start, stop - start) if name in members else value
            for name, value in inputs.items()
        }

    def with_mask(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs with a mask of ones where they have none."""
        return {self.mask: torch.ones_like(inputs[self.tokens]), **inputs}

    def batch(self, rows: Sequence[Mapping[str, Any]], side: Side, fill: int) -> dict[str, Any]:
        """Rows of several lengths, each a batch of one, as one batch: padded to the longest, on one side.

        Args:
            fill: the token that stands for nothing; whatever else has an entry a token is zero there.
        """
        longest = max(self.length(row) for row in rows)
        padded = [self._padded(self.with_mask(row), longest, side, fill) for row in rows]
        return joined(padded)

    def _padded(self, row: Mapping[str, Any], length: int, side: Side, fill: int) -> dict[str, Any]:
        missing, members = length - self.length(row), self.members(row)

        def lengthened(name: str, value: Tensor) -> Tensor:
            behind = (0,) * (2 * (value.dim() - 1 - along(name)))
            sides = (missing, 0) if side == "left" else (0, missing)
            return pad(value, (*behind, *sides), value=fill if name == self.tokens else 0)

        return {name: lengthened(name, value) if name in members else value for name, value in row.items()}

    def extended(self, inputs: Mapping[str, Any], tokens: Tensor) -> dict[str, Any]:
        """The inputs with further tokens behind those that they have; ``tokens``: batch × new."""
        found = self.with_mask(inputs)
        new = tokens.shape[1]
        for name in self.members(found):
            value, dim = found[name], along(name)
            same = value.narrow(dim, value.shape[dim] - 1, 1).repeat_interleave(new, dim)
            more = {self.tokens: tokens, self.mask: torch.ones_like(tokens)}.get(name, same)
            found[name] = torch.cat([value, more.to(value)], dim=dim)
        return found


def along(name: str) -> int:
    """The dimension in which an argument with an entry a token has it."""
    return 2 if name.endswith(CODES) else 1


def sliceable(inputs: Mapping[str, Any], size: int) -> bool:
    """Whether each input tensor has one entry a row."""
    return all(
        isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == size
        for value in inputs.values()
        if not isinstance(value, bool | int | float | str | None)
    )


def slice_row(inputs: Mapping[str, Any], row: int, rows: int | None = None) -> dict[str, Any]:
    """The inputs of one row, as a batch of one; of so many ``rows`` each may have several entries of an input."""

    def cut(value: Tensor) -> Tensor:
        entries = len(value) // rows if rows else 1
        return value[row * entries : (row + 1) * entries]

    return {name: cut(value) if isinstance(value, Tensor) else value for name, value in inputs.items()}


def rows_of(inputs: Mapping[str, Any], order: Tensor) -> dict[str, Any]:
    """The rows of that order; every tensor, those within an encoder's outputs as well, has one entry a row."""
    return dict(tree_map_only(Tensor, lambda one: one[order.to(one.device)], dict(inputs)))


def in_order(inputs: Mapping[str, Any], order: Tensor) -> dict[str, Any]:
    """As many rows in another order; what has not one entry a row, as patches of pictures, stays as it is."""

    def moved(one: Tensor) -> Tensor:
        return one[order.to(one.device)] if one.dim() and len(one) == len(order) else one

    return dict(tree_map_only(Tensor, moved, dict(inputs)))


def joined(batches: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Batches of the same kind as one: tensors one behind the other, whatever they hold a row of."""
    first = batches[0]
    return {
        name: torch.cat([batch[name] for batch in batches]) if isinstance(value, Tensor) else value
        for name, value in first.items()
    }


def copies(inputs: Mapping[str, Any], count: int) -> dict[str, Any]:
    """So many times the same batch, as one."""
    return joined([inputs] * count)
