"""Weights in integers: real models hold them and are right; a fault in what is held, or a layer left out, is found."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn

from proofbook.checks.integers import Holding
from proofbook.runtimes import runtime_of
from proofbook.runtimes.quantised import Grid, linear_layers
from proofbook.runtimes.torchao import TorchAo
from proofbook.verdict import Verdict
from proofbook.workbook.case import Case

pytest.importorskip("torchao")

ASKED = ("ran-on-target", "matches-truth", "weights-near-their-levels", "error-of-quantisation")


def verdicts(case: Case, *names: str) -> dict[str, Verdict]:
    for family in ("forward", "accuracy", "precision"):
        case.check(family)
    return {name: case.findings[name].verdict for name in names or ASKED}


def asked(model: str, target: str) -> Case:
    return Case(model, target, checks=",".join(ASKED))


@pytest.mark.parametrize("target", ["cpu-int8", "cpu-int4"])
@pytest.mark.parametrize("model", ["bert", "llama", "vit"])
def test_quantised_models_are_right(model: str, target: str) -> None:
    case = asked(model, target)
    assert set(verdicts(case).values()) == {Verdict.PASS}
    ran = case.findings["ran-on-target"]
    layers = len(linear_layers(case.called))
    assert f"{layers} of {layers} linear layers in {case.target.weight_dtype}" in str(ran.observed)


def held(case: Case) -> Any:
    """The weight of a layer as torchao holds it."""
    return linear_layers(case.called)["bert.encoder.layer.0.intermediate.dense"].weight


def wrong_scale(case: Case) -> None:
    held(case).scale[3, 0] *= 1.5


def groups_in_another_order(case: Case) -> None:
    weight: Any = linear_layers(case.called)["bert.encoder.layer.0.output.dense"].weight  # of four groups
    weight.scale.copy_(weight.scale.flip(1))


def swapped_nibbles(case: Case) -> None:
    codes = held(case).qdata
    codes.copy_(codes.unflatten(1, (-1, 2)).flip(-1).flatten(1))


def zero_point_off_by_one(case: Case) -> None:
    held(case).zero_point[5, 0] += 1


@pytest.mark.parametrize("fault", [wrong_scale, groups_in_another_order, swapped_nibbles, zero_point_off_by_one])
def test_what_is_held_wrong_is_found(fault: Any) -> None:
    case = asked("bert", "cpu-int4")
    fault(case)
    assert verdicts(case)["weights-near-their-levels"] is Verdict.FAIL
    assert "bert.encoder.layer.0." in case.findings["weights-near-their-levels"].detail
    # of what it holds, wrong as that is, the target computes the right outputs
    assert case.findings["matches-truth"].verdict is Verdict.PASS


def test_a_kernel_that_takes_groups_in_another_order_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    case = asked("bert", "cpu-int4")
    kind = type(held(case))
    right = kind.dequantize

    def wrong(weight: Any) -> torch.Tensor:
        return right(weight).unflatten(1, (-1, 32)).flip(1).flatten(1)

    monkeypatch.setattr(kind, "dequantize", wrong)
    found = verdicts(case)
    assert found["matches-truth"] is Verdict.FAIL
    assert found["weights-near-their-levels"] is Verdict.PASS


def test_levels_off_by_one_everywhere_are_an_error_beyond_that_of_rounding() -> None:
    case = asked("llama", "cpu-int4")
    for layer in linear_layers(case.called).values():
        weight: Any = layer.weight
        weight.zero_point += 1
    assert verdicts(case)["error-of-quantisation"] is Verdict.FAIL


def test_a_layer_left_in_floating_point_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    quantise = TorchAo.quantise

    def all_but_one(runtime: TorchAo, model: nn.Module, target: Any) -> None:
        layer = linear_layers(model)["bert.encoder.layer.1.attention.output.dense"]
        before = layer.weight
        quantise(runtime, model, target)
        layer.weight = before

    monkeypatch.setattr(TorchAo, "quantise", all_but_one)
    case = asked("bert", "cpu-int8")
    assert verdicts(case)["ran-on-target"] is Verdict.FAIL
    found = case.findings["ran-on-target"]
    assert "13 of 14 linear layers in int8, linear layers in floating point" in str(found.observed)
    assert "bert.encoder.layer.1.attention.output.dense (32 → 32)" in found.detail


def test_a_model_of_which_nothing_is_quantised_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TorchAo, "quantise", lambda *_: None)
    case = asked("bert", "cpu-int8")
    assert verdicts(case)["ran-on-target"] is Verdict.FAIL
    assert "0 of 14 linear layers" in str(case.findings["ran-on-target"].observed)


def test_layers_that_torchao_does_not_take_are_named() -> None:
    target = asked("bert", "cpu-int4").target
    model = nn.Sequential(nn.Linear(64, 8), nn.Linear(8, 8))
    session = runtime_of("torchao").prepare(model, [], target)
    assert list(session.held()) == ["0"]
    left = Holding(session.held(), {"1": model[1]}, "int4", 32, 0.9, 1.1, Counter())
    (one,) = left.fallbacks
    assert one.detail == "1 (8 → 8)"
    assert one.kind in target.allows
    assert one.kind not in asked("bert", "onnxruntime-int4-cpu").target.allows  # which takes any


def test_weights_are_within_half_a_step_of_a_grid() -> None:
    weight = torch.randn(7, 50, dtype=torch.float64)
    for grid in (Grid(16, 32, True), Grid(16, 32, False), Grid(255, 50, True)):
        assert ((grid.rounded(weight) - weight).abs() <= grid.steps(weight) / 2 * (1 + 1e-12)).all()


def test_gradients_and_files_are_not_asked_of_integers() -> None:
    case = Case("bert", "cpu-int8", checks="gradients,save-load-round-trip,exported-graph,bfloat16")
    for family in ("loading", "precision", "gradients", "export"):
        case.check(family)
    asked = [one for one in case.findings.values() if one.check.name != "loads"]
    assert {one.verdict for one in asked} == {Verdict.SKIP}
    assert {one.detail for one in asked} == {"asks weights in floating point, not in int8"}


def test_without_the_package_a_case_is_blocked_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TorchAo, "needs", ("torchao>=99",))
    runtime_of.cache_clear()
    try:
        case = asked("bert", "cpu-int8")
        case.check("loading")
        assert case.findings["loads"].verdict is Verdict.BLOCKED
        assert "torchao" in str(case.findings["loads"].observed)
    finally:
        runtime_of.cache_clear()
