"""Truth once for each model and inputs: kept in a cache, and shared between the targets of a run and between runs.

The key of a truth is a hash of all that it is computed from: the weights and buffers as they are in the target's dtype,
the inputs, the configuration, the source files of every module's class, the code that computes truth, the releases of
torch and transformers, what the processor is capable of, the number of threads. Where any of it can't be told by
content, as with an input that is an object of its own, truth is computed each time.
"""

import hashlib
import inspect
import json
import warnings
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import torch
import transformers
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn
from torch.utils._pytree import tree_flatten_with_path

from proofbook.cache import LIMIT, TRUTH, Store
from proofbook.checks import truth
from proofbook.checks.truth import Truth
from proofbook.environments import editable
from proofbook.runtimes import outputs

# inputs other than tensors that a text tells entirely
_PLAIN = (str, int, float, bool, type(None), torch.dtype)
# outputs that a file of safetensors can hold
_KEPT = frozenset({torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.bool})
_ABOUT = "proofbook"


class Truths:
    """Truths that are computed once, and kept while there is room.

    Args:
        limit: bytes that are kept at most.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self._store = Store(TRUTH, limit)

    def truth_of(self, model: nn.Module, inputs: Mapping[str, Any]) -> Truth:
        """As :func:`proofbook.checks.truth.truth_of`; what is kept is used where weights, inputs and code are the same.

        A file that is damaged is as one that is not there. Only truth in float64 is kept.
        """
        key = fingerprint(model, inputs)
        if key is None:
            return truth.truth_of(model, inputs)
        path = self._store.find(key)
        kept = _read(path) if path else None
        if kept is not None:
            return kept
        found = truth.truth_of(model, inputs)
        if found.exact and all(one.dtype in _KEPT for one in found.outputs.values()):
            try:
                self._store.put(key, _written(found))
            except OSError as error:  # it costs the next case its time, and this one nothing
                warnings.warn(f"truth can't be kept in {self._store.folder}: {error}", stacklevel=2)
        return found


def fingerprint(model: nn.Module, inputs: Mapping[str, Any]) -> str | None:
    """The key of a model's truth for inputs, in hexadecimal digits; None where content can't tell all that it is of."""
    if editable():
        return None
    digest = hashlib.sha256(_surroundings())
    try:
        for part in _parts(model, inputs):
            digest.update(hashlib.sha256(part).digest())
    except _Untold:
        return None
    return digest.hexdigest()


class _Untold(Exception):
    """Something whose content can't be told."""


def _parts(model: nn.Module, inputs: Mapping[str, Any]) -> Iterator[Any]:
    config: Any = getattr(model, "config", None)
    yield f"{type(model).__qualname__} {model.training} {model!r}".encode()
    yield (config.to_json_string() if hasattr(config, "to_json_string") else repr(config)).encode()
    for source in sorted({_source(type(module)) for module in model.modules()}):
        yield _content(source)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        yield from _tensor(name, tensor)
    for path, leaf in tree_flatten_with_path(dict(inputs))[0]:
        if isinstance(leaf, torch.Tensor):
            yield from _tensor(str(path), leaf)
        elif isinstance(leaf, _PLAIN):
            yield f"{path} {leaf!r}".encode()
        else:
            raise _Untold


def _tensor(name: str, tensor: torch.Tensor) -> Iterator[Any]:
    if tensor.layout is not torch.strided or type(tensor.data) is not torch.Tensor or tensor.is_meta:
        raise _Untold
    yield f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode()
    yield tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def _source(kind: type) -> str:
    try:
        return inspect.getsourcefile(kind) or ""
    except TypeError:  # it was made at a prompt
        raise _Untold from None


@cache
def _content(source: str) -> bytes:
    try:
        return Path(source).read_bytes()
    except OSError:
        raise _Untold from None


@cache
def _surroundings() -> bytes:
    """The code that computes truth, and what it computes with."""
    code = [_content(str(module.__file__)) for module in (truth, outputs)] + [_content(__file__)]
    releases = (torch.__version__, torch.version.git_version, transformers.__version__, numpy.__version__)
    capability = (torch.backends.cpu.get_cpu_capability(), torch.get_num_threads())
    return b"".join(hashlib.sha256(part).digest() for part in (*code, repr((releases, capability)).encode()))


def _written(found: Truth) -> bytes:
    tensors = {name: one.detach().contiguous().clone() for name, one in found.outputs.items()}
    about = {
        "order": list(tensors),
        "rule": found.rule,
        "computed": datetime.now(UTC).isoformat(timespec="seconds"),
        "digest": _digest(tensors),
    }
    return save(tensors, {_ABOUT: json.dumps(about)})


def _read(path: Path) -> Truth | None:
    """The truth in a file; None where the file is not whole."""
    try:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()[_ABOUT])
            tensors = {name: file.get_tensor(name).clone() for name in about["order"]}
        if about["digest"] != _digest(tensors):
            raise ValueError(f"{path} is not as it was written")
        return Truth(tensors, about["rule"], exact=True, kept=about["computed"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        path.unlink(missing_ok=True)
        return None


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        for part in _tensor(name, tensor):
            digest.update(part)
    return digest.hexdigest()
