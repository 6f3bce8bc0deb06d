"""Causality, caching, padding, positions and generation: each check finds a fault planted for it in a real model."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import cache_utils
from transformers.generation import logits_process
from transformers.models.mistral import modeling_mistral

from proofbook.checks.hidden import without_padding
from proofbook.checks.registry import NotApplicable
from proofbook.checks.streams import Stream
from proofbook.checks.trial import Trial
from proofbook.verdict import Verdict
from test_checks import changed, trial_of, verdict

Arguments = dict[str, Any]


def called(module: nn.Module, change: Callable[[Arguments], Arguments]) -> None:
    """Let a module be called with other arguments, in copies of the model as well."""
    module.register_forward_pre_hook(lambda _module, args, kwargs: (args, change(kwargs)), with_kwargs=True)


def without(name: str) -> Callable[[Arguments], Arguments]:
    return lambda kwargs: {key: value for key, value in kwargs.items() if key != name}


def first_norm(trial: Trial) -> nn.Module:
    return next(module for module in trial.model.modules() if "Norm" in type(module).__name__)


CLEAN = ["causal", "cache-token-by-token", "cache-in-chunks", "cache-kinds", "cache-rows", "cache-switch"]


@pytest.mark.parametrize("model", ["gpt2", "t5"])
def test_a_right_decoder_passes(model: str) -> None:
    trial = trial_of(model)
    asked = [*CLEAN, "padding-changes-nothing", "masked-content", "greedy", "beams", "sampling"]
    assert {name: verdict(name, trial) for name in asked} == dict.fromkeys(asked, Verdict.PASS)


@pytest.mark.parametrize("model", ["llama", "bart"])
def test_causal_finds_a_look_ahead(model: str) -> None:
    trial = trial_of(model)
    norms = [module for module in trial.model.modules() if "Norm" in type(module).__name__]
    changed(norms[-1], lambda output: output + 0.05 * output.roll(-1, dims=1))
    assert verdict("causal", trial) is Verdict.FAIL


def test_causal_finds_tokens_that_are_not_read() -> None:
    trial = trial_of("llama")
    changed(trial.model.get_input_embeddings(), lambda output: output * 0 + 1)
    assert verdict("causal", trial) is Verdict.FAIL


def test_causality_is_not_asked_of_a_model_that_reads_both_ways() -> None:
    assert verdict("causal", trial_of("xlnet")) is Verdict.SKIP


def test_caching_finds_positions_off_by_one_behind_a_cache() -> None:
    trial = trial_of("llama")

    def shifted(kwargs: Arguments) -> Arguments:
        positions = kwargs["position_ids"]
        return {**kwargs, "position_ids": positions + (positions[0, 0] > 4).long()}

    called(trial.model.model.rotary_emb, shifted)
    for name in ("cache-token-by-token", "cache-in-chunks", "cache-kinds"):
        assert verdict(name, trial) is Verdict.FAIL


def test_cache_rows_finds_rows_that_stay_where_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_utils.CacheLayerMixin, "reorder_cache", lambda self, beam_idx: None)
    trial = trial_of("gpt2")
    assert verdict("cache-rows", trial) is Verdict.FAIL
    assert verdict("beams", trial) is Verdict.FAIL


def test_cache_kinds_finds_a_static_cache_that_overwrites(monkeypatch: pytest.MonkeyPatch) -> None:
    update = cache_utils.StaticLayer.update

    def overwriting(self: Any, keys: torch.Tensor, values: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        found = update(self, keys, values, *args, **kwargs)
        self.values[:, :, 0] = 0
        return found

    monkeypatch.setattr(cache_utils.StaticLayer, "update", overwriting)
    assert verdict("cache-kinds", trial_of("llama")) is Verdict.FAIL


@pytest.mark.parametrize("always", [True, False])
def test_cache_switch_finds_a_cache_that_was_not_asked_for_and_one_that_is_missing(always: bool) -> None:
    trial = trial_of("gpt2")
    _ = trial.outputs  # as the model is without the argument
    called(trial.model, lambda kwargs: {**kwargs, "use_cache": always})
    assert verdict("cache-switch", trial) is Verdict.FAIL


def test_encoder_outputs_reused_finds_outputs_scaled_on_their_way() -> None:
    trial = trial_of("t5")

    def scaled(kwargs: Arguments) -> Arguments:
        if (given := kwargs.get("encoder_outputs")) is not None:
            kwargs["encoder_outputs"] = type(given)(last_hidden_state=given.last_hidden_state * 1.001)
        return kwargs

    called(trial.model, scaled)
    assert verdict("encoder-outputs-reused", trial) is Verdict.FAIL


@pytest.mark.parametrize("model", ["gpt2", "bert", "t5"])
def test_padding_finds_a_mask_that_is_ignored(model: str) -> None:
    trial = trial_of(model)
    called(trial.model, without("attention_mask"))
    assert verdict("masked-content", trial) is Verdict.FAIL
    # a causal model padded on the right needs no mask, so that the left tells
    assert verdict("padding-changes-nothing", trial) is Verdict.FAIL


def test_padded_decoding_finds_a_mask_that_is_ignored_behind_the_prompt() -> None:
    trial = trial_of("llama")
    called(trial.model, lambda kwargs: without("attention_mask")(kwargs) if kwargs.get("past_key_values") else kwargs)
    assert verdict("padded-decoding", trial) is Verdict.FAIL


def test_cross_attention_mask_finds_one_that_is_ignored() -> None:
    trial = trial_of("bart")
    assert verdict("cross-attention-mask", trial) is Verdict.PASS
    called(trial.model, lambda kwargs: without("attention_mask")(kwargs) if "encoder_outputs" in kwargs else kwargs)
    assert verdict("cross-attention-mask", trial) is Verdict.FAIL


@pytest.mark.parametrize("size", [7, 9])
def test_window_finds_one_token_more_or_less(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = trial_of("mistral")
    assert verdict("window", trial) is Verdict.PASS
    right = modeling_mistral.create_sliding_window_causal_mask

    def off(config: Any, *args: Any, **kwargs: Any) -> Any:
        other = copy.deepcopy(config)
        other.sliding_window = size
        return right(other, *args, **kwargs)

    monkeypatch.setattr(modeling_mistral, "create_sliding_window_causal_mask", off)
    assert verdict("window", trial) is Verdict.FAIL


def test_beyond_the_trained_length_finds_positions_that_stop() -> None:
    trial = trial_of("llama")

    def stopped(module: nn.Module, args: Any, kwargs: Arguments) -> Any:
        if args[0].dtype is torch.float32:  # truth stays right
            kwargs = {**kwargs, "position_ids": kwargs["position_ids"].clamp_max(511)}
        return args, kwargs

    trial.model.model.rotary_emb.register_forward_pre_hook(stopped, with_kwargs=True)
    assert verdict("beyond-trained-length", trial) is Verdict.FAIL


def test_greedy_finds_prompts_whose_padding_is_read() -> None:
    trial = trial_of("gpt2")
    prepare = trial.model.prepare_inputs_for_generation
    trial.model.prepare_inputs_for_generation = lambda *args, **kwargs: without("attention_mask")(
        prepare(*args, **kwargs)
    )
    assert verdict("greedy", trial) is Verdict.FAIL


def test_sampling_finds_noise_and_tokens_that_are_not_likely(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = trial_of("gpt2")
    monkeypatch.setattr(logits_process.TopKLogitsWarper, "__call__", lambda self, ids, scores: scores)
    assert verdict("sampling", trial) is Verdict.FAIL
    monkeypatch.undo()
    assert verdict("sampling", trial) is Verdict.PASS
    noise = torch.Generator().manual_seed(0)
    changed(trial.model.lm_head, lambda output: output + 3 * torch.randn(output.shape, generator=noise))
    assert verdict("sampling", trial) is Verdict.FAIL


def test_forced_tokens_find_one_that_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = trial_of("bart")
    assert verdict("forced-tokens", trial) is Verdict.PASS
    monkeypatch.setattr(logits_process.ForcedBOSTokenLogitsProcessor, "__call__", lambda self, ids, scores: scores)
    assert verdict("forced-tokens", trial) is Verdict.FAIL


def test_rows_without_padding_are_padded_again_on_either_side() -> None:
    stream = Stream("input_ids", "attention_mask")
    rows = [{"input_ids": torch.tensor([[5, 6, 7]])}, {"input_ids": torch.tensor([[8]])}]
    left, right = (stream.batch(rows, side, fill=1) for side in ("left", "right"))
    assert left["input_ids"].tolist() == [[5, 6, 7], [1, 1, 8]]
    assert right["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert stream.unpadded({name: value[1:] for name, value in left.items()})["input_ids"].tolist() == [[8]]


def test_codes_of_a_tokens_moment_are_cut_and_padded_with_it() -> None:
    stream = Stream("input_ids", "attention_mask")
    codes = torch.arange(6).view(1, 2, 3)  # two codebooks, three tokens
    row = {"input_ids": torch.tensor([[5, 6, 7]]), "user_audio_codes": codes}
    cut = stream.cut(row, 1, 3)
    assert cut["user_audio_codes"].tolist() == [[[1, 2], [4, 5]]]
    batch = stream.batch([row, cut], "left", fill=1)
    assert batch["user_audio_codes"][1].tolist() == [[0, 1, 2], [0, 4, 5]]
    alone = stream.unpadded({name: value[1:] for name, value in batch.items()})
    assert torch.equal(alone["user_audio_codes"], cut["user_audio_codes"])


def test_frames_that_a_model_halves_are_hidden_as_their_mask_says() -> None:
    mask = torch.arange(10) < torch.tensor([[10], [5]])
    inputs = {"input_features": torch.randn(2, 10, 8), "attention_mask": mask}
    states, others = torch.ones(2, 3, 4), torch.ones(2, 4, 4)
    hidden = without_padding({"states": states, "others": others}, inputs)
    assert hidden["states"][:, :, 0].tolist() == [[1, 1, 1], [1, 1, 0]]  # 10 → 5 → 3, 5 → 3 → 2
    assert torch.equal(hidden["others"], others)


def test_a_model_without_tokens_decodes_nothing() -> None:
    with pytest.raises(NotApplicable, match="reads no tokens"):
        _ = trial_of("vit").decoder
