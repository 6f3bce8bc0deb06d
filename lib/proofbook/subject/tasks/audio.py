"""Tasks on sound: speech to text, text to speech, sounds made, named and coded."""

import inspect
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from proofbook.subject.processors import part_of
from proofbook.subject.samples.audio import recordings
from proofbook.subject.tasks.task import Encoded, Row, Subject, Task
from proofbook.subject.tasks.tokens import work
from proofbook.subject.tasks.vision import Answer, best_labels

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

# of text: as many as what is said in a recording takes
_NEW_TOKENS = 24
# of codes: enough to see that generation works
_NEW_CODES = 8


class SpeechRecognition(Task):
    """What is said: the best label of each frame, collapsed (CTC), or the text that a decoder writes."""

    names = ("automatic-speech-recognition",)
    unit = "seconds of audio"

    def rows(self, subject: Subject) -> list[Row]:
        return spoken_rows(subject)

    def encode(self, subject: Subject, rows: Sequence[Row]) -> Encoded:
        inputs = features(subject, rows)
        if subject.config.is_encoder_decoder:
            inputs |= _teacher_forced(subject, rows)
        return Encoded(inputs, _seconds(rows))

    def answer(self, subject: Subject, model: "PreTrainedModel", rows: Sequence[Row], encoded: Encoded) -> list[str]:
        if model.can_generate():
            ids = model.generate(**_prompt(encoded.inputs), max_new_tokens=_NEW_TOKENS, do_sample=False)
            return list(subject.processor.batch_decode(ids, skip_special_tokens=True))
        labels = model(**encoded.inputs).logits.argmax(-1)
        return list(subject.processor.batch_decode(labels))


class ZeroShotAudioClassification(Task):
    """Which of some descriptions fits a sound."""

    names = ("zero-shot-audio-classification",)
    unit = "seconds of audio"

    _LABELS = ("a person speaking", "rain on the roof of an old car", "a dog")

    def rows(self, subject: Subject) -> list[Row]:
        return [replace(row, labels=self._LABELS) for row in spoken_rows(subject)]

    def encode(self, subject: Subject, rows: Sequence[Row]) -> Encoded:
        inputs = features(subject, rows, text=list(rows[0].labels), padding=True)
        return Encoded(inputs, _seconds(rows))

    def answer(
        self, subject: Subject, model: "PreTrainedModel", rows: Sequence[Row], encoded: Encoded
    ) -> list[list[Answer]]:
        scores = model(**encoded.inputs).logits_per_audio.float().softmax(-1)
        return [best_labels(of_row, row.labels) for row, of_row in zip(rows, scores, strict=True)]


class AudioCodec(Task):
    """Sound to codes and back; the answer is the sound that comes back."""

    names = ("audio-codec",)
    unit = "seconds of audio"

    def rows(self, subject: Subject) -> list[Row]:
        return spoken_rows(subject)

    def encode(self, subject: Subject, rows: Sequence[Row]) -> Encoded:
        return Encoded(features(subject, rows), _seconds(rows))

    def answer(
        self, subject: Subject, model: "PreTrainedModel", rows: Sequence[Row], encoded: Encoded
    ) -> list["np.ndarray[Any, Any]"]:
        mask = encoded.inputs["padding_mask"]
        coded = model.encode(encoded.inputs["input_values"], mask)
        sounds = model.decode(coded.audio_codes, coded.audio_scales, mask).audio_values
        lengths = mask.sum(-1).flatten().tolist()
        return [numbers(sound[..., :length]) for sound, length in zip(sounds, lengths, strict=True)]


class TextToSpeech(Task):
    """A sentence to its spectrogram, in a voice. A vocoder, a model of its own, makes sound of it."""

    names = ("text-to-speech",)
    unit = "seconds of audio"

    def rows(self, subject: Subject) -> list[Row]:
        return spoken_rows(subject)

    def encode(self, subject: Subject, rows: Sequence[Row]) -> Encoded:
        inputs = features(subject, rows, "audio_target", text=[row.text for row in rows], padding=True)
        spoken, mask = inputs.pop("labels"), inputs.pop("decoder_attention_mask")
        # the decoder writes `reduction_factor` frames a step, and reads the last of them
        step = subject.config.reduction_factor
        inputs["decoder_input_values"] = _shifted(spoken[:, step - 1 :: step], 0.0)
        inputs["decoder_attention_mask"] = _shifted(mask[:, step - 1 :: step], 1)
        inputs["speaker_embeddings"] = torch.stack([_voice(row, subject.config.speaker_embedding_dim) for row in rows])
        return Encoded(inputs, _seconds(rows))

    def answer(
        self, subject: Subject, model: "PreTrainedModel", rows: Sequence[Row], encoded: Encoded
    ) -> list["np.ndarray[Any, Any]"]:
        """Frames × mel bins a row."""
        spectrograms, lengths = model.generate(**_prompt(encoded.inputs), return_output_lengths=True)
        return [numbers(one)[:length] for one, length in zip(spectrograms, lengths, strict=True)]


class TextToAudio(Task):
    """Text to sound, by way of discrete codes.

    Options: ``module``, the part that reads the text, where the model has no forward of its own; ``text_offset``, how
    many ids that part has before the tokenizer's; ``forward`` and ``generate``, further arguments of these;
    ``generation_config``, what ``generate`` looks up, and a model made from a configuration alone does not have.
    """

    names = ("text-to-audio",)
    unit = "tokens"

    _DESCRIPTIONS = ("a slow waltz", "drums and a bass guitar, fast and loud", "birds in the rain, far away")

    def rows(self, subject: Subject) -> list[Row]:
        if subject.config.is_encoder_decoder:
            return [Row(text=text) for text in self._DESCRIPTIONS]
        if part_of(subject.processor, "feature_extractor") is None:
            return [Row(text=clip.text) for clip in recordings()]
        return spoken_rows(subject)  # the voice to speak with

    def encode(self, subject: Subject, rows: Sequence[Row]) -> Encoded:
        module = str(subject.options.get("module", ""))
        inputs = self._read(subject, rows)
        if module:
            inputs = {"input_ids": inputs["input_ids"] + subject.options["text_offset"]}
        elif subject.config.is_encoder_decoder:
            inputs["decoder_input_ids"] = torch.stack([_codes(row, subject.config.decoder) for row in rows])
        return Encoded({**inputs, **subject.options.get("forward", {})}, work(inputs), module)

    def answer(
        self, subject: Subject, model: "PreTrainedModel", rows: Sequence[Row], encoded: Encoded
    ) -> list["np.ndarray[Any, Any]"]:
        """Samples a row; codes a row where the model leaves the sound to a vocoder, a model of its own."""
        given = _prompt(encoded.inputs)
        if encoded.module:  # all its parts together read what the tokenizer wrote
            given = {name: value.to(model.device) for name, value in self._read(subject, rows).items()}
        options = subject.options.get("generate", {"max_new_tokens": _NEW_CODES})
        for name, value in subject.options.get("generation_config", {}).items():
            if not hasattr(model.generation_config, name):
                setattr(model.generation_config, name, value)
        made = model.generate(**given, **options, do_sample=False)
        return [numbers(one) for one in getattr(made, "speech_ids", made)]

    def _read(self, subject: Subject, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """The text as the processor encodes it, with the voice of the row's recording, if it has one."""
        text = [row.text for row in rows]
        if rows[0].audio is not None:
            return features(subject, rows, text=text, padding=True)
        # a processor of text alone pads by itself
        padding = {} if part_of(subject.processor, "feature_extractor") is None else {"padding": True}
        return dict(subject.processor(text=text, return_tensors="pt", **padding))


def spoken_rows(subject: Subject) -> list[Row]:
    """The recordings at the rate of the subject's feature extractor, with the words spoken.

    They are of unequal length, except for extractors that neither mask what they pad nor pad to a window: models
    behind those are run on clips of one length.
    """
    extractor = part_of(subject.processor, "feature_extractor")
    clips = recordings(extractor.sampling_rate)
    longest = None
    if not (extractor.return_attention_mask or has_window(extractor)):
        longest = min(len(clip.samples) for clip in clips)
    return [Row(text=clip.text, audio=clip.samples[:longest], sampling_rate=clip.rate) for clip in clips]


def features(subject: Subject, rows: Sequence[Row], argument: str = "audio", **more: Any) -> dict[str, Any]:
    """What the processor makes of the sound of the rows, passed as ``argument``; ``more`` goes to the processor."""
    extractor = part_of(subject.processor, "feature_extractor")
    sounds = [row.audio for row in rows]
    if not has_window(extractor):
        more.setdefault("padding", True)
    more |= {"sampling_rate": rows[0].sampling_rate, "return_tensors": "pt"}
    if extractor is subject.processor:
        return dict(extractor(sounds, **more))
    if "language" in inspect.signature(subject.processor.__call__).parameters:
        more.setdefault("language", "en")
    return dict(subject.processor(**{argument: sounds}, **more))


def has_window(extractor: Any) -> bool:
    """Whether every clip is padded to one length, of frames (Whisper) or of samples (CLAP)."""
    return hasattr(extractor, "nb_max_frames") or hasattr(extractor, "nb_max_samples")


def _seconds(rows: Sequence[Row]) -> float:
    return sum(len(row.audio) / row.sampling_rate for row in rows if row.audio is not None and row.sampling_rate)


def _teacher_forced(subject: Subject, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    """The spoken words as what the decoder reads: from the start token, which some tokenizers write themselves, to the
    last token but one."""
    tokens = subject.processor.tokenizer([row.text for row in rows], padding=True, return_tensors="pt")
    ids, mask, start = tokens["input_ids"], tokens["attention_mask"], subject.config.decoder_start_token_id
    if (ids[:, 0] == start).all():
        return {"decoder_input_ids": ids[:, :-1], "decoder_attention_mask": mask[:, :-1]}
    return {"decoder_input_ids": _shifted(ids, start), "decoder_attention_mask": _shifted(mask, 1)}


def _shifted(steps: torch.Tensor, first: float) -> torch.Tensor:
    """One step later along dimension 1: ``first``, then all but the last."""
    return torch.cat([torch.full_like(steps[:, :1], first), steps[:, :-1]], dim=1)


def _prompt(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What ``generate`` is given of a forward call's arguments: all but what the decoder reads."""
    return {name: value for name, value in inputs.items() if not name.startswith("decoder_")}


def _codes(row: Row, config: "PreTrainedConfig") -> torch.Tensor:
    """Codes that a decoder has written so far, codebooks × steps: codebook k starts k steps late, on padding."""
    books, steps = config.num_codebooks, _NEW_CODES
    codes = torch.randint(config.vocab_size, (books, steps), generator=_generator(row))
    late = torch.arange(steps) <= torch.arange(books)[:, None]
    return codes.masked_fill(late, config.pad_token_id)


def _voice(row: Row, width: int) -> torch.Tensor:
    """A speaker's embedding, another for each text, always the same: such vectors come from a model of their own."""
    return torch.nn.functional.normalize(torch.randn(width, generator=_generator(row)), dim=0)


def _generator(row: Row) -> torch.Generator:
    """Random numbers that depend on the row's text alone, so that a row is the same in any batch."""
    return torch.Generator().manual_seed(zlib.crc32((row.text or "").encode()))


def numbers(tensor: torch.Tensor) -> "np.ndarray[Any, Any]":
    """On the CPU; floating point as float32, whole numbers as they are."""
    return (tensor.float() if tensor.is_floating_point() else tensor).detach().cpu().numpy()


TASKS: tuple[Task, ...] = (
    SpeechRecognition(),
    ZeroShotAudioClassification(),
    AudioCodec(),
    TextToSpeech(),
    TextToAudio(),
)
