"""Every check of sound passes on a right model and fails on a fault planted for it."""

import functools
import inspect
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from proofbook.checks import spectra
from proofbook.checks.registry import examine
from proofbook.checks.trial import Trial
from proofbook.subject.processors import part_of
from proofbook.verdict import Verdict
from test_checks import CHECKS, changed, trial_of, verdict

HEARD = ["clap", "clvp", "encodec", "speech-to-text", "speecht5", "unispeech", "wav2vec2", "whisper"]


@pytest.mark.parametrize("name", HEARD)
def test_features_are_what_their_formula_gives(name: str) -> None:
    assert verdict("sound-features", trial_of(name)) is Verdict.PASS


@pytest.mark.parametrize(("name", "attribute"), [("unispeech", "do_normalize"), ("speech-to-text", "normalize_vars")])
def test_features_of_another_setting_are_found(name: str, attribute: str) -> None:
    trial = trial_of(name)
    extractor = part_of(trial.processor, "feature_extractor")
    setattr(extractor, attribute, False)
    trial.inputs  # noqa: B018 - made by the extractor as it is now
    setattr(extractor, attribute, True)
    assert verdict("sound-features", trial) is Verdict.FAIL


def test_a_filter_bank_that_is_off_by_a_thousandth_is_found() -> None:
    trial = trial_of("speecht5")
    part_of(trial.processor, "feature_extractor").mel_filters *= 1.001
    assert verdict("sound-features", trial) is Verdict.FAIL


def test_values_in_the_padding_of_features_are_found() -> None:
    trial = trial_of("unispeech")
    trial.inputs["input_values"][1, -1] = 0.5
    assert verdict("sound-features", trial) is Verdict.FAIL


def test_an_extractor_without_a_known_formula_is_skipped_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(spectra.FORMULAS, "WhisperFeatureExtractor")
    finding = examine(CHECKS["sound-features"], trial_of("whisper"))
    assert finding.verdict is Verdict.SKIP
    assert "WhisperFeatureExtractor" in finding.detail


@pytest.mark.parametrize("scale", ["slaney", "htk"])
def test_a_filter_bank_covers_every_frequency_between_its_ends_once(scale: str) -> None:
    bank = spectra.mel_bank(scale, 2048, 20, 16000, 100, 7000, unit_area=False)
    frequencies = np.arange(1025) * 16000 / 2048
    peaks = frequencies[bank.argmax(0)]
    inside = (frequencies > peaks[0]) & (frequencies < peaks[-1])
    assert np.allclose(bank[inside].sum(1), 1, atol=0.1)


def test_padding_that_an_extractor_normalises_is_found() -> None:
    assert verdict("padded-samples", trial_of("unispeech")) is Verdict.PASS
    unmasked = trial_of("unispeech")
    part_of(unmasked.processor, "feature_extractor").return_attention_mask = False
    assert verdict("padded-samples", unmasked) is Verdict.FAIL


def test_padding_that_a_model_reads_is_found() -> None:
    trial = trial_of("unispeech")
    assert verdict("padded-sound", trial) is Verdict.PASS
    deaf = trial_of("unispeech")
    deaf.model.register_forward_pre_hook(
        lambda _model, args, given: (args, {**given, "attention_mask": torch.ones_like(given["attention_mask"])}),
        with_kwargs=True,
    )
    assert verdict("padded-sound", deaf) is Verdict.FAIL


def test_a_group_norm_over_time_is_a_reason_to_skip() -> None:
    finding = examine(CHECKS["padded-sound"], trial_of("wav2vec2"))
    assert finding.verdict is Verdict.SKIP
    assert "group norm" in finding.detail


def test_a_wrong_blank_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = trial_of("wav2vec2")
    assert verdict("ctc-transcription", trial) is Verdict.PASS
    tokenizer = trial.processor.tokenizer
    monkeypatch.setattr(
        type(tokenizer), "convert_tokens_to_string", lambda _self, tokens, **_: {"text": "".join(tokens)}
    )
    assert verdict("ctc-transcription", trial) is Verdict.FAIL


def test_a_transcription_that_depends_on_other_recordings_is_found() -> None:
    trial = trial_of("whisper")
    assert verdict("generated-transcription", trial) is Verdict.PASS
    mixed = trial_of("whisper")
    changed(mixed.model.model.encoder.layer_norm, lambda states: states - states.mean(0, keepdim=True))
    assert verdict("generated-transcription", mixed) is Verdict.FAIL


def test_a_right_codec_passes() -> None:
    trial = trial_of("encodec")
    assert [verdict(name, trial) for name in ("codes", "round-trip")] == [Verdict.PASS] * 2


def test_codes_that_depend_on_other_sounds_are_found() -> None:
    trial = trial_of("encodec")
    changed(trial.model.encoder, lambda states: states - states.mean(0, keepdim=True))
    assert verdict("codes", trial) is Verdict.FAIL


def test_codes_outside_of_their_codebook_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = trial_of("encodec")
    kind = type(trial.model)
    encode = kind.encode

    @functools.wraps(encode)
    def counted_from_one(*args: Any, **given: Any) -> Any:
        coded = encode(*args, **given)
        coded.audio_codes = coded.audio_codes + trial.config.codebook_size - 1
        return coded

    trial.outputs  # noqa: B018 - before encode is replaced
    monkeypatch.setattr(kind, "encode", counted_from_one)
    finding = examine(CHECKS["codes"], trial)
    assert finding.verdict is Verdict.FAIL
    assert "outside" in finding.detail


def test_a_decoder_that_drops_its_end_is_found() -> None:
    trial = trial_of("encodec")
    trial.outputs  # noqa: B018 - before the fault is planted
    changed(trial.model.decoder, lambda sound: sound[..., :-640])
    assert verdict("round-trip", trial) is Verdict.FAIL


def test_speech_is_made_again_and_by_the_vocoder_alone() -> None:
    trial = trial_of("speecht5")
    assert [verdict(name, trial) for name in ("made-again", "vocoder")] == [Verdict.PASS] * 2


def test_noise_of_another_seed_is_found() -> None:
    trial = trial_of("speecht5")
    draws = torch.Generator().manual_seed(0)

    def noisy(states: Tensor) -> Tensor:
        return states + torch.randn(states.shape, generator=draws)

    changed(trial.model.speech_decoder_postnet.feat_out, noisy)
    assert verdict("made-again", trial) is Verdict.FAIL


def test_a_spectrogram_of_nothing_is_found() -> None:
    trial = trial_of("speecht5")
    changed(trial.model.speech_decoder_postnet.feat_out, torch.log)
    finding = examine(CHECKS["made-again"], trial)
    assert finding.verdict is Verdict.FAIL
    assert "NaN" in finding.detail


def test_a_vocoder_that_is_given_other_spectrograms_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = trial_of("speecht5")
    generate: Any = trial.model.generate

    def louder(*args: Any, vocoder: Any = None, **given: Any) -> Any:
        return generate(*args, **given, vocoder=vocoder and (lambda frames: vocoder(frames * 1.01)))

    louder.__signature__ = inspect.signature(generate)  # type: ignore[attr-defined]
    monkeypatch.setattr(trial.model, "generate", louder)
    assert verdict("vocoder", trial) is Verdict.FAIL


def test_trials_of_text_have_no_sound() -> None:
    trial: Trial = trial_of("bert")
    names = [check.name for check in CHECKS.values() if check.family in {"sound", "codecs", "speaking"}]
    assert {verdict(name, trial) for name in names} == {Verdict.SKIP}
