"""Faults of caches: what was stored is not what comes back, or not where it is looked for."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer

from proofbook.checks.registry import NotApplicable
from proofbook.checks.trial import Trial
from proofbook.selftest.planting import called, replaced
from proofbook.selftest.register import Reach, fault


def _caches(trial: Trial) -> None:
    """Raises NotApplicable unless a call of the model returns a cache of keys and values that grows."""
    if not trial.model.can_generate() or not any(name.endswith(".keys") for name in trial.outputs):
        raise NotApplicable("the class keeps no cache of keys and values")


def _spoiled_update(spoil: Any) -> Any:
    def make(update: Any) -> Any:
        def wrong(self: DynamicLayer, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> Any:
            past = self.get_seq_length()
            result = update(self, keys, values, *args, **kwargs)
            return spoil(self, past) if past else result

        return wrong

    return make


@fault(Reach.LIBRARY)
def cache_slot_wrong(trial: Trial) -> Iterator[None]:
    """A new key is stored one place before its value."""
    _caches(trial)

    def spoil(layer: DynamicLayer, past: int) -> Any:
        order = [*range(past - 1), *range(past, layer.keys.shape[-2]), past - 1]
        layer.keys = layer.keys[..., order, :]
        return layer.keys, layer.values

    with replaced(DynamicLayer, "update", _spoiled_update(spoil)):
        yield


@fault(Reach.LIBRARY)
def cache_shared_between_rows(trial: Trial) -> Iterator[None]:
    """Every row goes on from what the first row has stored."""
    _caches(trial)

    def spoil(layer: DynamicLayer, past: int) -> Any:
        layer.values = torch.cat([layer.values[:1, :, :past].expand_as(layer.values[:, :, :past]),
                                  layer.values[:, :, past:]], dim=2)  # fmt: skip
        return layer.keys, layer.values

    with replaced(DynamicLayer, "update", _spoiled_update(spoil)):
        yield


@fault(Reach.LIBRARY)
def cache_in_low_precision(trial: Trial) -> Iterator[None]:
    """Keys and values come back from the cache rounded to eight bits."""
    _caches(trial)

    def spoil(layer: DynamicLayer, past: int) -> Any:
        return layer.keys.bfloat16().to(layer.keys.dtype), layer.values.bfloat16().to(layer.values.dtype)

    with replaced(DynamicLayer, "update", _spoiled_update(spoil)):
        yield


@fault(Reach.LIBRARY)
def rope_offset_wrong(trial: Trial) -> Iterator[None]:
    """A token that follows a cache is rotated as if it stood one place further."""
    _caches(trial)
    rotary = [module for _, module in called(trial, nn.Module) if "RotaryEmbedding" in type(module).__name__]
    if not rotary:
        raise NotApplicable("has no rotary embedding")

    def make(forward: Any) -> Any:
        def shifted(self: nn.Module, x: Any, position_ids: Any = None, *args: Any, **kwargs: Any) -> Any:
            if isinstance(position_ids, Tensor) and position_ids.shape[-1] == 1:
                position_ids = position_ids + 1
            return forward(self, x, position_ids, *args, **kwargs)

        return shifted

    with replaced(type(rotary[-1]), "forward", make):
        yield


@fault(Reach.LIBRARY)
def beams_not_reordered(trial: Trial) -> Iterator[None]:
    """Beam search goes on with the caches of the beams that it dropped."""
    _caches(trial)

    def make(_: Any) -> Any:
        return lambda self, beams: None

    with replaced(Cache, "reorder_cache", make):
        yield
