"""Image processors: the model's real class in its own default configuration, at the size that the model takes."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import transformers
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
from transformers.processing_utils import ImagesKwargs
from transformers.utils import is_torchvision_available

from proofbook.catalog import Model
from proofbook.compat import PreTrainedConfig, image_processor_names, image_processor_settings, prefers_pil
from proofbook.subject.samples.images import photographs
from proofbook.verdict import Blocked

# pixels; what a network without a fixed size is given: a multiple of 32, the usual stride of its last stage
FREE_SIDE = 96

# a processor's setting: the names under which configurations hold the same thing
SYNONYMS = {
    "merge_size": ("spatial_merge_size",),
    "max_image_tiles": ("max_num_tiles",),
    "ensure_multiple_of": ("patch_size",),
    "max_patches": ("max_num_patches",),
    "image_seq_length": ("num_image_tokens", "mm_tokens_per_image"),
}


def build_image_processor(spec: Model, config: PreTrainedConfig) -> Any:
    """The image processor of a model, sized for ``config``.

    Its class is the one of transformers' mapping for the model's type, else for its vision tower's, else the plain one
    of ViT; the entry's ``tiny.processor.image_processor`` (``{class: …, setting: …}``) comes before all.

    Raises:
        LookupError: transformers maps no image processor to the model, which sees nothing.
        Blocked: the class exists, and its backend isn't installed.
    """
    chosen = dict(spec.tiny.processor.get("image_processor", {})) if spec.tiny else {}
    name = chosen.pop("class", None)
    cls = _available({"torchvision": name, "pil": f"{name}Pil"} if name else _mapped(spec.model_type, config))
    return cls(**{**settings(cls, config), **chosen})


def has_image_processor(model_type: str) -> bool:
    """Whether transformers maps an image processor to that model type."""
    return bool(image_processor_names(model_type))


def settings(cls: Any, config: PreTrainedConfig) -> dict[str, Any]:
    """What the class's default settings must change into for ``config``: sizes scaled, patches and tiles copied."""
    defaults = cls().to_dict()
    accepted = image_processor_settings(cls)
    if "clusters" in accepted:
        return _palette_settings(config)
    changed = _areas(config) if "min_pixels" in accepted else _scaled_sizes(defaults, config)
    for name in accepted:
        shared = name in ImagesKwargs.__annotations__ and name not in SYNONYMS
        value = None if shared else lookup(config, name, *SYNONYMS.get(name, ()))
        if value is not None:
            both = isinstance(defaults.get(name), Mapping) and isinstance(value, int)
            changed[name] = {"height": value, "width": value} if both else value
    if defaults.get("apply_ocr"):
        changed["apply_ocr"] = False  # the sample page comes with its words and boxes
    return changed


def lookup(config: PreTrainedConfig, *names: str) -> Any:
    """The first of these attributes that ``config`` has a value for, else one of its sub-configurations, the vision
    ones before the others; None where nothing has one."""
    for part in sub_configs(config):
        for name in names:
            value = getattr(part, name, None)
            if value is not None:
                return value
    return None


def image_side(config: PreTrainedConfig) -> tuple[int, int]:
    """The shorter and the longer side, in pixels, of the images that ``config`` is made for."""
    size = lookup(config, "image_size", "input_size", "max_img_size")
    if size is None:
        return FREE_SIDE, FREE_SIDE
    sides = [size] if isinstance(size, int) else list(size)
    return min(sides), max(sides)


def sub_configs(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    """``config`` itself, then its sub-configurations at any depth, the vision ones before the others."""
    yield config
    parts = {name: getattr(config, name, None) for name in config.sub_configs}
    for name in sorted(parts, key=lambda name: not ("vision" in name or "image" in name)):
        part = parts[name]
        if isinstance(part, PreTrainedConfig):
            yield from sub_configs(part)


def _scaled_sizes(defaults: Mapping[str, Any], config: PreTrainedConfig) -> dict[str, Any]:
    """Every size of the class, scaled by the one factor that makes its final images as large as ``config`` takes.

    So the proportion of the resize to the crop, and of the shortest to the longest edge, stay those of the class.
    """
    sizes = {name: value for name, value in defaults.items() if name.endswith("size") and _is_size(value)}
    final = next(
        (
            sizes[name]
            for name, used in (
                ("max_image_size", True),
                ("crop_size", defaults.get("do_center_crop")),
                ("pad_size", defaults.get("do_pad")),
                ("size", True),
            )
            if used and name in sizes
        ),
        None,
    )
    if final is None:  # the class counts patches, not pixels
        return {}
    shorter, longer = image_side(config)
    factor = longer / final["longest_edge"] if "longest_edge" in final else shorter / min(final.values())
    scaled = {
        name: {edge: max(1, round(pixels * factor)) for edge, pixels in size.items()} for name, size in sizes.items()
    }
    for name, size in sizes.items():
        # a size for a vision part of its own: `high_res_size` for `high_res_vision_config`
        own = getattr(config, f"{name.removesuffix('size')}vision_config", None)
        if own is not None and own is not getattr(config, "vision_config", None):
            scaled[name] = dict.fromkeys(size, image_side(own)[0])
    return scaled


def _is_size(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and set(value) <= {"height", "width", "shortest_edge", "longest_edge"}
    )


def _areas(config: PreTrainedConfig) -> dict[str, Any]:
    """For processors whose ``size`` bounds the area: images of 2 to 16 merged patches."""
    unit = lookup(config, "patch_size") * (lookup(config, "spatial_merge_size") or 1)
    return {"size": {"shortest_edge": 2 * unit**2, "longest_edge": 16 * unit**2}}


def _palette_settings(config: PreTrainedConfig) -> dict[str, Any]:
    """For processors that turn pixels into indices of colours: as many pixels as there are positions, and a palette
    of the sample photographs' colours, one less than the vocabulary (its last entry starts a sequence)."""
    side = math.isqrt(int(config.n_positions))
    colours = np.unique(np.concatenate([np.asarray(photo).reshape(-1, 3) for photo in photographs()]), axis=0)
    evenly = np.linspace(0, len(colours) - 1, int(config.vocab_size) - 1).round().astype(int)
    clusters = (colours[evenly] / 127.5 - 1).astype(np.float32)
    return {"clusters": clusters, "size": {"height": side, "width": side}}


def _mapped(model_type: str, config: PreTrainedConfig) -> Mapping[str, str]:
    parts = [part.model_type.removesuffix("_vision_model") for part in sub_configs(config)]
    kinds = list(dict.fromkeys([model_type, *processor_homes(model_type), *_forebears(model_type), *parts]))
    for kind in kinds:
        if has_image_processor(kind):
            return image_processor_names(kind)
    if lookup(config, "num_channels", "image_size", "patch_size") is None:
        raise LookupError(f"transformers {transformers.__version__} maps no image processor to {', '.join(kinds)}")
    # the checkpoint names one then: a plain one resizes to the size of the configuration and normalises
    return {"torchvision": "ViTImageProcessor", "pil": "ViTImageProcessorPil"}


def processor_homes(model_type: str) -> list[str]:
    """The model type in whose package the composite processor of another is defined, which then shares its parts."""
    name = PROCESSOR_MAPPING_NAMES.get(model_type)
    return [getattr(transformers, name).__module__.split(".")[-2]] if name else []


def _forebears(model_type: str) -> list[str]:
    """The model types that a name goes on from, as ``rt_detr_v2`` from ``rt_detr``, the nearest first."""
    names = (model_type[:end] for end in range(len(model_type) - 1, 0, -1) if model_type[end] in "_-")
    return [name for name in names if has_image_processor(name)]


def _available(classes: Mapping[str, str]) -> Any:
    """The class for torchvision where that is installed, else the one for PIL, as transformers' AutoImageProcessor."""
    prefer_pil = not is_torchvision_available() or prefers_pil(classes.get("torchvision"))
    backends = ("pil", "torchvision") if prefer_pil else ("torchvision", "pil")
    names = [name for backend in backends if (name := classes.get(backend))]
    for name in names:
        cls = getattr(transformers, name, None)
        if cls is not None and not getattr(cls, "is_dummy", False):
            return cls
    raise Blocked(
        "torchvision",
        f"none of the image processors {', '.join(names)} can be imported without it",
        "Install the torchvision that matches the installed torch",
    )
