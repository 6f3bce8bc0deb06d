"""ExecuTorch with XNNPACK, as on phones: lowered ahead of time, and executed by its own runtime."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn

from proofbook.catalog import Target
from proofbook.runtimes.exporting import Program, quiet, returned_by, without_traces
from proofbook.runtimes.graph import Graph, GraphRuntime
from proofbook.runtimes.onnx_rewriting import lay_out_attention
from proofbook.runtimes.plain import through_executorch
from proofbook.runtimes.runtime import Fallback, Proof, Refused, Tensors

# the fallback of what XNNPACK does not take: ExecuTorch's own kernels, of which each operator has one
PORTABLE = "portable kernels"
_DTYPES = {"FLOAT": "float32", "DOUBLE": "float64", "HALF": "float16", "LONG": "int64", "INT": "int32"}


class ExecuTorch(GraphRuntime):
    """Lowers to a program of ExecuTorch, what XNNPACK takes of it delegated to that."""

    needs: ClassVar[tuple[str, ...]] = ("executorch>=1.5",)
    experts: ClassVar[str] = "batched_mm"
    # its memory is planned when it is lowered
    room: ClassVar[int] = 4
    plain = staticmethod(through_executorch)

    def convert(self, program: Program, target: Target) -> "ExecuTorchGraph":
        lay_out_attention(program.exported.graph)
        program.exported.graph_module.recompile()
        return ExecuTorchGraph(program)


class ExecuTorchGraph(Graph):
    """A program of ExecuTorch."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._method = Method(program.exported)
        self.seconds: Mapping[str, float] = self._method.seconds

    def run(self, tensors: Tensors) -> Tensors:
        return dict(zip(self._program.outputs, self._method.call(tensors), strict=True))

    def proof(self, tensors: Tensors) -> Proof:
        # a call executes the instructions of the program, and no others
        self.run(tensors)
        ran = Counter({("XNNPACK", dtype): count for dtype, count in self._method.delegated.items()})
        names: Counter[str] = Counter()
        for (name, dtype), count in self._method.kernels.items():
            ran[PORTABLE, dtype] += count
            names[name] += count
        told = ", ".join(f"{count} {name}" for name, count in names.most_common())
        return Proof(dict(ran), "operations", "XNNPACK", (Fallback(PORTABLE, told),) if told else ())

    def stages(self, tensors: Tensors) -> Mapping[str, Tensors]:
        plain = Method(self._program.exported, delegate=False)
        return {"without XNNPACK": dict(zip(self._program.outputs, plain.call(tensors), strict=True))}

    def values(self, tensors: Tensors) -> tuple[fx.GraphModule, Tensors]:
        module = self._program.exported.module()
        with torch.no_grad(), quiet(), without_traces():
            exported = torch.export.export(_Showing(module), (dict(tensors),), strict=False)
        return module, dict(zip(returned_by(exported), Method(exported).call(tensors), strict=True))


class Method:
    """A program of torch.export, lowered and loaded.

    Args:
        exported: the program, of one argument, a table of tensors.
        delegate: whether XNNPACK gets what it takes.

    Raises:
        Refused: an operator has no kernel.
    """

    def __init__(self, exported: torch.export.ExportedProgram, delegate: bool = True) -> None:
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import ExecutorchBackendConfig, to_edge_transform_and_lower
        from executorch.exir.passes.sym_shape_eval_pass import ConstraintBasedSymShapeEvalPass
        from executorch.runtime import Runtime

        start = time.perf_counter()
        config = ExecutorchBackendConfig(sym_shape_eval_pass=ConstraintBasedSymShapeEvalPass())
        with quiet(), without_traces():
            edge = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()] * delegate)
            lowered = edge.to_executorch(config)
        plan = lowered.executorch_program.execution_plan[0]
        # how many operations XNNPACK computes, by dtype, and ExecuTorch's own kernels, by name and dtype
        self.delegated = _delegated(edge.exported_program().graph_module)
        self.kernels = _kernels(plan)
        loading = time.perf_counter()
        _set_threads(torch.get_num_threads())
        runtime = Runtime.get()
        for one in plan.operators:
            if f"{one.name}.{one.overload}".rstrip(".") not in runtime.operator_registry.operator_names:
                raise Refused(
                    "executorch", f"unsupported operator {one.name}", f"no kernel of {one.name}.{one.overload}"
                )
        # the program, which the method reads
        self._loaded = runtime.load_program(lowered.buffer)
        self._method = self._loaded.load_method("forward")
        self.seconds = {"lower": loading - start, "load": time.perf_counter() - loading}

    def call(self, tensors: Tensors) -> Sequence[Tensor]:
        """The outputs in their order."""
        made: Sequence[Tensor] = self._method.execute([one.contiguous() for one in tensors.values()])
        return made


class _Showing(nn.Module):
    """A graph that returns the values of all its operations."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        kept: dict[str, Tensor] = {}

        class Keeps(fx.Interpreter):
            def run_node(self, n: fx.Node) -> Any:
                value = super().run_node(n)
                if n.op == "call_function" and isinstance(value, Tensor):
                    kept[n.name] = value
                return value

        Keeps(self.module).run(tensors)
        return kept


def _delegated(module: fx.GraphModule) -> Counter[str]:
    """The operations within what was delegated, by dtype."""
    from executorch.exir.lowered_backend_module import get_lowered_submodules

    nodes = [
        node.meta["val"].dtype
        for _, lowered, _ in get_lowered_submodules(module)
        for node in lowered.original_module.graph.nodes
        if node.op == "call_function" and isinstance(node.meta.get("val"), Tensor) and "getitem" not in node.name
    ]
    return Counter(str(dtype).removeprefix("torch.") for dtype in nodes)


def _kernels(plan: Any) -> Counter[tuple[str, str]]:
    """The calls of kernels in a program that give tensors, by name and dtype, but for views, which compute nothing."""
    from executorch.exir.schema import KernelCall

    found: Counter[tuple[str, str]] = Counter()
    for call in (one.instr_args for chain in plan.chains for one in chain.instructions):
        if isinstance(call, KernelCall):
            name = plan.operators[call.op_index].name
            # what it writes comes last, behind a list of it where there is more than one
            kinds = [plan.values[at].val.scalar_type.name for at in call.args if _is_tensor(plan.values[at].val)]
            if kinds and not name.startswith("executorch_prim::"):
                found[name, _DTYPES.get(kinds[-1], kinds[-1].lower())] += 1
    return found


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "scalar_type")


def _set_threads(count: int) -> None:
    """Let ExecuTorch compute with as many threads as torch does; by itself it takes all cores."""
    from executorch.extension.pybindings import portable_lib

    if portable_lib._threadpool_get_thread_count() != count:
        portable_lib._unsafe_reset_threadpool(count)
