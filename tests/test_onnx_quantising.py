"""Weights in integers by ONNX Runtime: real models are right, and faults in a file or in what computes it are found."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from proofbook.measure.speedup import Speedup
from proofbook.runtimes import runtime_of
from proofbook.runtimes.quantised import linear_layers
from proofbook.verdict import Verdict
from proofbook.workbook.case import Case
from proofbook.workbook.timings import measure

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

ASKED = ("ran-on-target", "matches-truth", "weights-near-their-levels", "error-of-quantisation")


@pytest.fixture(scope="module")
def session() -> Any:
    """A ViT with weights in int4."""
    return asked("onnxruntime-int4-cpu").session


@pytest.fixture
def graph(session: Any) -> Iterator[Any]:
    """Its graph, whose file a test may change."""
    graph = session._graphs[0][1]
    before, opened = graph._path.read_bytes(), graph._session
    yield graph
    graph._path.write_bytes(before)
    graph._session = opened


def asked(target: str) -> Case:
    return Case("vit", target, checks=",".join(ASKED))


def verdicts(case: Case) -> dict[str, Verdict]:
    for family in ("forward", "accuracy", "precision"):
        case.check(family)
    return {name: case.findings[name].verdict for name in ASKED}


def changed(path: Path, name: str, change: Callable[[Any], Any]) -> None:
    """Plant a fault in a constant of a file."""
    model = onnx.load(path)
    candidates = [each for each in model.graph.initializer if each.name.endswith(name)]
    one = max(candidates, key=lambda each: each.dims[1])  # of the layer that has the most groups
    one.CopyFrom(onnx.numpy_helper.from_array(change(onnx.numpy_helper.to_array(one).copy()), one.name))
    onnx.save(model, path)


def wrong_scale(scales: Any) -> Any:
    scales.reshape(-1)[3] *= 1.5
    return scales


def groups_in_another_order(scales: Any) -> Any:
    return scales[:, ::-1].copy()


def swapped_nibbles(packed: Any) -> Any:
    return (packed >> 4) | (packed << 4)


def zero_off_by_one(zeros: Any) -> Any:
    zeros[0, 0] ^= 1
    return zeros


FAULTS = [
    ("_scales", wrong_scale),
    ("_scales", groups_in_another_order),
    ("_Q4", swapped_nibbles),
    ("_zero_points", zero_off_by_one),
]


def test_int4_is_right_and_all_layers_are_computed_so(session: Any) -> None:
    case = asked("onnxruntime-int4-cpu")
    assert set(verdicts(case).values()) == {Verdict.PASS}
    layers = len(linear_layers(case.called))
    ran = case.findings["ran-on-target"]
    assert f"{layers} of {layers} linear layers in int4, no fallback" in str(ran.observed)
    assert "0.65 bytes each" in ran.detail


def test_rounding_of_inputs_is_the_noise_of_dynamic_quantisation() -> None:
    case = asked("onnxruntime-int8-cpu")
    assert set(verdicts(case).values()) == {Verdict.PASS}
    worst = case.findings["matches-truth"].comparisons[0]
    assert worst.errors is not None
    # the same levels, rounded to in another arithmetic: but for ties the same error
    assert worst.errors.rmse == pytest.approx(case.noise[worst.name].rmse, rel=0.05)
    # what the runtime is told means nothing to eager torch
    assert isinstance(measure(case).speedup, Speedup)


@pytest.mark.parametrize(("name", "change"), FAULTS)
def test_what_a_file_holds_wrong_is_found(session: Any, graph: Any, name: str, change: Any) -> None:
    changed(graph._path, name, change)
    graph._session = graph._open(graph._path)
    case = asked("onnxruntime-int4-cpu")
    case.prepared = session
    found = verdicts(case)
    assert found["weights-near-their-levels"] is Verdict.FAIL
    assert "vit.layers" in case.findings["weights-near-their-levels"].detail
    assert found["matches-truth"] is Verdict.PASS  # of what the file holds


@pytest.mark.parametrize(("name", "change"), FAULTS)
def test_what_is_computed_wrong_of_a_file_is_found(session: Any, graph: Any, name: str, change: Any) -> None:
    before = graph._path.read_bytes()
    changed(graph._path, name, change)
    graph._session = graph._open(graph._path)
    graph._path.write_bytes(before)
    case = asked("onnxruntime-int4-cpu")
    case.prepared = session
    found = verdicts(case)
    assert found["matches-truth"] is Verdict.FAIL
    assert found["weights-near-their-levels"] is Verdict.PASS


def test_a_layer_left_in_floating_point_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from proofbook.runtimes import onnx_quantising

    linear = onnx_quantising._linear

    def all_but_one(*given: Any) -> Any:
        layers, nodes = linear(*given)
        layers.popitem()
        return layers, nodes[:-1]

    monkeypatch.setattr(onnx_quantising, "_linear", all_but_one)
    case = asked("onnxruntime-int8-cpu")
    assert verdicts(case)["ran-on-target"] is Verdict.FAIL
    assert "12 of 13 linear layers in int8, linear layers in floating point" in str(
        case.findings["ran-on-target"].observed
    )
    assert "classifier (32 → 10)" in case.findings["ran-on-target"].detail


def test_products_that_the_runtime_takes_back_to_floating_point_are_found(session: Any, graph: Any) -> None:
    model = onnx.load(graph._path)
    node = next(one for one in model.graph.node if one.op_type == "MatMulNBits")
    weight = torch.zeros(*({one.name: one.i for one in node.attribute}[size] for size in "KN"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight.numpy(), "zeros"))
    node.CopyFrom(onnx.helper.make_node("MatMul", [node.input[0], "zeros"], list(node.output), node.name))
    beside = graph._path.with_name("other.onnx")
    onnx.save(model, beside)
    opened = graph._open
    graph._open = lambda path, **more: opened(beside, **more)
    try:
        found = session.proof(asked("onnxruntime-int4-cpu").inputs)
    finally:
        del graph._open
    assert [(one.kind, one.detail) for one in found.fallbacks] == [
        ("products in floating point", "1 of 13 in integers")
    ]


def test_a_weight_that_two_layers_share_and_one_of_inputs_that_are_no_whole_groups() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.first, self.last = nn.Embedding(20, 40), nn.Linear(40, 40), nn.Linear(40, 20)
            self.last.weight = self.embedding.weight

        def forward(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"scores": self.last(self.first(self.embedding(ids)))}

    model, ids = Shared().eval(), torch.arange(12).reshape(3, 4)
    for target in ("onnxruntime-int4-cpu", "onnxruntime-int8-cpu"):
        session = runtime_of("onnxruntime").prepare(model, [{"ids": ids}], asked(target).target)
        held = session.held()
        assert set(held) == {"first", "last"}
        for path, layer in linear_layers(model).items():
            weight = layer.weight.detach().double()
            steps = held[path].grid.steps(weight)
            assert ((held[path].values() - weight).abs() <= 0.5001 * steps).all()
