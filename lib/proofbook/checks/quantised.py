"""What a quantised cache hands back, held against what it was given."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, cache_utils

from proofbook.checks.registry import NotApplicable

# of the backends that store whole numbers in groups: bits, and a size of groups that divides that of every head
BITS = 4
GROUP = 4
# by backend: the layer that a release must have, and the package that it needs
_BACKENDS = {
    "fp8": ("Fp8QuantizedLayer", ""),
    "quanto": ("QuantoQuantizedLayer", "optimum.quanto"),
    "hqq": ("HQQQuantizedLayer", "hqq"),
}


@dataclass
class Kept:
    """The keys or values of one layer: what it was given, batch × heads × tokens × size, and what it handed back."""

    given: Tensor
    # tokens that it read first
    first: int
    returned: Tensor

    def deviation(self, backend: str, rounds: int) -> float:
        """The largest difference between the two, as a share of what storing in so few bits allows.

        A number of 8 bits with 3 of them behind the point is within 1/16 of it, or within half the smallest; values
        beyond the range of the first part, from which the scale is taken, may be cut to it. A whole number is within
        one step of the range, for each time that it was stored.
        """
        if self.given.shape != self.returned.shape:
            return torch.inf
        if backend == "fp8":
            span = self.given[..., : self.first, :].abs().max()
            expected = self.given.clamp(-span, span)
            allowed = expected.abs() / 16 + span / torch.finfo(torch.float8_e4m3fn).max / 512
        else:
            expected = self.given
            allowed = rounds * (expected.max() - expected.min()) / (2**BITS - 1)
        difference = (self.returned - expected).abs() / allowed
        return float(difference.nan_to_num(torch.inf).max())


@dataclass
class Watched:
    """A cache whose layers remember what they are given and what they hand back."""

    cache: Any
    # keys and values by layer
    kept: dict[int, tuple[Kept, Kept]] = field(default_factory=dict)
    # the layers that were given something since this was cleared: what reads pictures is given nothing with a token
    updated: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        for index, layer in enumerate(self.cache.layers):
            layer.update = self._remembering(index, layer.update)

    def _remembering(self, index: int, update: Callable[..., Any]) -> Callable[..., Any]:
        def remember(keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> Any:
            found = update(keys, values, *args, **kwargs)
            before = self.kept.get(index)
            whole = [
                torch.cat([before[at].given, one.double()], dim=-2) if before else one.double()
                for at, one in enumerate((keys, values))
            ]
            first = before[0].first if before else keys.shape[-2]
            key, value = (Kept(one, first, back.double()) for one, back in zip(whole, found, strict=True))
            self.kept[index] = key, value
            self.updated.add(index)
            return found

        return remember

    def reorder(self, order: Tensor) -> None:
        """Let the rows of the cache change places, and of what it was given as well."""
        self.cache.reorder_cache(order)
        for pair in self.kept.values():
            for one in pair:
                one.given = one.given[order]

    def replayed(self, config: Any, dtype: torch.dtype) -> DynamicCache:
        """A plain cache of all but the last token, whose layers hand out what these did in the last call."""
        plain = DynamicCache(config=config)
        for index, pair in self.kept.items():
            keys, values = (one.returned.to(dtype) for one in pair)
            known = keys.shape[-2] - (index in self.updated)
            plain.update(keys[..., :known, :], values[..., :known, :], index)
            plain.layers[index].update = lambda *_args, _handed=(keys, values), **_kwargs: _handed
        return plain


def quantised_backends(model: Any) -> tuple[list[str], list[str]]:
    """The backends of quantised caches that a model can be asked with; and what is missing for the others, in words.

    Raises:
        NotApplicable: the release has none of these, or the library offers none for such a class.
    """
    offered = {name: needs for name, (layer, needs) in _BACKENDS.items() if hasattr(cache_utils, layer)}
    if not offered:
        raise NotApplicable("this release has no quantised cache of the layout that is asked for")
    if model.config.is_encoder_decoder or not model._supports_default_dynamic_cache():
        raise NotApplicable("the library offers quantised caches to decoders alone, with a cache of keys and values")
    missing = [f"{name}: the package {needs} is missing" for name, needs in offered.items() if not _has(needs)]
    here = [name for name, needs in offered.items() if _has(needs)]
    if not here:
        raise NotApplicable("; ".join(missing))
    return here, missing


def quantised(backend: str, config: Any) -> Any:
    """An empty quantised cache, in which all is stored anew with each token, so that nothing stays as it was given."""
    groups = {} if backend == "fp8" else {"nbits": BITS, "q_group_size": GROUP, "residual_length": 1}
    return cache_utils.QuantizedCache(backend=backend, config=config, **groups)


def quantised_or_refused(backend: str, config: Any) -> Any:
    """The same. Raises :class:`NotApplicable` for a model that has other layers than of full attention."""
    try:
        return quantised(backend, config)
    except ValueError as refusal:
        raise NotApplicable(f"refused: {refusal}") from refusal


def _has(package: str) -> bool:
    """Whether a package can be imported; none is needed where it has no name."""
    parent = package.partition(".")[0]
    return not package or bool(importlib.util.find_spec(parent) and importlib.util.find_spec(package))
