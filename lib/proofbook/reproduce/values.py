"""Inputs as Python source: short tensors as lists, long ones by a seed, or from a file of tensors beside the script;
processors by their settings, functions of ours by their name."""

import json
import re
from collections.abc import Mapping
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from transformers.feature_extraction_utils import FeatureExtractionMixin
from transformers.image_processing_base import ImageProcessingMixin

# the most numbers of a tensor that stand in a script
INLINE = 2048
# the same for floating numbers, which are longer and say less
INLINE_FLOATS = 64
# the name of an argument at the end of a key, with its places in lists
_OWN_NAME = re.compile(r"[^.]+(?:\.\d+)*$")


class NotWritable(TypeError):
    """A value that no script can hold; the message says of what kind."""


class Writer:
    """Writes values as source.

    Args:
        exact: whether long tensors are kept as they are, in :attr:`tensors`, or drawn anew by the script from a normal
            distribution of the same mean and standard deviation.
    """

    def __init__(self, exact: bool) -> None:
        self.exact = exact
        # what a file beside the script must hold, by key
        self.tensors: dict[str, Tensor] = {}
        # what the expressions name: classes of processors and functions
        self.named: list[Any] = []
        self._drawn: set[str] = set()

    def source(self, value: Any, key: str) -> str:
        """An expression for a value. Raises :class:`NotWritable`."""
        match value:
            case Tensor():
                return self._tensor(value.detach().cpu(), key)
            case None | bool() | int() | str():
                return repr(value)
            case float():
                return repr(value) if value == value and abs(value) != float("inf") else f"float({str(value)!r})"
            case Mapping():
                parts = [f"{name!r}: {self.source(part, f'{key}.{name}')}" for name, part in value.items()]
                return "{\n" + "".join(f"    {_indented(part)},\n" for part in parts) + "}" if parts else "{}"
            case list() | tuple():
                parts = [self.source(part, f"{key}.{index}") for index, part in enumerate(value)]
                joined = ", ".join(parts)
                return f"[{joined}]" if isinstance(value, list) else f"({joined}{',' * (len(parts) == 1)})"
            case torch.dtype():
                return str(value)
            case FeatureExtractionMixin() | ImageProcessingMixin():
                self.named.append(type(value))
                settings = json.loads(value.to_json_string())
                return f"{type(value).__name__}.from_dict({self.source(settings, key)})"
            case FunctionType():
                self.named.append(value)
                return value.__name__
        raise NotWritable(f"{key} is a {type(value).__name__}")

    def _tensor(self, value: Tensor, key: str) -> str:
        if value.is_complex():
            raise NotWritable(f"{key} is of complex numbers")
        shape, dtype = tuple(value.shape), value.dtype
        usual = torch.float32 if value.is_floating_point() else torch.bool if dtype is torch.bool else torch.int64
        kind = "" if dtype is usual else f", dtype={dtype}"
        if not value.numel():
            return f"torch.empty({shape}, dtype={dtype})"
        if value.numel() > 1 and bool((value == value.flatten()[0]).all()):
            return f"torch.full({shape}, {value.flatten()[0].item()!r}, dtype={dtype})"
        if value.numel() <= (INLINE_FLOATS if value.is_floating_point() else INLINE):
            if not bool(value.isfinite().all()):
                return self._kept(value, key)
            return f"torch.tensor({value.tolist()!r}{kind})"
        if self.exact or not value.is_floating_point():
            return self._kept(value, key)
        name = _OWN_NAME.findall(key)[-1]
        if name in self._drawn:
            raise NotWritable(f"{key} is a part of more than one batch, to be drawn once for all of them,")
        self._drawn.add(name)
        mean, spread = float(value.double().mean()), float(value.double().std())
        own = _period(value)  # what is read beside each of several copies is the same
        again = f".repeat({', '.join(map(str, [len(value) // own, *[1] * (value.dim() - 1)]))})"
        drawn = f"({mean:.4g} + {spread:.4g} * torch.randn{(own, *shape[1:])})"
        return f"{drawn}{'' if own == len(value) else again}{'' if not kind else f'.to({dtype})'}"

    def _kept(self, value: Tensor, key: str) -> str:
        self.tensors[key] = value.contiguous().clone()
        return f"TENSORS[{key!r}]"


def _period(value: Tensor) -> int:
    """After how many entries of the first dimension a tensor begins again; all of them where it does not."""
    count = len(value)
    periods = (each for each in range(1, count) if count % each == 0)
    return next((each for each in periods if torch.equal(value[each:], value[:-each])), count)


def _indented(text: str) -> str:
    return text.replace("\n", "\n    ")
