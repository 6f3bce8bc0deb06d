"""One tokenizer for one model."""

from tempfile import TemporaryDirectory

from transformers import PreTrainedConfig, PreTrainedTokenizerBase, TokenizersBackend

from proofbook.catalog import Model
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
    "SeamlessM4TTokenizer": ("eng", "fra"),
}


def build_tokenizer(spec: Model, config: PreTrainedConfig) -> PreTrainedTokenizerBase:
    """A tokenizer of the model's own class, with at most as many tokens as the model can read.

    It is new on every call: a processor may add tokens to it. Where transformers maps a model to
    ``TokenizersBackend``, it is of that class, with the pipeline of the class that :func:`tokenizer_class` finds.

    Args:
        spec: the entry, of which ``tiny.tokenizer`` may name the class.
        config: the configuration, or the part of it that reads this tokenizer's text.

    Raises:
        Blocked: the class needs a package that isn't installed.
        LookupError: nothing is known about the files that the class reads.
        ValueError: the model's vocabulary is too small for the class.
    """
    cls = tokenizer_class(spec, config)
    train = backend.train if issubclass(cls, TokenizersBackend) else files.train
    languages = dict(zip(("src_lang", "tgt_lang"), _LANGUAGES.get(cls.__name__, ()), strict=False))
    try:
        tokenizer = train(cls, vocabulary_size(config), **languages)
    except ImportError as error:
        package = error.name or cls.__name__
        raise Blocked(package, f"{cls.__name__} can't be made: {error}", f"pip install {package}") from error
    if tokenizer.pad_token is None:
        # as users do: a batch needs padding, and the attention mask hides it
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return _as_backend(tokenizer) if is_backend(config) else tokenizer


def _as_backend(tokenizer: PreTrainedTokenizerBase) -> TokenizersBackend:
    """The same pipeline in the class that has none of its own, as it is read from a checkpoint."""
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return TokenizersBackend.from_pretrained(folder)
