"""One tokenizer for one model."""

from tempfile import TemporaryDirectory

from transformers import PreTrainedTokenizerBase

from proofbook.catalog import Model
from proofbook.compat import PreTrainedConfig, TokenizersBackend
from proofbook.subject.requirements import missing_package
from proofbook.subject.tokenizers import backend, files
from proofbook.subject.tokenizers.choice import is_backend, tokenizer_class, vocabulary_size
from proofbook.verdict import Blocked

# from which language to which, in the codes of each class that has such: English to French, or Python to English
_LANGUAGES = {
    "M2M100Tokenizer": ("en", "fr"),
    "MBart50Tokenizer": ("en_XX", "fr_XX"),
    "MBartTokenizer": ("en_XX", "fr_XX"),
    "NllbTokenizer": ("eng_Latn", "fra_Latn"),
    "PLBartTokenizer": ("python", "en_XX"),
}


def build_tokenizer(spec: Model, config: PreTrainedConfig) -> PreTrainedTokenizerBase:
    """A tokenizer of the model's own class, with at most as many tokens as the model can read.

    It is new on every call: a processor may add tokens to it. Where transformers maps a model to
    ``TokenizersBackend``, it is of that class, with the pipeline of the class that :func:`tokenizer_class` finds.

    Args:
        spec: the entry, of which ``tiny.tokenizer`` may name the class, and ``tiny.processor.tokenizer`` give some
            tokens the ``numbers`` by which the model's code knows them.
        config: the configuration, or the part of it that reads this tokenizer's text.

    Raises:
        Blocked: the class needs a package that isn't installed.
        LookupError: nothing is known about the files that the class reads.
        ValueError: the model's vocabulary is too small for the class.
    """
    cls = tokenizer_class(spec, config)
    size = vocabulary_size(config)
    settings = spec.tiny.processor.get("tokenizer", {}) if spec.tiny else {}
    try:
        tokenizer = (
            backend.train(cls, size, **settings) if issubclass(cls, TokenizersBackend) else files.train(cls, size)
        )
    except ImportError as error:
        package = missing_package(error) or cls.__name__
        raise Blocked(package, f"{cls.__name__} can't be made: {error}", f"pip install {package}") from error
    return make_ready(_as_backend(tokenizer) if is_backend(config) else tokenizer)


def make_ready(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Set what users set before they use a tokenizer, where its checkpoint leaves it open, in place: what a batch is
    padded with, for which the end of a text serves as the attention mask hides it, and the two languages."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    languages = _LANGUAGES.get(type(tokenizer).__name__)
    if languages and tokenizer.tgt_lang is None:
        tokenizer.src_lang, tokenizer.tgt_lang = languages
    return tokenizer


def _as_backend(tokenizer: PreTrainedTokenizerBase) -> TokenizersBackend:
    """The same pipeline in the class that has none of its own, as it is read from a checkpoint."""
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return TokenizersBackend.from_pretrained(folder)
