"""A case keeps every finding, whatever happens, and ends in a verdict that a runner can see."""

from datetime import date, timedelta
from typing import Any

import pytest
import torch

from proofbook.catalog import KnownFault, UnknownName
from proofbook.checks.registry import FAMILIES, Finding, Question
from proofbook.verdict import Verdict
from proofbook.workbook.case import Case, CaseFailed


def examined(case: Case) -> Case:
    for family in FAMILIES:
        case.check(family)
    return case


def broken(model: str = "vit", **options: Any) -> Case:
    """A case whose classifier is wrong in float32."""
    case = Case(model, **options)
    wrong = lambda module, args, output: output * 1.5 if output.dtype is torch.float32 else output  # noqa: E731
    case.model.classifier.register_forward_hook(wrong)
    return case


def test_a_right_model_passes_and_its_record_is_whole() -> None:
    case = examined(Case("vit"))
    case.show_model()
    case.show_timings()
    assert case.verdict is Verdict.PASS
    assert "pass" in repr(case.finish())
    record = case.case_record()
    assert (record.case, record.category, record.failed) == ("vit@cpu", "vision", 0)
    whole = ("load_s", "first_s", "p50_ms", "throughput", "peak_mb", "parameters", "parameters_full", "input_hash")
    assert [name for name in whole if not getattr(record, name)] == []
    assert record.parameters_full == 86_567_656  # ViT-B/16 with the 1000 classes of its checkpoint
    assert record.rerun == "proofbook debug vit --target cpu --weights tiny --seed 0"


def test_after_a_failure_all_other_checks_are_still_recorded() -> None:
    case = examined(broken())
    assert case.findings["matches-truth"].verdict is Verdict.FAIL
    assert {record.check for record in case.check_records()} == set(examined(Case("vit")).findings)


def test_a_script_that_can_not_be_made_costs_no_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object) -> None:
        raise BrokenPipeError("the host has ended")

    case = broken(checks="accuracy")
    case.check("accuracy")
    monkeypatch.setattr("proofbook.workbook.case.reproduce", lost)
    assert "BrokenPipeError: the host has ended" in case.show_reproduction().text
    with pytest.raises(CaseFailed, match="matches-truth"):
        case.finish()


def test_what_no_cell_asked_is_asked_at_last_and_only_what_applies_is_shown() -> None:
    case = Case("gpt2", checks="loads,finite,causal,semantic-maps")
    case.check("loading")
    first = case.findings["loads"]
    shown = case.check_others().text
    assert case.findings["loads"] is first
    assert case.findings["semantic-maps"].verdict is Verdict.SKIP
    assert "finite" in shown and "causal" in shown and "semantic-maps" not in shown
    assert shown.endswith("1 more do not apply.")


def test_a_case_that_fell_short_raises_with_the_check_and_the_command_to_debug_it() -> None:
    case = examined(broken(checks="accuracy"))
    with pytest.raises(CaseFailed, match=r"vit@cpu: fail: matches-truth: .*RMSE[\s\S]*proofbook debug vit"):
        case.finish()


def test_the_first_module_that_diverges_is_named() -> None:
    case = broken()
    case.check("loading")
    case.check("accuracy")
    assert "classifier (Linear)" in case.show_divergence().text


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others() -> None:
    one, again, other = Case("gpt2"), Case("gpt2"), Case("gpt2", seed=1)
    assert torch.equal(one.outputs["logits"], again.outputs["logits"])
    assert not torch.equal(one.outputs["logits"], other.outputs["logits"])
    assert one.input_hash == again.input_hash == other.input_hash


def test_a_person_can_call_the_model_with_inputs_of_their_own() -> None:
    case = Case("bert")
    inputs = dict(case.inputs)
    inputs["input_ids"] = inputs["input_ids"].clone()
    inputs["input_ids"][0, 3] = 7
    assert not torch.equal(case.run(inputs)["logits"], case.outputs["logits"])
    assert torch.equal(case.run()["logits"], case.outputs["logits"])


def test_a_missing_device_blocks_the_case_and_raises_nothing() -> None:
    if torch.backends.mps.is_available():
        pytest.skip("this machine has the device")
    case = examined(Case("vit", target="mps"))
    case.show_outputs()
    assert case.verdict is Verdict.BLOCKED
    assert "mps" in case.reason
    assert "blocked" in repr(case.finish())


def test_a_missing_package_blocks_by_name_and_nothing_else_is_tried() -> None:
    case = examined(Case("layoutlmv2"))
    assert case.verdict is Verdict.BLOCKED
    assert "detectron2" in case.reason
    of_parts = {name: one for name, one in case.findings.items() if " of LayoutLMv2" in name}
    assert {one.verdict for name, one in case.findings.items() if name not in of_parts} == {Verdict.BLOCKED}


def test_parts_that_need_no_missing_package_are_validated_all_the_same() -> None:
    case = examined(Case("layoutlmv2"))
    verdicts = {name: one.verdict for name, one in case.findings.items()}
    for asked in ("deterministic", "matches-truth", "inputs-matter", "parameters-matter", "batch-matches-single"):
        assert verdicts[f"{asked} of LayoutLMv2Encoder"] is Verdict.PASS, case.findings[f"{asked} of LayoutLMv2Encoder"]
    shown = repr(case.show_model())
    assert "validated all the same | LayoutLMv2Encoder" in shown and "visual backbone" in shown
    assert case.verdict is Verdict.BLOCKED and "blocked" in repr(case.finish())


def test_a_checkpoint_that_does_not_load_is_an_error_and_the_rest_was_not_run(tmp_path: Any) -> None:
    (tmp_path / "config.json").write_text("{ not json")
    case = Case("vit", weights="local", folder=str(tmp_path))
    case.show_model()
    examined(case)
    case.show_inputs()
    assert case.findings["loads"].verdict is Verdict.ERROR
    assert {case.findings[name].verdict for name in case.findings if name != "loads"} == {Verdict.NOT_RUN}
    with pytest.raises(CaseFailed, match=r"vit\.local@cpu: error: loads"):
        case.finish()


def test_a_step_that_raises_is_recorded_and_the_notebook_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("vit")
    case.check("loading")
    monkeypatch.setattr(type(case.task), "answer", lambda *args: 1 / 0)
    assert "ZeroDivisionError" in repr(case.show_answers())
    assert case.findings["show-answers"].verdict is Verdict.ERROR


def test_executions_that_can_not_be_made_again_are_told_and_make_no_error() -> None:
    def raising() -> Any:
        raise RuntimeError("no picture in it")

    case = Case("vit", checks="matches-truth")
    found = Finding(Question("matches-truth", "accuracy", "wrong"), Verdict.FAIL, 0.0, executions=raising)
    case.findings["matches-truth"] = found
    assert "RuntimeError: no picture in it" in repr(case.show_divergence())
    assert "show-divergence" not in case.findings


def fault(days: int, **changes: Any) -> KnownFault:
    expires = date.today() + timedelta(days=days)
    told = {"check": "matches-truth", "reason": "a wrong classifier", "issue": "https://example.org/1"}
    return KnownFault(**{**told, "expires": expires, **changes})


@pytest.mark.parametrize(
    ("known", "is_wrong", "verdict"),
    [
        (fault(1), True, Verdict.XFAIL),
        (fault(1), False, Verdict.XPASS),
        (fault(1, shows="sometimes"), True, Verdict.XFAIL),
        (fault(1, shows="sometimes"), False, Verdict.PASS),
        (fault(-1), True, Verdict.FAIL),
        (fault(-1), False, Verdict.PASS),
        (fault(1, targets=("cpu-bf16",)), True, Verdict.FAIL),
        (fault(1, check="finite"), True, Verdict.FAIL),
        (fault(1, needs=("transformers>=4",)), True, Verdict.XFAIL),
        (fault(1, needs=("transformers>=4",)), False, Verdict.XPASS),
        (fault(1, needs=("transformers<4.50",)), True, Verdict.FAIL),
        (fault(1, needs=("transformers<4.50",)), False, Verdict.PASS),
        (fault(1, needs=("transformers>=4", "no-such-package")), True, Verdict.FAIL),
        # `all` is for what can't be asked at all: a wrong answer is one
        (fault(1, check="all"), True, Verdict.FAIL),
        (fault(1, check="all"), False, Verdict.PASS),
    ],
)
def test_a_known_fault_counts_for_its_check_and_targets_until_its_date(
    known: KnownFault, is_wrong: bool, verdict: Verdict
) -> None:
    case = broken() if is_wrong else Case("vit")
    case.spec = case.spec.model_copy(update={"known_faults": (known,)})
    case.check("loading")
    case.check("accuracy")
    assert case.findings["matches-truth"].verdict is verdict


def test_a_fault_of_all_checks_covers_those_that_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("vit", checks="finite, answers")
    case.spec = case.spec.model_copy(update={"known_faults": (fault(1, check="all"),)})
    monkeypatch.setattr(type(case.task), "encode", lambda *args: 1 / 0)
    examined(case)
    assert case.findings["loads"].verdict is Verdict.PASS
    assert {case.findings[name].verdict for name in ("finite", "answers")} == {Verdict.XFAIL}
    assert case.verdict is Verdict.XFAIL


def test_only_the_checks_chosen_are_asked_and_loading_always() -> None:
    case = examined(Case("vit", checks="finite, batching"))
    assert set(case.findings) == {"loads", "finite", "batch-matches-single"}


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"model": "vitt"}, UnknownName, "Did you mean vit"),
        ({"model": "vit", "target": "gpu"}, UnknownName, "unknown target 'gpu'"),
        ({"model": "vit", "weights": "big"}, ValueError, "'big' is not a valid Weights"),
        ({"model": "vit", "checks": "finit"}, ValueError, "unknown checks finit; known: all, accuracy"),
        ({"model": "vit", "checks": ""}, ValueError, "none named"),
    ],
)
def test_wrong_parameters_are_named(arguments: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        Case(**arguments)


def test_a_variant_is_examined_named_and_reproducible() -> None:
    case = Case("llama", variant="num_key_value_heads=1;attention_bias=true", checks="loading")
    case.check("loading")
    assert (case.config.num_key_value_heads, case.config.attention_bias) == (1, True)
    record = case.case_record()
    assert record.variant == "num_key_value_heads=1;attention_bias=true"
    assert record.case.startswith("llama+")
    assert "--variant 'num_key_value_heads=1;attention_bias=true'" in record.rerun
    with pytest.raises(ValueError, match="NAME=VALUE"):
        Case("llama", variant="num_key_value_heads")
