"""Which class of tokenizer a model has, and how many tokens it may know."""

from collections.abc import Iterator
from importlib import import_module

import transformers
from transformers import PreTrainedTokenizerBase
from transformers.models.auto.configuration_auto import model_type_to_module_name
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

from proofbook.catalog import Model
from proofbook.compat import PreTrainedConfig, TokenizersBackend, feature_extractor_name, tokenizer_name
from proofbook.compat import tokenizer_class as class_named

# for models whose configuration states no size of a vocabulary: they work on bytes or characters
_DEFAULT_SIZE = 1024
# the sizes of a vocabulary, and of embeddings beside it
_SIZES = ("vocab_size", "decoder_vocab_size", "vocab_size_per_layer_input")


def tokenizer_class(spec: Model, config: PreTrainedConfig) -> type[PreTrainedTokenizerBase]:
    """The class whose pipeline a model's tokenizer has: the one that its entry names, else the one that transformers
    maps the model to.

    transformers maps some to ``TokenizersBackend``, whose pipeline is all in the checkpoint, and some not at all.
    Then it is the class of the model's own package, that of its text model, or that of the architecture whose
    processor it shares; ``TokenizersBackend`` where none of these says more.

    Raises:
        LookupError: the entry names a class that transformers doesn't have.
    """
    named = spec.tiny.tokenizer if spec.tiny and config.model_type == spec.model_type else None
    if named:
        cls: type[PreTrainedTokenizerBase] | None = class_named(named)
        if cls is None:
            raise LookupError(f"{spec.name}: transformers has no tokenizer class {named!r}")
        return cls
    return _derived(config) or TokenizersBackend


def is_backend(config: PreTrainedConfig) -> bool:
    """Whether transformers reads the tokenizer of such a model as a ``TokenizersBackend``."""
    return bool(tokenizer_name(config.model_type) == TokenizersBackend.__name__)


def _derived(config: PreTrainedConfig) -> type[PreTrainedTokenizerBase] | None:
    own = _mapped(config.model_type) or _of_package(config.model_type)
    if own is not None:
        return own
    for name, part in text_first(config).items():
        found = None if "vision" in name else _derived(part)  # whose package may have a text model of another kind
        if found is not None:
            return found
    return next(filter(None, map(_mapped, _processor_homes(config.model_type))), None)


def _mapped(model_type: str) -> type[PreTrainedTokenizerBase] | None:
    name = tokenizer_name(model_type)
    cls = class_named(name) if name else None
    return None if cls is TokenizersBackend else cls


def _of_package(model_type: str) -> type[PreTrainedTokenizerBase] | None:
    """The tokenizer class that the model's own package defines, as Llama's does."""
    package = model_type_to_module_name(model_type)
    try:
        module = import_module(f"transformers.models.{package}.tokenization_{package}")
    except ModuleNotFoundError:
        return None
    return next((getattr(module, name) for name in module.__all__ if name.endswith("Tokenizer")), None)


def _processor_homes(model_type: str) -> Iterator[str]:
    """The model types in whose packages the processor and the feature extractor are defined."""
    for name in (PROCESSOR_MAPPING_NAMES.get(model_type), feature_extractor_name(model_type)):
        if name:
            yield getattr(transformers, name).__module__.split(".")[-2]


def text_first(config: PreTrainedConfig) -> dict[str, PreTrainedConfig]:
    """The sub-configurations of a configuration by name, those named after text before the others."""
    names = sorted(config.sub_configs, key=lambda name: "text" not in name)
    return {name: part for name in names if isinstance(part := getattr(config, name, None), PreTrainedConfig)}


def vocabulary_size(config: PreTrainedConfig) -> int:
    """The number of tokens that the model can read: its own ``vocab_size``, else that of its text model."""
    return _size(config) or _DEFAULT_SIZE


def size_fields(config: PreTrainedConfig) -> tuple[str, ...]:
    """The attributes that count tokens of text: where one is named after text, another is of codes."""
    return ("text_vocab_size",) if "text_vocab_size" in vars(config) else _SIZES


def _size(config: PreTrainedConfig) -> int | None:
    size = getattr(config, size_fields(config)[0], None)
    return size if isinstance(size, int) else next(filter(None, map(_size, text_first(config).values())), None)
