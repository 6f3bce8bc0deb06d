"""Text made into the arguments of a model: what all tasks on text share."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import transformers
from transformers import PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from proofbook.subject.processors import part_of
from proofbook.subject.samples.texts import corpus
from proofbook.subject.tasks.task import Encoded, Row, Subject
from proofbook.subject.tokenizers import decoding_start, make_ready

# tokens that a decoder reads behind its start
DECODED = 7


def tokenizer_of(subject: Subject) -> PreTrainedTokenizerBase:
    """The tokenizer of a subject, ready for use: its processor, or a part of it."""
    return make_ready(part_of(subject.processor, "tokenizer"))


def chosen(subject: Subject, samples: Mapping[str, Any]) -> Any:
    """The sample texts that option ``texts`` names; the first by default."""
    return samples[subject.options.get("texts", next(iter(samples)))]


def lengthened(subject: Subject, text: str) -> str:
    """A text with as many further sentences behind it as option ``sentences`` says; none by default."""
    return " ".join([text, *corpus("eng")[: subject.options.get("sentences", 0)]])


def model_class_of(subject: Subject) -> Any:
    """The class that the configuration names as its own."""
    return getattr(transformers, subject.config.architectures[0])


def forward_parameters(subject: Subject) -> frozenset[str]:
    """The names of the arguments that ``forward`` takes; also of those that a class around one whole model hands on."""
    parameters = inspect.signature(model_class_of(subject).forward).parameters
    hands_on = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    wrapped = getattr(subject.config, "vlm_config", None) if hands_on else None
    if wrapped is None:
        return frozenset(parameters)
    inner = getattr(transformers, MODEL_MAPPING_NAMES[wrapped.model_type])
    return frozenset({*parameters, *inspect.signature(inner.forward).parameters})


def tokenized(subject: Subject, texts: Sequence[Any], *pairs: Sequence[Any], **more: Any) -> dict[str, torch.Tensor]:
    """Texts, or texts with their second ones, as tensors of batch × length: what ``forward`` takes of them.

    They are padded to the longest, on the tokenizer's own side. ``more`` goes to the tokenizer, and so do the options
    ``padding``, ``max_length`` and ``truncation``. Where the model has local and global attention, the first token is
    global; where it has adapters for languages, the rows use them in turn.
    """
    named = ("padding", "max_length", "truncation")
    options = {name: subject.options[name] for name in named if name in subject.options}
    asked = {"padding": True, "return_tensors": "pt", "return_attention_mask": True, **options, **more}
    inputs = tokenizer_of(subject)(list(texts), *map(list, pairs), **asked)
    return accepted(subject, dict(inputs))


def accepted(subject: Subject, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Those of the inputs that ``forward`` takes, with what it takes beside them."""
    takes = forward_parameters(subject)
    found = {name: value for name, value in inputs.items() if name in takes}
    ids = next(iter(found.values()))
    if "global_attention_mask" in takes:
        found["global_attention_mask"] = torch.zeros_like(ids).index_fill_(1, torch.tensor(0), 1)
    if "lang_ids" in takes:
        found["lang_ids"] = torch.arange(len(ids)) % len(subject.config.languages)
    return found


def with_decoder_ids(subject: Subject, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inputs, and what a decoder beside them reads: its start, then the first tokens of a sentence for each row."""
    if not subject.config.is_encoder_decoder or "decoder_input_ids" not in forward_parameters(subject):
        return dict(inputs)
    tokenizer = tokenizer_of(subject)
    start = decoding_start(subject.config, tokenizer)
    count = len(next(iter(inputs.values())))
    rows = [tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))[:DECODED] for text in corpus("eng")[:count]]
    # a mask that a processor makes is that of a text of its own
    found = {name: one for name, one in inputs.items() if name != "decoder_attention_mask"}
    return {**found, "decoder_input_ids": torch.tensor([[start, *ids] for ids in rows])}


def with_canvas(subject: Subject, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inputs, and what a model of text diffusion refines behind its prompt: a canvas of tokens (batch × canvas),
    the scores of the step before (batch × canvas × vocabulary), and the mask of prompt and canvas."""
    length = getattr(subject.config, "canvas_length", None)
    if length is None:
        return dict(inputs)
    ids, mask, size = inputs["input_ids"], inputs["attention_mask"], subject.config.get_text_config().vocab_size
    # by the prompt, so that a row is the same in any batch
    drawn = [torch.Generator().manual_seed(int(row[seen.bool()].sum())) for row, seen in zip(ids, mask, strict=True)]
    return {
        **inputs,
        "decoder_input_ids": torch.stack([torch.randint(size, (length,), generator=one) for one in drawn]),
        "self_conditioning_logits": torch.stack([4 * torch.randn(length, size, generator=one) for one in drawn]),
        "decoder_attention_mask": torch.nn.functional.pad(mask, (0, length), value=1),
    }


def work(inputs: Mapping[str, torch.Tensor]) -> int:
    """The tokens of a batch without its padding, those that a decoder reads included."""
    masks = [value for name, value in inputs.items() if name in ("attention_mask", "decoder_attention_mask")]
    return sum(int(mask.sum()) for mask in masks) or next(iter(inputs.values())).numel()


def encoded(inputs: dict[str, torch.Tensor]) -> Encoded:
    """A batch with the number of its tokens."""
    return Encoded(inputs, work(inputs))


def texts_of(rows: Sequence[Row]) -> list[str]:
    """The text of each row."""
    return [row.text or "" for row in rows]


def pairs_of(rows: Sequence[Row]) -> list[str]:
    """The second text of each row."""
    return [row.pair or "" for row in rows]
