"""Faults of caches: what was stored is not what comes back, or not where it is looked for."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin
from transformers.cache_utils import Cache

from proofbook.checks.registry import NotApplicable
from proofbook.checks.trial import Trial
from proofbook.compat import DynamicLayer, DynamicSlidingWindowLayer
from proofbook.selftest.planting import called, replaced
from proofbook.selftest.register import Reach, fault


def _caches(trial: Trial) -> None:
    """Raises NotApplicable unless a call of the model returns a cache of keys and values that grows."""
    if not trial.model.can_generate() or not any(name.endswith(".keys") for name in trial.outputs):
        raise NotApplicable("the class keeps no cache of keys and values")


@contextmanager
def _spoiled(spoil: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Let ``spoil`` have the keys and values that a cache gives back, rows × heads × tokens × size, and how many of the
    tokens it held before, where it held some."""

    def make(update: Any) -> Any:
        def wrong(self: Any, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> Any:
            all_keys, all_values = update(self, keys, values, *args, **kwargs)
            past = all_keys.shape[-2] - keys.shape[-2]
            return spoil(all_keys, all_values, past) if past else (all_keys, all_values)

        return wrong

    with ExitStack() as stack:
        for kind in (DynamicLayer, DynamicSlidingWindowLayer):
            if "update" in vars(kind):
                stack.enter_context(replaced(kind, "update", make))
        yield


@fault(Reach.LIBRARY)
def cache_slot_wrong(trial: Trial) -> Iterator[None]:
    """A new key is stored one place before its value."""
    _caches(trial)

    def spoil(keys: Tensor, values: Tensor, past: int) -> tuple[Tensor, Tensor]:
        order = [*range(past - 1), *range(past, keys.shape[-2]), past - 1]
        return keys[..., order, :], values

    with _spoiled(spoil):
        yield


@fault(Reach.LIBRARY)
def cache_shared_between_rows(trial: Trial) -> Iterator[None]:
    """Every row goes on from what the first row has stored."""
    _caches(trial)

    def spoil(keys: Tensor, values: Tensor, past: int) -> tuple[Tensor, Tensor]:
        first = values[:1, :, :past].expand_as(values[:, :, :past])
        return keys, torch.cat([first, values[:, :, past:]], dim=2)

    with _spoiled(spoil):
        yield


@fault(Reach.LIBRARY)
def cache_in_low_precision(trial: Trial) -> Iterator[None]:
    """Keys and values come back from the cache rounded to eight bits."""
    _caches(trial)
    with _spoiled(lambda keys, values, _: (keys.bfloat16().to(keys.dtype), values.bfloat16().to(values.dtype))):
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
    if not isinstance(trial.model, GenerationMixin):
        raise NotApplicable("the class generates in a way of its own, and searches no beams")

    def make(_: Any) -> Any:
        return lambda self, beams: None

    with replaced(Cache, "reorder_cache", make):
        yield
