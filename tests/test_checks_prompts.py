"""Every check of prompts passes on a right model and fails on a fault planted for it."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from proofbook.checks.registry import examine
from proofbook.checks.trial import Trial
from proofbook.verdict import Verdict
from test_checks import CHECKS, changed, trial_of, verdict

FAMILY = [check.name for check in CHECKS.values() if check.family == "prompts"]


def projector(trial: Trial) -> nn.Module:
    found = trial.model.model.multi_modal_projector
    assert isinstance(found, nn.Module)
    return found


@pytest.mark.parametrize("name", FAMILY)
def test_a_right_model_passes(name: str) -> None:
    assert verdict(name, trial_of("llava")) is Verdict.PASS


def test_clips_stand_for_pictures_where_the_task_is_about_clips() -> None:
    trial = trial_of("llava-next-video")
    found = {name: verdict(name, trial) for name in FAMILY}
    assert found.pop("several-pictures") is Verdict.SKIP
    assert set(found.values()) == {Verdict.PASS}


@pytest.mark.parametrize("name", FAMILY)
def test_a_model_without_prompts_is_skipped_with_a_reason(name: str) -> None:
    finding = examine(CHECKS[name], trial_of("bert"))
    assert finding.verdict is Verdict.SKIP
    assert "prompts" in finding.detail


def test_text_alone_finds_a_score_that_is_wrong_on_the_target_without_a_picture() -> None:
    trial = trial_of("llava")

    def scaled(model: nn.Module, _args: object, given: dict[str, Tensor], output: Any) -> None:
        if "pixel_values" not in given and model.dtype is torch.float32:  # truth is in float64
            output["logits"] = output["logits"] * 1.001

    # before the noise floor's copy is made, which is of float32 as well
    trial.model.register_forward_hook(scaled, with_kwargs=True)
    assert verdict("text-alone", trial) is Verdict.FAIL


def test_several_pictures_finds_that_their_order_is_lost() -> None:
    trial = trial_of("llava")
    changed(projector(trial), lambda features: features.mean(0, keepdim=True).expand_as(features))
    assert verdict("several-pictures", trial) is Verdict.FAIL


def test_mixed_batch_finds_pictures_given_to_other_rows() -> None:
    trial = trial_of("llava")
    changed(projector(trial), lambda features: features.flip(0))
    assert verdict("mixed-batch", trial) is Verdict.FAIL
    assert verdict("mixed-generation", trial) is Verdict.FAIL
    assert verdict("exchanged-pictures", trial) is Verdict.FAIL


def test_picture_places_finds_features_that_are_a_token_late() -> None:
    trial = trial_of("llava")
    changed(projector(trial), lambda features: features.flatten(0, 1).roll(1, 0).view_as(features))
    assert verdict("picture-places", trial) is Verdict.FAIL


def test_picture_places_finds_a_picture_that_nobody_looks_at() -> None:
    trial = trial_of("llava")
    changed(projector(trial), lambda features: features.mean() * torch.ones_like(features) * 0)
    finding = examine(CHECKS["picture-places"], trial)
    assert finding.verdict is Verdict.FAIL
    assert "does not change its token" in finding.detail
