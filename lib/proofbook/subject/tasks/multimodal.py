"""Tasks on pictures or clips together with text, beside those of :mod:`vision_text`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from proofbook.subject.samples.images import clip, photographs
from proofbook.subject.samples.texts import FOLDED
from proofbook.subject.tasks.task import Encoded, Row, Subject, Task
from proofbook.subject.tasks.vision import pictures
from proofbook.subject.tasks.vision_text import ImageToText, dialogue, pad_before, processed, without_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class FeatureExtraction(Task):
    """A vector for a picture with its caption."""

    names = ("feature-extraction",)
    unit = "images"

    # one a photograph, in their order
    _CAPTIONS = ("a cat", "an astronaut in front of a flag, smiling", "a cup of coffee on a table")

    def rows(self, subject: Subject) -> list[Row]:
        return [
            Row(images=(photo,), text=caption) for photo, caption in zip(photographs(), self._CAPTIONS, strict=True)
        ]

    def encode(self, subject: Subject, rows: Sequence[Row]) -> Encoded:
        inputs = subject.processor(
            images=pictures(rows), text=[row.text for row in rows], padding=True, return_tensors="pt"
        )
        return Encoded(dict(inputs), len(rows))

    def answer(
        self, subject: Subject, model: "PreTrainedModel", rows: Sequence[Row], encoded: Encoded
    ) -> list["np.ndarray[Any, Any]"]:
        """The multimodal encoder's state at its first position."""
        vectors = model(**encoded.inputs).multimodal_embeddings[:, 0]
        return [vector.float().cpu().numpy() for vector in vectors]


class VideoToText(ImageToText):
    """A clip and what is asked about it, answered in the model's own words."""

    names = ("video-to-text",)
    unit = "frames"

    _FRAMES = 4
    _QUESTIONS = ("What is this?", "Who is there, and what hangs behind her?", "What stands on the table?")

    def rows(self, subject: Subject) -> list[Row]:
        return [Row(video=clip(self._FRAMES, start), text=question) for start, question in enumerate(self._QUESTIONS)]

    def encode(self, subject: Subject, rows: Sequence[Row]) -> Encoded:
        clips = [row.video for row in rows if row.video is not None]
        prompts = [dialogue(subject, row) for row in rows]
        pad_before(subject)
        inputs = processed(subject, videos=clips, text=prompts)
        return Encoded(inputs, sum(map(len, clips)))


class ProteinToText(Task):
    """A protein, each amino acid with the shape of the chain there, and what is asked about it, answered in words."""

    names = ("protein-to-text",)
    unit = "rows"

    _NEW_TOKENS = 8

    def rows(self, subject: Subject) -> list[Row]:
        return [Row(text=question, words=(acids, folds)) for acids, folds, question in FOLDED]

    def encode(self, subject: Subject, rows: Sequence[Row]) -> Encoded:
        pad_before(subject)
        proteins = [{"aa_seq": acids, "foldseek": folds} for acids, folds in (row.words for row in rows)]
        asked = [[{"role": "user", "content": row.text}] for row in rows]
        return Encoded(dict(subject.processor(proteins=proteins, messages_list=asked)), len(rows))

    def answer(self, subject: Subject, model: "PreTrainedModel", rows: Sequence[Row], encoded: Encoded) -> list[str]:
        written = model.generate(**encoded.inputs, max_new_tokens=self._NEW_TOKENS, do_sample=False)
        answers = without_prompt(written, encoded.inputs["input_ids"])
        return list(subject.processor.tokenizer.batch_decode(answers, skip_special_tokens=True))


TASKS: tuple[Task, ...] = (FeatureExtraction(), VideoToText(), ProteinToText())
