"""OpenVINO, from torch.export or from ONNX."""

import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import fx

from proofbook.catalog import Target
from proofbook.runtimes.exporting import Program, quiet, without_traces
from proofbook.runtimes.graph import Graph, GraphRuntime
from proofbook.runtimes.onnx import NEEDS, save_onnx
from proofbook.runtimes.runtime import Fallback, Proof, Tensors
from proofbook.subject.requirements import require

_DEVICES = {"cpu": "CPU", "xpu": "GPU"}
_HINTS = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
_DTYPES = {hint: dtype for dtype, hint in _HINTS.items()} | {"f64": "float64", "i64": "int64", "i32": "int32"}
# what the runtime model lists and nothing computes
_HELD = frozenset({"Const", "Input", "Output"})


class OpenVino(GraphRuntime):
    """Converts to OpenVINO's own graph, and compiles that for the target's device.

    A target's options are properties of the device as OpenVINO documents them, and ``from: onnx`` for the way through
    ONNX. Unless they say otherwise the device computes in the target's dtype: by default it takes a lower one.
    """

    needs: ClassVar[tuple[str, ...]] = ("openvino>=2025.2",)

    def convert(self, program: Program, target: Target) -> "OpenVinoGraph":
        start = time.perf_counter()
        make = _from_onnx if target.options.get("from") == "onnx" else _from_torch
        model, module = make(program)
        converted = time.perf_counter()
        graph = OpenVinoGraph(model, module, program, target)
        graph.seconds = {"convert": converted - start, "compile": time.perf_counter() - converted}
        return graph


class OpenVinoGraph(Graph):
    """A graph of OpenVINO, compiled for a device; ``module`` is the graph of torch that it was made of."""

    def __init__(self, model: Any, module: fx.GraphModule, program: Program, target: Target) -> None:
        self._model = model
        self._module = module
        self._program = program
        self._device = _DEVICES[target.device]
        self._dtype = target.dtype
        self._properties = {
            "INFERENCE_PRECISION_HINT": _HINTS[target.dtype],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            **{name: value for name, value in target.options.items() if name != "from"},
        }
        self.seconds: Mapping[str, float] = {}
        self._compiled = self._compile(model)

    def run(self, tensors: Tensors) -> Tensors:
        return dict(zip(self._program.outputs, _call(self._compiled, tensors), strict=True))

    def proof(self, tensors: Tensors) -> Proof:
        self.run(tensors)
        where = "+".join(self._compiled.get_property("EXECUTION_DEVICES"))
        kinds: dict[str, Counter[str]] = defaultdict(Counter)
        for node in self._compiled.get_runtime_model().get_ordered_ops():
            about = {name: value.value for name, value in node.get_rt_info().items()}
            if about["layerType"] not in _HELD:
                kinds[_DTYPES.get(about["runtimePrecision"], about["runtimePrecision"])][about["layerType"]] += 1
        fallbacks = [
            Fallback(f"computed in {dtype}", ", ".join(f"{count} {kind}" for kind, count in counts.most_common()))
            for dtype, counts in kinds.items()
            if "float" in dtype and dtype != self._dtype
        ]
        fallbacks += [Fallback(f"computed on {where}", "all nodes")] * (where != self._device)
        ran = {(where, dtype): counts.total() for dtype, counts in kinds.items()}
        return Proof(ran, "nodes", self._device, tuple(fallbacks))

    def stages(self, tensors: Tensors) -> Mapping[str, Tensors]:
        with torch.no_grad():
            return {"decomposed": dict(self._module(dict(tensors)))}

    def values(self, tensors: Tensors) -> tuple[fx.GraphModule, Tensors]:
        model = self._model.clone()
        there = {name for node in model.get_ops() for one in node.outputs() for name in one.get_names()}
        called = [node.name for node in self._module.graph.nodes if node.op == "call_function"]
        shown = {name: tensor for name in called for tensor in (name, f"{name}:0") if tensor in there}
        model.add_outputs(list(shown.values()))  # but those that are outputs already
        compiled = self._compile(model)
        made = _call(compiled, tensors)
        at = {name: index for index, one in enumerate(compiled.outputs) for name in one.names}
        return self._module, {name: made[at[tensor]] for name, tensor in shown.items() if tensor in at}

    def _compile(self, model: Any) -> Any:
        import openvino

        return openvino.Core().compile_model(model, self._device, self._properties)


def _call(compiled: Any, tensors: Tensors) -> list[torch.Tensor]:
    """The outputs in their order."""
    read = {name for one in compiled.inputs for name in one.names}  # what no output depends on may not be
    made = compiled({name: one.contiguous().numpy() for name, one in tensors.items() if name in read})
    return [torch.from_numpy(made[at].copy()) for at in range(len(compiled.outputs))]


def _from_torch(program: Program) -> tuple[Any, fx.GraphModule]:
    """The graph by OpenVINO's frontend for torch, and that of torch which it reads."""
    import openvino
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    with quiet(), without_traces():
        decoder = TorchFXPythonDecoder.from_exported_program(program.exported, dynamic_shapes=False)
        model = openvino.convert_model(decoder)
    for parameter, name in zip(model.inputs, program.example, strict=True):
        parameter.get_tensor().set_names({name})
    return model, decoder.pt_module


def _from_onnx(program: Program) -> tuple[Any, fx.GraphModule]:
    """The graph by OpenVINO's frontend for ONNX, and that of torch which the file was made of."""
    import openvino

    require(NEEDS)
    with tempfile.TemporaryDirectory(prefix="proofbook-onnx-") as folder:
        path = Path(folder) / "model.onnx"
        written = save_onnx(program, path)
        with quiet(), without_traces():
            return openvino.convert_model(path), written.module()
