"""The outputs of a model as one flat table of tensors, so that every one of them is compared and not only the first."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers.cache_utils import Cache

# what a model hands over for its next call, by a part of its path, or by how such a part ends
_CACHES = frozenset({"cache_params", "mems", "state", "past_buckets_states"})
_ENDS = ("past_key_values", "_cache")


def is_cache(path: str) -> bool:
    """Whether an output of that path is what a model hands over for its next call, or what a part of it does."""
    return any(part in _CACHES or part.endswith(_ENDS) for part in path.split("."))


def flatten(outputs: Any) -> dict[str, torch.Tensor]:
    """Every tensor in outputs, by its path: ``logits``, ``hidden_states.0``, ``past_key_values.layers.1.keys``.

    Walks mappings (ModelOutput is one), sequences and caches; what is not a tensor is left out.
    """
    return {path: tensor.detach() for path, tensor in attached(outputs).items()}


def attached(outputs: Any) -> dict[str, torch.Tensor]:
    """As :func:`flatten`, the tensors still part of the graph that gradients flow back through."""
    table: dict[str, torch.Tensor] = {}
    _walk(outputs, "", table)
    return table


def _walk(value: Any, path: str, table: dict[str, torch.Tensor]) -> None:
    if isinstance(value, torch.Tensor):
        table[path or "output"] = value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            _walk(part, _join(path, key), table)
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            _walk(part, _join(path, index), table)
    elif isinstance(value, Cache) or _holds_state(value):
        for key, part in vars(value).items():
            _walk(part, _join(path, key), table)


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _holds_state(value: Any) -> bool:
    """A cache's layer, or the state of a recurrent model: an object of transformers that keeps tensors."""
    return type(value).__module__.startswith("transformers.") and hasattr(value, "__dict__")
