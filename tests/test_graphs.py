"""Targets that run a graph of a model: taken or refused by name, right at each step and size, proven to run."""

from typing import Any, ClassVar

import pytest
import torch
from torch import fx, nn

from proofbook.catalog import Target, Weights, load_catalog
from proofbook.checks.registry import examine, registered
from proofbook.checks.trial import Trial
from proofbook.runtimes import Refused
from proofbook.runtimes.exporting import Program, export
from proofbook.runtimes.graph import ANOTHER_GRAPH, Graph, GraphRuntime
from proofbook.runtimes.refusals import refused
from proofbook.runtimes.runtime import Proof, Tensors
from proofbook.verdict import Verdict


class Kept(Graph):
    """A graph of torch.export, run by torch."""

    seconds: ClassVar[dict[str, float]] = {"convert": 0.0}

    def __init__(self, program: Program) -> None:
        self.program = program

    def run(self, tensors: Tensors) -> Tensors:
        return self.program.run(tensors)

    def proof(self, tensors: Tensors) -> Proof:
        return Proof({("cpu", "float32"): 1}, "graphs", "cpu")

    def values(self, tensors: Tensors) -> tuple[fx.GraphModule, Tensors]:
        return self.program.exported.module(), {}


class KeepingRuntime(GraphRuntime):
    """The smallest runtime: it runs the graph as it is."""

    def convert(self, program: Program, target: Target) -> Graph:
        return Kept(program)


class Doubles(nn.Module):
    def forward(self, x: torch.Tensor, more: dict[str, torch.Tensor], scale: float = 2.0) -> dict[str, Any]:
        return {"y": x * scale, "parts": [x + more["a"], more["b"].sum()]}


def target(**options: Any) -> Target:
    return Target(name="kept", device="cpu", runtime="kept", dtype="float32", description="a test's", **options)


def inputs(rows: int) -> dict[str, Any]:
    x = torch.arange(rows * 3.0).reshape(rows, 3)
    return {"x": x, "more": {"a": x + 1, "b": torch.ones(2)}, "scale": 3.0}


def test_sizes_in_which_examples_differ_stay_open() -> None:
    program = export(Doubles(), [inputs(4), inputs(1)])
    assert program.sizes == {"x": (None, 3), "more.a": (None, 3), "more.b": (2,)}
    assert program.outputs == ("y", "parts.0", "parts.1")


def test_one_graph_serves_open_sizes_and_another_is_made_for_others() -> None:
    session = KeepingRuntime().prepare(Doubles(), [inputs(4), inputs(1)], target())
    for rows in (4, 1, 7):
        assert torch.equal(session.run(inputs(rows))["y"], inputs(rows)["x"] * 3)
    assert not session.proof(inputs(4)).fallbacks
    session.run({**inputs(4), "x": torch.ones(4, 1)})
    assert [one.kind for one in session.proof(inputs(4)).fallbacks] == [ANOTHER_GRAPH]


def test_what_a_runtime_refuses_is_refused_by_stage_and_cause() -> None:
    class DependsOnData(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2 if x.sum() > 0 else x

    with pytest.raises(Refused) as refusal:
        KeepingRuntime().prepare(DependsOnData(), [{"x": torch.ones(3)}], target())
    assert refusal.value.stage == "torch.export"
    assert refusal.value.cause.startswith("data-dependent")


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        (
            "No ONNX function found for <OpOverload(op='aten.bincount', overload='default')>",
            "unsupported operator aten.bincount",
        ),
        ("Failed operations:\naten::fft_rfft with a message:\nNo rule", "unsupported operator aten::fft_rfft"),
        ("Could not guard on data-dependent expression Eq(u0, 1)", "data-dependent shape"),
        ("_apply(): Couldn't swap Linear.weight", "a module that its own forward changes"),
        ("LoweringException: NotImplementedError: x\n  target: aten.angle.default", "unsupported operator aten.angle"),
        ("Dynamo recompile limit exceeded", "more graphs than torch makes of a frame"),
        ("something else", "RuntimeError"),
    ],
)
def test_refusals_are_grouped_by_their_cause(said: str, cause: str) -> None:
    outer = ValueError("conversion failed")
    outer.__cause__ = RuntimeError(said)
    assert refused("onnx", outer).cause == cause


def test_the_steps_of_a_graph_are_walked_with_modules_and_values() -> None:
    session = KeepingRuntime().prepare(
        nn.Sequential(nn.Linear(3, 3), nn.ReLU()), [{"input": torch.ones(2, 3)}], target()
    )
    trace = session.trace({"input": torch.ones(2, 3)})
    assert trace is not None
    assert [one.module.rpartition(".")[2] for one in trace.operations] == ["0", "1"]
    assert set(trace.expected) >= {one.name for one in trace.operations}


@pytest.mark.parametrize("model", ["bert", "llama", "vit"])
def test_a_converted_model_passes_and_is_proven_to_run(model: str) -> None:
    pytest.importorskip("onnxruntime")
    catalog = load_catalog()
    trial = Trial(catalog.model(model), catalog.target("onnxruntime-cpu"), Weights.TINY, 0, catalog.tolerances)
    found = {check.name: examine(check, trial) for check in registered()}
    assert not [one for one in found.values() if one.verdict.fell_short]
    for name in ("prepared", "stages", "ran-on-target", "matches-truth", "batch-matches-single"):
        assert found[name].verdict is Verdict.PASS, name
    assert found["gradients"].verdict is Verdict.SKIP
    assert "nodes on CPUExecutionProvider" in str(found["ran-on-target"].observed)


def test_a_wrong_graph_fails_at_its_stage() -> None:
    pytest.importorskip("onnxruntime")
    catalog = load_catalog()
    trial = Trial(catalog.model("vit"), catalog.target("onnxruntime-cpu"), Weights.TINY, 0, catalog.tolerances)
    run = trial.session._graphs[0][1].run  # type: ignore[union-attr]
    trial.session._graphs[0][1].run = lambda tensors: {n: one * 1.01 for n, one in run(tensors).items()}  # type: ignore
    by_name = {check.name: check for check in registered()}
    for name in ("stages", "matches-truth"):
        assert examine(by_name[name], trial).verdict is Verdict.FAIL
    assert "onnxruntime" in examine(by_name["stages"], trial).detail
