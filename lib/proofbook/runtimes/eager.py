"""Eager torch on any device that torch knows."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from proofbook.catalog import Target
from proofbook.runtimes.attention import KERNELS, AttentionCalls, prefer
from proofbook.runtimes.devices import moved, require_device, synchronize
from proofbook.runtimes.modes import OperatorMode
from proofbook.runtimes.options import chosen
from proofbook.runtimes.outputs import flatten
from proofbook.runtimes.products import compute_products
from proofbook.runtimes.quantised import Quantised, linear_layers, quantised
from proofbook.runtimes.runtime import Fallback, Proof, Tensors


class EagerRuntime:
    """Runs the module as it is.

    A target's option ``attention`` names the kernel that is to compute it, where the model calls torch's function.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    runs_module: ClassVar[bool] = True

    def quantise(self, model: nn.Module, target: Target) -> None:
        """It quantises nothing."""

    def prepare(self, model: nn.Module, examples: Sequence[Mapping[str, Any]], target: Target) -> "EagerSession":
        """Move the model to the target's device; it is expected in the target's dtype."""
        device, kernel = require_device(target.device), chosen(target, {"attention": KERNELS}).get("attention")
        prefer(kernel)
        compute_products(target.product_dtype)
        return EagerSession(model.to(device), device, getattr(torch, target.dtype), kernel)


class EagerSession:
    """A module on its device, its attention by ``kernel`` if there is a choice."""

    def __init__(self, model: nn.Module, device: torch.device, dtype: torch.dtype, kernel: str | None = None) -> None:
        self.model = model
        self.device = device
        self.dtype = dtype
        self.kernel = kernel
        self.prepare_s: dict[str, float] = {}

    def place(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return moved(inputs, self.device, self.dtype)

    def call(self, placed: Mapping[str, Any]) -> Any:
        with torch.no_grad():
            return self.model(**placed)

    def run(self, inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        outputs = flatten(self.call(self.place(inputs)))
        return {name: tensor.cpu() for name, tensor in outputs.items()}

    def proof(self, inputs: Mapping[str, Any]) -> Proof:
        placed, attention = self.place(inputs), AttentionCalls()
        with attention, _Watch(attention) as watch:
            self.call(placed)
        where, kernels = self.device.type, attention.kernels
        away = {place: count for (place, _), count in watch.elements.items() if place not in (where, "meta")}
        others = {name: count for name, count in kernels.items() if name != self.kernel} if self.kernel else {}
        fallbacks = (
            *(Fallback(f"computed on {place}", f"{count} elements") for place, count in away.items()),
            *(
                Fallback(f"attention by {name}", f"{count} of {sum(kernels.values())} calls")
                for name, count in others.items()
            ),
        )
        named = {f"attention by {name}": count for name, count in kernels.items()}
        return Proof(dict(watch.elements), "elements", where, fallbacks, named)

    def stages(self, inputs: Mapping[str, Any]) -> dict[str, Tensors]:
        return {"torch": self.run(inputs)}

    def held(self) -> dict[str, Quantised]:
        found = {path: quantised(layer.weight) for path, layer in linear_layers(self.model).items()}
        return {path: one for path, one in found.items() if one is not None}

    def trace(self, inputs: Mapping[str, Any]) -> None:
        return None

    def release(self) -> None:
        return None

    def synchronize(self) -> None:
        synchronize(self.device)


class _Watch(OperatorMode):
    """Counts the elements that every operator returns, by device and dtype, and tells of kernels of attention."""

    def __init__(self, attention: AttentionCalls) -> None:
        super().__init__()
        self.attention = attention
        self.elements: Counter[tuple[str, str]] = Counter()

    def called(self, operator: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        result = operator(*args, **kwargs)
        self.attention.see(operator)
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.dim():  # scalars may live on the host
                key = (leaf.device.type, str(leaf.dtype).removeprefix("torch."))
                self.elements[key] += leaf.numel()
        return result
