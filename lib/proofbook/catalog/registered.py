"""What the installed transformers registers, as entries of a catalog.

Imports torch and every model of transformers. So it is run as a program, ``python -m proofbook.catalog.registered``,
which prints the entries as JSON, and what it found is kept: see :mod:`proofbook.catalog.discovery`.
"""

import ast
import inspect
import json
import re
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import transformers
from transformers import CONFIG_MAPPING
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import model_type_to_module_name

from proofbook.catalog.schema import Category, Model
from proofbook.compat import part_classes

# transformers' mappings of heads, `MODEL_FOR_…_MAPPING_NAMES`, in the order in which a user would want them, each with
# the task of proofbook that validates it; `forward` derives its inputs from the signature (subject/tasks/generic.py)
_HEADS: tuple[tuple[str, str], ...] = (
    ("ZERO_SHOT_OBJECT_DETECTION", "zero-shot-object-detection"),
    ("ZERO_SHOT_IMAGE_CLASSIFICATION", "zero-shot-image-classification"),
    ("VISUAL_QUESTION_ANSWERING", "visual-question-answering"),
    ("RETRIEVAL", "forward"),
    ("MULTIMODAL_LM", "audio-text-to-text"),  # and IMAGE_TEXT_TO_TEXT, whose entries `_heads` takes first
    ("TEXT_TO_WAVEFORM", "forward"),
    ("TEXT_TO_SPECTROGRAM", "forward"),
    ("CTC", "automatic-speech-recognition"),
    ("RNNT", "forward"),
    ("TDT", "forward"),
    ("SPEECH_SEQ_2_SEQ", "automatic-speech-recognition"),
    ("AUDIO_CLASSIFICATION", "forward"),
    ("AUDIO_FRAME_CLASSIFICATION", "forward"),
    ("AUDIO_TOKENIZATION", "forward"),
    ("OBJECT_DETECTION", "object-detection"),
    ("INSTANCE_SEGMENTATION", "instance-segmentation"),
    ("UNIVERSAL_SEGMENTATION", "instance-segmentation"),
    ("SEMANTIC_SEGMENTATION", "image-segmentation"),
    ("IMAGE_SEGMENTATION", "image-segmentation"),
    ("DEPTH_ESTIMATION", "depth-estimation"),
    ("MASK_GENERATION", "mask-generation"),
    ("KEYPOINT_DETECTION", "forward"),
    ("KEYPOINT_MATCHING", "keypoint-matching"),
    ("POSE_ESTIMATION", "forward"),
    ("IMAGE_MATTING", "forward"),
    ("IMAGE_TO_IMAGE", "forward"),
    ("TEXT_RECOGNITION", "forward"),
    ("TABLE_RECOGNITION", "forward"),
    ("IMAGE_CLASSIFICATION", "image-classification"),
    ("VIDEO_CLASSIFICATION", "forward"),
    ("BACKBONE", "object-detection"),
    ("DOCUMENT_QUESTION_ANSWERING", "document-question-answering"),
    ("SEQ_TO_SEQ_CAUSAL_LM", "text2text-generation"),
    ("MASKED_LM", "fill-mask"),
    ("CAUSAL_LM", "text-generation"),
    ("TOKEN_CLASSIFICATION", "token-classification"),
    ("TIME_SERIES_PREDICTION", "forward"),
    ("TIME_SERIES_CLASSIFICATION", "forward"),
    ("DECISION", "forward"),
    ("PRETRAINING", "forward"),
)
# heads that make or write down what the category is about, whatever `forward` reads: codes of sound, for instance
_SPEAKING = ("TEXT_TO_WAVEFORM", "TEXT_TO_SPECTROGRAM", "SPEECH_SEQ_2_SEQ")
# tasks for which `forward` must read sound
_OF_SOUND = ("automatic-speech-recognition", "audio-text-to-text")
# tasks that hold for models which read pictures as well as text only where the head is of pictures and text
_OF_TEXT = ("text2text-generation", "fill-mask", "text-generation", "token-classification")

# what a task on pictures is called where the pictures are clips
_OF_CLIPS = {
    "image-to-text": "video-to-text",
    "zero-shot-image-classification": "video-classification",
    "instance-segmentation": "forward",
}


def entries() -> Iterator[Model]:
    """An entry for every model type that is a model of its own, in the order of transformers' register."""
    for model_type in own_types():
        chosen = _chosen_class(model_type)
        if chosen is not None:
            yield _entry(model_type, *chosen)


def entry_of(model_type: str, name: str = "") -> Model | None:
    """The entry of a type through its class ``name``, or through the one that is chosen for it; None if it has none."""
    chosen = _chosen_class(model_type)
    if name:
        chosen = next((head for head in _heads(model_type) if head[1] == name), ("", name, "forward"))
    return _entry(model_type, *chosen) if chosen else None


def own_types() -> list[str]:
    """The model types that are models of their own.

    A package of transformers (``models/NAME``) may register several types. The one that it is named after is a model
    of its own, and the others are parts or other spellings of it. Where none is named after it, each is one, except
    those that the configuration of another lists among its ``sub_configs``.
    """
    types = list(CONFIG_MAPPING)
    packages: dict[str, list[str]] = {}
    for model_type in types:
        packages.setdefault(model_type_to_module_name(model_type), []).append(model_type)
    own = set()
    for package, members in packages.items():
        namesakes = [member for member in members if _plain(member) == _plain(package)]
        own |= set(namesakes or set(members) - _parts(members))
    return [model_type for model_type in types if model_type in own]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _parts(members: list[str]) -> set[str]:
    subs = (sub for member in members for sub in part_classes(CONFIG_MAPPING[member]).values())
    listed = (getattr(sub, "model_type", "") for sub in subs)  # AutoConfig, which stands for any, has none
    return {part for part in listed if part in CONFIG_MAPPING}


def _heads(model_type: str) -> Iterator[tuple[str, str, str]]:
    """The heads of a type, the one that a user would want first: the name of the mapping, the class and the task."""
    if name := _mapped("IMAGE_TEXT_TO_TEXT", model_type):
        yield "IMAGE_TEXT_TO_TEXT", name, "image-to-text"
    for head, task in _HEADS:
        if name := _mapped(head, model_type):
            yield head, name, task


def _mapped(head: str, model_type: str) -> str | None:
    mapping = getattr(modeling_auto, f"MODEL_FOR_{head}_MAPPING_NAMES", None)
    if mapping is None:  # two are spelled otherwise; a release may lack others
        mapping = getattr(modeling_auto, f"MODEL_FOR_{head}_NAMES", {})
    return _first(mapping.get(model_type))


def _first(name: Any) -> str | None:
    return name if isinstance(name, str) or not name else name[0]


def _chosen_class(model_type: str) -> tuple[str, str, str] | None:
    """The head, the class and the task through which a type is validated; None where it has no class of its own."""
    heads = list(_heads(model_type))
    reads = _reads(heads[0][1], model_type) if heads else frozenset()
    for head, name, task in heads:
        if not (task in _OF_TEXT and any(map(_is_picture, reads))):
            return head, name, task
    plain = _first(modeling_auto.MODEL_MAPPING_NAMES.get(model_type)) or _own_class(model_type)
    return ("", plain, "forward") if plain else None


def _own_class(model_type: str) -> str | None:
    """The class that a type's own package defines for its configuration, those with a head before others."""
    package = model_type_to_module_name(model_type)
    try:
        module = import_module(f"transformers.models.{package}.modeling_{package}")
    except ModuleNotFoundError:
        return None
    kinds = [getattr(module, name) for name in module.__all__ if hasattr(module, name)]
    own = [
        kind.__name__
        for kind in kinds
        if getattr(kind, "config_class", None) is CONFIG_MAPPING[model_type] and "PreTrained" not in kind.__name__
    ]
    return next((name for name in own if "For" in name), own[-1] if own else None)


def _entry(model_type: str, head: str, name: str, task: str) -> Model:
    reads = _reads(name, model_type)
    if "pixel_values" not in reads and "pixel_values_videos" in reads:
        task = _OF_CLIPS.get(task, task)
    if task == "image-to-text" and "bbox" in reads:
        task = "document-question-answering"
    if task in _OF_SOUND and not any(map(_is_sound, reads)):
        task = "forward"
    if task == "text2text-generation" and "decoder_input_ids" not in reads and any(map(_is_sound, reads)):
        task = "audio-text-to-text"
    spoken = any(other in _SPEAKING for other, _, _ in _heads(model_type))
    fields = {
        "name": model_type,
        "category": _category("TEXT_TO_WAVEFORM" if spoken else head, task, reads),
        "model_type": model_type,
        "class": name,
        "task": task,
        "hub_id": _documented_checkpoint(model_type),
        "tracked": False,
    }
    return Model.model_validate(fields)


def _reads(name: str, model_type: str) -> frozenset[str]:
    """The arguments of a class's ``forward``, and the name of its main input."""
    try:
        kind = getattr(transformers, name)
    except ModuleNotFoundError:  # some import what they need without asking whether it is there
        kind = None
    if kind is None or getattr(kind, "is_dummy", False):  # a package is not installed, but the source is there to read
        return _reads_in_source(name, model_type)
    forward = inspect.signature(kind.forward).parameters if hasattr(kind, "forward") else {}
    return frozenset({*forward, str(getattr(kind, "main_input_name", ""))})


def _reads_in_source(name: str, model_type: str) -> frozenset[str]:
    package = model_type_to_module_name(model_type)
    found = find_spec(f"transformers.models.{package}.modeling_{package}")
    tree = ast.parse(Path(found.origin).read_text(encoding="utf-8") if found and found.origin else "")
    methods = [
        method.args
        for kind in tree.body
        if isinstance(kind, ast.ClassDef) and kind.name == name
        for method in kind.body
        if isinstance(method, ast.FunctionDef) and method.name == "forward"
    ]
    return frozenset(argument.arg for arguments in methods for argument in arguments.args)


def _is_picture(name: str) -> bool:
    return name.startswith(("pixel_values", "image", "flattened_patches"))


def _is_sound(name: str) -> bool:
    return name.startswith(("input_features", "input_values", "audio", "waveform"))


def _category(head: str, task: str, reads: frozenset[str]) -> Category:
    """By what a class reads; and by what it writes, where it only reads text."""
    pictures, sound, text = any(map(_is_picture, reads)), any(map(_is_sound, reads)), "input_ids" in reads
    if head in _SPEAKING and not pictures:
        return Category.SPEECH
    if pictures and text:
        written = task in ("image-to-text", "video-to-text") and "decoder_input_ids" not in reads
        return Category.MULTIMODAL if sound or written else Category.VISION_TEXT
    if sound:
        return Category.SPEECH
    if pictures:
        return Category.VISION
    if not text or head.startswith("TIME_SERIES"):
        return Category.OTHER
    if "decoder_input_ids" in reads:
        return Category.ENCODER_DECODER
    return Category.DECODER_ONLY if task == "text-generation" else Category.ENCODER_ONLY


def _documented_checkpoint(model_type: str) -> str:
    """The checkpoint that the documentation of the configuration class names; empty where it names none."""
    documented = inspect.getdoc(CONFIG_MAPPING[model_type]) or ""
    found = re.search(r"\[([\w.-]+/[\w.-]+)\]\(https://huggingface\.co/\1\)", documented)
    return found[1] if found else ""


if __name__ == "__main__":
    print(json.dumps([entry.model_dump(mode="json", by_alias=True, exclude_defaults=True) for entry in entries()]))
