"""ONNX Runtime on the CPU, from the ONNX exporter of torch."""

import json
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch

from proofbook.catalog import Target
from proofbook.runtimes.exporting import Program
from proofbook.runtimes.graph import Graph, GraphRuntime
from proofbook.runtimes.onnx import NEEDS, save_onnx
from proofbook.runtimes.runtime import Fallback, Proof, Tensors

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "rocm": "ROCMExecutionProvider"}


class OnnxRuntime(GraphRuntime):
    """Converts to ONNX, and runs the file with the execution provider of the target's device."""

    needs: ClassVar[tuple[str, ...]] = (*NEEDS, "onnxruntime>=1.20")

    def convert(self, program: Program, target: Target) -> "OnnxGraph":
        folder = tempfile.TemporaryDirectory(prefix="proofbook-onnx-")
        path = Path(folder.name) / "model.onnx"
        start = time.perf_counter()
        save_onnx(program, path)
        converted = time.perf_counter()
        graph = OnnxGraph(folder, path, PROVIDERS[target.device], program.outputs)
        graph.seconds = {"convert": converted - start, "load": time.perf_counter() - converted}
        return graph


class OnnxGraph(Graph):
    """A file of ONNX in a session of ONNX Runtime."""

    def __init__(
        self, folder: "tempfile.TemporaryDirectory[str]", path: Path, provider: str, outputs: tuple[str, ...]
    ) -> None:
        self._folder = folder
        self._path = path
        self._provider = provider
        self._outputs = outputs
        self.seconds: Mapping[str, float] = {}
        self._session = self._open()

    def run(self, tensors: Tensors) -> Tensors:
        return self._run(self._session, tensors)

    def proof(self, tensors: Tensors) -> Proof:
        options = _options()
        options.enable_profiling = True
        options.profile_file_prefix = str(self._path.parent / "profile")
        session = self._open(options)
        self._run(session, tensors)
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

    def _open(self, options: Any = None) -> Any:
        import onnxruntime

        providers = list(dict.fromkeys([self._provider, PROVIDERS["cpu"]]))
        return onnxruntime.InferenceSession(str(self._path), options or _options(), providers=providers)

    def _run(self, session: Any, tensors: Tensors) -> Tensors:
        read = {one.name for one in session.get_inputs()}  # what no output depends on is not an input
        given = {name: one.cpu().numpy() for name, one in tensors.items() if name in read}
        made = session.run(list(self._outputs), given)
        return {name: torch.from_numpy(one) for name, one in zip(self._outputs, made, strict=True)}


def _options() -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    return options


def _dtype(args: Mapping[str, Any]) -> str:
    """The dtype of a node's first output, as torch calls it."""
    kinds = [kind for one in args.get("output_type_shape", []) for kind in one]
    kind = kinds[0] if kinds else "none"
    return {"float": "float32", "double": "float64"}.get(kind, kind)
