"""OpenVINO: what it computes in, what it refuses, and where a wrong value within its graph comes from."""

from typing import Any

import pytest
import torch
from torch import nn

from proofbook.catalog import Target, Weights, load_catalog
from proofbook.checks.localise import first_divergence, walk_graph
from proofbook.checks.registry import examine, registered
from proofbook.checks.trial import Trial
from proofbook.runtimes import Refused, runtime_of
from proofbook.verdict import Verdict

openvino = pytest.importorskip("openvino")
TARGETS = ("openvino-cpu", "openvino-onnx-cpu")


def target(name: str, **options: Any) -> Target:
    found = load_catalog().target(name)
    return found.model_copy(update={"options": {**found.options, **options}})


def prepared(model: nn.Module, to: Target) -> Any:
    return runtime_of("openvino").prepare(model, [{"x": torch.rand(4, 4)}], to)


class Several(nn.Module):
    def forward(self, x: torch.Tensor, unread: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        return {"twice": x * 2, "given": x, "where": x > 0.5, "whole": x.long()}


class Same(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        twice = x * 2
        return twice, twice


@pytest.mark.parametrize("name", TARGETS)
def test_outputs_keep_their_names_and_dtypes(name: str) -> None:
    x = torch.rand(4, 4)
    given = {"x": x, "unread": torch.ones(2)}
    found = runtime_of("openvino").prepare(Several(), [given], target(name)).run(given)
    for path, expected in Several()(x).items():
        assert torch.equal(found[path], expected), path


def test_one_tensor_as_two_outputs_is_refused_from_torch_and_goes_through_onnx() -> None:
    with pytest.raises(Refused, match="one tensor as two outputs"):
        prepared(Same(), target("openvino-cpu"))
    x = torch.rand(4, 4)
    assert torch.equal(prepared(Same(), target("openvino-onnx-cpu")).run({"x": x})["1"], x * 2)


@pytest.mark.parametrize("name", TARGETS)
def test_an_unsupported_operator_is_refused_by_its_name(name: str) -> None:
    class Cumulative(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cummax(x, 0).values

    with pytest.raises(Refused) as refusal:
        prepared(Cumulative(), target(name))
    assert refusal.value.cause.startswith("unsupported operator aten.cummax")
    assert refusal.value.stage == ("onnx" if "onnx" in name else "openvino")


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.slow
def test_a_converted_model_passes_and_is_proven_to_run(name: str) -> None:
    catalog = load_catalog()
    trial = Trial(catalog.model("vit"), catalog.target(name), Weights.TINY, 0, catalog.tolerances)
    found = {check.name: examine(check, trial) for check in registered()}
    assert not [one for one in found.values() if one.verdict.fell_short]
    for asked in ("prepared", "stages", "ran-on-target", "matches-truth", "batch-matches-single"):
        assert found[asked].verdict is Verdict.PASS, asked
    assert "no fallback" in str(found["ran-on-target"].observed)


def test_a_lower_precision_is_a_fallback() -> None:
    """Whatever lowers it: a hint here, OpenVINO's own default where the processor has instructions for bfloat16."""
    model, x = nn.Sequential(nn.Linear(64, 64), nn.GELU()), {"input": torch.rand(4, 64)}
    catalog = load_catalog()
    full = catalog.target("openvino-cpu")
    low = target("openvino-cpu", INFERENCE_PRECISION_HINT="bf16")
    runtime = runtime_of("openvino")
    if not {"BF16", "FP16"} & set(openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")):
        pytest.skip("this processor computes in float32 alone")
    assert not runtime.prepare(model, [x], full).proof(x).fallbacks
    assert [one.kind for one in runtime.prepare(model, [x], low).proof(x).fallbacks] == ["computed in bfloat16"]

    trial = Trial(catalog.model("vit"), low, Weights.TINY, 0, catalog.tolerances)
    asked = next(check for check in registered() if check.name == "ran-on-target")
    finding = examine(asked, trial)
    assert finding.verdict is Verdict.FAIL
    assert "computed in bfloat16" in finding.detail


@pytest.mark.parametrize("name", TARGETS)
def test_a_wrong_node_of_a_graph_is_found_by_its_name(name: str) -> None:
    """A weight of the converted graph is changed: its node is the first whose value is not torch's."""
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Sigmoid())
    session = runtime_of("openvino").prepare(model, [{"input": torch.rand(4, 4)}], target(name))
    graph = session._graphs[0][1]
    for node in graph._model.get_ops():
        if node.get_type_name() == "Constant" and node.get_element_type() == openvino.Type.f32:
            held = torch.tensor(node.data)
            if held.shape == (4, 4) and torch.equal(held, model[2].weight):
                node.output(0).replace(openvino.opset13.constant(held.numpy() * 1.5).output(0))
    trace = session.trace({"input": torch.rand(4, 4)})
    assert trace is not None
    first = first_divergence(walk_graph(trace, {}), 1e-4)
    assert first is not None
    assert first.name == "2 linear_1"
