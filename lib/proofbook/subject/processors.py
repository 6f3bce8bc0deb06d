"""Processors: what turns raw input into a model's arguments, built as the checkpoint's own repository would hold it.

A composite (``ProcessorMixin``) where the model has one, else the tokenizer, the image processor or the feature
extractor alone. Nothing is downloaded: parts come from their classes' defaults and the model's configuration.
"""

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from tempfile import TemporaryDirectory
from typing import Any

import transformers
from transformers import CONFIG_MAPPING, ProcessorMixin
from transformers.models.auto.configuration_auto import model_type_to_module_name
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

from proofbook.catalog import Model
from proofbook.catalog.schema import Exception_
from proofbook.compat import PreTrainedConfig, feature_extractor_name, processor_parts, tokenizer_name
from proofbook.subject.feature_extractors import build_feature_extractor, fit_window
from proofbook.subject.image_processors import SYNONYMS, build_image_processor, has_image_processor, lookup, sub_configs
from proofbook.subject.tokenizers import align_text, build_tokenizer
from proofbook.subject.tokenizers.choice import size_fields, vocabulary_size
from proofbook.subject.video_processors import build_video_processor, with_stand_in

# what a placeholder in a processor's source looks like: <image>, <|image_pad|>, |SPEAKER|
_PLACEHOLDER = re.compile(r"</?[^<>\s{}]+>|\|[A-Z]+\|")
# a special token that a processor reads from its tokenizer, and one whose absence it is ready for
_NAMED_TOKEN = re.compile(r"\btokenizer(?:\.|, \")(?P<name>(?!add_)\w+_token)(?:_id)?\b")
_LOOKED_FOR = re.compile(
    r"(?P<first>\bif )?(?:has|get)attr\(\s*(?:self\.)?tokenizer, \"(?P<name>\w+_token)(?:_id)?\"(?(first)|(?!, None))"
)
_TOKEN_ID = re.compile(r"(?P<name>(?:image|video|audio|vision|[be]oi)\w*?)_token_(?:id|index)")

# a dialogue of text, images and videos; for processors that need a template, where a checkpoint would bring its own
_CHAT_TEMPLATE = (
    "{%% for message in messages %%}{{ message['role'] | capitalize }}: {%% for part in message['content'] %%}"
    "{%% if part['type'] == 'image' %%}%(image)s{%% elif part['type'] == 'video' %%}%(video)s"
    "{%% else %%}{{ part['text'] }}{%% endif %%}{%% endfor %%}\n{%% endfor %%}"
    "{%% if add_generation_prompt %%}Assistant:{%% endif %%}"
)

# the same of text alone, for processors that apply their tokenizer's
_TALK_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | capitalize }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


def build_processor(spec: Model, config: PreTrainedConfig) -> Any:
    """The processor of a model: a composite, or a tokenizer, image processor or feature extractor alone; None where it
    reads neither text nor pictures nor sound.

    The entry's ``tiny.processor`` may name the composite's ``class``, the class and settings of a part (under the
    part's name), and arguments of the composite's constructor (under theirs).

    Raises:
        Blocked: a part can't be built without a package that isn't installed.
        LookupError: transformers knows no such part for the model.
    """
    cls = composite_class(spec)
    if cls is None:
        part = _lone_part(spec)
        return part and _part(part, spec, config)
    parts = {name: _part(name, spec, config) for name in processor_parts(cls)}
    if "tokenizer" in parts:
        parts["tokenizer"] = _prepared(parts["tokenizer"], cls, config)
        if "tokenizer.apply_chat_template" in inspect.getsource(cls):
            parts["tokenizer"].chat_template = _TALK_TEMPLATE
    processor = cls(**parts, **_arguments(cls, spec, config))
    if "chat_template" in inspect.signature(cls.__init__).parameters:
        processor.chat_template = _chat_template(processor)
        if "image_processor" in parts:
            processor.tokenizer.add_tokens([_written_token(processor, "image")], special_tokens=True)
    return processor


def align(config: PreTrainedConfig, processor: Any) -> None:
    """Make ``config`` agree with its processor, in place: token ids, sizes of vocabularies, lengths of windows."""
    extractor = part_of(processor, "feature_extractor")
    if extractor is not None:
        fit_window(config, extractor)
    tokenizer = part_of(processor, "tokenizer")
    if tokenizer is not None:
        _make_room(config, tokenizer)
        align_text(config, tokenizer)
        _align_placeholders(config, processor, tokenizer)


def part_of(processor: Any, name: str) -> Any:
    """The part of a processor that is its ``tokenizer``, ``image_processor`` or ``feature_extractor``, be it the
    part of a composite or the processor itself; None where it has none."""
    if isinstance(processor, ProcessorMixin):
        return getattr(processor, name, None)
    return processor if isinstance(processor, _PART_CLASSES[name]) else None


def composite_class(spec: Model) -> Any:
    """The composite class of a model, or None: the one its entry names, the one of transformers' mapping, or else
    the one that the model's own package defines."""
    named = spec.tiny.processor.get("class") if spec.tiny else None
    if named:
        return with_stand_in(getattr(transformers, named))
    if name := PROCESSOR_MAPPING_NAMES.get(spec.model_type) or _shared_class(spec):
        found = getattr(transformers, name)
        # a decoder for speech shares the processor of whole models; it reads the tokenizer alone
        alone = "feature_extractor" not in processor_parts(found)
        hears = alone or bool(feature_extractor_name(spec.model_type)) or _reads_sound(spec)
        # without a codec, a checkpoint of its own, the others of its parts are of no use together
        codec = inspect.signature(found.__init__).parameters.get("audio_tokenizer")
        hears = hears and (codec is None or codec.default is None)
        return with_stand_in(found) if hears and not _downloads(found) else None
    package = model_type_to_module_name(spec.model_type)
    if package in CONFIG_MAPPING and package != spec.model_type:
        return None  # the package of a model that this one is a part of: its processor reads more
    try:
        module = import_module(f"transformers.models.{package}.processing_{package}")
    except ModuleNotFoundError:
        return None
    return next((getattr(module, name) for name in module.__all__ if name.endswith("Processor")), None)


def _downloads(cls: Any) -> bool:
    """Whether a composite is made with parts of checkpoints of other models, which it fetches itself."""
    return ".from_pretrained(" in inspect.getsource(cls.__init__)


def _shared_class(spec: Model) -> str | None:
    """The composite class of the model type in whose package the entry's class is defined, where that is another."""
    home = getattr(transformers, spec.model_class).__module__.split(".")[-2]
    other = home != model_type_to_module_name(spec.model_type)
    return PROCESSOR_MAPPING_NAMES.get(home) if other else None


_PART_CLASSES: dict[str, Any] = {
    "tokenizer": transformers.PreTrainedTokenizerBase,
    "image_processor": transformers.ImageProcessingMixin,
    "feature_extractor": transformers.SequenceFeatureExtractor,
}


_SOUND = ("input_values", "input_features")


def _lone_part(spec: Model) -> str | None:
    """Which part a model without a composite works with: the one that it has, else what its class reads first; None
    for what no processor makes."""
    has = {
        "tokenizer": bool(tokenizer_name(spec.model_type) or (spec.tiny and spec.tiny.tokenizer)),
        "image_processor": has_image_processor(spec.model_type),
        "feature_extractor": bool(feature_extractor_name(spec.model_type)),
    }
    reads = _main_input(spec)
    if reads.startswith("pixel_values"):
        return "image_processor"
    if sum(has.values()) == 1:
        return next(part for part, there in has.items() if there)
    if reads in _SOUND:
        return "feature_extractor"
    return "tokenizer" if reads == "input_ids" or any(has.values()) else None


def _reads_sound(spec: Model) -> bool:
    takes = inspect.signature(getattr(transformers, spec.model_class).forward).parameters
    return _main_input(spec) in _SOUND or not takes.keys().isdisjoint(_SOUND)


def _main_input(spec: Model) -> str:
    return str(getattr(getattr(transformers, spec.model_class), "main_input_name", ""))


def _part(name: str, spec: Model, config: PreTrainedConfig) -> Any:
    """One part of a processor, by the name of the attribute that holds it."""
    if name.endswith("image_processor"):
        return build_image_processor(spec, config)
    if name.endswith("video_processor"):
        return build_video_processor(spec, config)
    if name.endswith(("feature_extractor", "audio_processor")):
        return build_feature_extractor(spec, config)
    return build_tokenizer(spec, config) if name == "tokenizer" else _second_tokenizer(name, spec, config)


def _second_tokenizer(name: str, spec: Model, config: PreTrainedConfig) -> Any:
    """The tokenizer of the part of a model that it is named after: ``qformer_tokenizer`` of ``qformer_config``,
    ``protein_tokenizer`` of ``protein_encoder_config``; of the model itself, where it has no such part."""
    stem = name.removesuffix("tokenizer")
    part = getattr(config, f"{stem}config", None) or getattr(config, f"{stem}encoder_config", None)
    if part is None:
        return build_tokenizer(spec, config)
    chosen = spec.tiny.processor.get(name) if spec.tiny else None
    tiny = Exception_(reason=f"names the {name}", tokenizer=chosen) if chosen else None
    return build_tokenizer(spec.model_copy(update={"model_type": part.model_type, "tiny": tiny}), part)


def _arguments(cls: Any, spec: Model, config: PreTrainedConfig) -> dict[str, Any]:
    """The constructor's arguments beside the parts: from the entry, else from the configuration, else defaults."""
    taken = {"self", "args", "kwargs", "chat_template", "audio_tokenizer", *processor_parts(cls)}
    names = [name for name in inspect.signature(cls.__init__).parameters if name not in taken]
    given = spec.tiny.processor if spec.tiny else {}
    found = {name: given.get(name, _argument(name, config)) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def _argument(name: str, config: PreTrainedConfig) -> Any:
    """An argument that is a fact of the model: the configuration's attribute of that name, or what follows from it."""
    if name == "num_image_tokens":
        return lookup(config, "latent_query_num") or _shuffled_patches(config) or lookup(config, name)
    if name == "image_seq_length":
        return lookup(config, name, "num_image_tokens", "mm_tokens_per_image") or _shuffled_patches(config) or None
    if name == "num_additional_image_tokens":
        # the strategy 'default' drops the vision tower's first token, so there is one beside the patches
        return int(lookup(config, "vision_feature_select_strategy") == "default")
    if name == "image_seq_len":
        return lookup(config, "resampler_n_latents") or _shuffled_patches(config)
    return lookup(config, "image_size" if name == "img_size" else name, *SYNONYMS.get(name, ()))


def _shuffled_patches(config: PreTrainedConfig) -> int:
    """Tokens an image where each is made of ``scale_factor``² patches; 0 where images have no size of their own."""
    if lookup(config, "image_size") is None:
        return 0
    side = lookup(config, "image_size") // lookup(config, "patch_size")
    return int(side**2 / (lookup(config, "scale_factor", "pixel_shuffle_factor") or 1) ** 2)


def _prepared(tokenizer: Any, cls: Any, config: PreTrainedConfig) -> Any:
    """A tokenizer with what a composite counts on: its placeholders, and the length that texts are padded to."""
    tokenizer = _with_named(tokenizer, cls)
    tokenizer.add_tokens(sorted(_placeholders(cls, config)), special_tokens=True)
    positions = lookup(config, "max_position_embeddings")
    if positions is not None:
        tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
    return tokenizer


def _with_named(tokenizer: Any, cls: Any) -> Any:
    """A tokenizer with the special tokens that a processor's source asks it for by name, as its checkpoint's has them.

    Those that the processor looks for first, and has a token of its own for, are left to it.
    """
    source = inspect.getsource(sys.modules[cls.__module__])
    wanted = {match["name"] for match in _NAMED_TOKEN.finditer(source)}
    wanted -= {match["name"] for match in _LOOKED_FOR.finditer(source)}
    written = {name: re.search(rf'self\.{name} = "([^"]+)"', source) for name in sorted(wanted)}
    missing = {
        name: found[1] if found else f"<{name.removesuffix('_token')}>"
        for name, found in written.items()
        if not hasattr(tokenizer, name)
    }
    if not missing:
        return tokenizer
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return type(tokenizer).from_pretrained(folder, extra_special_tokens=missing)


def _placeholders(cls: Any, config: PreTrainedConfig) -> Iterator[str]:
    """The special tokens that a processor's source names, and those that the configuration has an id for."""
    source = ast.parse(inspect.getsource(sys.modules[cls.__module__]))
    for node in ast.walk(source):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _PLACEHOLDER.fullmatch(node.value):
            yield node.value
    for part in sub_configs(config):
        for name in vars(part):
            if name.startswith("vision_") and (match := _TOKEN_ID.fullmatch(name)):
                yield f"<|{match['name']}|>"


def _make_room(config: PreTrainedConfig, tokenizer: Any) -> None:
    """Let the vocabulary grow by the tokens that a processor added to its tokenizer."""
    size = vocabulary_size(config)
    if len(tokenizer) > size:
        for part in sub_configs(config):
            for name in vars(part).keys() & size_fields(part):
                if getattr(part, name) == size:
                    setattr(part, name, len(tokenizer))


def _align_placeholders(config: PreTrainedConfig, processor: Any, tokenizer: Any) -> None:
    vocabulary = tokenizer.get_vocab()
    for part in sub_configs(config):
        for attribute in list(vars(part)):
            match = _TOKEN_ID.fullmatch(attribute)
            if match is None:
                continue
            name = match["name"]
            spellings = (str(getattr(processor, f"{name}_token", "")), f"<{name}>", f"<|{name}|>")
            ids = [vocabulary[spelling] for spelling in spellings if spelling in vocabulary]
            # what a processor writes may be another token than the one that users write
            written = [getattr(owner, f"{name}_token_id", None) for owner in (tokenizer, processor)]
            repeated = [vocabulary[token] for token in _repeated(type(processor)) if name == "image"]
            found = [one for one in (*repeated, *written, *ids) if type(one) is int]
            if found:
                setattr(part, attribute, found[0])
        if names := vars(part).get("vocabulary_map"):  # by name the ids of what a model writes for an image
            names.update({name: vocabulary[name] for name in names if name in vocabulary})


def _repeated(cls: Any) -> Iterator[str]:
    """The placeholders that a processor's source writes several times over, by a number: what fills an image. Those
    that it then replaces by another token are none of them."""
    nodes = list(ast.walk(ast.parse(inspect.getsource(sys.modules[cls.__module__]))))
    passing = {_replaced(node) for node in nodes}
    for node in nodes:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult) and isinstance(node.left, ast.Constant):
            token = node.left.value
            if isinstance(token, str) and _PLACEHOLDER.fullmatch(token) and token not in passing:
                yield token


def _replaced(node: ast.AST) -> str | None:
    """The text for which a call of ``str.replace`` puts something that it is no part of."""
    match node:
        case ast.Call(func=ast.Attribute(attr="replace"), args=[ast.Constant(value=str(token)), new, *_]):
            kept = (isinstance(one, ast.Constant) and one.value == token for one in ast.walk(new))
            return None if any(kept) else token
    return None


def _chat_template(processor: Any) -> str:
    vocabulary = processor.tokenizer.get_vocab()
    before, after = (token if token in vocabulary else "" for token in ("<|vision_start|>", "<|vision_end|>"))
    tokens = {kind: f"{before}{_written_token(processor, kind)}{after}" for kind in ("image", "video")}
    start, end = (getattr(processor, f"image_{side}_token", None) for side in ("start", "end"))
    if start and end and "start" not in inspect.getsource(type(processor).replace_image_token):
        tokens["image"] = f"{start}{tokens['image']}{end}"  # which the processor leaves to the template
    return _CHAT_TEMPLATE % tokens


def _written_token(processor: Any, kind: str) -> str:
    """The token that users write where an image or a video belongs."""
    return str(
        getattr(processor, f"{kind}_placeholder_token", None) or getattr(processor, f"{kind}_token", f"<{kind}>")
    )
