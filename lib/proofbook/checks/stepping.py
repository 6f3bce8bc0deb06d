"""A step of decoding as a graph holds it: the cache goes in and comes out as tensors by their names."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache

from proofbook.checks.decoding import Decoder, parameters
from proofbook.checks.registry import NotApplicable
from proofbook.compat import DynamicLayer, DynamicSlidingWindowLayer

# what a decoder's own tokens have left, and what it read of an encoder
OWN, CROSS = "self", "cross"
_HELD = ("keys", "values")


def parts_of(cache: Any) -> dict[str, DynamicCache]:
    """The caches of keys and values that a cache consists of.

    Raises:
        NotApplicable: it holds something else as well.
    """
    second = isinstance(cache, EncoderDecoderCache)
    parts = {OWN: cache.self_attention_cache, CROSS: cache.cross_attention_cache} if second else {OWN: cache}
    for part in parts.values():
        if not isinstance(part, DynamicCache):
            raise NotApplicable(f"its cache is of a kind of its own, {type(part).__name__}")
        for layer in part.layers:
            if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) or layer.keys is None:
                raise NotApplicable(f"its cache has layers of other than keys and values, {type(layer).__name__}")
    return parts


def tensors_in(cache: Any) -> dict[str, Tensor]:
    """The keys and values of a cache, by part and number of their layer."""
    return {
        f"{part}.{index}.{held}": getattr(layer, held)
        for part, one in parts_of(cache).items()
        for index, layer in enumerate(one.layers)
        for held in _HELD
    }


class Step(nn.Module):
    """A decoder's call behind a cache given as tensors, or the first; what it returns of the cache are its own tokens,
    and after the first what it read of an encoder.

    Args:
        decoder: how the model decodes.
        layout: a cache that the model made, after which those given are built; None for the first call.
    """

    def __init__(self, decoder: Decoder, layout: Any = None) -> None:
        super().__init__()
        self.model = decoder.trial.called
        self.stream = decoder.stream
        self.switch = decoder.caching(True)
        self.layout = layout

    def forward(self, given: Mapping[str, Any], cache: Mapping[str, Tensor]) -> dict[str, Tensor]:
        behind = {} if self.layout is None else {"past_key_values": self._cache(given, cache)}
        outputs = self.model(**given, **behind, **self.switch)
        held = tensors_in(outputs.past_key_values)
        return {
            "logits": outputs.logits,
            **{name: one for name, one in held.items() if self.layout is None or name.startswith(OWN)},
        }

    def _cache(self, given: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
        """A cache of the layout that holds these tensors."""
        made = copy.copy(self.layout)
        own = dict(parts_of(self.layout))
        for part, one in own.items():
            own[part] = copy.copy(one)
            own[part].layers = [copy.copy(layer) for layer in one.layers]
            for index, layer in enumerate(own[part].layers):
                layer.keys, layer.values = tensors[f"{part}.{index}.keys"], tensors[f"{part}.{index}.values"]
                if part == OWN and hasattr(layer, "cumulative_length"):  # of a window, which keeps the last alone
                    layer.cumulative_length = self._read(given, layer.keys)
        if CROSS not in own:
            return own[OWN]
        made.self_attention_cache, made.cross_attention_cache = own[OWN], own[CROSS]
        made.is_updated = dict.fromkeys(range(len(own[CROSS].layers)), True)
        return made

    def _read(self, given: Mapping[str, Any], keys: Tensor) -> int:
        """How many tokens were read before."""
        mask = given.get(self.stream.mask)
        return keys.shape[-2] if mask is None else mask.shape[1] - given[self.stream.tokens].shape[1]


def part_of(decoder: Decoder, inputs: Mapping[str, Any], start: int, stop: int) -> dict[str, Any]:
    """What a step is given to read tokens ``start`` to before ``stop`` of inputs: these, and the mask of all so far."""
    whole = decoder.stream.with_mask(inputs)
    given = {**decoder.stream.cut(whole, start, stop), decoder.stream.mask: whole[decoder.stream.mask][:, :stop]}
    left_out = {*decoder.caching(True), *({decoder.stream.mask} - parameters(decoder.trial))}
    return {name: value for name, value in given.items() if name not in left_out}


@torch.no_grad()
def cache_in_torch(decoder: Decoder, inputs: Mapping[str, Any], stop: int) -> Any:
    """The cache that the module of torch makes of the tokens before ``stop``."""
    trial = decoder.trial
    outputs = trial.called(**trial.session.place(part_of(decoder, inputs, 0, stop)), **decoder.caching(True))
    return outputs.past_key_values
