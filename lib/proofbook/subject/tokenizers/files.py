"""Tokenizers written in Python or on SentencePiece: they read files, which are trained and written here."""

import inspect
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE, WordPiece
from transformers import PreTrainedTokenizerBase

from proofbook.subject.samples import texts
from proofbook.subject.tokenizers.vocabularies import CONTROLS, alphabet, merged, scored_pieces, sentence_pieces

# the standard one-letter codes of amino acids, and of what stands for several or for a gap
_AMINO_ACIDS = "LAGVSERTIDPKQNFYMHWCXBUZO.-"
# those of a vocabulary that tells shapes as well, and the letters of Foldseek for these; # is for what is not known
_RESIDUES = "ACDEFGHIKLMNPQRSTVWY#"
_FOLDS = "pynwrqhgdlvtmfsaeikc#"

Arguments = dict[str, Any]
# a class of tokenizers; transformers ships no types
TokenizerClass = Any
Recipe = Callable[[TokenizerClass, int, Path], Arguments]


def train(cls: TokenizerClass, size: int) -> PreTrainedTokenizerBase:
    """A tokenizer of that class with at most ``size`` tokens, of files trained on the corpus.

    The files live as long as the process. Classes without files, which work on bytes or characters, come as they are.

    Raises:
        LookupError: nothing is known here about the files that the class reads.
        ValueError: the special tokens leave too little room.
    """
    if not _files(cls):
        return cls()
    tokenizer = cls(**_arguments(cls, size))
    # language codes and the like, which a class adds behind its files, count as well
    ids = [*tokenizer.get_vocab().values(), *getattr(tokenizer, "lang_code_to_id", {}).values()]
    over = max(ids) + 1 - size
    return cls(**_arguments(cls, size - over)) if over > 0 else tokenizer


@cache
def _arguments(cls: TokenizerClass, size: int) -> Arguments:
    recipe = _BY_CLASS.get(cls.__name__) or _BY_FILES.get(_files(cls))
    if recipe is None:
        raise LookupError(f"{cls.__name__} reads {', '.join(_files(cls))}: no recipe is known for these files")
    folder = Path(_root().name) / f"{cls.__name__}-{size}"
    folder.mkdir(exist_ok=True)
    return recipe(cls, size, folder)


@cache
def _root() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="proofbook-tokenizers-")


def _files(cls: TokenizerClass) -> tuple[str, ...]:
    """What a class reads: the arguments that name files, each with the extension of its file."""
    ignored = ("tokenizer_file", "tokenizer_config_file", "target_vocab_file", "normalizer_file")
    names = cls.vocab_files_names.items()
    return tuple(sorted(argument + Path(name).suffix for argument, name in names if argument not in ignored))


def _special(cls: TokenizerClass) -> list[str]:
    """The special tokens in a class's signature, those of a checkpoint's first places first."""
    defaults = {name: p.default for name, p in inspect.signature(cls).parameters.items()}
    names = [*("bos_token", "pad_token", "eos_token", "unk_token"), *(n for n in defaults if n.endswith("_token"))]
    single = [defaults[name] for name in names if isinstance(defaults.get(name), str)]
    more = defaults.get("additional_special_tokens")
    return list(dict.fromkeys([*single, *(more if isinstance(more, list) else ())]))


def _save(path: Path, content: bytes | list[str] | dict[str, Any]) -> str:
    """Bytes as they are, a list line by line, a mapping as JSON; the path as text."""
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, list):
        path.write_text("".join(f"{line}\n" for line in content), encoding="utf-8")
    else:
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return str(path)


def _numbered(tokens: Iterable[str]) -> dict[str, int]:
    return {token: number for number, token in enumerate(dict.fromkeys(tokens))}


def _glyphs(cls: TokenizerClass, size: int, folder: Path) -> Arguments:
    """Word pieces, of which two more files say how each looks and how it sounds, by a number."""
    files = _word_pieces(cls, size, folder)
    pieces = Path(files["vocab_file"]).read_text(encoding="utf-8").splitlines()
    shapes = {piece: number % 512 for number, piece in enumerate(pieces)}
    sounds = {piece: number % 256 for number, piece in enumerate(pieces)}  # several look or sound alike
    return {
        **files,
        "word_shape_file": _save(folder / "word_shape.json", shapes),
        "word_pronunciation_file": _save(folder / "word_pronunciation.json", sounds),
    }


def _kana(cls: TokenizerClass, size: int, folder: Path) -> Arguments:
    """The characters of Japanese, and bytes for all others; no emoji."""
    marks = ["<SP>", "<BR>", "<TAB>", "<KIGOU>", "<U2000U2BFF>"]
    tokens = [*(f"<|byte{byte}|>" for byte in range(256)), *marks, *_special(cls)]
    letters = Counter("".join(texts.corpus("jpn")).replace(",", ""))
    tokens = [*(letter for letter, _ in letters.most_common(size - len(tokens))), *tokens]
    return {
        "vocab_file": _save(folder / "vocab.txt", tokens),
        "emoji_file": _save(folder / "emoji.json", {"emoji": {}, "emoji_inv": {}}),
    }


def _sentencepiece(cls: TokenizerClass, size: int, folder: Path) -> Arguments:
    name = cls.vocab_files_names["vocab_file"]
    kind: Literal["char", "unigram"] = "char" if "char" in name else "unigram"
    return {"vocab_file": _save(folder / name, sentence_pieces(size, kind))}


def _numbered_pieces(cls: TokenizerClass, size: int, folder: Path) -> Arguments:
    """SentencePiece splits, a JSON file numbers the pieces."""
    special = _special(cls)
    model = sentence_pieces(size - len(special) + CONTROLS)
    return {
        "spm_file": _save(folder / "sentencepiece.bpe.model", model),
        "vocab_file": _save(folder / "vocab.json", _numbered([*special, *scored_pieces(model)])),
    }


def _source_and_target(cls: TokenizerClass, size: int, folder: Path) -> Arguments:
    """Two SentencePiece models, English and French, that share one numbering; the padding has the last number."""
    room = (size - 3) // 2
    source, target = (sentence_pieces(room, languages=[language]) for language in ("eng", "fra"))
    tokens = ["</s>", "<unk>", *scored_pieces(source), *scored_pieces(target), "<pad>"]
    return {
        "source_spm": _save(folder / "source.spm", source),
        "target_spm": _save(folder / "target.spm", target),
        "vocab": _save(folder / "vocab.json", _numbered(tokens)),
        "source_lang": "en",
        "target_lang": "fr",
    }


def _word_pieces(cls: TokenizerClass, size: int, folder: Path) -> Arguments:
    pipeline = Tokenizer(WordPiece())
    pipeline.normalizer = normalizers.BertNormalizer()
    pipeline.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    vocab, _ = merged(pipeline.model, pipeline, _special(cls), size)
    return {"vocab_file": _save(folder / "vocab.txt", sorted(vocab, key=vocab.__getitem__))}


def _merges(
    cls: TokenizerClass,
    size: int,
    folder: Path,
    pipeline: Tokenizer,
    known: Sequence[str] = (),
    first: Sequence[str] = (),
) -> Arguments:
    vocab, merges = merged(pipeline.model, pipeline, [*first, *_special(cls), *known], size)
    return {
        "vocab_file": _save(folder / "vocab.json", vocab),
        "merges_file": _save(folder / "merges.txt", ["#version: 0.2", *map(" ".join, merges)]),
    }


def _merged_pieces(cls: TokenizerClass, size: int, folder: Path) -> Arguments:
    """A BPE on all bytes where the module of the class maps them to characters, else on characters."""
    source = inspect.getsource(sys.modules[cls.__module__])
    if "bytes_to_unicode" not in source or "</w>" in source:
        return _marked_words(cls, size, folder)
    pipeline = Tokenizer(BPE())
    pipeline.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return _merges(cls, size, folder, pipeline, alphabet(pipeline, _special(cls)))


def _marked_words(cls: TokenizerClass, size: int, folder: Path, first: Sequence[str] = ()) -> Arguments:
    """A BPE that marks the end of a word, on words as Moses' tokenizer splits them: at spaces and punctuation."""
    pipeline = Tokenizer(BPE(end_of_word_suffix="</w>"))
    lowers = inspect.signature(cls).parameters.get("do_lowercase_and_remove_accent")
    if lowers is not None and lowers.default:
        pipeline.normalizer = normalizers.BertNormalizer(handle_chinese_chars=False)
    pipeline.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return _merges(cls, size, folder, pipeline, first=first)


def _characters_first(cls: TokenizerClass, size: int, folder: Path) -> Arguments:
    """The same behind some characters: OWL-ViT takes a query that begins with token 0 for padding."""
    return _marked_words(cls, size, folder, first=("!", '"', "#"))


def _two_languages(cls: TokenizerClass, size: int, folder: Path) -> Arguments:
    """The same words for the source and for the target."""
    files = _marked_words(cls, size, folder)
    words = files["vocab_file"]
    return {
        "src_vocab_file": words,
        "tgt_vocab_file": words,
        "merges_file": files["merges_file"],
        "langs": ["en", "fr"],
    }


def _continued_words(cls: TokenizerClass, size: int, folder: Path) -> Arguments:
    """The same, except that in the vocabulary it is the pieces before the last that are marked, as fairseq does."""
    files = _marked_words(cls, size, folder)
    vocabulary = Path(files["vocab_file"])
    pieces, special = json.loads(vocabulary.read_text(encoding="utf-8")), _special(cls)
    tokens = [token if token in special else _continued(token) for token in sorted(pieces, key=pieces.__getitem__)]
    return {**files, "vocab_file": _save(vocabulary, _numbered(tokens))}


def _continued(piece: str) -> str:
    return piece.removesuffix("</w>") if piece.endswith("</w>") else f"{piece}@@"


def _entities(cls: TokenizerClass, size: int, folder: Path) -> Arguments:
    """Bytes for the words, and of the entities those that stand for any."""
    entities = _numbered(["[MASK]", "[UNK]", "[PAD]", "[MASK2]"])
    return {**_bytes(cls, size, folder), "entity_vocab_file": _save(folder / "entity_vocab.json", entities)}


def _bytes(cls: TokenizerClass, size: int, folder: Path) -> Arguments:
    """A BPE on bytes, of those that occur: its vocabulary may have fewer tokens than there are bytes."""
    pipeline = Tokenizer(BPE())
    pipeline.normalizer = normalizers.Lowercase()
    pipeline.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return _merges(cls, size, folder, pipeline)


def _letters(cls: TokenizerClass, size: int, folder: Path) -> Arguments:
    """The capitals of English by frequency, behind the special tokens and the word delimiter, as for CTC."""
    counts = Counter(letter for letter in "".join(texts.corpus("eng")).upper() if letter.isalpha() or letter == "'")
    tokens = [*_special(cls), *(letter for letter, _ in counts.most_common())]
    return {"vocab_file": _save(folder / "vocab.json", _numbered(tokens[:size]))}


def _spelled(cls: TokenizerClass, size: int, folder: Path) -> Arguments:
    """Letters as written: phonemes would need a package, and a library of the system, for how words sound."""
    letters = sorted({letter.lower() for letter in "".join(texts.corpus("eng"))} - {"\n"})
    return {
        "vocab_file": _save(folder / "vocab.json", _numbered([*_special(cls), *letters][:size])),
        "phonemize": False,
    }


def _proteins(cls: TokenizerClass, size: int, folder: Path) -> Arguments:
    tokens = ["<cls>", "<pad>", "<eos>", "<unk>", *_AMINO_ACIDS, "<null_1>", "<mask>"]
    if size == 5 + len(_RESIDUES) * len(_FOLDS):  # each amino acid with the shape that the chain has there
        pairs = [residue + fold for residue in _RESIDUES for fold in _FOLDS]
        tokens = ["<cls>", "<pad>", "<eos>", "<unk>", "<mask>", *pairs]
    return {"vocab_file": _save(folder / "vocab.txt", tokens)}


_BY_FILES: dict[tuple[str, ...], Recipe] = {
    ("vocab_file.model",): _sentencepiece,
    ("vocab_file.txt",): _word_pieces,
    ("vocab_file.tokenizer",): _word_pieces,
    ("vocab_file.json",): _letters,
    ("merges_file.txt", "vocab_file.json"): _merged_pieces,
    ("entity_vocab_file.json", "merges_file.txt", "vocab_file.json"): _entities,
    ("merges_file.txt", "src_vocab_file.json", "tgt_vocab_file.json"): _two_languages,
    ("vocab_file.txt", "word_pronunciation_file.json", "word_shape_file.json"): _glyphs,
    ("emoji_file.json", "vocab_file.txt"): _kana,
    ("spm_file.model", "vocab_file.json"): _numbered_pieces,
    ("source_spm.spm", "target_spm.spm", "vocab.json"): _source_and_target,
}
_BY_CLASS: dict[str, Recipe] = {
    "CLIPTokenizer": _characters_first,
    "ClvpTokenizer": _bytes,
    "EsmTokenizer": _proteins,
    "Speech2Text2Tokenizer": _continued_words,
    "VitsTokenizer": _spelled,
    "XLMProphetNetTokenizer": _sentencepiece,
}
