"""Feature extractors: the model's own class, from its own defaults, with the sizes that the configuration asks for."""

import inspect
import math
from collections.abc import Iterator
from typing import Any

import transformers

from proofbook.catalog import Model
from proofbook.compat import PreTrainedConfig, feature_extractor_name
from proofbook.subject.image_processors import processor_homes

# parameters of feature extractors that are facts of the model, and the names that configurations have for them
_SHARED = {
    "sampling_rate": ("sampling_rate", "sample_rate"),
    "num_mel_bins": ("num_mel_bins", "input_feat_per_channel"),
    "chunk_length_s": ("chunk_length_s",),
    "overlap": ("overlap",),
    "model_in_channels": ("model_in_channels",),
}
_MEL_BINS = ("num_mel_bins", "input_feat_per_channel", "feature_size")
_CHANNELS = ("audio_channels",)


def build_feature_extractor(spec: Model, config: PreTrainedConfig) -> Any:
    """The feature extractor of a model, as the repository of its checkpoint would hold it.

    Args:
        spec: the model; ``tiny.processor`` may give the ``class`` and parameters of it, under ``feature_extractor``.
        config: the configuration of the model, shrunk or not. Where the extractor's window can't be as short as
            ``max_source_positions`` says, it is longer: :func:`fit_window` then lengthens the configuration.

    Raises:
        LookupError: transformers has no feature extractor for the model's type.
    """
    parts = (part.model_type.removesuffix("_encoder") for part in _parts(config))
    kinds = [spec.model_type, *processor_homes(spec.model_type), *parts, *_forerunners(spec.model_type)]
    given = dict(spec.tiny.processor.get("feature_extractor", {})) if spec.tiny else {}
    name = given.pop("class", None) or next(filter(None, map(feature_extractor_name, kinds)), None)
    if name is None:
        raise LookupError(f"{spec.name}: transformers has no feature extractor for model type {spec.model_type!r}")
    kind = getattr(transformers, name)
    return kind(**_parameters(kind, config) | given)


def _forerunners(model_type: str) -> Iterator[str]:
    """The types whose names this one continues: `moonshine` of `moonshine_streaming`."""
    words = model_type.split("_")
    return ("_".join(words[:count]) for count in range(len(words) - 1, 0, -1))


def fit_window(config: PreTrainedConfig, extractor: Any) -> None:
    """Give the encoder as many source positions as the extractor's fixed window fills, in place.

    An extractor that pads every clip to a window of whole seconds (Whisper's) can't follow a shrunk
    ``max_source_positions`` to the frame, and its encoder accepts that one length only.
    """
    frames = getattr(extractor, "nb_max_frames", None)
    owner = _owner(config, ("max_source_positions",))
    if frames is not None and owner is not None:
        owner.max_source_positions = round(frames * _positions_per_frame(type(extractor), owner))


def _parameters(kind: type, config: PreTrainedConfig) -> dict[str, Any]:
    """What the configuration says of the extractor's parameters; the class's defaults hold for the rest."""
    accepted = inspect.signature(kind).parameters
    found = {name: _value(config, keys) for name, keys in _SHARED.items() if name in accepted}
    if "feature_size" in accepted:
        # one value a sample is a waveform, whose values are its channels; more than one are mel bins
        found["feature_size"] = _value(config, _CHANNELS if accepted["feature_size"].default == 1 else _MEL_BINS)
    if "chunk_length" in accepted:
        found["chunk_length"] = _whole_seconds(kind, config)
    if "max_length_s" in accepted:
        found["max_length_s"] = _seconds_of_spectrogram(kind, config)
    if "truncation" in accepted:
        # CLAP: only the variant with fusion has weights for the four views of a long clip
        found["truncation"] = "fusion" if _value(config, ("enable_fusion",)) else "rand_trunc"
    if getattr(config, "feat_extract_norm", None) == "layer":
        # the family of wav2vec2: a group norm over time sees the padding, so that its models were trained without a
        # mask, as the extractor's default has it; those with layer norm need one
        found["return_attention_mask"] = True
    return {name: value for name, value in found.items() if value is not None}


def _whole_seconds(kind: type, config: PreTrainedConfig) -> int | None:
    """The window of an extractor that counts it in seconds, for an encoder of so many positions."""
    owner = _owner(config, ("max_source_positions",))
    if owner is None:
        return None
    frames = float(owner.max_source_positions / _positions_per_frame(kind, owner))
    default = kind()
    return max(1, math.ceil(frames * int(default.hop_length) / int(default.sampling_rate)))


def _seconds_of_spectrogram(kind: type, config: PreTrainedConfig) -> int | None:
    """The window of an extractor whose model folds the spectrogram into a square of ``spec_size`` (CLAP)."""
    owner = _owner(config, ("spec_size",))
    if owner is None:
        return None
    frames = int(owner.spec_size * (owner.spec_size // owner.num_mel_bins))
    default = kind()
    return max(1, frames * int(default.hop_length) // int(default.sampling_rate))


def _positions_per_frame(kind: type, owner: PreTrainedConfig) -> float:
    """Encoder positions a frame: the ratio of the classes' defaults, which belong together."""
    return float(type(owner)().max_source_positions / kind().nb_max_frames)


def _value(config: PreTrainedConfig, names: tuple[str, ...]) -> Any:
    owner = _owner(config, names)
    return None if owner is None else next(getattr(owner, name) for name in names if hasattr(owner, name))


def _owner(config: PreTrainedConfig, names: tuple[str, ...]) -> PreTrainedConfig | None:
    """The configuration that has one of the names: itself first, then its parts in their order."""
    return next((c for c in _parts(config) if any(hasattr(c, name) for name in names)), None)


def _parts(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    yield config
    for value in vars(config).values():
        if isinstance(value, PreTrainedConfig):
            yield from _parts(value)
