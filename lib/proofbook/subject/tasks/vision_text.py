"""Tasks on pictures and text: pictures told apart by words, asked about, described."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from proofbook.subject.image_processors import lookup
from proofbook.subject.processors import part_of
from proofbook.subject.samples.images import clip, photographs
from proofbook.subject.tasks.task import Encoded, Row, Subject, Task
from proofbook.subject.tasks.tokens import forward_parameters, model_class_of, with_canvas, with_decoder_ids
from proofbook.subject.tasks.vision import Answer, best_boxes, best_labels, pictures, sizes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# one a photograph, in their order
_LABELS = ("a photo of a cat", "a photo of an astronaut", "a cup of coffee")
_QUESTIONS = ("What animal is this?", "Who is in front of the flag, and what does she wear?", "What colour is the cup?")
# enough of a description to see that generation works
_NEW_TOKENS = 8


class ZeroShotImageClassification(Task):
    """Which of some descriptions fits a picture: each with its probability, the best first.

    There are as many descriptions as pictures, so that the batch can be cut into rows of one picture and one text.
    """

    names = ("zero-shot-image-classification",)
    unit = "images"

    def rows(self, subject: Subject) -> list[Row]:
        return [Row(images=(photo,), labels=_LABELS) for photo in photographs()]

    def encode(self, subject: Subject, rows: Sequence[Row]) -> Encoded:
        return Encoded(processed(subject, images=pictures(rows), text=list(rows[0].labels)), len(rows))

    def answer(
        self, subject: Subject, model: "PreTrainedModel", rows: Sequence[Row], encoded: Encoded
    ) -> list[list[Answer]]:
        scores = model(**encoded.inputs).logits_per_image.float().softmax(-1)
        return [best_labels(of_row, row.labels) for row, of_row in zip(rows, scores, strict=True)]


class ZeroShotObjectDetection(Task):
    """Where the things are that some descriptions name: the best boxes, in pixels, with their scores."""

    names = ("zero-shot-object-detection",)
    unit = "images"

    _SOUGHT = (("an eye", "a nose"), ("a face", "an orange suit"), ("a cup", "a spoon"))

    def rows(self, subject: Subject) -> list[Row]:
        return [Row(images=(photo,), labels=sought) for photo, sought in zip(photographs(), self._SOUGHT, strict=True)]

    def encode(self, subject: Subject, rows: Sequence[Row]) -> Encoded:
        inputs = processed(subject, images=pictures(rows), text=[list(row.labels) for row in rows])
        return Encoded(inputs, len(rows))

    def answer(
        self, subject: Subject, model: "PreTrainedModel", rows: Sequence[Row], encoded: Encoded
    ) -> list[list[Answer]]:
        found = subject.processor.post_process_grounded_object_detection(
            model(**encoded.inputs), threshold=0, target_sizes=sizes(rows)
        )
        return [best_boxes(of_row, row.labels) for row, of_row in zip(rows, found, strict=True)]


class VisualQuestionAnswering(Task):
    """A question about a picture, answered by one of the model's labels: the best ones with their probabilities."""

    names = ("visual-question-answering",)
    unit = "images"

    def rows(self, subject: Subject) -> list[Row]:
        return [Row(images=(photo,), text=text) for photo, text in zip(photographs(), _QUESTIONS, strict=True)]

    def encode(self, subject: Subject, rows: Sequence[Row]) -> Encoded:
        inputs = processed(subject, images=pictures(rows), text=[row.text for row in rows])
        return Encoded(inputs, len(rows))

    def answer(
        self, subject: Subject, model: "PreTrainedModel", rows: Sequence[Row], encoded: Encoded
    ) -> list[list[Answer]]:
        scores = model(**encoded.inputs).logits.float().softmax(-1)
        return [best_labels(of_row, list(model.config.id2label.values())) for of_row in scores]


class ImageToText(Task):
    """A picture and what is asked about it, answered in the model's own words.

    Option ``prompts``: what is asked, one a photograph. A processor with a chat template gets it as a dialogue.
    """

    names = ("image-to-text",)
    unit = "images"

    def rows(self, subject: Subject) -> list[Row]:
        prompts = subject.options.get("prompts", _QUESTIONS)
        return [Row(images=(photo,), text=prompt) for photo, prompt in zip(photographs(), prompts, strict=True)]

    def encode(self, subject: Subject, rows: Sequence[Row]) -> Encoded:
        prompts = [dialogue(subject, row) for row in rows]
        pad_before(subject)
        inputs = processed(subject, images=[list(row.images) for row in rows], text=prompts)
        return Encoded(with_canvas(subject, with_decoder_ids(subject, inputs)), len(rows))

    def answer(self, subject: Subject, model: "PreTrainedModel", rows: Sequence[Row], encoded: Encoded) -> list[str]:
        written_into = ("decoder_", "self_conditioning_")
        given = {name: one for name, one in encoded.inputs.items() if not name.startswith(written_into)}
        made = model.generate(**given, max_new_tokens=_NEW_TOKENS, do_sample=False)
        written = getattr(made, "sequences", made)
        prompt = encoded.inputs.get("input_ids")  # some models read it off the picture
        answers = written if prompt is None else without_prompt(written, prompt)
        return list(part_of(subject.processor, "tokenizer").batch_decode(answers, skip_special_tokens=True))


class VideoClassification(Task):
    """What a clip of frames shows: which of some descriptions fits it, each with its probability."""

    names = ("video-classification",)
    unit = "frames"

    _LABELS = ("a cat looks around", "an astronaut smiles", "somebody stirs coffee")

    def rows(self, subject: Subject) -> list[Row]:
        frames = lookup(subject.config, "num_frames")
        return [Row(video=clip(frames, start), labels=self._LABELS) for start in range(len(self._LABELS))]

    def encode(self, subject: Subject, rows: Sequence[Row]) -> Encoded:
        videos = [list(row.video) for row in rows if row.video is not None]
        inputs = processed(subject, videos=videos, text=list(rows[0].labels))
        return Encoded(inputs, sum(map(len, videos)))

    def answer(
        self, subject: Subject, model: "PreTrainedModel", rows: Sequence[Row], encoded: Encoded
    ) -> list[list[Answer]]:
        scores = model(**encoded.inputs).logits_per_video.float().softmax(-1)
        return [best_labels(of_row, row.labels) for row, of_row in zip(rows, scores, strict=True)]


def without_prompt(written: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
    """What was generated, batch × new tokens: some classes give the prompt back before it, others don't."""
    length = prompt.shape[1]
    given_back = written.shape[1] >= length and bool((written[:, :length] == prompt).all())
    return written[:, length:] if given_back else written


def processed(subject: Subject, **inputs: Any) -> dict[str, Any]:
    """What ``forward`` takes of the processor's output, padded; option ``padding``: how, as tokenizers name it; option
    ``processing``: further arguments of the processor's call.

    Without labels, which some processors make for training.
    """
    padding = subject.options.get("padding", True)
    takes = forward_parameters(subject) - {"labels"}
    more = dict(subject.options.get("processing", {}))
    if "mm_token_type_ids" in takes and hasattr(subject.processor, "return_mm_token_type_ids"):
        more["return_mm_token_type_ids"] = True  # which of a token and a picture stands where
    made = subject.processor(**inputs, **more, padding=padding, return_tensors="pt")
    return {name: value for name, value in made.items() if name in takes}


def pad_before(subject: Subject) -> None:
    """Set the tokenizer to pad on the left where a decoder goes on from a row's last token, which must not be padding.

    As users do: some processors go by what the tokenizer says, not by what they are told.
    """
    if model_class_of(subject).can_generate() and not subject.config.is_encoder_decoder:
        part_of(subject.processor, "tokenizer").padding_side = "left"


def dialogue(subject: Subject, row: Row) -> str:
    """What is asked about pictures or a clip, as the processor wants it: a dialogue by its chat template, if any."""
    if getattr(subject.processor, "chat_template", None) is None:
        return str(row.text)
    pictures = [[{"type": "image"}, {"type": "text", "text": " and "}] for _ in row.images]
    # pictures side by side could not be told apart where templates set no marks around them
    seen = [part for picture in pictures for part in picture][:-1] + [{"type": "video"}] * (row.video is not None)
    turns = [{"role": "user", "content": [*seen, {"type": "text", "text": row.text}]}]
    return str(subject.processor.apply_chat_template(turns, add_generation_prompt=True))


TASKS: tuple[Task, ...] = (
    ZeroShotImageClassification(),
    ZeroShotObjectDetection(),
    VisualQuestionAnswering(),
    ImageToText(),
    VideoClassification(),
)
