"""What differs between the releases of transformers, by the names of the newest: 4.50 and later are supported.

The rest of proofbook is written for transformers 5 and takes from here whatever 4 calls or shapes otherwise. Imports
transformers: not for planning.
"""

import inspect
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub.errors import StrictDataclassError
from packaging.version import Version
from transformers import cache_utils, modeling_utils
from transformers.models.auto.configuration_auto import model_type_to_module_name
from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING_NAMES
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES, tokenizer_class_from_name

# the file in which releases before 5 keep the settings of a processor of videos
_VIDEO_SETTINGS = "video_preprocessor_config.json"

try:
    from transformers import PreTrainedConfig
except ImportError:
    from transformers import PretrainedConfig as PreTrainedConfig
try:
    from transformers import TokenizersBackend
except ImportError:
    from transformers import PreTrainedTokenizerFast as TokenizersBackend
try:
    from transformers.initialization import no_init_weights
except ImportError:
    from transformers.modeling_utils import no_init_weights
try:
    from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING_NAMES
except ImportError:
    VIDEO_PROCESSOR_MAPPING_NAMES = {}
try:
    from transformers.video_processing_utils import VideoProcessorMixin
except ImportError:
    from transformers.image_processing_utils import BaseImageProcessor

    class VideoProcessorMixin(BaseImageProcessor):  # type: ignore[misc, no-redef]
        """Of processors of videos; what it saves lies beside the settings of an image processor."""

        def __call__(self, videos: Any, **kwargs: Any) -> Any:
            return self.preprocess(videos, **kwargs)

        def save_pretrained(self, save_directory: Any, **kwargs: Any) -> list[str]:
            path = Path(save_directory) / _VIDEO_SETTINGS
            self.to_json_file(path)
            return [str(path)]


__all__ = [
    "DTYPE",
    "PreTrainedConfig",
    "SubConfig",
    "TokenizersBackend",
    "VideoProcessorMixin",
    "as_argument",
    "declared",
    "feature_extractor_name",
    "image_processor_names",
    "image_processor_settings",
    "model_type_to_module_name",
    "no_init_weights",
    "own_arguments",
    "part_classes",
    "pil_processor",
    "prefers_pil",
    "processor_parts",
    "saved_video_settings",
    "sub_configs_defaults",
    "tokenizer_class",
    "tokenizer_name",
    "usual_of",
    "video_processor_name",
]

_RELEASE = Version(transformers.__version__)
_IS_4 = _RELEASE.major < 5
# the argument of `from_pretrained`
DTYPE = "dtype" if Version("4.56") <= _RELEASE else "torch_dtype"
# the module itself: what some releases hand out under its name raises where torchvision is missing
image_processing_auto: Any = import_module("transformers.models.auto.image_processing_auto")


@dataclass(frozen=True)
class SubConfig:
    """What a configuration class makes of a part of it unless told otherwise."""

    config_class: Any
    model_type: str
    init_kwargs: dict[str, Any] = field(default_factory=dict)


def declared(kind: Any) -> frozenset[str]:
    """The arguments that a configuration class declares, those of its bases included."""
    if is_dataclass(kind):
        return frozenset(each.name for each in fields(kind))
    own = [each for takes in _constructors(kind) for each in takes.values()]
    named = {each.name for each in own if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}
    # 4.5x turns the dtype into text where it can't be serialized, and `name_or_path` only tells where it came from
    common = vars(PreTrainedConfig()).keys() | {"num_labels"}
    return frozenset({name for name in named | common if not name.startswith("_")} - {"self", "torch_dtype"})


def _constructors(kind: Any) -> Iterator[Mapping[str, inspect.Parameter]]:
    """What the constructor of a class takes, and those of its bases, short of the library's own, that get the rest."""
    for base in inspect.getmro(kind):
        if base is PreTrainedConfig:
            return
        if own := vars(base).get("__init__"):
            takes = inspect.signature(own).parameters
            yield takes
            if not any(each.kind is each.VAR_KEYWORD for each in takes.values()):
                return


def sub_configs_defaults(kind: Any) -> Mapping[str, Any]:
    """By name of a part: ``config_class``, ``model_type`` and ``init_kwargs`` of what the class itself makes of it."""
    own = getattr(kind, "sub_configs_defaults", None)
    if own is not None:
        return dict(own)
    if _lacks_defaults(kind):
        return {name: SubConfig(part, getattr(part, "model_type", "")) for name, part in kind.sub_configs.items()}
    usual = usual_of(kind)  # of some classes only an instance knows its parts
    parts = {name: getattr(usual, name, None) for name in usual.sub_configs}
    return {
        name: SubConfig(type(part), part.model_type, _differing(part))
        for name, part in parts.items()
        if isinstance(part, PreTrainedConfig)
    }


def part_classes(kind: Any) -> Mapping[str, Any]:
    """The classes of the parts of a configuration class, by name; of some before 5 only an instance knows them."""
    known = kind.sub_configs
    return dict(usual_of(kind).sub_configs if isinstance(known, property) else known)


def _differing(part: Any) -> dict[str, Any]:
    """The fields of a configuration that are not what its class makes of no arguments, nor follow from such."""
    usual = usual_of(type(part)).to_dict()
    return {name: value for name, value in part.to_dict().items() if name not in usual or usual[name] != value}


def _lacks_defaults(kind: Any) -> bool:
    return not is_dataclass(kind) and bool(getattr(kind, "has_no_defaults_at_init", False))


def usual_of(kind: Any) -> Any:
    """What a configuration class makes of no arguments; one without fields where 4 can't make it without its parts,
    or where the class refuses its own defaults."""
    try:
        return PreTrainedConfig() if _lacks_defaults(kind) else kind()
    except StrictDataclassError:
        return PreTrainedConfig()


def as_argument(part: Any) -> Any:
    """A part of a configuration as the class of the whole takes it: before they were dataclasses, as a mapping."""
    return part if is_dataclass(part) else part.to_dict()


def own_arguments(kind: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments for a configuration class as its release names them, with the parts that it can't do without.

    4 has ``rope_theta`` and ``partial_rotary_factor`` beside ``rope_scaling``, 5 has them all in ``rope_parameters``.
    """
    arguments = dict(given)
    if _IS_4 and "rope_parameters" in arguments:
        rope = dict(arguments.pop("rope_parameters"))
        for name in ("rope_theta", "partial_rotary_factor"):
            if name in rope:
                arguments[name] = rope.pop(name)
        if rope.get("rope_type") != "default" or len(rope) > 1:
            arguments["rope_scaling"] = rope
    if _lacks_defaults(kind):
        known = (name for name, part in sub_configs_defaults(kind).items() if part.model_type)
        arguments = {**{name: {} for name in known}, **arguments}
    return arguments


def tokenizer_name(model_type: str) -> str | None:
    """The class of tokenizers that transformers maps a model type to.

    Of 4's two, the one that reads plain files; where its processor takes another class only, that one.
    """
    names = TOKENIZER_MAPPING_NAMES.get(model_type)
    name = next(filter(None, names), None) if isinstance(names, tuple) else names
    taken = _taken(model_type, "tokenizer")
    return name if not taken or name in taken else taken[0]


def _taken(model_type: str, part: str) -> tuple[str, ...]:
    """The classes that the composite processor of a model type insists on for a part, as those of 4 do."""
    composite = getattr(transformers, PROCESSOR_MAPPING_NAMES.get(model_type) or "", None)
    named = getattr(composite, f"{part}_class", None) if _IS_4 else None
    names = (named,) if isinstance(named, str) else tuple(filter(None, named or ()))
    return () if any(name.startswith("Auto") for name in names) else names


def feature_extractor_name(model_type: str) -> str | None:
    """The class of feature extractors for sound of a model type; 4 maps those for images by the same table."""
    name: str | None = FEATURE_EXTRACTOR_MAPPING_NAMES.get(model_type)
    return None if _IS_4 and image_processor_names(model_type) else name


def tokenizer_class(name: str) -> Any:
    """The class of tokenizers of that name; where 4 has only the one written in Rust, that one. None without either."""
    if name == "TokenizersBackend":
        return TokenizersBackend
    return tokenizer_class_from_name(name) or tokenizer_class_from_name(f"{name}Fast")


def image_processor_names(model_type: str) -> dict[str, str]:
    """The classes of image processors that transformers maps a model type to, by backend: ``pil``, ``torchvision``."""
    found = image_processing_auto.IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type) or {}
    if not isinstance(found, Mapping):
        found = dict(zip(("pil", "torchvision"), found, strict=False))
    taken = _taken(model_type, "image_processor")
    if taken and not set(taken) & set(found.values()):
        found = dict(zip(("pil", "torchvision"), taken, strict=False))
    return {backend: name for backend, name in found.items() if name}


def prefers_pil(name: str | None) -> bool:
    """Whether transformers takes the processor for PIL although the one for torchvision, of that name, could be had."""
    return name in getattr(image_processing_auto, "DEFAULT_TO_PIL_BACKEND_IMAGE_PROCESSORS", ())


def image_processor_settings(cls: Any) -> frozenset[str]:
    """The settings that a class of image or video processors takes."""
    declares = getattr(cls, "valid_kwargs", None)
    if declares is not None:
        return frozenset(declares.__annotations__)
    # 4 keeps whatever else it is given, and composites read this from it
    return frozenset({*inspect.signature(cls.__init__).parameters, "image_seq_length"} - {"self", "kwargs"})


def pil_processor(name: str) -> Any:
    """The class of image processors of that name that works on PIL's pictures: of 4's, the one of that very name."""
    return getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)


def saved_video_settings(folder: Any, processor: Mapping[str, Any] | None) -> dict[str, Any]:
    """The settings of a processor of videos in a checkpoint's folder.

    Args:
        processor: what transformers read of the composite, of which 5 makes them a part.
    """
    part = (processor or {}).get("video_processor")
    path = Path(folder) / _VIDEO_SETTINGS
    return dict(part or (json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}))


def video_processor_name(model_type: str) -> str | None:
    """The class of video processors for a model type; None where it can't be had without torchvision."""
    found = VIDEO_PROCESSOR_MAPPING_NAMES.get(model_type)
    return found.get("torchvision") if isinstance(found, Mapping) else found


def processor_parts(cls: Any) -> list[str]:
    """The names of the parts of a composite class of processors."""
    parts = cls.get_attributes() if hasattr(cls, "get_attributes") else cls.attributes
    return list(parts)


class _NoLayer:
    """Before 4.54 a cache has no layers."""


DynamicLayer: Any = getattr(cache_utils, "DynamicLayer", _NoLayer)
DynamicSlidingWindowLayer: Any = getattr(cache_utils, "DynamicSlidingWindowLayer", _NoLayer)

# the register in which layers look up their implementation of attention; before 4.51 a plain mapping
AttentionInterface: Any = getattr(modeling_utils, "AttentionInterface", dict)


def checkpoint_activations(model: Any) -> None:
    """Let a model compute its layers' activations again in the backward pass; late releases of 5 renamed the method."""
    renamed = getattr(model, "activation_checkpointing_enable", None)
    if renamed is not None:
        renamed()
    else:  # the reentrant kind, which 4 takes by default, gives gradients to `backward` alone
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
