"""Tasks on sound: from recordings and sentences to answers, through tiny models."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from chains import chain
from proofbook.subject.samples.audio import recordings

# one at least for each task, and for each way in which a processor pads
NAMES = (
    "wav2vec2",
    "data2vec-audio",
    "whisper",
    "speech-to-text",
    "clap",
    "encodec",
    "speecht5",
    "musicgen",
    "clvp",
    "bark",
)


def main_output(outputs: Any) -> torch.Tensor:
    names = ("logits", "spectrogram", "audio_values", "logits_per_audio", "decoder_hidden_states")
    found = next(outputs[name] for name in names if name in outputs)
    return found[-1] if isinstance(found, tuple) else found


@pytest.mark.parametrize("name", NAMES)
def test_every_row_has_an_answer_and_outputs_are_finite(name: str) -> None:
    of = chain(name)
    assert len(of.rows) == 3
    assert main_output(of.outputs()).isfinite().all()
    assert len(of.answers) == 3


@pytest.mark.parametrize(
    ("name", "sound"),
    [
        ("wav2vec2", "input_values"),
        ("whisper", "input_features"),
        ("speech-to-text", "input_features"),
        ("clap", "input_features"),
        ("encodec", "input_values"),
        ("speecht5", "decoder_input_values"),
        ("clvp", "input_features"),
    ],
)
def test_the_sound_decides(name: str, sound: str) -> None:
    of = chain(name)
    other = main_output(of.outputs(**{sound: of.encoded.inputs[sound].flip(-1)}))
    assert (other - main_output(of.outputs())).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["whisper", "speech-to-text", "speecht5", "musicgen", "clvp", "bark"])
def test_the_text_decides(name: str) -> None:
    of = chain(name)
    text = "decoder_input_ids" if "decoder_input_ids" in of.encoded.inputs else "input_ids"
    ids = of.encoded.inputs[text].clone()
    ids[0].view(-1)[2] = ids[0].view(-1)[2] - 1
    assert (main_output(of.outputs(**{text: ids})) - main_output(of.outputs())).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["data2vec-audio", "whisper", "speech-to-text", "clap", "encodec", "speecht5", "clvp"])
def test_clips_are_unequal_where_padding_is_honoured(name: str) -> None:
    assert len({len(row.audio) for row in chain(name).rows}) == 3  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["wav2vec2", "hubert"])
def test_clips_are_equal_where_there_is_no_mask(name: str) -> None:
    of = chain(name)
    assert "attention_mask" not in of.encoded.inputs
    assert len({len(row.audio) for row in of.rows}) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_a_row_is_encoded_the_same_in_any_batch(name: str) -> None:
    of = chain(name)
    alone = of.task.encode(of.subject, of.rows[:1]).inputs
    for key, value in of.encoded.inputs.items():
        if not torch.is_tensor(value) or (key == "is_longer"):
            continue
        first, single = value[0], alone[key][0]
        shared = tuple(slice(0, size) for size in single.shape)
        assert torch.allclose(first[shared], single, atol=1e-5), key


@pytest.mark.parametrize("name", ["wav2vec2", "whisper", "clap", "encodec", "speecht5"])
def test_work_is_the_length_of_the_sound(name: str) -> None:
    of = chain(name)
    seconds = sum(len(row.audio) / row.sampling_rate for row in of.rows)  # type: ignore[arg-type, operator]
    assert of.encoded.work == pytest.approx(seconds)
    assert 3 < of.encoded.work < 4


@pytest.mark.parametrize("name", ["whisper", "speech-to-text"])
def test_the_decoder_reads_the_words_from_the_start_token_on(name: str) -> None:
    of = chain(name)
    start = of.subject.config.decoder_start_token_id
    tokenizer = of.subject.processor.tokenizer
    ids, mask = of.encoded.inputs["decoder_input_ids"], of.encoded.inputs["decoder_attention_mask"]
    assert ids.shape == mask.shape
    assert (ids[:, 0] == start).all()
    for row, read, seen in zip(of.rows, ids, mask, strict=True):
        assert int(read[1]) != start
        said = tokenizer.decode(read[seen.bool()], skip_special_tokens=True).strip().lower()
        assert said == (row.text or "").lower()


def test_recognised_speech_is_text() -> None:
    assert all(isinstance(answer, str) for name in ("wav2vec2", "whisper") for answer in chain(name).answers)
    assert all(chain("wav2vec2").answers)


def test_labels_of_a_sound_come_best_first_and_sum_to_one() -> None:
    for answer in chain("clap").answers:
        scores = [one["score"] for one in answer]
        assert scores == sorted(scores, reverse=True)
        assert sum(scores) == pytest.approx(1, abs=1e-5)
        assert {one["label"] for one in answer} == set(chain("clap").rows[0].labels)


def test_sound_comes_back_from_the_codec_as_long_as_it_was() -> None:
    of = chain("encodec")
    for row, sound in zip(of.rows, of.answers, strict=True):
        assert sound.shape == (1, len(row.audio))  # type: ignore[arg-type]
        assert np.isfinite(sound).all()


def test_speech_is_taught_one_step_late_in_as_many_voices_as_rows() -> None:
    of = chain("speecht5")
    inputs = of.encoded.inputs
    assert (inputs["decoder_input_values"][:, 0] == 0).all()
    assert inputs["decoder_input_values"][:, 1].abs().sum() > 0
    voices = inputs["speaker_embeddings"]
    assert torch.allclose(voices.norm(dim=-1), torch.ones(3))
    assert (voices @ voices.T)[0, 1].abs() < 0.9


def test_the_voice_decides_what_is_spoken() -> None:
    of = chain("speecht5")
    voices = of.encoded.inputs["speaker_embeddings"]
    other = of.outputs(speaker_embeddings=-voices)["spectrogram"]
    assert (other - of.outputs()["spectrogram"]).abs().max() > 1e-3


def test_a_spectrogram_has_the_bins_of_the_configuration() -> None:
    of = chain("speecht5")
    assert all(answer.shape[1] == of.subject.config.num_mel_bins for answer in of.answers)


def test_codebooks_start_one_step_after_another() -> None:
    of = chain("musicgen")
    codes, config = of.encoded.inputs["decoder_input_ids"], of.subject.config.decoder
    assert codes.shape[:2] == (3, config.num_codebooks)
    for book in range(config.num_codebooks):
        assert (codes[:, book, : book + 1] == config.pad_token_id).all()
        assert (codes[:, book, book + 1 :] < config.vocab_size).all()


def test_another_description_makes_another_sound() -> None:
    of = chain("musicgen")
    one, two, _ = of.answers
    assert one.shape == two.shape
    assert np.abs(one - two).max() > 1e-3


def test_bark_reads_text_behind_its_own_codes_and_answers_with_sound() -> None:
    of = chain("bark")
    assert of.encoded.module == "semantic"
    assert of.encoded.inputs["input_ids"].min() >= of.subject.options["text_offset"]
    assert all(answer.ndim == 1 and len(answer) > 100 for answer in of.answers)


def test_what_a_checkpoint_says_of_generation_stays() -> None:
    of = copy.copy(chain("bark"))
    of.model = copy.deepcopy(of.model)
    of.model.generation_config.codebook_size = 1000
    of.answers_to(of.rows[:1])
    assert of.model.generation_config.codebook_size == 1000
    # what it does not say is the entry's
    assert of.model.generation_config.semantic_config == {"text_pad_token": 12635, "semantic_infer_token": 12639}


def test_clips_of_one_length_are_the_shortest_recording() -> None:
    of = chain("wav2vec2")
    assert len(of.rows[0].audio) == min(len(clip.samples) for clip in recordings())  # type: ignore[arg-type]


def test_a_longer_clip_makes_more_frames() -> None:
    of = chain("data2vec-audio")
    row = of.rows[0]
    longer = replace(row, audio=np.concatenate([row.audio, row.audio]))  # type: ignore[list-item]
    with torch.no_grad():
        frames = [of.model(**of.task.encode(of.subject, [one]).inputs).logits.shape[1] for one in (row, longer)]
    assert frames[1] == pytest.approx(2 * frames[0], abs=2)
