"""Variants of a tiny configuration: the switches that change what a model computes, set otherwise.

A fault may hide behind a flag that a default-shaped configuration never sets. Which switches a configuration has
follows from its class and from the code of its models; a small set of variants covers them. A variant is written as
``text_config.tie_word_embeddings=true;num_key_value_heads=1``, the same as the entry's ``tiny.config`` would say it.

``python -m proofbook.subject.variants few|many MODEL…`` prints the variants of models as JSON.
"""

import ast
import copy
import inspect
import json
import re
import sys
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from allpairspy import AllPairs
from transformers.activations import ACT2FN

from proofbook.catalog import Model, Switched, load_catalog
from proofbook.catalog.schema import Exception_
from proofbook.compat import PreTrainedConfig
from proofbook.subject.draw import model_class
from proofbook.subject.shrink import tiny_config
from proofbook.verdict import Blocked

# how many variants a model has at most
MOST = {"few": 4, "many": 12}
# a window that every batch of texts is longer than
WINDOW = 3
# what says how a model is called, trained or saved, and not what it computes
_UNASKED = re.compile(
    r"_.*|output_.*|return_.*|use_return_dict|use_cache|is_encoder_decoder|.*dropout.*|.*gradient.*|.*_loss.*|.*loss$|chunk_.*"
    r"|use_bfloat16|.*kernel.*|.*_init.*|.*initializer.*|problem_type|add_cross_attention|cross_attention_hidden_size"
    r"|.*pretrain.*|.*backbone.*|is_training|.*mask_(time|feature).*|apply_spec_augment|.*compile.*|.*_ids?|.*_token.*"
)
# further kinds of rotary embeddings, with what each needs beside the length that it was trained for
_ROPES: dict[str, dict[str, Any]] = {
    "linear": {"factor": 2.0},
    "dynamic": {"factor": 2.0},
    "yarn": {"factor": 2.0},
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
}

Variant = Mapping[str, Any]


def with_variant(spec: Model, variant: str, switched: Iterable[Switched] = ()) -> Model:
    """The entry whose tiny configuration is that of a variant; the entry itself for an empty one.

    It has what shows in such a variant, and any switch may hide what the entry knows of.

    Raises:
        ValueError: the variant is not written as one.
    """
    if not variant:
        return spec
    values = parsed(variant)
    changes = _nested(values)
    tiny = spec.tiny or Exception_(reason="a variant of the configuration", config=changes)
    merged = tiny.model_copy(update={"config": _merged(tiny.config, changes)})
    shown = [one for one in switched if one.concerns(spec) and _holds(one, values)]
    hidden = {"shows": "sometimes"}
    faults = [fault for one in shown for fault in one.known_faults]
    faults += [fault.model_copy(update=hidden) for fault in spec.known_faults]
    idle = {pattern: one.model_copy(update=hidden) for pattern, one in spec.idle.items()}
    for one in shown:
        idle |= one.idle
    return spec.model_copy(update={"tiny": merged, "idle": idle, "known_faults": tuple(faults)})


def _holds(one: Switched, values: Variant) -> bool:
    """Whether a variant sets all that something shows under."""
    leaves = list(_leaves(values))
    return all(
        any(f".{name}".endswith(f".{asked}") and value == given for name, given in leaves)
        for asked, value in one.when.items()
    )


def _leaves(values: Variant, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def parsed(text: str) -> dict[str, Any]:
    """The values by dotted name that a variant is written with. Raises ValueError where it is not written as one."""
    found: dict[str, Any] = {}
    for part in text.split(";"):
        name, equals, value = part.partition("=")
        try:
            found[name.strip()] = json.loads(value)
        except ValueError:
            equals = ""
        if not equals or not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", name.strip()):
            raise ValueError(f"variant {text!r}: {part!r} is not NAME=VALUE, with a JSON value; `;` separates several")
    return found


def written(variant: Variant) -> str:
    """A variant as text, the same for the same values."""
    return ";".join(f"{name}={json.dumps(value, sort_keys=True)}" for name, value in sorted(variant.items()))


def variants_of(spec: Model, extent: str) -> list[str]:
    """The variants of a model beside the default: every alternative of every switch at least once for ``few``, every
    pair of alternatives for ``many``, as far as :data:`MOST` reaches.

    Raises:
        Blocked: the installed libraries don't have the model.
    """
    # a model that can't be made has none; its own case says why
    found = switches(spec) if _made(spec, "") else {}
    if not found:
        return []
    names = list(found)
    # indices, of which 0 is the default; a single switch has no pairs
    values = [range(len(found[name]) + 1) for name in names]
    rows = AllPairs(values) if len(names) > 1 else ([value] for value in values[0])
    # by the configuration that comes of each: one switch may decide over others
    chosen = {tiny_config(spec).to_json_string(): ""}
    seen: set[tuple[str, int]] = set()
    for row in rows:
        taken = {(name, at) for name, at in zip(names, row, strict=True) if at}
        if taken and (extent == "many" or not taken <= seen):
            variant = written({name: found[name][at - 1] for name, at in taken})
            if made := _made(spec, variant):
                chosen.setdefault(made, variant)
                seen |= taken
    return list(chosen.values())[1 : MOST[extent] + 1]


def switches(spec: Model) -> dict[str, list[Any]]:
    """The switches of a model's configuration by dotted name, each with its values other than the present one.

    Those that alone already make no model, as the library refuses them, or no other configuration are left out.
    """
    config = tiny_config(spec)
    same = config.to_json_string()
    found: dict[str, list[Any]] = {}
    for prefix, part in _parts(config):
        code = _code(type(part).__module__)
        for name, values in _switches(part, code):
            alone = {written({f"{prefix}{name}": value}): value for value in values}
            working = [value for variant, value in alone.items() if _made(spec, variant) not in ("", same)]
            if working:
                found[f"{prefix}{name}"] = working
    return found


def _parts(config: PreTrainedConfig, prefix: str = "") -> Iterator[tuple[str, PreTrainedConfig]]:
    yield prefix, config
    for name, value in vars(config).items():
        if isinstance(value, PreTrainedConfig):
            yield from _parts(value, f"{prefix}{name}.")


def _switches(config: PreTrainedConfig, code: "_Code") -> Iterator[tuple[str, list[Any]]]:
    hints = _hints(type(config))
    for name, value in vars(config).items():
        if _UNASKED.fullmatch(name) or (name not in code.read and name != "tie_word_embeddings"):
            continue
        words = [*typing.get_args(hints.get(name)), *code.compared.get(name, ())]
        match value:
            case bool():
                yield name, [] if name == "is_decoder" and config.is_encoder_decoder else [not value]
            case str() if value in ACT2FN:
                yield name, [next(one for one in ("silu", "gelu") if one != value)]
            case str() if value in words:
                yield name, [one for one in dict.fromkeys(words) if isinstance(one, str) and one != value]
            case int() if name == "num_key_value_heads":
                heads = getattr(config, "num_attention_heads", 1)
                yield name, [one for one in (1, heads // 2, heads) if one and heads % one == 0 and one != value][:2]
            case int() | None if name == "sliding_window":
                yield name, [WINDOW] if value != WINDOW else []
            case list() if name == "layer_types" and len(set(value)) > 1:
                yield name, [value[::-1]]
            case dict() if value.get("rope_type") == "default":
                length = getattr(config, "max_position_embeddings", 64)
                trained = {"original_max_position_embeddings": length // 2}
                yield (
                    name,
                    [
                        {**value, "rope_type": kind, **needs, **(trained if kind in ("yarn", "llama3") else {})}
                        for kind, needs in _ROPES.items()
                    ],
                )


class _Code:
    """What the models of a configuration class read of it: names, and the words that strings are compared with."""

    def __init__(self, modules: Sequence[ModuleType]) -> None:
        self.read: set[str] = set()
        self.compared: dict[str, list[str]] = {}
        for module in modules:
            for node in ast.walk(ast.parse(inspect.getsource(module))):
                if isinstance(node, ast.Attribute) and _last(node.value) == "config":
                    self.read.add(node.attr)
                elif isinstance(node, ast.Call) and _last(node.func) == "getattr" and len(node.args) > 1:
                    if _last(node.args[0]) == "config" and isinstance(node.args[1], ast.Constant):
                        self.read.add(str(node.args[1].value))
                elif isinstance(node, ast.Compare):
                    self._compare(node)

    def _compare(self, node: ast.Compare) -> None:
        name = _last(node.left)
        for other in node.comparators:
            constants = other.elts if isinstance(other, ast.List | ast.Tuple | ast.Set) else [other]
            words = [one.value for one in constants if isinstance(one, ast.Constant) and isinstance(one.value, str)]
            self.compared.setdefault(name, []).extend(words)


def _last(node: ast.AST) -> str:
    """The last part of a dotted name: ``config`` of ``self.config``."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


@cache
def _code(module: str) -> _Code:
    """The code of the models that stands beside the module of a configuration class."""
    package, _, name = module.rpartition(".")
    modeling = name.replace("configuration_", "modeling_")
    try:
        return _Code([import_module(f"{package}.{modeling}")])
    except ImportError:  # a part without a model of its own, as of a backbone from elsewhere
        return _Code([])


def _hints(kind: type[PreTrainedConfig]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(kind)
    except (NameError, TypeError):  # names that only a type checker sees
        return {}


def _made(spec: Model, variant: str) -> str:
    """The configuration of a variant as text, once a model could be made of it on the meta device; else empty."""
    try:
        config = tiny_config(with_variant(spec, variant))
        with torch.device("meta"):
            model_class(spec)(copy.deepcopy(config))
    except Blocked:
        raise
    except Exception:  # each class refuses in its own way
        return ""
    return str(config.to_json_string())


def _nested(variant: Variant) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in variant.items():
        *path, last = name.split(".")
        place = found
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return found


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for name, value in over.items():
        below = merged.get(name)
        both = isinstance(below, Mapping) and isinstance(value, Mapping) and "rope_type" not in value
        merged[name] = _merged(below, value) if both else value  # type: ignore[arg-type]
    return merged


def _main(extent: str, names: Sequence[str]) -> None:
    catalog, answer = load_catalog(), {}
    for name in names:
        try:
            answer[name] = variants_of(catalog.model(name), extent)
        except Blocked:
            answer[name] = []
        except Exception as error:
            raise RuntimeError(f"the variants of {name} can't be derived") from error
    print(json.dumps(answer))


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2:])
