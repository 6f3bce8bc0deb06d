"""The script: imports, the functions it asks with, the configuration, the weights, the inputs, the question."""

import copy
import inspect
import json
import platform
import re
import sys
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from types import FunctionType
from typing import Any

from torch import Tensor

from proofbook.checks import plain, plain_rough
from proofbook.compat import DTYPE
from proofbook.reproduce.bundle import NotPlain, bundled
from proofbook.reproduce.values import Writer

# what stands in for what where an error is far beyond rounding
_ROUGH: dict[Any, Any] = {
    getattr(plain, one.__name__): one
    for one in (plain_rough.call, plain_rough.rounding, plain_rough.agree, plain_rough.allowances)
}
# beyond this the weights make no small reproduction, in bytes
LARGEST_FILE = 32 * 2**20


@dataclass(frozen=True)
class Subject:
    """What a script is about: the model's class and configuration, its inputs, and where and how it runs."""

    kind: type
    config: Any
    # by their names; None where the model did not load
    weights: Mapping[str, Tensor] | None
    inputs: Mapping[str, Any]
    # the dotted path of the part that is called; empty for the model itself
    module: str
    dtype: str
    # what a GPU reads the factors of products in, where it is not all of float32
    product_dtype: str | None
    device: str
    tolerance: Mapping[str, float]
    seed: int


@dataclass(frozen=True)
class Script:
    """A script's text, and the tensors of the file that it reads; none where it needs no file."""

    text: str
    tensors: Mapping[str, Tensor]


def write_script(
    subject: Subject,
    question: Callable[..., None],
    evidence: Mapping[str, Any],
    about: str,
    name: str,
    exact: bool,
    rough: bool = False,
) -> Script:
    """A script that asks a question of a model.

    Args:
        question: what a check declared (:func:`~proofbook.checks.reproduction.reproduces`).
        evidence: values for its parameters, by their names; those of the subject give way to it.
        about: what the script shows, for its docstring.
        name: that of its file, without ``.py``.
        exact: with the very weights and long inputs, from a file; otherwise drawn anew from the seed.
        rough: held against no float64, as an error far beyond any rounding need not be (``checks/plain_rough.py``).

    Raises:
        NotPlain, NotWritable: what the question names, or an input, can't stand in a script.
        LookupError: the question asks for a value that the check did not give.
    """
    writer = Writer(exact)
    if "dtype" in evidence:
        subject = replace(subject, dtype=str(evidence["dtype"]).removeprefix("torch."))
    known = {
        "model": f"model.get_submodule({subject.module!r})" if subject.module else "model",
        "whole": "model",
        "dtype": f"torch.{subject.dtype}",
    }
    values = {"inputs": dict(subject.inputs), "tolerance": dict(subject.tolerance), **evidence}
    parameters = inspect.signature(question).parameters
    given = {each: writer.source(values[each], each) for each in parameters if each not in known}
    ours = [one for one in writer.named if isinstance(one, FunctionType)]
    bundle = bundled([question, *ours], _ROUGH if rough else None)
    bundle.imports |= {"import torch", *(_import(one) for one in writer.named if isinstance(one, type))}
    tensors = dict(writer.tensors)
    calls = calls_the_model(question)
    if calls:
        bundle.imports |= {"import json", _import(subject.kind), _import(type(subject.config))}
        tensors |= _flat(subject.weights or {}) if exact else {}
        if subject.dtype != "float32":
            bundle.imports.add("import tempfile")
    if tensors:
        bundle.imports |= {"from pathlib import Path", "from safetensors.torch import load_file"}
    arguments = ", ".join(f"{each}={known.get(each, each)}" for each in parameters)
    parts = [
        f'"""{_docstring(about, name, bundle.imports | _within(bundle.definitions))}\n"""',
        f"{_sorted(bundle.imports)}\n\n\n{bundle.definitions}\n",
        f'CONFIG = json.loads(r"""{_json(subject.config)}""")' if calls else "",
        *(['TENSORS = load_file(Path(__file__).with_suffix(".safetensors"))'] if tensors else []),
        _weights(subject, exact) if calls else f"torch.manual_seed({subject.seed})",
        "\n".join(f"{each} = {source}" for each, source in given.items()),
        f"{question.__name__}({arguments})",
    ]
    return Script("\n\n".join(part for part in parts if part) + "\n", tensors)


def has_rough_form(question: Callable[..., None]) -> bool:
    """Whether a script of it can do without what float64 says of rounding."""
    try:
        return "rounding" in bundled([question]).names
    except NotPlain:
        return False


def calls_the_model(question: Callable[..., None]) -> bool:
    """Whether a question is about the model, and not about its processor alone."""
    return bool({"model", "whole"} & inspect.signature(question).parameters.keys())


def _within(definitions: str) -> set[str]:
    """What functions import themselves."""
    return set(re.findall(r"(?m)^ +(import \w+)$", definitions))


def _docstring(about: str, name: str, imports: set[str]) -> str:
    packages = {line.split()[1].partition(".")[0] for line in imports} - sys.stdlib_module_names
    used = ["torch", "transformers", *sorted(packages - {"torch", "transformers"})]
    releases = ", ".join([*(f"{one} {version(one)}" for one in used), f"Python {platform.python_version()}"])
    safe = about.replace("\\", "\\\\").replace('"""', "'''")
    lines = [textwrap.fill(line, 118, break_long_words=False) for line in safe.splitlines()]
    seen = textwrap.fill(f"Seen with {releases}, and needs no more than these: python {name}.py", 118)
    return "\n".join([*lines, "", seen])


def _json(config: Any) -> str:
    """The configuration: where it differs from the defaults of its class, if that says all."""
    short, whole = _said(config, use_diff=True), _said(config, use_diff=False)
    try:
        again = type(config).from_dict(copy.deepcopy(short))
    except Exception:  # each class refuses in its own way what is not all of it
        return json.dumps(whole, indent=1)
    return json.dumps(short if _said(again, use_diff=False) == whole else whole, indent=1)


def _said(config: Any, use_diff: bool) -> dict[str, Any]:
    """What a configuration's file says, as ``from_dict`` takes it."""
    return _without_origin(json.loads(config.to_json_string(use_diff=use_diff), object_hook=_number))


def _number(part: dict[str, Any]) -> Any:
    """The library writes an infinite number as a mapping, which only its own reading of files takes back."""
    return float(part["__float__"]) if part.keys() == {"__float__"} else part


def _without_origin(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without what says where it came from, in all of its parts."""
    return {
        key: _without_origin(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key not in ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype")
    }


def _weights(subject: Subject, exact: bool) -> str:
    lines = [
        f"torch.manual_seed({subject.seed})",
        f"model = {subject.kind.__name__}({type(subject.config).__name__}.from_dict(CONFIG)).eval()",
    ]
    if exact and subject.weights is not None:
        lines += [
            'prefix = "weights."',
            "state = {key.removeprefix(prefix): value for key, value in TENSORS.items() if key.startswith(prefix)}",
            "model.load_state_dict(state)",
        ]
    else:
        lines += [
            "with torch.no_grad():  # wider than the library draws them, so that attention is not uniform",
            "    for parameter in model.parameters():",
            "        if parameter.is_floating_point() and parameter.dim() > 1:",
            "            parameter.normal_(std=parameter[0].numel() ** -0.5)",
        ]
    if subject.dtype != "float32":
        # by way of a checkpoint, for the library keeps some parameters in float32
        lines += [
            "with tempfile.TemporaryDirectory() as folder:",
            "    model.save_pretrained(folder)",
            f"    model = type(model).from_pretrained(folder, {DTYPE}=torch.{subject.dtype}).eval()",
        ]
    if subject.device != "cpu":
        lines.append(f'model = model.to("{subject.device}")')
    if subject.device == "cuda":  # torch's own default is TF32 in convolutions and float32 in products of matrices
        lines += [
            f'torch.set_float32_matmul_precision("{"high" if subject.product_dtype else "highest"}")',
            f"torch.backends.cudnn.allow_tf32 = {subject.product_dtype is not None}",
        ]
    return "\n".join(lines)


def _flat(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"weights.{name}": value.detach().cpu().contiguous().clone() for name, value in weights.items()}


def _import(kind: type) -> str:
    import transformers

    public = getattr(transformers, kind.__name__, None) is kind
    return f"from {'transformers' if public else kind.__module__} import {kind.__name__}"


def _sorted(imports: set[str]) -> str:
    """Lines of imports in the usual order: the standard library, then packages."""
    lines: dict[str, set[str]] = {}
    for line in imports:
        head, _, name = line.rpartition("import ")
        lines.setdefault(head or line, set()).add(name)
    whole = [
        f"{head}import {', '.join(sorted(names))}" if head.startswith("from") else head for head, names in lines.items()
    ]

    def order(line: str) -> tuple[bool, str]:
        return line.startswith("from"), line

    own = [line for line in whole if line.split()[1].partition(".")[0] in sys.stdlib_module_names]
    rest = [line for line in whole if line not in own]
    return "\n\n".join("\n".join(sorted(group, key=order)) for group in (own, rest))
