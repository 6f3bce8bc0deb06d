"""Runtimes that run a graph of a model, made of what torch.export gives: each says only how a graph is made and run."""

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn

from proofbook.catalog import Target
from proofbook.runtimes.devices import moved, require_device, synchronize
from proofbook.runtimes.exporting import Program, experts_by, export, tensors_of
from proofbook.runtimes.outputs import flatten
from proofbook.runtimes.quantised import Quantised
from proofbook.runtimes.refusals import refusing
from proofbook.runtimes.runtime import Fallback, Operation, Proof, Refused, Tensors, Trace

# the fallback of a graph that serves its own sizes only
ANOTHER_GRAPH = "another graph for other sizes"


class Graph:
    """A converted model. A runtime's own says how it runs, and what ran where; the rest it may say."""

    # seconds that the steps after torch.export took
    seconds: Mapping[str, float]

    def run(self, tensors: Tensors) -> Tensors:
        """The outputs by path, on the CPU, for inputs by path."""
        raise NotImplementedError

    def proof(self, tensors: Tensors) -> Proof:
        """One call watched: what ran where."""
        raise NotImplementedError

    def stages(self, tensors: Tensors) -> Mapping[str, Tensors]:
        """The outputs of the steps between torch.export and this graph, in their order."""
        return {}

    def held(self) -> Mapping[str, Quantised]:
        """The weights of linear layers that are held in integers, by the paths of the layers in the model."""
        return {}

    def values(self, tensors: Tensors) -> tuple[fx.GraphModule, Tensors] | None:
        """Values within the graph by the names of nodes, and torch's graph that has these; None where none show."""
        return None

    def release(self) -> None:
        """Let go of files, processes and memory."""


class GraphRuntime:
    """The base of runtimes that run graphs: subclasses define :meth:`convert`, and :attr:`needs`."""

    needs: ClassVar[tuple[str, ...]] = ()
    runs_module: ClassVar[bool] = False
    # how experts are computed, as transformers names it, where the model's own way has no operators that it takes
    experts: ClassVar[str] = ""
    # how many times those of the batch open sizes may be, where memory is planned ahead; 0 for any
    room: ClassVar[int] = 0

    def convert(self, program: Program, target: Target) -> Graph:
        """What the runtime makes of a graph of torch.export; what it raises is its refusal."""
        raise NotImplementedError

    def quantise(self, model: nn.Module, target: Target) -> None:
        """Nothing of the module: weights are quantised in its graph."""

    def prepare(self, model: nn.Module, examples: Sequence[Mapping[str, Any]], target: Target) -> "GraphSession":
        """Export and convert the model, with sizes open if that goes, else for the sizes of the batch."""
        return GraphSession(self, model, examples, target)


class GraphSession:
    """A model as one graph or, where sizes can't stay open, one for each set of sizes that it was called with."""

    def __init__(
        self, runtime: GraphRuntime, model: nn.Module, examples: Sequence[Mapping[str, Any]], target: Target
    ) -> None:
        self.device = require_device(target.device)
        self.prepare_s: dict[str, float] = {}
        self._runtime = runtime
        self._model = model.to(self.device)
        self._target = target
        self._graphs: list[tuple[Program, Graph]] = []
        # why sizes are fixed; empty where they are open
        self._fixed = ""
        placed = [self._moved(one) for one in examples]
        try:
            self._convert(placed)
        except Refused as refusal:
            self._fixed = str(refusal)
        if self._fixed:  # no part of the handling above: what it raises is no consequence of that refusal
            self._convert(placed[:1])

    def place(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return self._moved(inputs)

    def call(self, placed: Mapping[str, Any]) -> Tensors:
        tensors = tensors_of(placed)
        return self._for(placed, tensors)[1].run(tensors)

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        return {name: one.detach().cpu() for name, one in self.call(self.place(inputs)).items()}

    def proof(self, inputs: Mapping[str, Any]) -> Proof:
        placed = self.place(inputs)
        tensors = tensors_of(placed)
        found = self._for(placed, tensors)[1].proof(tensors)
        if len(self._graphs) == 1:
            return found
        more = Fallback(ANOTHER_GRAPH, f"{len(self._graphs)} graphs so far; {self._fixed or 'other kinds of inputs'}")
        return replace(found, fallbacks=(*found.fallbacks, more))

    def stages(self, inputs: Mapping[str, Any]) -> dict[str, Tensors]:
        placed = self.place(inputs)
        tensors = tensors_of(placed)
        program, graph = self._for(placed, tensors)
        with torch.no_grad():
            eager = flatten(self._model(**copy.copy(placed)))
        kept = {name: one for name, one in eager.items() if name in program.outputs}
        steps = {"torch": kept, "torch.export": program.run(tensors), **graph.stages(tensors)}
        return {**steps, self._target.runtime: graph.run(tensors)}

    def held(self) -> dict[str, Quantised]:
        return {path: one for _, graph in self._graphs for path, one in graph.held().items()}

    def trace(self, inputs: Mapping[str, Any]) -> Trace | None:
        placed = self.place(inputs)
        tensors = tensors_of(placed)
        found = self._for(placed, tensors)[1].values(tensors)
        if found is None:
            return None
        module, seen = found
        walked = Walked(module)
        with torch.no_grad():
            walked.run(*tensors.values(), enable_io_processing=False)
        return Trace(walked.operations, seen, walked.values)

    def synchronize(self) -> None:
        synchronize(self.device)

    def release(self) -> None:
        for _, graph in self._graphs:
            graph.release()
        self._graphs.clear()

    def _moved(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return moved(inputs, self.device, getattr(torch, self._target.dtype))

    def _for(self, placed: Mapping[str, Any], tensors: Tensors) -> tuple[Program, Graph]:
        """The graph that takes these inputs, made now if there is none."""
        found = next(((program, graph) for program, graph in self._graphs if program.takes(tensors)), None)
        return found or self._convert([placed])

    def _convert(self, examples: Sequence[Mapping[str, Any]]) -> tuple[Program, Graph]:
        start = time.perf_counter()
        with refusing("torch.export"), experts_by(self._runtime.experts, self._model):
            program = export(self._model, examples, self._runtime.room)
        seconds = {"export": time.perf_counter() - start}
        with refusing(self._target.runtime):
            graph = self._runtime.convert(program, self._target)
        self._graphs.append((program, graph))
        for step, took in {**seconds, **graph.seconds}.items():
            self.prepare_s[step] = self.prepare_s.get(step, 0.0) + took
        return program, graph


class Walked(fx.Interpreter):
    """Keeps the value of every operation of a graph as it runs."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[str, Tensor] = {}
        self.operations: list[Operation] = []

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.values[n.name] = value.detach().cpu()
            if n.op == "call_function":
                stack = n.meta.get("nn_module_stack") or {}
                path = next(reversed(stack.values()))[0].partition(".")[2] if stack else ""  # without that of `Flat`
                reads = tuple(one.name for one in n.all_input_nodes)
                self.operations.append(Operation(n.name, str(n.target), path, reads))
        return value
