"""Tiny configurations: any configuration shrunk by one general rule, keeping what makes the architecture itself.

First every stack of layers is cut to a few that still show each kind (``shrink_depth``). Then each number is mapped
by what its name says that it is (``shrink_rules``), by maps that are monotone and common to the whole tree, so that
widths that met between towers still meet. Last, relations between the numbers of one configuration are restored
(``shrink_relations``).
"""

import difflib
import inspect
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from transformers import CONFIG_MAPPING

from proofbook.catalog import Model
from proofbook.compat import PreTrainedConfig, as_argument, declared, own_arguments, sub_configs_defaults, usual_of
from proofbook.subject.backbones import with_own_backbones
from proofbook.subject.open_values import close, walk
from proofbook.subject.requirements import check_needs
from proofbook.subject.shrink_depth import cut
from proofbook.subject.shrink_relations import RELATIONS, Fields, each
from proofbook.subject.shrink_rules import MAPS, Role, role_of, token
from proofbook.verdict import Blocked


def full_config(spec: Model) -> PreTrainedConfig:
    """The configuration of the checkpoint: the defaults of its class, and what the entry's ``config`` says; with the
    part that reads pictures, where the class leaves it out and the model takes them.

    Raises:
        Blocked: the installed libraries don't have the model type.
        ValueError: ``config`` names what the class does not have, or gives it a value that it refuses.
    """
    if spec.trust_remote_code:
        raise Blocked(
            f"the code of {spec.model_class}",
            "it comes with the checkpoint, so that no tiny model can be made without it",
            "Use weights=local or weights=hub",
        )
    if spec.model_type not in CONFIG_MAPPING:
        check_needs(spec)
        raise Blocked(
            f"model type {spec.model_type}",
            "the installed transformers does not have it",
            "Install a release that has it, or correct the entry's model_type",
        )
    kind = CONFIG_MAPPING[spec.model_type]
    config = kind(**_with_defaults(kind, {**_seeing(spec, kind), **spec.config}))
    close(config)
    return config


def tiny_config(spec: Model) -> PreTrainedConfig:
    """The configuration of a tiny model of the same architecture.

    :func:`full_config` shrunk by the general rule, then the entry's ``tiny.config`` laid over. Raises as it does.
    """
    tiny = _shrunk(full_config(spec))
    if spec.tiny:
        _lay_over(tiny, spec.tiny.config)
    config = tiny.construct()
    # as a checkpoint names the class that it was saved from: a task reads from it what `forward` takes
    config.architectures = [spec.model_class]
    return config


def shrink(config: PreTrainedConfig) -> PreTrainedConfig:
    """A tiny configuration of the same class and architecture, by the general rule alone."""
    return _shrunk(config).construct()


@dataclass
class _Node:
    """One configuration of a tree: its class, and the arguments for it, in which sub-configurations are nodes."""

    kind: type[PreTrainedConfig]
    arguments: dict[str, Any]

    def construct(self) -> PreTrainedConfig:
        parts = {
            name: as_argument(value.construct()) if isinstance(value, _Node) else _as_written(value)
            for name, value in self.arguments.items()
        }
        return self.kind(**parts)


def _as_written(value: Any) -> Any:
    """A value as the file of a checkpoint gives it back: JSON knows no tuples."""
    return [_as_written(item) for item in value] if isinstance(value, (list, tuple)) else value


class _Tree:
    """What the numbers of one configuration have in common with others of its tree: image sides and vocabulary."""

    def __init__(self, root: PreTrainedConfig) -> None:
        self._units: dict[int, set[int]] = {}
        for config in walk(root):
            for side in _ints(vars(config).get("image_size") or vars(config).get("max_img_size")):
                self._units.setdefault(side, set()).update(_patches(config))
        side = max(self._units, default=0)
        self.scale = self.pixels(side) / side if side else 1.0
        self.vocabulary = max((n for c in walk(root) for n in _ints(vars(c).get("vocab_size"))), default=0)

    def pixels(self, side: int) -> int:
        """The side of a smaller image: whole patches, 64 pixels or fewer, but two patches at least."""
        unit = math.lcm(*(n for n in self._units.get(side, ()) if n > 0))
        return side if side <= 64 or unit > 128 else unit * max(2, 64 // unit)

    def oblong(self, sides: Sequence[int]) -> list[int]:
        """The sides of a smaller image of the same proportions, as :meth:`pixels` for one that is not square."""
        common = math.gcd(*sides)
        parts = [side // common for side in sides]
        unit = math.lcm(*(n for side in sides for n in self._units.get(side, ()) if n > 0))
        if unit * max(parts) > 128 or common % unit:
            return [self.pixels(side) for side in sides]
        times = max(1, 64 // (unit * max(parts)), 2 // min(parts))
        return [part * unit * min(times, common // unit) for part in parts]

    def is_image(self, side: int) -> bool:
        """Whether some part takes images of that side."""
        return side in self._units

    def number(self, n: int, role: Role) -> int:
        """What a positive number of that role becomes."""
        match role:
            case Role.PIXELS:
                return self.pixels(n)
            case Role.GRID:
                return max(1, round(n * self.scale))
            case Role.PATCHES:
                return max(1, round(n * self.scale**2))
            case _:
                return MAPS[role](n) if role in MAPS else n


def _patches(config: PreTrainedConfig) -> list[int]:
    """How many pixels lie between patches, or between the units of patches that are hidden together."""
    own = vars(config)
    unit = math.lcm(*(_ints(own.get("masked_unit_size")) or [1]))
    return [unit * pixels for pixels in _ints(own.get("patch_stride") or own.get("patch_size"))]


def _ints(value: Any) -> list[int]:
    if isinstance(value, (list, tuple)):
        return [n for item in value for n in _ints(item)]
    return [value] if type(value) is int else []


def _shrunk(config: PreTrainedConfig) -> _Node:
    config = with_own_backbones(config)
    return _node(config, _Tree(config))


# what only describes a checkpoint, and what a class derives from its other arguments
_LEFT_OUT = {"transformers_version", "dtype", "architectures", "_out_features", "stage_names"}


def _node(config: PreTrainedConfig, tree: _Tree) -> _Node:
    stored = config.attribute_map  # by the name that a class declares
    known = {stored.get(name, name) for name in declared(type(config))} | set(sub_configs_defaults(type(config)))
    # those of backbones, which no class declares, and those given beside the declared ones
    known |= {"_out_indices"} | vars(config).keys() - vars(usual_of(type(config))).keys()
    old = {name: value for name, value in vars(config).items() if name in known - _LEFT_OUT}
    common = {own: name for name, own in config.attribute_map.items()}
    new = _fields(old, common, tree)
    return _Node(type(config), {name.removeprefix("_"): value for name, value in new.items()})


def _fields(old: Mapping[str, Any], common: Mapping[str, str], tree: _Tree) -> dict[str, Any]:
    roles = {name: _role(name, common) for name in old}
    old = cut(old, roles)
    vocabulary = old.get("vocab_size") or tree.vocabulary
    new = {name: _value(name, value, roles[name], vocabulary, tree) for name, value in old.items()}
    for restore in RELATIONS:
        restore(Fields(old, roles, new, common))
    return new


def _role(name: str, common: Mapping[str, str]) -> Role:
    role = role_of(name)
    return role_of(common[name]) if role is Role.KEEP and name in common else role


def _value(name: str, value: Any, role: Role, vocabulary: int, tree: _Tree) -> Any:
    if isinstance(value, PreTrainedConfig):
        return _node(value, tree)
    if isinstance(value, dict) and value and not ("rope" in name or "label" in name or "2" in name):
        return _fields(value, {}, tree) if all(isinstance(key, str) for key in value) else value
    if role is Role.TOKEN:
        small = tree.number(vocabulary, Role.VOCABULARY)
        return each(value, lambda n: token(n, vocabulary, small) if vocabulary else n)
    if name == "patch_size" and type(value) is int and tree.is_image(value):
        return tree.pixels(value)  # a patch which is the whole image of a part
    if role is Role.PIXELS and isinstance(value, (list, tuple)) and len(set(_ints(value))) > 1:
        return tree.oblong(_ints(value)) if len(value) == 2 else each(value, tree.pixels)
    if role is Role.UNIT and isinstance(value, float):
        return min(value, 0.25)
    return each(value, lambda n: tree.number(n, role))


def _seeing(spec: Model, kind: type[PreTrainedConfig]) -> dict[str, Any]:
    """The arguments that give a configuration its optional vision part, where the entry's class takes pictures."""
    part = sub_configs_defaults(kind).get("vision_config")
    model = getattr(transformers, spec.model_class, None)
    sees = model is not None and "pixel_values" in inspect.signature(model.forward).parameters
    return {"vision_config": {}} if sees and getattr(part, "optional", False) else {}


def _with_defaults(kind: type[PreTrainedConfig], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments for a class, in which nested mappings start from what the class itself gives that part."""
    arguments = own_arguments(kind, changes)
    _check_names(kind, arguments)
    for name, default in sub_configs_defaults(kind).items():
        given = arguments.get(name)
        if isinstance(given, Mapping):
            model_type = given.get("model_type", default.model_type)
            own = default.init_kwargs if model_type == default.model_type else {}
            known = model_type in CONFIG_MAPPING  # whose get() finds only what was loaded before
            part = CONFIG_MAPPING[model_type] if known else default.config_class
            arguments[name] = {"model_type": model_type, **own, **_with_defaults(part, given)}
    return arguments


def _check_names(kind: type[PreTrainedConfig], changes: Mapping[str, Any]) -> None:
    """A configuration takes any argument: one that neither it nor its model reads would change nothing, unseen."""
    known = declared(kind) | set(kind.attribute_map) | set(sub_configs_defaults(kind))
    for name in changes:
        if name not in known and not hasattr(kind, name) and not _reads(kind, name):
            near = difflib.get_close_matches(name, known, n=3)
            guess = f"; did you mean {' or '.join(near)}?" if near else ""
            raise ValueError(f"{kind.__name__} has no {name!r}{guess}")


def _reads(kind: type[PreTrainedConfig], name: str) -> bool:
    """Whether the code of a model mentions an argument that its configuration does not declare."""
    word = re.compile(rf"\b{re.escape(name)}\b")
    return any(word.search(path.read_text()) for path in Path(inspect.getfile(kind)).parent.glob("*.py"))


def _lay_over(node: _Node, changes: Mapping[str, Any]) -> None:
    changes = own_arguments(node.kind, changes)
    _check_names(node.kind, changes)
    for name, value in changes.items():
        own = node.kind.attribute_map.get(name, name)
        part = node.arguments.get(own)
        if isinstance(part, _Node) and isinstance(value, Mapping) and "model_type" not in value:
            _lay_over(part, value)
        else:
            node.arguments[own] = value
