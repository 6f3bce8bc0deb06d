"""ONNX Runtime on the CPU, from the ONNX exporter of torch."""

import json
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import fx

from proofbook.catalog import Target
from proofbook.runtimes.exporting import Program
from proofbook.runtimes.graph import Graph, GraphRuntime
from proofbook.runtimes.onnx import NEEDS, output_names, save_onnx, shown_values
from proofbook.runtimes.plain import through_onnxruntime
from proofbook.runtimes.runtime import Fallback, Proof, Tensors

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "rocm": "ROCMExecutionProvider"}


class OnnxRuntime(GraphRuntime):
    """Converts to ONNX, and runs the file with the execution provider of the target's device."""

    needs: ClassVar[tuple[str, ...]] = (*NEEDS, "onnxruntime>=1.20")
    # the way by groups is an operator of transformers' own, which has no function of ONNX
    experts: ClassVar[str] = "batched_mm"
    plain = staticmethod(through_onnxruntime)

    def convert(self, program: Program, target: Target) -> "OnnxGraph":
        folder = tempfile.TemporaryDirectory(prefix="proofbook-onnx-")
        path = Path(folder.name) / "model.onnx"
        start = time.perf_counter()
        written = save_onnx(program, path)
        converted = time.perf_counter()
        graph = OnnxGraph(folder, path, PROVIDERS[target.device], program, written)
        graph.seconds = {"convert": converted - start, "load": time.perf_counter() - converted}
        return graph


class OnnxGraph(Graph):
    """A file of ONNX in a session of ONNX Runtime; ``written`` is the program of torch that the file was made of."""

    def __init__(
        self,
        folder: "tempfile.TemporaryDirectory[str]",
        path: Path,
        provider: str,
        program: Program,
        written: torch.export.ExportedProgram,
    ) -> None:
        self._folder = folder
        self._path = path
        self._provider = provider
        # the paths of outputs by their names in the file
        self._outputs = dict(zip(output_names(program), program.outputs, strict=True))
        self._written = written
        self.seconds: Mapping[str, float] = {}
        self._session = self._open(path)

    def run(self, tensors: Tensors) -> Tensors:
        return _call(self._session, self._outputs, tensors)

    def stages(self, tensors: Tensors) -> Mapping[str, Tensors]:
        with torch.no_grad():
            decomposed = dict(self._written.module()(dict(tensors)))
        plain = self._open(self._path, optimised=False)
        return {"decomposed": decomposed, "ONNX, not optimised": _call(plain, self._outputs, tensors)}

    def values(self, tensors: Tensors) -> tuple[fx.GraphModule, Tensors]:
        module = self._written.module()
        names = {node.name: node.name for node in module.graph.nodes if node.op == "call_function"}
        returned: Any = module.graph.output_node().args[0]
        names |= {name: node.name for name, node in zip(self._outputs, returned, strict=True)}
        shown, path = shown_values(self._path, names)
        return module, _call(self._open(path), {name: names[name] for name in shown}, tensors)

    def proof(self, tensors: Tensors) -> Proof:
        session = self._open(self._path, profile=True)
        _call(session, self._outputs, tensors)
        events = json.loads(Path(session.end_profiling()).read_text())
        ran: Counter[tuple[str, str]] = Counter()
        for event in events:
            provider = event.get("args", {}).get("provider")
            if event.get("cat") == "Node" and provider and event["name"].endswith("_kernel_time"):
                ran[provider, _dtype(event["args"])] += 1
        away = {where: count for (where, _), count in ran.items() if where != self._provider}
        fallbacks = tuple(Fallback(f"nodes on {where}", f"{count} nodes") for where, count in away.items())
        return Proof(dict(ran), "nodes", self._provider, fallbacks)

    def release(self) -> None:
        self._folder.cleanup()

    def _open(self, path: Path, optimised: bool = True, profile: bool = False) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        if not optimised:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        if profile:
            options.enable_profiling = True
            options.profile_file_prefix = str(self._path.parent / "profile")
        providers = list(dict.fromkeys([self._provider, PROVIDERS["cpu"]]))
        return onnxruntime.InferenceSession(str(path), options, providers=providers)


def _call(session: Any, outputs: Mapping[str, str], tensors: Tensors) -> Tensors:
    """The outputs of some names, by what these stand for."""
    read = {one.name for one in session.get_inputs()}  # what no output depends on is not an input
    given = {name: one.cpu().numpy() for name, one in tensors.items() if name in read}
    return {
        name: torch.from_numpy(one)
        for name, one in zip(outputs.values(), session.run(list(outputs), given), strict=True)
    }


def _dtype(args: Mapping[str, Any]) -> str:
    """The dtype of a node's first output, as torch calls it."""
    kinds = [kind for one in args.get("output_type_shape", []) for kind in one]
    kind = kinds[0] if kinds else "none"
    return {"float": "float32", "double": "float64"}.get(kind, kind)
