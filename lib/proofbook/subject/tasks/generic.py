"""A task for classes that no other task knows: inputs derived from what ``forward`` takes, outputs in figures.

What a processor makes of raw input comes first. What ``forward`` takes beside that, and its name and the configuration
say the shape of, is made up from a seed. The answer is honest about meaning nothing: it describes the outputs.
"""

import inspect
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import transformers

from proofbook.subject.image_processors import lookup
from proofbook.subject.processors import part_of
from proofbook.subject.samples.images import clip, photographs
from proofbook.subject.samples.texts import PROMPTS
from proofbook.subject.tasks.audio import features, has_window, spoken_rows
from proofbook.subject.tasks.task import Encoded, Row, Subject, Task
from proofbook.subject.tasks.tokens import forward_parameters, texts_of, tokenized
from proofbook.subject.tasks.vision import encoded_pictures, framed, pictures
from proofbook.subject.tasks.vision_text import pad_before, without_prompt

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import PreTrainedModel

ROWS = 3
# steps of what a configuration does not say the length of, and new tokens of a decoder
STEPS = 8
# frames of sound, as codes
SPOKEN = 4
# outputs that an answer describes
DESCRIBED = 5


class Forward(Task):
    """One forward call; each row's share of the outputs in figures.

    Option ``rows``: how many, where a model takes no more.
    """

    names = ("forward",)
    unit = "rows"

    def rows(self, subject: Subject) -> list[Row]:
        kinds = modalities(subject)
        heard = spoken_rows(subject) if "audio" in kinds else [Row()] * ROWS
        shown = self.shown(subject) if "images" in kinds else [()] * ROWS
        frames = lookup(subject.config, "num_frames", "frames_per_clip") or 4
        texts = PROMPTS[:ROWS]
        return [
            Row(
                text=texts[n] if "text" in kinds else None,
                images=shown[n],
                video=clip(frames, n) if "videos" in kinds else None,
                audio=heard[n].audio,
                sampling_rate=heard[n].sampling_rate,
            )
            for n in range(subject.options.get("rows", ROWS))
        ]

    def encode(self, subject: Subject, rows: Sequence[Row]) -> Encoded:
        takes = forward_parameters(subject)
        made = {name: value for name, value in processed(subject, rows).items() if name in takes and name != "labels"}
        if "audio_input_ids" in takes - made.keys() and hasattr(subject.config, "codebook_size"):
            made = _with_places(made, subject.config.audio_token_id)
        return Encoded(with_derived(subject, made, len(rows)), len(rows))

    def answer(self, subject: Subject, model: "PreTrainedModel", rows: Sequence[Row], encoded: Encoded) -> list[Any]:
        outputs = {name: one for name, one in model(**encoded.inputs).items() if isinstance(one, torch.Tensor)}
        by_row = {name: one for name, one in outputs.items() if one.dim() and one.shape[0] == len(rows)}
        shown = list((by_row or outputs).items())[:DESCRIBED]
        return [{name: _described(one[row] if by_row else one) for name, one in shown} for row in range(len(rows))]

    def shown(self, subject: Subject) -> list[tuple["Image", ...]]:
        """The pictures of each row: one."""
        return [(photo,) for photo in framed(subject)]


class KeypointMatching(Forward):
    """Points of one picture found again in another."""

    names = ("keypoint-matching",)
    unit = "pairs of images"

    def shown(self, subject: Subject) -> list[tuple["Image", ...]]:
        """The pictures of each row: two."""
        photos = photographs()
        return [(photo, photos[n - 1]) for n, photo in enumerate(photos)]

    def encode(self, subject: Subject, rows: Sequence[Row]) -> Encoded:
        pairs = [list(row.images) for row in rows]
        return Encoded(dict(subject.processor(pairs, return_tensors="pt")), len(rows))


def _with_places(made: Mapping[str, Any], token: int) -> dict[str, Any]:
    """Texts behind the tokens that stand for the codes of a sound."""
    pad = {"input_ids": token, "attention_mask": 1}
    return {n: torch.nn.functional.pad(v, (SPOKEN, 0), value=pad[n]) if n in pad else v for n, v in made.items()}


class AudioTextToText(Forward):
    """A recording and what is asked about it, answered in the model's own words."""

    names = ("audio-text-to-text",)
    unit = "rows"

    def answer(self, subject: Subject, model: "PreTrainedModel", rows: Sequence[Row], encoded: Encoded) -> list[str]:
        written = model.generate(**encoded.inputs, max_new_tokens=STEPS, do_sample=False)
        answers = without_prompt(written, encoded.inputs["input_ids"])
        return list(part_of(subject.processor, "tokenizer").batch_decode(answers, skip_special_tokens=True))


def modalities(subject: Subject) -> frozenset[str]:
    """What raw input a subject reads: those of text, images, videos and audio that its processor and ``forward``
    both have a place for; or what option ``modalities`` names."""
    takes, processor = forward_parameters(subject), subject.processor
    if "modalities" in subject.options:
        return frozenset(subject.options["modalities"])
    pictures_taken = any(name.startswith(("pixel_values", "image", "flattened_patches")) for name in takes)
    filmed = _films(processor) or ("pixel_values_videos" in takes and "pixel_values" not in takes)
    there = {
        "text": part_of(processor, "tokenizer") is not None and "input_ids" in takes,
        "images": part_of(processor, "image_processor") is not None and pictures_taken and not filmed,
        "videos": pictures_taken and filmed,
        "audio": part_of(processor, "feature_extractor") is not None
        and getattr(subject.config, "audio_config", ...) is not None
        and any(name.startswith(("input_features", "input_values", "audio")) for name in takes),
    }
    return frozenset(kind for kind, is_there in there.items() if is_there)


def _films(processor: Any) -> bool:
    """Whether an image processor is made for clips, as some of older models are."""
    single = part_of(processor, "image_processor")
    return single is not None and "videos" in inspect.signature(single.preprocess).parameters


def processed(subject: Subject, rows: Sequence[Row]) -> dict[str, Any]:
    """What the processor makes of the rows; nothing where there is no processor."""
    kinds, processor = modalities(subject), subject.processor
    if not kinds:
        return {}
    clips = [list(row.video) for row in rows if row.video is not None]
    if processor is part_of(processor, "tokenizer"):
        return dict(tokenized(subject, texts_of(rows)))
    if processor is part_of(processor, "image_processor"):
        return dict(processor(clips, return_tensors="pt")) if clips else encoded_pictures(subject, rows)
    if processor is part_of(processor, "feature_extractor"):
        return features(subject, rows)
    given: dict[str, Any] = {}
    if "text" in kinds:
        given["text"] = [_prompt(processor, kinds, row) + subject.options.get("ending", "") for row in rows]
        pad_before(subject)
    if "images" in kinds:
        given["images"] = [list(row.images) for row in rows] if "text" in kinds else pictures(rows)
    if clips:
        given["videos"] = clips
    if "audio" in kinds:
        # where the extractor has a window of its own, only texts are padded to the longest
        windowed = has_window(part_of(processor, "feature_extractor"))
        return features(
            subject, rows, **({"text_kwargs": {"padding": True}} if windowed else {"padding": True}), **given
        )
    return dict(processor(**given, padding=True, return_tensors="pt"))


def _prompt(processor: Any, kinds: frozenset[str], row: Row) -> str:
    """A text behind the tokens that stand for what comes with it."""
    names = {"images": "image", "videos": "video", "audio": "audio"}
    tokens = (getattr(processor, f"{names[kind]}_token", None) for kind in sorted(kinds - {"text"}))
    return "".join(token for token in tokens if isinstance(token, str)) + (row.text or "")


def with_derived(subject: Subject, made: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """The inputs made, and those beside them that ``forward`` takes and that can be derived.

    Raises:
        LookupError: an argument without a default is neither made nor derived.
    """
    kind = getattr(transformers, subject.config.architectures[0])
    inputs = dict(made)
    for name, parameter in inspect.signature(kind.forward).parameters.items():
        if name in inputs or name == "self" or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        if parameter.default is not parameter.empty and (name.endswith("_mask") or (_is_raw(name) and made)):
            continue  # without a mask, all is there; and what the processor did not make of raw input needs no other
        derive = _DERIVED.get(name)
        if derive is not None and (value := derive(_Sizes(subject.config, inputs), name)) is not None:
            inputs[name] = value if isinstance(value, bool) else value[:rows]
        elif parameter.default is parameter.empty:
            raise LookupError(f"{kind.__name__}.forward needs {name!r}, and nothing is known to derive it from")
    return inputs


def _is_raw(name: str) -> bool:
    """Whether an argument is pictures or sound."""
    return name.startswith(("pixel_values", "input_features"))


class _Sizes:
    """The sizes that a configuration states, and the inputs made so far."""

    def __init__(self, config: Any, inputs: Mapping[str, Any]) -> None:
        self.config = config
        self.inputs = inputs

    def of(self, *names: str, default: int = STEPS) -> int:
        """The first of these attributes that the configuration has."""
        return int(next((found for name in names if (found := lookup(self.config, name)) is not None), default))

    @property
    def past(self) -> int:
        """Steps of a series that a model looks back on, those by which it lags included."""
        lags: list[int] = getattr(self.config, "lags_sequence", None) or [0]
        return self.of("context_length") + max(lags)

    @property
    def channels(self) -> tuple[int, ...]:
        """The last dimension of a series: its channels, where they have one of their own."""
        if hasattr(self.config, "num_input_channels"):
            return (int(self.config.num_input_channels),)
        count = self.of("input_size", default=1) if hasattr(self.config, "lags_sequence") else 1
        return (count,) if count > 1 else ()


def _noise(name: str, *shape: int) -> torch.Tensor:
    """Normal numbers, rows × shape: a row is the same in any batch, and another for each name."""
    rows = (torch.Generator().manual_seed(zlib.crc32(f"{name}{row}".encode())) for row in range(ROWS))
    return torch.stack([torch.randn(shape, generator=row) for row in rows])


def _ids(name: str, size: int, *shape: int) -> torch.Tensor:
    """Whole numbers below ``size``, rows × shape."""
    return (_noise(name, *shape).abs() * 1e4).long() % max(1, size)


def _decoder_ids(sizes: _Sizes, name: str) -> torch.Tensor | None:
    if not sizes.config.is_encoder_decoder:
        return None
    decoder: Any = getattr(sizes.config, "decoder_config", None)
    if hasattr(decoder, "num_channels"):  # of sound: a code a channel
        return _ids(name, decoder.vocab_size, STEPS, decoder.num_channels)
    return _ids(name, sizes.of("vocab_size"), STEPS)


def _frames(sizes: _Sizes, name: str) -> torch.Tensor | None:
    """Tokens of text, each with the codes of its moment, where a model takes both as one input."""
    if not hasattr(sizes.config, "codebook_vocab_size"):
        return None
    codes = _ids(f"{name}, codes", sizes.config.codebook_vocab_size - 1, STEPS, sizes.config.num_codebooks)
    return torch.cat([_ids(name, sizes.config.vocab_size, STEPS, 1), codes], dim=2)


def _spoken(sizes: _Sizes, name: str) -> torch.Tensor | None:
    """The codes of a sound that tokens stand for, frames × codebooks."""
    size = getattr(sizes.config, "codebook_size", None)
    return None if size is None else _ids(name, size, SPOKEN, sizes.of("num_codebooks"))


def _codes_beside(sizes: _Sizes, name: str) -> torch.Tensor | None:
    """Codes of the moment of each token, codebooks × length."""
    ids = sizes.inputs.get("input_ids")
    return None if ids is None else _ids(name, sizes.of("audio_vocab_size"), sizes.of("num_codebooks"), ids.shape[1])


_Derive = Callable[[_Sizes, str], torch.Tensor | bool | None]

# what an argument of that name is, from the configuration
_DERIVED: dict[str, _Derive] = {
    "input_ids": _frames,
    "decoder_input_ids": _decoder_ids,
    # codes of sound: beside the text, and in its place
    "user_audio_codes": _codes_beside,
    "moshi_audio_codes": _codes_beside,
    "audio_input_ids": _spoken,
    # series, rows × steps × channels, and what is known of each step
    "past_values": lambda s, name: _noise(name, s.past, *s.channels),
    "past_observed_mask": lambda s, name: torch.ones(ROWS, s.past, *s.channels),
    "past_time_features": lambda s, name: _noise(name, s.past, s.of("num_time_features")),
    "future_values": lambda s, name: _forecast(s, name, *s.channels),
    "future_time_features": lambda s, name: _forecast(s, name, s.of("num_time_features")),
    # trajectories, rows × steps × features
    "states": lambda s, name: _noise(name, STEPS, s.of("state_dim")),
    "actions": lambda s, name: _noise(name, STEPS, s.of("act_dim")),
    "rewards": lambda s, name: _noise(name, STEPS, 1),
    "returns_to_go": lambda s, name: _noise(name, STEPS, 1),
    "timesteps": lambda s, name: torch.arange(STEPS).repeat(ROWS, 1),
    # regions of pictures that another network found: features and places
    "visual_feats": lambda s, name: _noise(name, STEPS, s.of("visual_feat_dim")),
    "visual_pos": lambda s, name: _noise(name, STEPS, s.of("visual_pos_dim")).sigmoid(),
    "visual_embeds": lambda s, name: _noise(name, STEPS, s.of("visual_embedding_dim")),
    # sound and spectra where no processor makes them
    "input_features": lambda s, name: _noise(name, STEPS, s.of("num_mel_bins", "num_mel_channels", "feature_size")),
    "pixel_values_videos": lambda s, name: _noise(
        name, s.of("frames_per_clip", "num_frames"), 3, *(s.of("crop_size", "image_size", default=64),) * 2
    ),
    # noise that a forward call would add of itself
    "sample": lambda s, name: False,
    # which patches a masked autoencoder hides
    "noise": lambda s, name: _noise(name, (s.of("image_size") // s.of("patch_size")) ** 2),
    "noise_embeds": lambda s, name: _noise(name, STEPS, s.of("hidden_size")),
    # the hidden states of several layers of another model, side by side
    "context_hidden_states": lambda s, name: _noise(
        name, STEPS, s.of("hidden_size") * len(getattr(s.config, "target_layer_ids", [0]))
    ),
    "pixel_values": lambda s, name: _noise(
        name, s.of("num_channels", default=3), *(s.of("image_size", "input_size", default=64),) * 2
    ),
}


def _forecast(sizes: _Sizes, name: str, *features: int) -> torch.Tensor | None:
    """What follows a series, where the model reads it: that of an encoder and a decoder does."""
    if not sizes.config.is_encoder_decoder:
        return None
    return _noise(name, sizes.of("prediction_length"), *features)


def _described(tensor: torch.Tensor) -> dict[str, Any]:
    numbers = tensor.detach().float().cpu()
    return {
        "shape": tuple(numbers.shape),
        "mean": round(float(numbers.mean()), 4),
        "standard deviation": round(float(numbers.std(unbiased=False)), 4),
        "from": round(float(numbers.min()), 4),
        "to": round(float(numbers.max()), 4),
    }


TASKS: tuple[Task, ...] = (Forward(), KeypointMatching(), AudioTextToText())
