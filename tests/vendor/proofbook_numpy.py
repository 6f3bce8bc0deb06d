"""NumPy as if it were an accelerator: some operators run on it, those that shape and mask on the host, no others."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.special import erf, softmax
from torch import fx
from torch.utils._pytree import tree_map_only

from proofbook.catalog import Target
from proofbook.runtimes.exporting import Program
from proofbook.runtimes.graph import Graph, GraphRuntime
from proofbook.runtimes.runtime import Fallback, Proof, Refused, Tensors

Array = np.ndarray[Any, Any]


def embedding(table: Array, ids: Array, *_: Any) -> Array:
    return table[ids]


def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    return x @ weight.T + (0 if bias is None else bias)


def layer_norm(x: Array, shape: list[int], weight: Array, bias: Array, eps: float = 1e-5, *_: Any) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred * centred).mean(-1, keepdims=True) + np.float32(eps)) * weight + bias


def gelu(x: Array) -> Array:
    return x * np.float32(0.5) * (1 + erf(x / np.float32(2**0.5)))


def attention(q: Array, k: Array, v: Array, mask: Array | None = None, *_: Any, scale: float | None = None) -> Array:
    scores = q @ np.swapaxes(k, -1, -2) * np.float32(scale or q.shape[-1] ** -0.5)
    if mask is not None:
        scores = np.where(mask, scores, np.finfo(scores.dtype).min) if mask.dtype == bool else scores + mask
    return softmax(scores, -1) @ v


# by their names in ATen: what the device computes, and what stays on the host because it moves or masks
KERNELS: dict[str, Callable[..., Array]] = {
    "embedding": embedding,
    "linear": linear,
    "layer_norm": layer_norm,
    "gelu": gelu,
    "scaled_dot_product_attention": attention,
    "add": np.add,
}
HOST = {
    *("_assert_tensor_metadata", "__and__", "arange", "dropout", "expand", "ge", "index", "new_ones", "reshape"),
    *("slice", "sym_size", "to", "transpose", "unsqueeze", "view"),
}
ON_HOST = "operators on the host"


class NumpyRuntime(GraphRuntime):
    """Runs graphs with NumPy. The option ``host`` names operators that are left to the host."""

    needs: ClassVar[tuple[str, ...]] = ("numpy>=1.26",)

    def convert(self, program: Program, target: Target) -> "NumpyGraph":
        kernels = {name: kernel for name, kernel in KERNELS.items() if name not in target.options.get("host", ())}
        module = program.exported.module()
        for node in module.graph.nodes:
            name = _name(node.target)
            if node.op == "call_function" and name not in KERNELS and name not in HOST:
                raise Refused("numpy", f"unsupported operator aten.{name}", f"node {node.name}")
        return NumpyGraph(program, module, kernels)


class NumpyGraph(Graph):
    """A graph of torch.export, its operators computed by kernels."""

    seconds: ClassVar[dict[str, float]] = {}

    def __init__(self, program: Program, module: fx.GraphModule, kernels: Mapping[str, Callable[..., Array]]) -> None:
        self._program, self._module, self._kernels = program, module, kernels

    def run(self, tensors: Tensors) -> Tensors:
        return self._walk(tensors)[0]

    def proof(self, tensors: Tensors) -> Proof:
        walk = self._walk(tensors)[1]
        away = [name for name in walk.host if name in KERNELS and name not in self._kernels]
        fallbacks = (Fallback(ON_HOST, ", ".join(away)),) if away else ()
        return Proof({("numpy", "float32"): sum(walk.device.values())}, "operators", "numpy", fallbacks)

    def values(self, tensors: Tensors) -> tuple[torch.export.ExportedProgram, Tensors]:
        return self._program.exported, self._walk(tensors)[1].values

    def _walk(self, tensors: Tensors) -> tuple[Tensors, "_Walk"]:
        walk = _Walk(self._module, self._kernels)
        with torch.no_grad():
            return dict(walk.run(dict(tensors))), walk


class _Walk(fx.Interpreter):
    """One call of a graph: what ran where, and the value of each node."""

    def __init__(self, module: fx.GraphModule, kernels: Mapping[str, Callable[..., Array]]) -> None:
        super().__init__(module)
        self._kernels = kernels
        self.device: Counter[str] = Counter()
        self.host: Counter[str] = Counter()
        self.values: dict[str, torch.Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, torch.Tensor):
            self.values[n.name] = value
        return value

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        name = _name(target)
        if name not in self._kernels or (name == "add" and not args[0].is_floating_point()):
            self.host[name] += 1
            return super().call_function(target, args, kwargs)
        self.device[name] += 1
        args, kwargs = tree_map_only(torch.Tensor, lambda one: one.detach().numpy(), (args, kwargs))
        return torch.from_numpy(np.asarray(self._kernels[name](*args, **kwargs), dtype=np.float32))


def _name(target: Any) -> str:
    return str(getattr(target, "overloadpacket", target)).removeprefix("aten.")
