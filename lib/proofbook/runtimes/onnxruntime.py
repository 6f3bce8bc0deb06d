"""ONNX Runtime on the CPU, from the ONNX exporter of torch; with weights in integers where a target says so."""

import json
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import fx

from proofbook.catalog import Target
from proofbook.runtimes.exporting import Program
from proofbook.runtimes.graph import Graph, GraphRuntime
from proofbook.runtimes.onnx import NEEDS, output_names, save_onnx, shown_values
from proofbook.runtimes.onnx_quantising import KERNELS, Layers, held, kernels, quantise
from proofbook.runtimes.plain import through_onnxruntime
from proofbook.runtimes.quantised import Quantised
from proofbook.runtimes.runtime import Fallback, Proof, Tensors

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "rocm": "ROCMExecutionProvider"}

# the file that torch's exporter writes
WRITTEN = "model.onnx"


class OnnxRuntime(GraphRuntime):
    """Converts to ONNX, and runs the file with the execution provider of the target's device."""

    needs: ClassVar[tuple[str, ...]] = (*NEEDS, "onnxruntime>=1.20")
    # the way by groups is an operator of transformers' own, which has no function of ONNX
    experts: ClassVar[str] = "batched_mm"
    plain = staticmethod(through_onnxruntime)

    def convert(self, program: Program, target: Target) -> "OnnxGraph":
        return OnnxGraph(program, target, PROVIDERS[target.device])


class OnnxSession(Protocol):
    """A file of ONNX, made ready to run."""

    def call(self, outputs: Mapping[str, str], tensors: Tensors) -> Tensors:
        """The outputs of some names, by what these stand for."""

    def events(self) -> list[dict[str, Any]]:
        """What it wrote of its calls if it was opened to be profiled, the provider of each node as :attr:`Proof.where`
        names it; it runs no more."""

    def close(self) -> None:
        """Let go of what it holds."""


class OnnxGraph(Graph):
    """A file of ONNX, and a session of it.

    Args:
        program: what the file is made of.
        target: which says whether weights are in integers.
        provider: the execution provider that all nodes are to run on.
    """

    def __init__(self, program: Program, target: Target, provider: str) -> None:
        start = time.perf_counter()
        self._folder = tempfile.TemporaryDirectory(prefix="proofbook-onnx-")
        self._path = Path(self._folder.name) / WRITTEN
        self._provider = provider
        # the paths of outputs by their names in the file
        self._outputs = dict(zip(output_names(program), program.outputs, strict=True))
        # the program of torch that the file was made of
        self._written = save_onnx(program, self._path)
        converted = time.perf_counter()
        # which of its weights were quantised
        self._layers: Layers = {}
        if target.weight_dtype:
            self._path, self._layers = quantise(self._path, program, target)
        quantised = time.perf_counter()
        self._session = self._open(self._path)
        self.seconds = {
            "convert": converted - start,
            **({"quantise": quantised - converted} if self._layers else {}),
            "load": time.perf_counter() - quantised,
        }

    def run(self, tensors: Tensors) -> Tensors:
        return self._session.call(self._outputs, tensors)

    def stages(self, tensors: Tensors) -> Mapping[str, Tensors]:
        with torch.no_grad():
            decomposed = dict(self._written.module()(dict(tensors)))
        with closing(self._open(self._path.with_name(WRITTEN), optimised=False)) as plain:
            return {"decomposed": decomposed, "ONNX, not optimised": plain.call(self._outputs, tensors)}

    def held(self) -> Mapping[str, Quantised]:
        return held(self._path, self._layers) if self._layers else {}

    def values(self, tensors: Tensors) -> tuple[fx.GraphModule, Tensors] | None:
        if self._layers:  # none of which is torch's
            return None
        module = self._written.module()
        names = {node.name: node.name for node in module.graph.nodes if node.op == "call_function"}
        returned: Any = module.graph.output_node().args[0]
        names |= {name: node.name for name, node in zip(self._outputs, returned, strict=True)}
        shown, path = shown_values(self._path, names)
        with closing(self._open(path)) as session:
            return module, session.call({name: names[name] for name in shown}, tensors)

    def proof(self, tensors: Tensors) -> Proof:
        with closing(self._open(self._path, profile=True)) as session:
            session.call(self._outputs, tensors)
            events = session.events()
        ran: Counter[tuple[str, str]] = Counter()
        integers: Counter[str] = Counter()
        for event in events:
            provider = event.get("args", {}).get("provider")
            if event.get("cat") == "Node" and provider and event["name"].endswith("_kernel_time"):
                ran[provider, _dtype(event["args"])] += 1
                integers.update({event["args"].get("op_name")} & KERNELS)
        fallbacks = tuple(
            Fallback(f"{dtype} nodes on {where}", f"{count} nodes")
            for (where, dtype), count in ran.items()
            if where != self._provider
        )
        there = kernels(self._path) if self._layers else 0
        if integers.total() < there:
            missing = f"{there - integers.total()} of {there} in integers"
            fallbacks += (Fallback("products in floating point", missing),)
        return Proof(dict(ran), "nodes", self._provider, fallbacks, dict(integers))

    def release(self) -> None:
        self._session.close()
        self._folder.cleanup()

    def _open(self, path: Path, optimised: bool = True, profile: bool = False) -> OnnxSession:
        return NativeSession(path, self._provider, optimised, profile)


class NativeSession:
    """A session of ONNX Runtime in this process."""

    def __init__(self, path: Path, provider: str, optimised: bool = True, profile: bool = False) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        if not optimised:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        if profile:
            options.enable_profiling = True
            options.profile_file_prefix = str(path.parent / "profile")
        providers = list(dict.fromkeys([provider, PROVIDERS["cpu"]]))
        self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)

    def call(self, outputs: Mapping[str, str], tensors: Tensors) -> Tensors:
        read = {one.name for one in self._session.get_inputs()}  # what no output depends on is not an input
        given = {name: one.cpu().numpy() for name, one in tensors.items() if name in read}
        made = self._session.run(list(outputs), given)
        return {name: torch.from_numpy(one) for name, one in zip(outputs.values(), made, strict=True)}

    def events(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(Path(self._session.end_profiling()).read_text())
        return found

    def close(self) -> None:
        del self._session


def _dtype(args: Mapping[str, Any]) -> str:
    """The dtype of a node's first output, as torch calls it."""
    kinds = [kind for one in args.get("output_type_shape", []) for kind in one]
    kind = kinds[0] if kinds else "none"
    return {"float": "float32", "double": "float64"}.get(kind, kind)
