"""Decoders that read no tokens: a right one passes, one with a fault falls short, and a script shows it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.cache_utils import DynamicLayer
from transformers.models.speecht5 import modeling_speecht5

from proofbook.checks.registry import examine
from proofbook.verdict import Verdict
from proofbook.workbook.case import Case
from test_checks import CHECKS, trial_of, verdict
from test_reproduce_checks import run_script

NAMES = ("causal-states", "cached-states")


@pytest.mark.parametrize("name", NAMES)
def test_a_right_decoder_of_frames_passes_and_its_script_ends(name: str, tmp_path: Path) -> None:
    assert verdict(name, trial_of("speecht5")) is Verdict.PASS
    assert run_script(Case("speecht5"), name, tmp_path)


def test_frames_that_see_later_ones_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(modeling_speecht5, "create_causal_mask", lambda **given: None)
    assert verdict("causal-states", trial_of("speecht5")) is Verdict.FAIL
    assert not run_script(Case("speecht5"), "causal-states", tmp_path)


def test_keys_that_a_cache_mixes_up_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usual = DynamicLayer.update

    def rolled(self: Any, keys: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        found, values = usual(self, keys, *args, **kwargs)
        return (found if found.shape == keys.shape else found.roll(1, 0)), values

    monkeypatch.setattr(DynamicLayer, "update", rolled)
    assert verdict("cached-states", trial_of("speecht5")) is Verdict.FAIL
    assert not run_script(Case("speecht5"), "cached-states", tmp_path)


@pytest.mark.parametrize(
    ("model", "why"),
    [("bert", "no decoder"), ("bart", "reads tokens"), ("detr", "writes all at once")],
)
def test_other_models_have_no_such_decoder(model: str, why: str) -> None:
    found = examine(CHECKS["causal-states"], trial_of(model))
    assert found.verdict is Verdict.SKIP
    assert why in found.detail


def test_positions_that_a_cache_does_not_move_are_found() -> None:
    trial = trial_of("time_series_transformer")
    assert verdict("causal-states", trial) is Verdict.PASS
    assert verdict("cached-states", trial) is Verdict.FAIL
