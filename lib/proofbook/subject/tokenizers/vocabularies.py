"""Vocabularies of our corpus, by the libraries that made those of the real checkpoints: the same on every machine."""

import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import sentencepiece
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE, WordPiece
from tokenizers.trainers import BpeTrainer, WordPieceTrainer

from proofbook.subject.samples import texts

# the share of a vocabulary that is kept for words and their pieces, where single characters could fill it
_PIECES = 1 / 8
# otherwise a sentence becomes one token where spaces don't end a word: the corpus is that small
_LONGEST = 12
# the unknown token and the two ends, which every SentencePiece model has
CONTROLS = 3
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def fitting_lines(symbols: Callable[[str], Iterable[str]], room: int, languages: Sequence[str] = ()) -> list[str]:
    """The sentences of the corpus, less the languages whose symbols a vocabulary of ``room`` tokens can't hold.

    Args:
        symbols: the tokens that a line needs where none are merged.
        room: how many tokens the vocabulary may have beside its special ones.
        languages: those to choose from; all by default.

    Raises:
        ValueError: not one language fits.
    """
    chosen: list[str] = []
    seen: set[str] = set()
    for language in languages or texts.languages():
        lines = texts.corpus(language)
        more = seen.union(*map(symbols, lines))
        if len(more) <= room * (1 - _PIECES):
            seen = more
            chosen += lines
    if not chosen:
        raise ValueError(f"room for {room} tokens is not enough for the characters of any language")
    return chosen


def merged(
    model: BPE | WordPiece, pipeline: Tokenizer, known: Sequence[str], size: int
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A vocabulary of BPE or WordPiece.

    Args:
        model: how it marks the pieces of a word: ``continuing_subword_prefix``, ``end_of_word_suffix``.
        pipeline: its normalizer and pre-tokenizer say what the words are.
        known: the first tokens: special ones, and an alphabet that is to be whole.
        size: the most tokens that the vocabulary may have.

    Returns:
        The tokens with their ids, and the merges in order, of which WordPiece has none.
    """
    prefix = model.continuing_subword_prefix or ""
    suffix = getattr(model, "end_of_word_suffix", None) or ""
    taken = frozenset(known)

    def symbols(line: str) -> set[str]:
        return {symbol for word in _words(pipeline, line) for symbol in _split(word, prefix, suffix)} - taken

    lines = fitting_lines(symbols, size - len(known))
    # the trainers number symbols in the order of a hash map, which is another in every process: they come as known
    first = [*known, *sorted(set().union(*map(symbols, lines)))]
    marks = {"continuing_subword_prefix": prefix, "end_of_word_suffix": suffix}
    options: dict[str, Any] = {name: mark for name, mark in marks.items() if mark}
    kind = BpeTrainer if isinstance(model, BPE) else WordPieceTrainer
    if kind is BpeTrainer:
        options["max_token_length"] = _LONGEST
    trainer = kind(vocab_size=size, special_tokens=first, show_progress=False, **options)
    trainee = Tokenizer(type(model)())
    if pipeline.normalizer is not None:
        trainee.normalizer = pipeline.normalizer
    trainee.pre_tokenizer = pipeline.pre_tokenizer
    trainee.train_from_iterator(lines, trainer)
    state = json.loads(trainee.to_str())["model"]
    return state["vocab"], [(left, right) for left, right in state.get("merges", ())]


def alphabet(pipeline: Tokenizer, known: Sequence[str]) -> list[str]:
    """The tokens that stand for single bytes, so that no text is unknown, where the pipeline has such."""
    if getattr(pipeline.model, "byte_fallback", False):
        tokens = _BYTES
    elif "ByteLevel" in str(pipeline.pre_tokenizer):
        suffix = pipeline.model.end_of_word_suffix or ""
        tokens = sorted({c + end for c in pre_tokenizers.ByteLevel.alphabet() for end in ("", suffix)})
    else:
        tokens = []
    return [token for token in tokens if token not in known]


def _words(pipeline: Tokenizer, line: str) -> list[str]:
    normal = pipeline.normalizer.normalize_str(line) if pipeline.normalizer is not None else line
    if pipeline.pre_tokenizer is None:
        return [normal]
    return [word for word, _ in pipeline.pre_tokenizer.pre_tokenize_str(normal)]


def _split(word: str, prefix: str, suffix: str) -> Iterator[str]:
    """The symbols of a word before any merge."""
    for place, character in enumerate(word):
        yield (prefix if place else "") + character + (suffix if place == len(word) - 1 else "")


def sentence_pieces(
    size: int,
    kind: Literal["unigram", "bpe", "char"] = "unigram",
    languages: Sequence[str] = (),
    normalize: Callable[[str], str] | None = None,
) -> bytes:
    """A serialized SentencePiece model of at most ``size`` pieces: ``<unk>``, ``<s>``, ``</s>``, then its own.

    Args:
        kind: how words are split.
        languages: those of the corpus to train on; all that fit by default.
        normalize: what a line goes through first, in place of SentencePiece's own normalization.
    """
    normal = normalize or (lambda line: line)
    lines = [normal(line) for line in fitting_lines(lambda line: {*normal(line), "▁"}, size - CONTROLS, languages)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type=kind,
        vocab_size=size,
        # the vocabulary may stay smaller: the corpus has only so many pieces
        hard_vocab_limit=False,
        character_coverage=1.0,
        normalization_rule_name="identity" if normalize else "nmt_nfkc",
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def scored_pieces(model: bytes) -> dict[str, float]:
    """The pieces of a SentencePiece model with their scores (log probabilities), less its control tokens."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return {processor.id_to_piece(i): processor.get_score(i) for i in range(CONTROLS, len(processor))}
