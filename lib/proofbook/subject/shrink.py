"""Tiny configurations: any configuration shrunk by one general rule, keeping what makes the architecture itself."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig

from proofbook.catalog import Model
from proofbook.subject import shrink_depth as depth
from proofbook.subject.shrink_rules import MAPS, Role, head_dim, heads, role_of, token, width
from proofbook.verdict import Blocked


def full_config(spec: Model) -> PreTrainedConfig:
    """The configuration of the checkpoint: the defaults of its class, and what the entry's ``config`` says.

    Raises:
        Blocked: the installed transformers has no such model type.
        ValueError: ``config`` names what the class does not have.
    """
    try:
        kind = CONFIG_MAPPING[spec.model_type]
    except KeyError:
        raise Blocked(
            f"model type {spec.model_type}",
            "the installed transformers does not have it",
            f"install a release that has it: {', '.join(spec.needs) or 'see its changelog'}",
        ) from None
    return kind(**_with_defaults(kind, spec.config))


def tiny_config(spec: Model) -> PreTrainedConfig:
    """The configuration of a tiny model of the same architecture: :func:`full_config` shrunk by the general rule,
    then the entry's ``tiny.config`` laid over it. Raises as :func:`full_config` does."""
    shrunk = shrink_tree(full_config(spec))
    return _construct(_overlay(shrunk, spec.tiny.config if spec.tiny else {}))


def shrunk(config: PreTrainedConfig) -> PreTrainedConfig:
    """A tiny configuration of the same class and architecture, by the general rule alone."""
    return _construct(shrink_tree(config))


@dataclass
class Node:
    """One configuration of a tree: its class, and its fields, in which sub-configurations are nodes too."""

    kind: type[PreTrainedConfig]
    fields: dict[str, Any] = field(default_factory=dict)


def shrink_tree(config: PreTrainedConfig) -> Node:
    return _shrink(config, _Tree(config))


class _Tree:
    """What the numbers of one configuration have in common with those of others in its tree."""

    def __init__(self, root: PreTrainedConfig) -> None:
        self._units: dict[int, set[int]] = {}
        for config in walk(root):
            values = vars(config)
            for side in _ints(values.get("image_size")):
                self._units.setdefault(side, set()).update(_ints(values.get("patch_size")))
        self.main_side = max(self._units, default=None)
        self.vocabulary = max((n for c in walk(root) for n in _ints(vars(c).get("vocab_size"))), default=0)

    def pixels(self, side: int) -> int:
        """The side of an image: whole patches, at most 64 pixels where two patches or more fit."""
        unit = math.lcm(*(n for n in self._units.get(side, ()) if 0 < n <= 64)) if side in self._units else 1
        if side <= 64 or unit > 128:
            return side
        return unit * max(2, 64 // unit)

    def scale(self) -> float:
        return self.pixels(self.main_side) / self.main_side if self.main_side else 1.0


def walk(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    """The configuration and all below it, from the top."""
    yield config
    for value in vars(config).values():
        if isinstance(value, PreTrainedConfig):
            yield from walk(value)


def _ints(value: Any) -> list[int]:
    if isinstance(value, int) and not isinstance(value, bool):
        return [value]
    return [n for item in value for n in _ints(item)] if isinstance(value, (list, tuple)) else []


def _shrink(config: PreTrainedConfig, tree: _Tree) -> Node:
    names = {f.name for f in fields(config)} | {
        name for name in vars(config) if name in type(config).sub_configs_defaults
    }
    old = {name: value for name, value in vars(config).items() if name in names and name not in _DROPPED}
    standard = {own: common for common, own in type(config).attribute_map.items()}
    roles = {name: _role(name, standard) for name in old}
    kept = _kept(old, roles)
    vocabulary = old.get("vocab_size") or tree.vocabulary
    new: dict[str, Any] = {}
    for name, value in old.items():
        if isinstance(value, PreTrainedConfig):
            new[name] = _shrink(value, tree)
        elif roles[name] is Role.TOKEN and vocabulary:
            new[name] = _each(value, lambda n: token(n, vocabulary, MAPS[Role.VOCABULARY](vocabulary)))
        else:
            new[name] = _value(name, value, roles[name], kept, tree)
    _heads(old, new, roles)
    _inner(old, new, roles)
    _rotary(old, new, roles)
    _labels(new)
    return Node(type(config), new)


_DROPPED = {"transformers_version", "dtype", "architectures"}


def _role(name: str, standard: Mapping[str, str]) -> Role:
    role = role_of(name)
    return role_of(standard[name]) if role is Role.KEEP and name in standard else role


def _kept(old: Mapping[str, Any], roles: Mapping[str, Role]) -> dict[int, tuple[int, ...]]:
    depths = {v for k, v in old.items() if roles[k] is Role.LAYERS and isinstance(v, int) and v > 2}
    return {
        n: depth.kept_layers(
            n,
            [list(v) for k, v in old.items() if _is_per_layer(v, n, roles[k])],
            [list(v) for k, v in old.items() if _is_index_list(k, v, n)],
        )
        for n in depths
    }


def _is_per_layer(value: Any, n: int, role: Role) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == n and role is not Role.STAGES and n > 2


def _is_index_list(name: str, value: Any, n: int) -> bool:
    return (
        isinstance(value, (list, tuple))
        and 0 < len(value) < n
        and all(type(v) is int and -n <= v <= n for v in value)
        and any(word in name for word in ("ind", "idx", "_ids", "layer", "_blocks"))
        and "type" not in name
    )


def _value(name: str, value: Any, role: Role, kept: Mapping[int, tuple[int, ...]], tree: _Tree) -> Any:
    if isinstance(value, bool) or value is None or isinstance(value, (str, float)):
        return value
    if isinstance(value, int):
        if role is Role.LAYERS:
            return len(kept[value]) if value in kept else value
        return _number(value, role, tree)
    if isinstance(value, (list, tuple)):
        for n, layers in kept.items():
            if _is_per_layer(value, n, role):
                return type(value)(_value(name, v, role, {}, tree) for v in depth.pick(list(value), layers))
            if _is_index_list(name, value, n):
                return type(value)(depth.reindex(list(value), layers, n))
        if role in (Role.STAGES, Role.LAYERS) and value and all(type(v) is int for v in value):
            return type(value)(depth.stages(list(value)))
        return type(value)(_value(name, v, role, {}, tree) for v in value)
    return value


def _number(n: int, role: Role, tree: _Tree) -> int:
    if n <= 0:
        return n
    if role is Role.PIXELS:
        return tree.pixels(n)
    if role is Role.GRID:
        return max(1, round(n * tree.scale()))
    if role is Role.PATCHES:
        return max(1, round(n * tree.scale() ** 2))
    return MAPS[role](n) if role in MAPS else n


def _heads(old: Mapping[str, Any], new: dict[str, Any], roles: Mapping[str, Role]) -> None:
    """Grouped heads stay grouped, and the width of a head keeps its relation to the hidden width."""
    queries = [k for k in old if roles[k] is Role.HEADS and isinstance(old[k], int) and not _is_kv(k)]
    if not queries:
        return
    main = next((k for k in ("num_attention_heads", "n_head", "n_heads", "num_heads") if k in queries), queries[0])
    for name in old:
        if roles[name] is Role.HEADS and _is_kv(name) and isinstance(old[name], int):
            if 1 < old[name] < old[main] and new[name] >= new[main]:
                new[name] = max(1, new[main] // 2)
            elif old[name] == 1:
                new[name] = 1
    hidden = next((k for k in ("hidden_size", "d_model", "n_embd", "embed_dim", "dim") if isinstance(old.get(k), int)), None)
    if isinstance(old.get("head_dim"), int) and hidden:
        ratio = old["head_dim"] * old[main] / old[hidden]
        if not ratio.is_integer() and not (1 / ratio).is_integer():
            ratio = 2.0 if ratio > 1 else 0.5
        new["head_dim"] = max(2, int(new[hidden] * ratio) // new[main])


def _is_kv(name: str) -> bool:
    return "key_value" in name or "kv" in name


def _inner(old: Mapping[str, Any], new: dict[str, Any], roles: Mapping[str, Role]) -> None:
    """The inner width of a block: one to four times the hidden width, as it was."""
    hidden = next((k for k in ("hidden_size", "d_model", "n_embd", "embed_dim", "dim") if isinstance(old.get(k), int)), None)
    for name, value in old.items():
        if roles[name] is Role.INNER:
            new[name] = _each(value, lambda n: new[hidden] * min(4, max(1, round(n / old[hidden]))) if hidden else width(n))


def _each(value: Any, change: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(_each(item, change) for item in value)
    return change(value) if type(value) is int and value > 0 else value


def _rotary(old: Mapping[str, Any], new: dict[str, Any], roles: Mapping[str, Role]) -> None:
    pass


def _labels(new: dict[str, Any], most: int = 10) -> None:
    labels = new.get("id2label")
    if isinstance(labels, dict) and len(labels) > most:
        new["id2label"] = dict(list(labels.items())[:most])
        new["label2id"] = {label: index for index, label in new["id2label"].items()}


def _with_defaults(kind: type[PreTrainedConfig], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments for a class, in which nested mappings start from what the class itself gives that part."""
    arguments = dict(changes)
    for name, spec in kind.sub_configs_defaults.items():
        given = arguments.get(name)
        if isinstance(given, Mapping):
            model_type = given.get("model_type", spec.model_type)
            own = {"model_type": model_type, **(spec.init_kwargs if model_type == spec.model_type else {})}
            part = CONFIG_MAPPING[model_type] if model_type in CONFIG_MAPPING else spec.config_class
            arguments[name] = {**own, **_with_defaults(part, given)}
    return arguments


def _overlay(node: Node, changes: Mapping[str, Any]) -> Node:
    for name, value in changes.items():
        name = node.kind.attribute_map.get(name, name)
        part = node.fields.get(name)
        if isinstance(part, Node) and isinstance(value, Mapping) and value.get("model_type") in (None, part.kind.model_type):
            _overlay(part, {k: v for k, v in value.items() if k != "model_type"})
        else:
            node.fields[name] = value
    return node


def _construct(node: Node) -> PreTrainedConfig:
    return node.kind(**{name: _construct(v) if isinstance(v, Node) else v for name, v in node.fields.items()})
