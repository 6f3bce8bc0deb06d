"""What inductor compiles: the graph that comes to it, the kernels that it generates, those of ATen that it calls."""

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch._inductor import config, ir
from torch._inductor.compile_fx import compile_fx_inner
from torch._inductor.cpu_vec_isa import pick_vec_isa
from torch._inductor.runtime.cache_dir_utils import temporary_cache_dir
from torch._inductor.scheduler import BaseSchedulerNode, ExternKernelSchedulerNode, NopKernelSchedulerNode

from proofbook.runtimes.exporting import quiet
from proofbook.runtimes.runtime import Fallback, Tensors

INDUCTOR, ATEN = "inductor", "ATen"
# inductor has no code for an operator, or chose none
LEFT = "operators left to ATen"


@dataclass(frozen=True)
class Kernel:
    """One kernel: who made it, the operator that it is of where ATen did, and whether for want of inductor's own."""

    maker: str
    device: str
    dtype: str
    operator: str = ""
    left: bool = False


@contextmanager
def compiling(folder: str) -> Iterator[None]:
    """Compile in here with nothing cached but what a folder holds, and as many compilers as torch has threads.

    Two things are kept beyond it, by torch itself, as they depend on the machine alone: precompiled headers, and which
    instructions the processor has (:func:`prepare_machine`).
    """
    with temporary_cache_dir(folder), config.patch(compile_threads=torch.get_num_threads()):
        yield


def prepare_machine() -> None:
    """Find out the processor's instructions, which takes a compilation that is none of a model's."""
    pick_vec_isa()


@dataclass
class Made:
    """What inductor was given and what it made of that; of several graphs the outermost, with the kernels of all."""

    graph: fx.GraphModule = field(init=False)
    kernels: list[Kernel] = field(default_factory=list)


@contextmanager
def watched() -> Iterator[Made]:
    """Keep what inductor compiles in here, by the two hooks that it has for passes of others: the graph before its own
    passes, after decomposition, and what its scheduler ends with, from which code is generated."""
    made = Made()

    def keep(graph: fx.Graph) -> None:
        made.graph = fx.GraphModule(graph.owning_module or {}, copy.deepcopy(graph))

    def count(nodes: list[BaseSchedulerNode]) -> list[BaseSchedulerNode]:
        made.kernels += [_kernel(one) for one in nodes if _computes(one)]
        return nodes

    with config.patch(post_grad_custom_pre_pass=keep, _post_fusion_custom_pass=count):
        yield made


def values(graph: fx.GraphModule, given: Sequence[Any]) -> Tensors:
    """The values of all operations of a graph by the names of nodes, compiled with each of them as an output.

    A fault of a kernel that takes several operations at once may not show there: each value is stored, and other
    operations come together in a kernel.

    Args:
        graph: one that :func:`watched` kept.
        given: its arguments, in their order.
    """
    with quiet():
        module = fx.GraphModule(graph, copy.deepcopy(graph.graph))
    shown = [node for node in module.graph.nodes if _is_value(node)]
    module.graph.output_node().args = (tuple(shown),)
    module.recompile()
    examples = [node.meta["val"] for node in module.graph.find_nodes(op="placeholder")]
    with torch.no_grad():
        made: Any = compile_fx_inner(module, examples)
        return {node.name: one.detach().cpu() for node, one in zip(shown, made(list(given)), strict=True)}


def ran(kernels: Sequence[Kernel]) -> Mapping[tuple[str, str], int]:
    """How many there are by (whose and on which device, dtype)."""
    return Counter((place(one.maker, one.device), one.dtype) for one in kernels)


def place(maker: str, device: str) -> str:
    """Where kernels run, in words."""
    return f"{maker} on {device}"


def fallbacks(kernels: Sequence[Kernel], device: str) -> list[Fallback]:
    """What does not run as generated code on the device."""
    away = Counter(one.device for one in kernels if one.device != device)
    found = [Fallback(f"computed on {where}", f"{count} kernels") for where, count in away.items()]
    left = Counter(one.operator for one in kernels if one.left)
    return found + [Fallback(LEFT, ", ".join(f"{count} {name}" for name, count in left.items()))] * bool(left)


def _is_value(node: fx.Node) -> bool:
    return node.op == "call_function" and isinstance(node.meta.get("val"), Tensor)


def _computes(node: BaseSchedulerNode) -> bool:
    """Whether a kernel stands behind it, rather than one of several outputs of another's, or nothing."""
    return not isinstance(node, NopKernelSchedulerNode) and not isinstance(node.node, ir.MultiOutput)


def _kernel(node: BaseSchedulerNode) -> Kernel:
    device = node.get_device()
    where, dtype = device.type if device else "cpu", _dtype(node)
    if not isinstance(node, ExternKernelSchedulerNode):
        return Kernel(INDUCTOR, where, dtype)
    held: Any = node.node
    name = str(getattr(held, "op_overload", None) or held.python_kernel_name)
    return Kernel(ATEN, where, dtype, name, left=isinstance(held, ir.FallbackKernel))


def _dtype(node: BaseSchedulerNode) -> str:
    """That of its first output or, where this has none of its own, of its first input."""
    values = [*(one.node for one in node.get_outputs()), *getattr(node.node, "inputs", ())]
    found = next((dtype for one in values if (dtype := one.maybe_get_dtype()) is not None), None)
    return str(found).removeprefix("torch.")
