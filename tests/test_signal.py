"""Inputs and parameters that do not matter are found, and those that a class does not use are only listed."""

from typing import Any

import pytest
import torch
from torch import nn

from proofbook.catalog.schema import Idle
from proofbook.checks.influence import grouped
from proofbook.checks.registry import Finding, examine
from proofbook.checks.trial import Trial
from proofbook.checks.vary import Fixed, vary
from proofbook.verdict import Verdict
from test_checks import CHECKS, changed, trial_of


def found(name: str, trial: Trial) -> Finding:
    finding = examine(CHECKS[name], trial)
    assert finding.verdict is not Verdict.ERROR, finding.traceback
    return finding


def silence(module: nn.Module) -> None:
    """Let a module give zeros, though still computed from its parameters."""
    changed(module, lambda output: output * 0)


def test_positions_that_no_other_can_see_do_not_matter() -> None:
    trial = trial_of("llama")
    for layer in trial.model.model.layers:
        silence(layer.self_attn.o_proj)
    finding = found("inputs-matter", trial)
    assert finding.verdict is Verdict.FAIL
    assert "input_ids" in finding.detail and "attention_mask" in finding.detail
    finding = found("parameters-matter", trial)
    assert finding.verdict is Verdict.FAIL
    assert "model.layers.*.self_attn.q_proj.weight (2)" in finding.detail


def test_a_mask_that_is_ignored_does_not_matter() -> None:
    trial = trial_of("bert")

    def unmasked(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "attention_mask": torch.ones_like(kwargs["attention_mask"])}

    trial.model.register_forward_pre_hook(unmasked, with_kwargs=True)
    finding = found("inputs-matter", trial)
    assert finding.verdict is Verdict.FAIL
    assert "attention_mask" in finding.detail and "input_ids" not in finding.detail


def test_pixels_that_are_not_read_do_not_matter() -> None:
    trial = trial_of("vit")
    silence(trial.model.vit.embeddings.patch_embeddings)
    assert "pixel_values" in found("inputs-matter", trial).detail


def test_an_ignored_mask_shows_in_half_precision_too() -> None:
    assert found("inputs-matter", trial_of("bert", "cpu-bf16")).verdict is Verdict.PASS
    trial = trial_of("bert", "cpu-bf16")
    for layer in trial.model.bert.encoder.layer:
        silence(layer.attention.output.dense)
    assert found("inputs-matter", trial).verdict is Verdict.FAIL


def test_one_parameter_that_is_cut_off_is_named() -> None:
    trial = trial_of("llama")
    silence(trial.model.model.layers[1].mlp.gate_proj)
    finding = found("parameters-matter", trial)
    assert finding.verdict is Verdict.FAIL
    assert "model.layers.1.mlp.gate_proj.weight" in finding.detail
    assert "layers.0" not in finding.detail


def test_a_parameter_that_is_not_used_is_a_finding_and_no_fault() -> None:
    trial = trial_of("llama")
    trial.model.spare = nn.Parameter(torch.ones(3))
    finding = found("parameters-matter", trial)
    assert finding.verdict is Verdict.PASS
    assert "1 without influence" in str(finding.observed)
    assert "on no path to an output of this call: spare" in finding.detail


def test_a_shift_that_softmax_takes_out_is_a_finding_and_no_fault() -> None:
    finding = found("parameters-matter", trial_of("bert"))
    assert finding.verdict is Verdict.PASS
    assert "cancelled by what follows: bert.encoder.layer.*.attention.self.key.bias (2)" in finding.detail


def test_what_is_known_to_be_idle_is_told_and_must_stay_so() -> None:
    trial = trial_of("rwkv")
    finding = found("inputs-matter", trial)
    assert finding.verdict is Verdict.PASS
    assert "attention_mask: the class" in finding.detail
    wrong = Idle(reason="not true at all")
    trial.spec = trial.spec.model_copy(update={"idle": {**trial.spec.idle, "input_ids": wrong}})
    finding = found("inputs-matter", trial)
    assert finding.verdict is Verdict.FAIL
    assert "input_ids has influence, although" in finding.detail


def test_what_is_idle_with_other_releases_is_not_known_here() -> None:
    trial = trial_of("rwkv")
    elsewhere = {
        name: known.model_copy(update={"needs": ("transformers<4.50",)}) for name, known in trial.spec.idle.items()
    }
    trial.spec = trial.spec.model_copy(update={"idle": elsewhere})
    finding = found("inputs-matter", trial)
    assert finding.verdict is Verdict.FAIL
    assert "without enough influence" in finding.detail and "attention_mask" in finding.detail


def test_the_parameters_are_as_they_were() -> None:
    trial = trial_of("encodec")  # whose codes stop the gradient, so that steps are taken
    before = {name: tensor.clone() for name, tensor in trial.model.state_dict().items()}
    assert found("parameters-matter", trial).verdict is Verdict.PASS
    assert all(torch.equal(tensor, before[name]) for name, tensor in trial.model.state_dict().items())


# -- another value for an input


def test_a_token_is_exchanged_where_it_is_seen_and_has_no_meaning_of_its_own() -> None:
    ids = torch.tensor([[0, 5, 6, 7, 1, 9], [0, 8, 5, 1, 2, 2]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0]])
    change = vary("input_ids", {"input_ids": ids, "attention_mask": mask}, kept={0, 1, 2})
    assert (change.value != ids).sum(dim=1).tolist() == [1, 1]
    assert all(change.value[row, at] != ids[row, at] for row, at in change.at.items())
    assert torch.equal(change.value[:, 0], ids[:, 0]) and torch.equal(change.value[mask == 0], ids[mask == 0])
    assert set(change.value.flatten().tolist()) <= set(ids.flatten().tolist())


def test_one_bit_of_a_mask_of_tokens_and_the_end_of_a_mask_of_samples() -> None:
    mask = torch.ones(2, 16, dtype=torch.long)
    mask[1, 12:] = 0
    tokens = vary("attention_mask", {"input_ids": mask * 3, "attention_mask": mask}).value
    assert (tokens != mask).sum(dim=1).tolist() == [1, 1]
    samples = vary("attention_mask", {"input_values": torch.randn(2, 16), "attention_mask": mask}).value
    assert samples.sum(dim=1).tolist() == [8, 6]


def test_a_mask_of_floating_numbers_is_flipped_and_not_blurred() -> None:
    mask = torch.ones(2, 8, 4)
    change = vary("past_observed_mask", {"past_observed_mask": mask}).value
    assert set(change.flatten().tolist()) == {0.0, 1.0}


def test_noise_spares_padding() -> None:
    pixels = torch.randn(2, 3, 16, 16)
    pixels[1] = 0
    change = vary("pixel_values", {"pixel_values": pixels})
    assert not change.value[1].any()
    assert 0 < (change.value[0] != pixels[0]).float().mean() < 0.05


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("image_grid_thw", torch.ones(2, 3, dtype=torch.long), "laid out"),
        ("token_type_ids", torch.zeros(2, 4, dtype=torch.long), "one value"),
        ("speaker", torch.tensor([1, 2]), "no positions"),
    ],
)
def test_inputs_without_another_value_say_why(name: str, value: torch.Tensor, why: str) -> None:
    with pytest.raises(Fixed, match=why):
        vary(name, {name: value})


def test_names_are_grouped_by_what_differs_in_numbers_only() -> None:
    assert grouped(["a.0.w", "a.1.w", "b.2.w", "conv1.w", "conv2.w"]) == ["a.*.w (2)", "b.2.w", "conv1.w", "conv2.w"]


def test_noise_lies_where_masks_show_something() -> None:
    mask = torch.zeros(2, 50, dtype=torch.long)
    mask[:, :10] = 1
    sound = torch.randn(2, 4, 50)
    change = vary("input_features", {"input_features": sound, "feature_attention_mask": mask})
    places = (change.value != sound).any(dim=(0, 1)).nonzero().flatten()
    assert len(places)
    assert places.max() < 10
