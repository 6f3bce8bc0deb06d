"""Prompts with any number of pictures or clips, made by the model's own processor."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from proofbook.checks.registry import NotApplicable
from proofbook.subject.processors import part_of
from proofbook.subject.samples.images import photographs
from proofbook.subject.tasks.multimodal import VideoToText
from proofbook.subject.tasks.task import Row
from proofbook.subject.tasks.vision_text import ImageToText, dialogue, processed

if TYPE_CHECKING:
    from proofbook.checks.trial import Trial

# what processors raise for what they do not take
_REFUSALS = (ValueError, TypeError, IndexError, KeyError, AttributeError, StopIteration, RuntimeError)


@dataclass(frozen=True)
class Composer:
    """Makes batches of prompts of unlike numbers of pictures; of clips where the model's task is about clips."""

    trial: "Trial"

    @classmethod
    def of(cls, trial: "Trial") -> "Composer":
        """The composer of a trial.

        Raises:
            NotApplicable: the model does not score the tokens of a prompt beside what it sees.
        """
        name = trial.spec.model_class
        if not isinstance(trial.task, ImageToText):
            raise NotApplicable(f"the task is {trial.spec.task}, which has no prompts about pictures")
        tokens, logits = trial.inputs.get("input_ids"), trial.outputs.get("logits")
        if tokens is None or trial.config.is_encoder_decoder:
            raise NotApplicable(f"{name} reads no prompt and pictures in one sequence")
        if logits is None or logits.dim() != 3 or logits.shape[1] < tokens.shape[1]:
            raise NotApplicable(f"{name} has no scores for each token of its input")
        if not any(isinstance(value, Tensor) and value.is_floating_point() for value in trial.inputs.values()):
            raise NotApplicable(f"{name} is given no pictures")
        return cls(trial)

    @property
    def sees(self) -> str:
        """What the prompts are about, in a word."""
        return "clip" if isinstance(self.trial.task, VideoToText) else "picture"

    def row(self, row: int, seen: int) -> Row:
        """The batch's row of that number with other pictures than its own: so many, or with one clip if any."""
        own = self.trial.rows[row]
        if self.sees == "clip":
            return Row(text=own.text, video=own.video if seen else None)
        photos = photographs()
        return Row(text=own.text, images=tuple(photos[(row + n) % len(photos)] for n in range(seen)))

    def encode(self, rows: Sequence[Row], side: Literal["left", "right"] = "right") -> dict[str, Any]:
        """The arguments of a forward call for prompts.

        Rows are padded on the right unless told otherwise, where no token that a causal model reads lies before the
        padding.

        Raises:
            NotApplicable: the processor refuses such rows; the reason is its own.
        """
        counts = {len(row.images) + (row.video is not None) for row in rows}
        if getattr(self.trial.processor, "chat_template", None) is None and counts not in ({0}, {1}):
            raise NotApplicable(f"its processor has no chat template, which would say which {self.sees} is whose")
        texts = [dialogue(self.trial.subject, row) for row in rows]
        refused: Exception | None = None
        for seen in _spellings(rows):
            try:
                with _padded_on(part_of(self.trial.processor, "tokenizer"), side):
                    return self.trial.cacheless(processed(self.trial.subject, **seen, text=texts))
            except _REFUSALS as refusal:
                refused = refused or refusal
        numbers = " and ".join(map(str, sorted(counts)))
        raise NotApplicable(f"its processor refuses rows of {numbers} {self.sees}s: {refused!r}") from refused

    def alone(self, row: Row) -> dict[str, Any]:
        """The arguments of a forward call for one prompt."""
        return self.encode([row])

    def scores(self, inputs: Mapping[str, Any]) -> list[Tensor]:
        """The scores of the tokens of each row, padding left out: length × vocabulary."""
        return shown(self.trial.run(inputs)["logits"], inputs)

    def placeholders(self, inputs: Mapping[str, Any]) -> Tensor:
        """Which tokens stand for what is seen: booleans, batch × length.

        Raises:
            NotApplicable: neither the configuration nor the processor names such a token.
        """
        names = [f"{kind}_token_{end}" for kind in ("image", "video") for end in ("id", "index")]
        owners = (self.trial.config, self.trial.processor, getattr(self.trial.processor, "tokenizer", None))
        found = {getattr(owner, name, None) for owner in owners for name in names} - {None}
        marked = torch.isin(inputs["input_ids"], torch.tensor(sorted(found), dtype=torch.long))
        if "image_embeds_position_mask" in inputs:
            marked |= inputs["image_embeds_position_mask"].bool()
        if not marked.any():
            raise NotApplicable(f"its prompts hold no token that stands for a {self.sees}")
        return marked


def shown(logits: Tensor, inputs: Mapping[str, Any]) -> list[Tensor]:
    """Of scores, batch × length × vocabulary, those of each row that its mask shows.

    What a class puts before the tokens, the features of its picture, is always shown.
    """
    ids = inputs["input_ids"]
    mask = inputs.get("attention_mask", torch.ones_like(ids)).bool()
    before = torch.ones(len(ids), logits.shape[1] - ids.shape[1], dtype=torch.bool)
    return [row[seen] for row, seen in zip(logits, torch.cat([before, mask], dim=1), strict=True)]


def other(row: Row, which: int) -> Row:
    """A prompt whose picture of that number, or whose clip, is another of the same size: mirrored, in other colours."""
    if row.video is not None:
        return Row(text=row.text, images=row.images, video=np.ascontiguousarray(255 - row.video[:, :, ::-1]))
    images = list(row.images)
    images[which] = ImageOps.invert(ImageOps.mirror(images[which]))
    return Row(text=row.text, images=tuple(images))


def _spellings(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """What is seen as arguments of a processor: a list a row, then one list of all; nothing where nothing is seen."""
    clips = [row.video for row in rows if row.video is not None]
    videos = {"videos": clips} if clips else {}
    flat: list[Image.Image] = [image for row in rows for image in row.images]
    if not flat:
        yield videos
        return
    yield {"images": [list(row.images) for row in rows], **videos}
    yield {"images": flat, **videos}


@contextmanager
def _padded_on(tokenizer: Any, side: str) -> Iterator[None]:
    own, tokenizer.padding_side = tokenizer.padding_side, side
    try:
        yield
    finally:
        tokenizer.padding_side = own
