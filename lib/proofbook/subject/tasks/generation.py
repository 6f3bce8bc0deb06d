"""Tasks that write text: a prompt continued, a text shortened, translated, or answered as an instruction says."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from proofbook.subject.samples import texts
from proofbook.subject.tasks.spoken import speak
from proofbook.subject.tasks.task import Encoded, Row, Subject, Task
from proofbook.subject.tasks.tokens import (
    chosen,
    encoded,
    forward_parameters,
    lengthened,
    pairs_of,
    texts_of,
    tokenized,
    tokenizer_of,
)
from proofbook.subject.tokenizers import decoding_start, target_language_id

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# enough to see that generation works, its cache included
NEW_TOKENS = 8


class TextGeneration(Task):
    """How a text goes on: what greedy decoding writes behind it."""

    names = ("text-generation",)
    unit = "tokens"

    def rows(self, subject: Subject) -> list[Row]:
        return [Row(text=lengthened(subject, text)) for text in texts.PROMPTS]

    def encode(self, subject: Subject, rows: Sequence[Row]) -> Encoded:
        return encoded(tokenized(subject, texts_of(rows)))

    def answer(self, subject: Subject, model: "PreTrainedModel", rows: Sequence[Row], encoded: Encoded) -> list[str]:
        tokenizer = tokenizer_of(subject)
        # whatever the side in a forward call: what is written must follow the text itself
        prompts = tokenized(subject, texts_of(rows), padding_side="left")
        # no types of tokens, as in the library's pipeline: not every class gives one to what it writes
        prompts = {name: value.to(model.device) for name, value in prompts.items() if name != "token_type_ids"}
        written = _generate(model, prompts)
        length = prompts["input_ids"].shape[1]
        return list(tokenizer.batch_decode(written[:, length:], skip_special_tokens=True))


class _SequenceToSequence(Task):
    """A text and what becomes of it, which the decoder reads from the start token to the last but one."""

    unit = "tokens"
    samples: ClassVar[Mapping[str, Sequence[tuple[str, str]]]]

    def rows(self, subject: Subject) -> list[Row]:
        return [Row(text=lengthened(subject, source), pair=target) for source, target in chosen(subject, self.samples)]

    def encode(self, subject: Subject, rows: Sequence[Row]) -> Encoded:
        inputs = tokenized(subject, texts_of(rows))
        return encoded({**inputs, **_decoder_inputs(subject, pairs_of(rows))})

    def answer(self, subject: Subject, model: "PreTrainedModel", rows: Sequence[Row], encoded: Encoded) -> list[Any]:
        tokenizer = tokenizer_of(subject)
        language = target_language_id(tokenizer)
        begun = language in (None, decoding_start(subject.config, tokenizer))
        forced = {} if begun else {"forced_bos_token_id": language}
        written = _generate(model, _source(encoded), **forced)
        return list(tokenizer.batch_decode(written, skip_special_tokens=True))


class Summarization(_SequenceToSequence):
    """A text in short."""

    names = ("summarization",)
    samples: ClassVar = {"articles": texts.SUMMARIES}


class TextToText(_SequenceToSequence):
    """A text that says what to do, and the answer. Option ``texts``: ``instructions`` (the default), ``programs``."""

    names = ("text2text-generation",)
    samples: ClassVar = {"instructions": texts.INSTRUCTIONS, "programs": texts.PROGRAMS}


class Translation(_SequenceToSequence):
    """English in French, written or spoken."""

    names = ("translation",)
    samples: ClassVar = {"sentences": texts.TRANSLATIONS}

    def answer(self, subject: Subject, model: "PreTrainedModel", rows: Sequence[Row], encoded: Encoded) -> list[Any]:
        if hasattr(model, "vocoder"):
            return list(speak(subject, model, _source(encoded), NEW_TOKENS))
        return super().answer(subject, model, rows, encoded)


def _source(encoded: Encoded) -> dict[str, torch.Tensor]:
    """What the encoder reads."""
    return {name: value for name, value in encoded.inputs.items() if not name.startswith("decoder_")}


def _generate(model: "PreTrainedModel", inputs: Mapping[str, torch.Tensor], **more: Any) -> torch.Tensor:
    """Greedy decoding: batch × length, the prompt of a decoder-only model included.

    Classes that the library left without ``generate`` when it took it out of the base class are called step by step.
    """
    if not hasattr(model, "generate"):
        return _step_by_step(model, inputs)
    written: torch.Tensor = model.generate(**inputs, **more, max_new_tokens=NEW_TOKENS, do_sample=False, num_beams=1)
    return written


def _step_by_step(model: "PreTrainedModel", inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Greedy decoding by whole forward calls, one a token, without a cache."""
    decodes = model.config.is_encoder_decoder
    name, ids = ("decoder_input_ids" if decodes else "input_ids"), inputs["input_ids"]
    if decodes:
        ids = torch.full_like(ids[:, :1], model.config.decoder_start_token_id)
    given = dict(inputs)
    for _ in range(NEW_TOKENS):
        following = model(**{**given, name: ids}).logits[:, -1].argmax(-1, keepdim=True)
        ids = torch.cat([ids, following], dim=1)
        if not decodes:
            given["attention_mask"] = torch.cat([given["attention_mask"], torch.ones_like(following)], dim=1)
    return ids


def _decoder_inputs(subject: Subject, targets: Sequence[str]) -> dict[str, torch.Tensor]:
    """What the decoder reads, padded on the right: each target one step later, behind the start token."""
    tokenizer = tokenizer_of(subject)
    labels = tokenizer(text_target=list(targets))["input_ids"]
    start = decoding_start(subject.config, tokenizer)
    shifted = [[start, *ids[:-1]] for ids in labels]
    batch = tokenizer.pad({"input_ids": shifted}, padding_side="right", return_tensors="pt")
    named = {f"decoder_{name}": value for name, value in batch.items()}
    takes = forward_parameters(subject)
    return {name: value for name, value in named.items() if name in takes}


TASKS: tuple[Task, ...] = (TextGeneration(), Summarization(), TextToText(), Translation())
