"""Switches set otherwise change what a right model does: the checks follow them, and find the faults that they show."""

import pytest

from proofbook.checks.registry import examine
from proofbook.verdict import Verdict
from proofbook.workbook.case import Case
from test_checks import CHECKS


@pytest.mark.parametrize(
    ("model", "variant", "check"),
    [
        # a decoder sees no later token of its own row
        ("bert", "is_decoder=true", "packed-rows"),
        # each side reads a table of its own
        ("bart", "tie_word_embeddings=false", "embeddings-for-ids"),
        # tokens stay where they are
        ("dinov2", "reshape_hidden_states=false", "feature-maps"),
        # a head that is not implemented is left out; a loss far below its scores rounds as they do
        ("electra", 'summary_type="attn"', "heads"),
        ("mobilebert", "classifier_activation=false;use_bottleneck=false", "heads"),
    ],
)
def test_checks_follow_a_switch(model: str, variant: str, check: str) -> None:
    found = examine(CHECKS[check], Case(model, variant=variant))
    assert found.verdict is Verdict.PASS, found.detail


def test_a_head_that_asks_for_what_only_training_has_is_left_out() -> None:
    found = examine(CHECKS["heads"], Case("flava", variant="init_codebook=false"))
    assert found.verdict is Verdict.SKIP
    assert "mim_labels" in found.detail


@pytest.mark.parametrize("check", ["gradients", "gradients-by-difference"])
def test_a_model_that_refuses_float64_has_no_true_gradients(check: str) -> None:
    found = examine(CHECKS[check], Case("gpt2", variant="reorder_and_upcast_attn=true"))
    assert found.verdict is Verdict.SKIP
    assert "Error with upcasting" in found.detail


@pytest.mark.parametrize(
    ("model", "variant", "check"),
    [
        ("falcon", "alibi=true", "attention-implementations"),
        ("flaubert", "causal=true", "padding-changes-nothing"),
        ("llama", 'rope_parameters={"factor": 2.0, "rope_theta": 10000.0, "rope_type": "dynamic"}', "exported-graph"),
        ("mamba", "rescale_prenorm_residual=true", "save-load-round-trip"),
        ("roformer", "is_decoder=true", "gradient-checkpointing"),
    ],
)
def test_faults_behind_a_switch_are_found(model: str, variant: str, check: str) -> None:
    found = examine(CHECKS[check], Case(model, variant=variant))
    assert found.verdict in (Verdict.FAIL, Verdict.ERROR)
    assert any(fault.check == check for fault in Case(model, variant=variant).spec.known_faults)
