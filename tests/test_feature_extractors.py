"""Recordings, and feature extractors that fit the configuration they are built for."""

import numpy as np
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from proofbook.catalog import Category, Model, load_catalog
from proofbook.catalog.schema import Exception_
from proofbook.subject.feature_extractors import build_feature_extractor, fit_window
from proofbook.subject.samples.audio import recordings, resample
from proofbook.subject.shrink import full_config


def entry(model_type: str, model_class: str, **fields: object) -> Model:
    return Model.model_validate(
        {
            "name": "some-model",
            "category": Category.SPEECH,
            "model_type": model_type,
            "class": model_class,
            "task": "automatic-speech-recognition",
            "hub_id": "some/model",
            **fields,
        }
    )


WHISPER = entry("whisper", "WhisperForConditionalGeneration")
CLAP = entry("clap", "ClapModel")
WAV2VEC2 = entry("wav2vec2", "Wav2Vec2ForCTC")
SPEECH_TO_TEXT = entry("speech_to_text", "Speech2TextForConditionalGeneration")


def test_recordings_are_short_unequal_and_audible() -> None:
    clips = recordings()
    assert len(clips) == 3
    assert len({clip.language for clip in clips}) >= 2
    assert len({len(clip.samples) for clip in clips}) == 3
    for clip in clips:
        assert clip.samples.dtype == np.float32
        assert 1 <= clip.seconds <= 2
        assert 0.3 < np.abs(clip.samples).max() <= 1
        assert clip.text


def test_recordings_at_another_rate_last_as_long() -> None:
    for own, other in zip(recordings(), recordings(22050), strict=True):
        assert other.rate == 22050
        assert other.seconds == pytest.approx(own.seconds, abs=1e-3)


@given(st.sampled_from([8000, 22050, 24000, 32000, 44100, 48000]), st.integers(200, 3000))
@settings(max_examples=20, deadline=None)
def test_resampling_keeps_the_pitch(rate: int, pitch: int) -> None:
    seconds = np.arange(16000) / 16000
    tone = resample(np.sin(2 * np.pi * pitch * seconds).astype(np.float32), 16000, rate)
    assert len(tone) == rate
    assert np.abs(np.fft.rfft(tone)).argmax() == pytest.approx(pitch, abs=1)


def test_a_recording_given_away_may_be_written_to() -> None:
    recordings()[0].samples[:] = 0
    assert recordings()[0].samples.any()


@given(st.integers(1, 1500))
@settings(max_examples=15, deadline=None)
def test_whisper_features_fill_the_encoder(positions: int) -> None:
    config = transformers.WhisperConfig(max_source_positions=positions, num_mel_bins=16)
    extractor = build_feature_extractor(WHISPER, config)
    fit_window(config, extractor)
    assert config.max_source_positions >= positions
    assert config.max_source_positions - positions < 50  # a second
    sound = [clip.samples for clip in recordings()]
    features = extractor(sound, sampling_rate=16000, return_tensors="np")["input_features"]
    assert features.shape == (3, 16, 2 * config.max_source_positions)


def test_clap_spectrograms_fit_the_square_that_they_are_folded_into() -> None:
    config = transformers.ClapConfig(audio_config={"spec_size": 128, "num_mel_bins": 32})
    extractor = build_feature_extractor(CLAP, config)
    sound = [clip.samples for clip in recordings(48000)]
    features = extractor(sound, sampling_rate=48000, return_tensors="np")["input_features"]
    assert features.shape[0] == 3
    assert features.shape[1] == 1  # without fusion, one view
    assert features.shape[3] == 32
    assert 128 * (128 // 32) - 100 < features.shape[2] <= 128 * (128 // 32)


def test_clap_with_fusion_gets_four_views() -> None:
    config = transformers.ClapConfig(audio_config={"enable_fusion": True})
    assert build_feature_extractor(CLAP, config).truncation == "fusion"


@pytest.mark.parametrize(("norm", "masks"), [("group", False), ("layer", True)])
def test_wav2vec2_masks_padding_only_where_its_convolutions_ignore_it(norm: str, masks: bool) -> None:
    config = transformers.Wav2Vec2Config(feat_extract_norm=norm)
    assert build_feature_extractor(WAV2VEC2, config).return_attention_mask is masks


def test_both_names_for_mel_bins_follow_the_configuration() -> None:
    config = transformers.Speech2TextConfig(input_feat_per_channel=24)
    extractor = build_feature_extractor(SPEECH_TO_TEXT, config)
    assert (extractor.num_mel_bins, extractor.feature_size) == (24, 24)


def test_a_waveform_keeps_one_value_a_sample() -> None:
    spec = entry("speecht5", "SpeechT5ForTextToSpeech")
    extractor = build_feature_extractor(spec, transformers.SpeechT5Config(num_mel_bins=20))
    assert (extractor.feature_size, extractor.num_mel_bins) == (1, 20)


def test_the_rate_is_that_of_the_codec() -> None:
    config = transformers.EncodecConfig(sampling_rate=32000, audio_channels=2, chunk_length_s=1.0, overlap=0.01)
    extractor = build_feature_extractor(entry("encodec", "EncodecModel"), config)
    assert (extractor.sampling_rate, extractor.feature_size) == (32000, 2)
    assert (extractor.chunk_length, extractor.chunk_stride) == (config.chunk_length, config.chunk_stride)


def test_the_entry_has_the_last_word() -> None:
    said = Exception_(reason="because the test says so", processor={"feature_extractor": {"do_normalize": False}})
    spec = WAV2VEC2.model_copy(update={"tiny": said})
    assert build_feature_extractor(spec, transformers.Wav2Vec2Config()).do_normalize is False


def test_a_model_without_sound_is_named() -> None:
    with pytest.raises(LookupError, match=r"some-model.*'bert'"):
        build_feature_extractor(entry("bert", "BertModel"), transformers.BertConfig())


def test_every_speech_model_of_the_library_gets_its_own_class() -> None:
    mapping = transformers.models.auto.feature_extraction_auto.FEATURE_EXTRACTOR_MAPPING_NAMES
    models = [m for m in load_catalog().models.values() if m.category is Category.SPEECH and m.model_type in mapping]
    assert len(models) >= 10
    for model in models:
        config = transformers.AutoConfig.for_model(model.model_type)
        assert type(build_feature_extractor(model, config)).__name__ == mapping[model.model_type]


def test_a_type_without_an_extractor_has_that_of_the_type_whose_name_it_continues() -> None:
    spec = load_catalog().model("moonshine_streaming")
    assert type(build_feature_extractor(spec, full_config(spec))).__name__ == "Wav2Vec2FeatureExtractor"
