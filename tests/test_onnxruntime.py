"""ONNX Runtime: a fault in a converted graph is found at its node, and names that collide are kept apart."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from proofbook.checks.localise import first_divergence, walk_graph
from proofbook.runtimes import runtime_of
from proofbook.runtimes.onnxruntime import OnnxGraph
from proofbook.verdict import Verdict
from proofbook.workbook.case import Case
from test_reproduce_checks import run_script

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def graph_of(session: Any) -> Any:
    return session._graphs[0][1]


def scale_initializer(path: Path, name: str, factor: float) -> None:
    """Plant a fault in a converted graph."""
    model = onnx.load(path)
    held = next(one for one in model.graph.initializer if one.name == name)
    held.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(held) * factor, name))
    onnx.save(model, path)


def test_a_fault_in_a_converted_graph_fails_and_is_found_at_its_node_and_module() -> None:
    case = Case("bert", "onnxruntime-cpu", checks="stages,matches-truth")
    graph = graph_of(case.session)
    scale_initializer(graph._path, "model.bert.encoder.layer.1.intermediate.dense.bias", 1.5)
    graph._session = graph._open(graph._path)
    for family in ("conversion", "accuracy"):
        case.check(family)
    assert {name: one.verdict for name, one in case.findings.items() if name != "loads"} == {
        "stages": Verdict.FAIL,
        "matches-truth": Verdict.FAIL,
    }
    assert "ONNX, not optimised" in case.findings["stages"].detail
    first = next(line for line in case.show_divergence().text.splitlines() if "first operation" in line)
    assert "bert.encoder.layer.1.intermediate.dense linear_" in first


def test_a_node_of_another_kind_is_found_by_its_name() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 2))
    inputs = {"input": torch.randn(5, 4)}
    target = Case("bert", "onnxruntime-cpu").target
    session = runtime_of("onnxruntime").prepare(model, [inputs], target)
    written = onnx.load(graph_of(session)._path)
    next(node for node in written.graph.node if node.op_type == "Sigmoid").op_type = "Tanh"
    onnx.save(written, graph_of(session)._path)
    trace = session.trace(inputs)
    assert trace is not None
    found = first_divergence(walk_graph(trace, inputs), 1e-4)
    assert found is not None and found.name == "3 sigmoid"


def test_an_output_may_have_the_name_of_an_input() -> None:
    class Doubled(nn.Module):
        def forward(self, sample: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"sample": sample * 2}

    target = Case("bert", "onnxruntime-cpu").target
    sample = torch.randn(3, 2)
    session = runtime_of("onnxruntime").prepare(Doubled(), [{"sample": sample}], target)
    assert torch.equal(session.run({"sample": sample})["sample"], sample * 2)


@pytest.mark.parametrize("model", ["llama", "bart"])
def test_decoding_with_a_cache_is_converted_and_right(model: str) -> None:
    case = Case(model, "onnxruntime-cpu", checks="decodes-with-cache")
    case.check("conversion")
    assert case.findings["decodes-with-cache"].verdict is Verdict.PASS


def test_a_cache_that_is_not_read_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("llama", "onnxruntime-cpu", checks="decodes-with-cache")
    run = OnnxGraph.run

    def forgets(graph: Any, tensors: Any) -> Any:
        return run(graph, {n: one * (0 if n.startswith("cache.self.0") else 1) for n, one in tensors.items()})

    monkeypatch.setattr(OnnxGraph, "run", forgets)
    case.check("conversion")
    assert case.findings["decodes-with-cache"].verdict is Verdict.FAIL


def test_a_refusal_is_shown_by_a_script_in_plain_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    case = Case("switch-transformers", "onnxruntime-cpu", checks="prepared")
    case.check("conversion")
    assert case.findings["prepared"].observed == "a module that its own forward changes"
    assert "AssertionError: observed RuntimeError" in case.show_reproduction().text
    script = (tmp_path / case.reproduction).read_text()
    assert "torch.onnx.export(model" in script
    assert "from proofbook" not in script


def test_wrong_numbers_are_asked_of_the_runtime_in_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("vit", "onnxruntime-cpu")
    assert run_script(case, "matches-truth", tmp_path)
    run = onnxruntime.InferenceSession.run
    monkeypatch.setattr(onnxruntime.InferenceSession, "run", lambda *given: [one * 1.01 for one in run(*given)])
    assert not run_script(Case("vit", "onnxruntime-cpu"), "matches-truth", tmp_path)


def test_experts_are_converted_in_a_way_that_onnx_has_functions_of_and_then_computed_in_their_own() -> None:
    case = Case("mixtral", "onnxruntime-cpu", checks="prepared")
    own = case.model.config._experts_implementation
    case.check("conversion")
    assert case.findings["prepared"].verdict is Verdict.PASS
    assert case.model.config._experts_implementation == own != "batched_mm"
