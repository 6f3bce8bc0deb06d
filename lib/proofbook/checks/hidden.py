"""Padded positions are not judged: what a model computes there is read by nobody, and differs between kernels."""

from collections.abc import Mapping
from typing import Any

import torch

# how often encoders of sound halve the number of frames, at most: four times would be as few as heads
_HALVINGS = 3


def without_padding(outputs: Mapping[str, torch.Tensor], inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The outputs with zeros at the positions that a mask among the inputs hides.

    A mask, batch × length, belongs to an output whose first dimension is the batch and which has one dimension of
    that length: logits, hidden states, the keys and values of a cache. Where two masks have the same length, a
    position that either hides is hidden.
    """
    masks = [
        value.detach().cpu().bool()
        for name, value in inputs.items()
        if name.endswith("attention_mask") and isinstance(value, torch.Tensor) and value.dim() == 2
    ]
    heard = {size for one in inputs.values() if _is_features(one) for size in one.shape[1:]}
    coarse = [mask for mask in masks if mask.shape[1] in heard]
    return {name: _hidden(name, tensor, [*masks, *_halved(coarse, tensor)]) for name, tensor in outputs.items()}


def _is_features(value: Any) -> bool:
    """Whether an input is spectra of sound, batch × frames × bins or batch × bins × frames."""
    return isinstance(value, torch.Tensor) and value.is_floating_point() and value.dim() == 3


def _halved(masks: list[torch.Tensor], tensor: torch.Tensor) -> list[torch.Tensor]:
    """The masks of frames, padded behind, halved until they are as many as the states of an output."""
    found = []
    for mask in masks if tensor.dim() >= 3 else []:
        size, lengths = mask.shape[1], mask.sum(-1)
        padded_behind = torch.equal(mask, torch.arange(size) < lengths[:, None])
        for _ in range(_HALVINGS if padded_behind else 0):
            size, lengths = (size + 1) // 2, (lengths + 1) // 2
            if size == tensor.shape[1]:
                found.append(torch.arange(size) < lengths[:, None])
    return found


def _hidden(name: str, tensor: torch.Tensor, masks: list[torch.Tensor]) -> torch.Tensor:
    for mask in masks:
        batch, length = mask.shape
        if mask.all() or not tensor.dim() or tensor.shape[0] != batch:
            continue
        if length in tensor.shape[1:]:
            at = tensor.shape.index(length, 1)
        elif name.endswith((".keys", ".values")) and tensor.shape[-2] < length:
            at = tensor.dim() - 2  # a cache with a sliding window keeps the last positions
            mask = mask[:, -tensor.shape[at] :]
        else:
            continue
        shape = [batch, *(tensor.shape[dim] if dim == at else 1 for dim in range(1, tensor.dim()))]
        tensor = tensor.masked_fill(~mask.reshape(shape), 0)
    return tensor
