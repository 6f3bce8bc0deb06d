"""Tokenizers of the `tokenizers` library: the class's own pipeline, with a vocabulary trained for it."""

import copy
import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE, Unigram

from proofbook.compat import TokenizersBackend
from proofbook.subject.tokenizers.vocabularies import CONTROLS, alphabet, merged, scored_pieces, sentence_pieces

_SPOKEN = ("arb", "cmn", "deu", "ell", "eng", "fra", "hin", "jpn", "kor", "rus", "spa")
_HEARD = ("en", "zh", "de", "es", "ru", "ko", "fr", "ja", "ar", "el", "hi", "th", "he")
_STEERING = ("translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps")
_ELEMENTS = ("html", "head", "title", "body", "div", "section", "h1", "h2", "p", "b", "ul", "li", "table", "tr", "td")
# what the methods of a class take for granted, and what it does not have unless told
_ARGUMENTS: dict[str, dict[str, Any]] = {
    # CLIP's vocabulary begins with characters: OWL-ViT takes a query that begins with token 0 for padding, and CLIP
    # itself an end of the sentence that is token 2 for that of its first, faulty configurations
    "CLIPTokenizer": {"vocab": {"!": 0, '"': 1, "#": 2, "<|startoftext|>": 3, "<|endoftext|>": 4}, "merges": []},
    # without its numbers of the elements of HTML it can't be made; what has none, as a link, is unknown
    "MarkupLMTokenizer": {"tags_dict": {tag: number for number, tag in enumerate(_ELEMENTS)}, "max_depth": 8},
    # its constructor looks for the unknown token behind the first place, where its own default has it
    "PegasusTokenizer": {"vocab": [(token, 0.0) for token in ("<pad>", "</s>", "<mask_1>", "<mask_2>", "<unk>")]},
    "SeamlessM4TTokenizer": {"additional_special_tokens": [f"__{code}__" for code in _SPOKEN]},
    "WhisperTokenizer": {
        "additional_special_tokens": [
            "<|startoftranscript|>",
            *(f"<|{code}|>" for code in _HEARD),
            *(f"<|{name}|>" for name in _STEERING),
        ]
    },
}


def train(cls: Any, size: int, numbers: Mapping[str, int] | None = None) -> TokenizersBackend:
    """A tokenizer of that class with at most ``size`` tokens, its special ones first; those of ``numbers`` change
    places with what has their number.

    The class makes its normalizer, pre-tokenizer, decoder and template; one that leaves them all to the checkpoint, as
    ``TokenizersBackend`` itself does, gets a byte-level BPE. One whose vocabulary is fixed comes as it is.

    Raises:
        ValueError: the special tokens leave too little room.
    """
    takes = inspect.signature(cls).parameters
    if "vocab" not in takes:
        of_files = "tokenizer_file" in takes or "vocab_file" in cls.vocab_files_names
        fixed = "__init__" in vars(cls) and not of_files
        return cls() if fixed else _byte_level(cls, size)
    return cls(**{**_arguments(cls), **_numbered(copy.deepcopy(_vocabulary(cls, size)), numbers or {})})


def _arguments(cls: Any) -> dict[str, Any]:
    return copy.deepcopy(_ARGUMENTS.get(cls.__name__, {}))


@cache
def _vocabulary(cls: Any, size: int) -> dict[str, Any]:
    """The arguments ``vocab`` and, for BPE, ``merges`` of a class's constructor."""
    blank = cls(**_arguments(cls))
    ids = blank.get_vocab()
    known = sorted(ids, key=ids.__getitem__)
    pipeline = blank.backend_tokenizer
    if isinstance(pipeline.model, Unigram):
        return {"vocab": _unigram(pipeline, known, size)}
    if type(pipeline.pre_tokenizer) is pre_tokenizers.PreTokenizer:
        # one written in Python, which looks up words in the vocabulary that is yet to be trained
        pipeline.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    vocab, merges = merged(pipeline.model, pipeline, known + alphabet(pipeline, known), size)
    return {"vocab": vocab, "merges": merges} if isinstance(pipeline.model, BPE) else {"vocab": vocab}


def _numbered(arguments: dict[str, Any], numbers: Mapping[str, int]) -> dict[str, Any]:
    """The arguments of a class whose vocabulary is a mapping, in which tokens have these numbers."""
    vocab = arguments["vocab"]
    for token, number in numbers.items():
        other = next(one for one, at in vocab.items() if at == number)
        vocab[other], vocab[token] = vocab[token], number
    return arguments


def _unigram(pipeline: Tokenizer, known: list[str], size: int) -> list[tuple[str, float]]:
    normalizer = pipeline.normalizer
    room = size - len(known)
    model = sentence_pieces(room + CONTROLS, normalize=normalizer.normalize_str if normalizer else str)
    scores = scored_pieces(model)
    return [(token, scores.pop(token, 0.0)) for token in known] + list(scores.items())


def _byte_level(cls: Any, size: int) -> TokenizersBackend:
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    pipeline = Tokenizer(BPE())
    pipeline.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    known = [*special.values(), *alphabet(pipeline, list(special.values()))]
    masked = size > len(known)  # models of bytes have no room for more
    vocab, merges = merged(pipeline.model, pipeline, known, size - masked)
    pipeline.model = BPE(vocab, merges)
    pipeline.decoder = decoders.ByteLevel()
    mask = {"mask_token": AddedToken("<mask>", lstrip=True, special=True)} if masked else {}
    return cls(tokenizer_object=pipeline, **mask, **special)
