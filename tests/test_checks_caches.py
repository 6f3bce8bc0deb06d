"""Caches of other kinds: what is kept in fewer bits, and what their layers hand back."""

from typing import Any

import pytest
import torch
from transformers import cache_utils

from proofbook.checks.registry import examine
from proofbook.verdict import Verdict
from test_checks import CHECKS, trial_of, verdict

if not hasattr(cache_utils, "Fp8QuantizedLayer"):
    pytest.skip("this release has no quantised cache that needs no package", allow_module_level=True)


def test_a_right_quantised_cache_passes() -> None:
    assert verdict("quantised-cache", trial_of("llama")) is Verdict.PASS


def test_quantised_cache_finds_a_layer_that_stores_too_coarsely(monkeypatch: pytest.MonkeyPatch) -> None:
    restore = cache_utils.Fp8QuantizedLayer._dequantize

    def coarse(self: Any, stored: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return restore(self, (stored[0].float().mul(1.1).to(stored[0].dtype), stored[1]))

    monkeypatch.setattr(cache_utils.Fp8QuantizedLayer, "_dequantize", coarse)
    assert verdict("quantised-cache", trial_of("llama")) is Verdict.FAIL


@pytest.mark.parametrize("model", ["gpt2", "llama"])
def test_quantised_cache_finds_tokens_counted_wrongly(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_utils.Fp8QuantizedLayer, "get_seq_length", lambda self: self.cumulative_length - 1)
    finding = examine(CHECKS["quantised-cache"], trial_of(model))
    assert finding.verdict in (Verdict.FAIL, Verdict.ERROR)  # the mask may be too short for its keys


def test_quantised_cache_finds_rows_that_stay_where_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_utils.Fp8QuantizedLayer, "reorder_cache", lambda self, beam_idx: None)
    assert verdict("quantised-cache", trial_of("llama")) is Verdict.FAIL


def test_windows_are_not_kept_in_fewer_bits() -> None:
    finding = examine(CHECKS["quantised-cache"], trial_of("gemma2"))
    assert finding.verdict is Verdict.SKIP
    assert "sliding_attention" in finding.detail
