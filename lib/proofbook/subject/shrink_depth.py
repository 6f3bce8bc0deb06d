"""Which layers of a stack stay: enough that every kind of layer that the stack mixes still appears."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from proofbook.subject.shrink_rules import Role

_PATTERN = re.compile(r"(block|layer)s?_types?|(layer|block)_pattern")


@dataclass(frozen=True)
class Stack:
    """A stack of layers, and the indices of those that stay, in order."""

    depth: int
    kept: tuple[int, ...]

    def pick(self, values: Sequence[Any]) -> list[Any]:
        """The entries of a list by layer that belong to the layers that stay."""
        return [values[index] for index in self.kept]

    def reindex(self, values: Sequence[int]) -> list[int]:
        """Indices of layers, counted anew among those that stay; negative ones count from the end, as before."""
        return [
            self.kept.index(value) if value >= 0 else max(value, -len(self.kept))
            for value in values
            if value < 0 or value in self.kept
        ]

    def reindex_outputs(self, values: Sequence[int]) -> list[int]:
        """Indices of hidden states, counted anew: 0 is the input of the first layer, n the output of the n-th."""
        inside = [index + 1 for index in self.reindex([value - 1 for value in values if value > 0])]
        outside = [max(value, -len(self.kept)) for value in values if value <= 0]
        return [*outside, *inside]


def cut(fields: Mapping[str, Any], roles: Mapping[str, Role]) -> dict[str, Any]:
    """The fields of a configuration with every stack cut to the layers that stay.

    Depths become their number; lists with an entry a layer, or with a pattern of them that repeats, lose those of the
    others; lists of indices of layers are counted anew; stages lose layers, never themselves.
    """
    fields = {name: _unrolled(name, value, fields, roles) for name, value in fields.items()}
    stacks = [_stack(depth, fields, roles) for depth in sorted(_depths(fields, roles) | _listed(fields))]
    return {name: _cut(name, value, roles[name], stacks) for name, value in fields.items()}


def _unrolled(name: str, value: Any, fields: Mapping[str, Any], roles: Mapping[str, Role]) -> Any:
    """A pattern of kinds of layers, repeated to the depth of the stack; any other value as it is."""
    depth = max(_depths(fields, roles), default=0)
    if _PATTERN.search(name) and isinstance(value, (list, tuple)) and 1 < len(value) < depth:
        return type(value)(value[index % len(value)] for index in range(depth))
    return value


def _depths(fields: Mapping[str, Any], roles: Mapping[str, Role]) -> set[int]:
    return {v for k, v in fields.items() if roles[k] is Role.LAYERS and type(v) is int and v > 2}


def _listed(fields: Mapping[str, Any]) -> set[int]:
    """The depths of stacks that only a list of the kinds of their layers tells."""
    return {len(v) for k, v in fields.items() if _PATTERN.search(k) and isinstance(v, (list, tuple)) and len(v) > 2}


def _stack(depth: int, fields: Mapping[str, Any], roles: Mapping[str, Role]) -> Stack:
    by_layer = [v for k, v in fields.items() if _is_by_layer(v, depth, roles[k]) and len(set(v)) <= 4]
    named = [v for k, v in fields.items() if _is_indices(k, v, depth) and not _is_outputs(k)]
    outputs = [[n - 1 for n in v if n > 0] for k, v in fields.items() if _is_indices(k, v, depth) and _is_outputs(k)]
    return Stack(depth, kept_layers(depth, by_layer, [*named, *outputs]))


def kept_layers(depth: int, by_layer: Iterable[Sequence[Any]], indices: Iterable[Sequence[int]]) -> tuple[int, ...]:
    """The indices of the layers that stay, in order.

    Args:
        depth: how many layers the stack has.
        by_layer: lists of that length which give each layer its kind: the first layer of each kind stays.
        indices: lists of some of its layers: all that it names stay, or the first and the last where it names more
            than four; and one layer that it does not name.
    """
    kept = {0}
    kinds = [repr(kind) for kind in zip(*by_layer, strict=True)]
    kept.update(kinds.index(kind) for kind in set(kinds))
    for named in indices:
        inside = sorted({index for index in named if 0 <= index < depth})
        kept.update(inside if len(inside) <= 4 else (inside[0], inside[-1]))
        kept.update([index for index in range(depth) if index not in inside][:1])
    if len(kept) < 2:
        kept.add(depth - 1)
    return tuple(sorted(kept))


def _is_by_layer(value: Any, depth: int, role: Role) -> bool:
    """One scalar a layer; not the indices of all layers."""
    if not isinstance(value, (list, tuple)) or len(value) != depth or role is Role.STAGES:
        return False
    return not any(isinstance(entry, (list, tuple)) for entry in value) and set(value) != set(range(depth))


def _is_indices(name: str, value: Any, depth: int) -> bool:
    return (
        isinstance(value, (list, tuple))
        and 0 < len(value) <= depth
        and all(type(index) is int and -depth <= index <= depth for index in value)
        and len(set(value)) == len(value)
        and any(word in name for word in ("ind", "idx", "_ids", "layer", "_blocks"))
    )


def _is_outputs(name: str) -> bool:
    return name.removeprefix("_") == "out_indices"


def _cut(name: str, value: Any, role: Role, stacks: Sequence[Stack]) -> Any:
    if type(value) is int and role is Role.LAYERS:
        return next((len(stack.kept) for stack in stacks if stack.depth == value), value)
    if type(value) is int and role is Role.LEADING:  # all of a stack, or one layer that is of another kind
        return next((len(stack.kept) for stack in stacks if stack.depth == value), min(value, 1))
    if not isinstance(value, (list, tuple)):
        return value
    for stack in stacks:
        if _is_by_layer(value, stack.depth, role):
            return type(value)(stack.pick(value))
        if _is_indices(name, value, stack.depth):
            return type(value)(stack.reindex_outputs(value) if _is_outputs(name) else stack.reindex(value))
    if role in (Role.STAGES, Role.LAYERS) and value and all(type(n) is int for n in value):
        return type(value)(stages(value))
    return value


def stages(depths: Sequence[int]) -> list[int]:
    """Layers by stage: one each; two in the first stage and in the deepest, where they had two."""
    deepest = depths.index(max(depths))
    return [min(n, 2) if index in (0, deepest) else min(n, 1) for index, n in enumerate(depths)]
