"""Tasks that read text: a gap filled, tokens or texts labelled, sentences compared, pages of documents asked about."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from proofbook.subject.processors import part_of
from proofbook.subject.samples import texts
from proofbook.subject.samples.images import document
from proofbook.subject.tasks.task import Encoded, Row, Subject, Task
from proofbook.subject.tasks.tokens import (
    accepted,
    chosen,
    encoded,
    forward_parameters,
    lengthened,
    texts_of,
    tokenized,
    tokenizer_of,
    with_decoder_ids,
)
from proofbook.subject.tasks.vision import BEST, Answer, best_labels, pictures

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel

# enough of an answer to see that generation works
NEW_TOKENS = 8


class FillMask(Task):
    """What stands in a gap: the best tokens with their probabilities, or the best span of the text itself.

    Option ``texts``: ``sentences`` (the default), ``proteins``, or ``recurrences``, in which the gap is a phrase that
    stands elsewhere in the text.
    """

    names = ("fill-mask",)
    unit = "tokens"

    def rows(self, subject: Subject) -> list[Row]:
        samples = {"sentences": texts.GAPS, "proteins": texts.PROTEIN_GAPS, "recurrences": texts.RECURRENCES}
        gap = self._gap(subject)[0]
        return [Row(text=lengthened(subject, text.format(gap))) for text in chosen(subject, samples)]

    def encode(self, subject: Subject, rows: Sequence[Row]) -> Encoded:
        more = {"entity_spans": list(map(_names, rows))} if "entity_ids" in forward_parameters(subject) else {}
        return encoded(tokenized(subject, texts_of(rows), **more))

    def answer(
        self, subject: Subject, model: "PreTrainedModel", rows: Sequence[Row], encoded: Encoded
    ) -> list[list[Answer]]:
        outputs = model(**encoded.inputs)
        gaps = encoded.inputs["input_ids"] == self._gap(subject)[1]
        ids = encoded.inputs["input_ids"]
        if "start_logits" in outputs:
            return [
                _best_span(subject, ids[row], outputs.start_logits[row, 0], outputs.end_logits[row, 0])
                for row in range(len(rows))
            ]
        return [self._candidates(subject, outputs.logits[row][gaps[row]][0]) for row in range(len(rows))]

    @staticmethod
    def _gap(subject: Subject) -> tuple[str, int]:
        """The token that marks a gap, and its id."""
        tokenizer = tokenizer_of(subject)
        question = getattr(subject.config, "question_token_id", None)
        token_id = tokenizer.mask_token_id if question is None else question
        return tokenizer.convert_ids_to_tokens(token_id), token_id

    @staticmethod
    def _candidates(subject: Subject, logits: torch.Tensor) -> list[Answer]:
        best = logits.float().softmax(-1).topk(BEST)
        return [
            {"token": tokenizer_of(subject).decode([int(token)]), "score": float(score)}
            for score, token in zip(best.values, best.indices, strict=True)
        ]


class TokenClassification(Task):
    """A label for each token of a text, or of a page of words with their places: the best, with its probability."""

    names = ("token-classification",)
    unit = "tokens"

    def rows(self, subject: Subject) -> list[Row]:
        if "bbox" in forward_parameters(subject):
            return _page_rows(questions=("", "", ""))
        return [Row(text=lengthened(subject, text)) for text in texts.SENTENCES]

    def encode(self, subject: Subject, rows: Sequence[Row]) -> Encoded:
        return encoded(_page_inputs(subject, rows) if rows[0].words else tokenized(subject, texts_of(rows)))

    def answer(
        self, subject: Subject, model: "PreTrainedModel", rows: Sequence[Row], encoded: Encoded
    ) -> list[list[Answer]]:
        tokenizer = tokenizer_of(subject)
        best = model(**encoded.inputs).logits.float().softmax(-1).max(-1)
        return [
            [
                {"token": tokenizer.decode([token]), "label": model.config.id2label[int(label)], "score": float(score)}
                for token, label, score in zip(ids.tolist(), best.indices[row], best.values[row], strict=True)
                if token not in tokenizer.all_special_ids
            ]
            for row, ids in enumerate(encoded.inputs["input_ids"])
        ]


class TextClassification(Task):
    """Which of the model's labels a text has: the best ones with their probabilities."""

    names = ("text-classification",)
    unit = "tokens"

    def rows(self, subject: Subject) -> list[Row]:
        return [Row(text=lengthened(subject, text)) for text in texts.SENTENCES]

    def encode(self, subject: Subject, rows: Sequence[Row]) -> Encoded:
        return encoded(tokenized(subject, texts_of(rows)))

    def answer(
        self, subject: Subject, model: "PreTrainedModel", rows: Sequence[Row], encoded: Encoded
    ) -> list[list[Answer]]:
        scores = model(**encoded.inputs).logits.float().softmax(-1)
        return [best_labels(of_row, model.config.id2label) for of_row in scores]


class SentenceSimilarity(Task):
    """A vector of length one for each sentence: paraphrases lie close together.

    The mean of the last hidden states over a sentence's tokens, as sentence-transformers pools them.
    """

    names = ("sentence-similarity",)
    unit = "tokens"

    @staticmethod
    def paraphrases() -> list[tuple[str, str]]:
        """The pairs among the rows that say the same."""
        return list(texts.PARAPHRASES)

    def rows(self, subject: Subject) -> list[Row]:
        return [Row(text=text) for pair in self.paraphrases() for text in pair]

    def encode(self, subject: Subject, rows: Sequence[Row]) -> Encoded:
        return encoded(tokenized(subject, texts_of(rows)))

    def answer(
        self, subject: Subject, model: "PreTrainedModel", rows: Sequence[Row], encoded: Encoded
    ) -> "list[np.ndarray[Any, Any]]":
        hidden = model(**encoded.inputs).last_hidden_state.float()
        mask = encoded.inputs["attention_mask"][..., None].float()
        means = (hidden * mask).sum(1) / mask.sum(1)
        return list(torch.nn.functional.normalize(means, dim=-1).cpu().numpy())


class DocumentQuestionAnswering(Task):
    """A question about a page, of which the words, their places and the picture are given.

    The best span of the page's words, the best labels where the model's head classifies, or the model's own words.
    """

    names = ("document-question-answering",)
    unit = "tokens"

    _QUESTIONS = ("What is the total?", "On which date was the invoice written?", "Who sent it?")

    def rows(self, subject: Subject) -> list[Row]:
        return _page_rows(self._QUESTIONS)

    def encode(self, subject: Subject, rows: Sequence[Row]) -> Encoded:
        return encoded(with_decoder_ids(subject, _page_inputs(subject, rows)))

    def answer(
        self, subject: Subject, model: "PreTrainedModel", rows: Sequence[Row], encoded: Encoded
    ) -> list[list[Answer]]:
        if model.can_generate():
            given = {name: one for name, one in encoded.inputs.items() if name != "decoder_input_ids"}
            written = model.generate(**given, max_new_tokens=NEW_TOKENS, do_sample=False)
            answers = tokenizer_of(subject).batch_decode(written, skip_special_tokens=True)
            return [[{"answer": answer}] for answer in answers]
        outputs = model(**encoded.inputs)
        if "start_logits" in outputs:
            ids = encoded.inputs["input_ids"]
            return [
                _best_span(subject, ids[row], outputs.start_logits[row], outputs.end_logits[row])
                for row in range(len(rows))
            ]
        return [best_labels(scores, model.config.id2label) for scores in outputs.logits.float().softmax(-1)]


def _names(row: Row) -> list[tuple[int, int]]:
    """Where the capitalised words of a text are: the mentions of entities; its first word where there is none."""
    found = [match.span() for match in re.finditer(r"\b[A-ZА-Я]\w+", row.text or "")]
    return found or [(0, 1)]


def _best_span(subject: Subject, ids: torch.Tensor, start: torch.Tensor, end: torch.Tensor) -> list[Answer]:
    """The span of tokens with the highest start and end together; its score is the product of their probabilities.

    ``start`` and ``end`` are logits over the length, which may be padded beyond the ids.
    """
    joint = start.float().softmax(-1)[:, None] * end.float().softmax(-1)[None, :]
    best = int(joint.triu().argmax())
    first, last = divmod(best, len(end))
    answer = tokenizer_of(subject).decode(ids[first : last + 1], skip_special_tokens=True)
    return [{"answer": answer, "score": float(joint.flatten()[best])}]


def _page_rows(questions: Sequence[str]) -> list[Row]:
    """The words of a page, its first half and its first line and a half, each with a question."""
    page = document()
    count = len(page.words)
    lengths = (count, count // 2, count // 4)
    return [
        Row(text=question, words=page.words[:n], boxes=page.boxes[:n], images=(page.image,))
        for question, n in zip(questions, lengths, strict=True)
    ]


def _page_inputs(subject: Subject, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    words = [list(row.words) for row in rows]
    boxes = [[list(box) for box in row.boxes] for row in rows]
    options: dict[str, Any] = {"padding": True, "return_tensors": "pt"}
    tokenizer = tokenizer_of(subject)
    if part_of(subject.processor, "image_processor") is not None:
        return accepted(
            subject, dict(subject.processor(pictures(rows), texts_of(rows), text_pair=words, boxes=boxes, **options))
        )
    batch = tokenizer(words, is_split_into_words=True, **options)
    placed = [_token_boxes(batch.word_ids(row), boxes[row]) for row in range(len(rows))]
    return accepted(subject, {**batch, "bbox": torch.tensor(placed)})


def _token_boxes(word_ids: Sequence[int | None], boxes: Sequence[list[int]]) -> list[list[int]]:
    """The box of each token's word; special tokens have an empty one."""
    return [[0, 0, 0, 0] if word is None else boxes[word] for word in word_ids]


TASKS: tuple[Task, ...] = (
    FillMask(),
    TokenClassification(),
    TextClassification(),
    SentenceSimilarity(),
    DocumentQuestionAnswering(),
)
