"""Windows of layers that are partly local and partly global: each reach that is wrong is found."""

import copy
from typing import Any

import pytest
from transformers import masking_utils
from transformers.models.gemma2 import modeling_gemma2

from proofbook.checks.registry import examine
from proofbook.verdict import Verdict
from test_checks import CHECKS, trial_of, verdict


def local(config: Any, *args: Any, **kwargs: Any) -> Any:
    return masking_utils.create_sliding_window_causal_mask(config, *args, **kwargs)


@pytest.mark.parametrize("model", ["gemma2", "gemma3"])
def test_right_windows_pass(model: str) -> None:
    assert verdict("layer-windows", trial_of(model)) is Verdict.PASS


@pytest.mark.parametrize("change", [-1, 1])
def test_a_window_off_by_one_is_found(change: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def off(config: Any, *args: Any, **kwargs: Any) -> Any:
        other = copy.deepcopy(config)
        other.sliding_window += change
        return local(other, *args, **kwargs)

    monkeypatch.setattr(modeling_gemma2, "create_sliding_window_causal_mask", off)
    assert verdict("layer-windows", trial_of("gemma2")) is Verdict.FAIL


def test_a_window_on_global_layers_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = modeling_gemma2.create_causal_mask

    def of_what_was_not_cached(*args: Any, past_key_values: Any = None, **kwargs: Any) -> Any:
        make = whole if past_key_values and past_key_values.get_seq_length() else local
        return make(*args, past_key_values=past_key_values, **kwargs)

    monkeypatch.setattr(modeling_gemma2, "create_causal_mask", of_what_was_not_cached)
    assert verdict("layer-windows", trial_of("gemma2")) is Verdict.FAIL


def test_a_window_lost_behind_a_cache_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(config: Any, *args: Any, past_key_values: Any = None, **kwargs: Any) -> Any:
        other = copy.deepcopy(config)
        if past_key_values and past_key_values.get_seq_length():
            other.sliding_window *= 2
        return local(other, *args, past_key_values=past_key_values, **kwargs)

    monkeypatch.setattr(modeling_gemma2, "create_sliding_window_causal_mask", lost)
    assert verdict("layer-windows", trial_of("gemma2")) is Verdict.FAIL


def test_a_model_without_windows_is_not_asked() -> None:
    finding = examine(CHECKS["layer-windows"], trial_of("llama"))
    assert finding.verdict is Verdict.SKIP
    assert finding.detail == "its configuration gives no layer a window of its own"
