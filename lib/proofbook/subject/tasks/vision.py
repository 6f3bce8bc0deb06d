"""Tasks on pictures: named, found in, cut out, measured, continued."""

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from transformers import ImageProcessingMixin

from proofbook.subject.image_processors import image_side
from proofbook.subject.processors import part_of
from proofbook.subject.samples.images import photographs
from proofbook.subject.tasks.task import Encoded, Row, Subject, Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# how many of the best labels, boxes or segments an answer holds
BEST = 5

Answer = dict[str, Any]


class _OfPhotographs(Task):
    """A task on one photograph a row, that is encoded by the image processor alone."""

    unit = "images"

    def rows(self, subject: Subject) -> list[Row]:
        return [Row(images=(photo,)) for photo in framed(subject)]

    def encode(self, subject: Subject, rows: Sequence[Row]) -> Encoded:
        return Encoded(encoded_pictures(subject, rows), len(rows))


class ImageClassification(_OfPhotographs):
    """What a picture shows: the best labels with their probabilities."""

    names = ("image-classification",)

    def answer(
        self, subject: Subject, model: "PreTrainedModel", rows: Sequence[Row], encoded: Encoded
    ) -> list[list[Answer]]:
        scores = model(**encoded.inputs).logits.float().softmax(-1)
        named = model.config.id2label or {}  # some configurations number their labels and name none
        labels = list(named.values()) or [f"LABEL_{number}" for number in range(scores.shape[-1])]
        return [best_labels(of_row, labels) for of_row in scores]


class ObjectDetection(_OfPhotographs):
    """Where things are: the best boxes, in pixels, each with a label and a score.

    Of a backbone, which finds nothing by itself: the shapes of its feature maps.
    """

    names = ("object-detection",)

    def answer(
        self, subject: Subject, model: "PreTrainedModel", rows: Sequence[Row], encoded: Encoded
    ) -> list[list[Answer]]:
        outputs = model(**encoded.inputs)
        if "pred_boxes" not in outputs:
            maps = outputs["feature_maps" if "feature_maps" in outputs else "last_hidden_state"]
            maps = maps if isinstance(maps, tuple) else (maps,)
            return [[{"feature map": tuple(one.shape[1:])} for one in maps] for _ in rows]
        found = subject.processor.post_process_object_detection(outputs, threshold=0, target_sizes=sizes(rows))
        return [best_boxes(of_row, model.config.id2label) for of_row in found]


class InstanceSegmentation(_OfPhotographs):
    """Which pixels belong to which thing: a map of segment numbers (-1: none), and each segment's label and score."""

    names = ("instance-segmentation",)

    def answer(self, subject: Subject, model: "PreTrainedModel", rows: Sequence[Row], encoded: Encoded) -> list[Answer]:
        found = subject.processor.post_process_instance_segmentation(
            model(**encoded.inputs), threshold=0, target_sizes=sizes(rows)
        )
        names = model.config.id2label
        return [
            {
                "map": one["segmentation"].cpu().numpy(),
                "segments": [
                    {"id": part["id"], "label": names[part["label_id"]], "score": part["score"]}
                    for part in one["segments_info"]
                ],
            }
            for one in found
        ]


class ImageSegmentation(_OfPhotographs):
    """What each pixel shows: a map of labels. A model that reads text gets what to look for, and answers with a map
    of how likely each pixel shows it."""

    names = ("image-segmentation",)

    _SOUGHT = ("a cat", "the flag behind an astronaut", "a cup")

    def rows(self, subject: Subject) -> list[Row]:
        rows = super().rows(subject)
        if part_of(subject.processor, "tokenizer") is None:
            return rows
        return [Row(images=row.images, text=text) for row, text in zip(rows, self._SOUGHT, strict=True)]

    def encode(self, subject: Subject, rows: Sequence[Row]) -> Encoded:
        if rows[0].text is None:
            return super().encode(subject, rows)
        inputs = subject.processor(
            text=[row.text for row in rows], images=pictures(rows), padding=True, return_tensors="pt"
        )
        return Encoded(dict(inputs), len(rows))

    def answer(
        self, subject: Subject, model: "PreTrainedModel", rows: Sequence[Row], encoded: Encoded
    ) -> list[np.ndarray[Any, Any]]:
        outputs = model(**encoded.inputs)
        if rows[0].text is None:
            maps = subject.processor.post_process_semantic_segmentation(outputs, target_sizes=sizes(rows))
            return [one.cpu().numpy() for one in maps]
        likely = outputs.logits.float().sigmoid().reshape(len(rows), 1, *outputs.logits.shape[-2:])
        return [
            torch.nn.functional.interpolate(one[None], size=size, mode="bilinear")[0, 0].cpu().numpy()
            for one, size in zip(likely, sizes(rows), strict=True)
        ]


class DepthEstimation(_OfPhotographs):
    """How far away each pixel is: a map of relative depths."""

    names = ("depth-estimation",)

    def answer(
        self, subject: Subject, model: "PreTrainedModel", rows: Sequence[Row], encoded: Encoded
    ) -> list[np.ndarray[Any, Any]]:
        restore = subject.processor.post_process_depth_estimation
        # one that pads a picture takes the padding away again
        padded = {"source_sizes": sizes(rows)} if "source_sizes" in inspect.signature(restore).parameters else {}
        found = restore(model(**encoded.inputs), target_sizes=sizes(rows), **padded)
        return [one["predicted_depth"].float().cpu().numpy() for one in found]


class MaskGeneration(_OfPhotographs):
    """The thing under a point: masks, best first, each with the overlap that the model expects of it."""

    names = ("mask-generation",)

    def rows(self, subject: Subject) -> list[Row]:
        points = [(photo.width // 2, photo.height // 3) for photo in photographs()]
        return [Row(images=row.images, points=(at,)) for row, at in zip(super().rows(subject), points, strict=True)]

    def encode(self, subject: Subject, rows: Sequence[Row]) -> Encoded:
        inputs = dict(self._prompted(subject, rows))
        for name in ("original_sizes", "reshaped_input_sizes"):
            inputs.pop(name, None)  # for the post-processing only
        return Encoded(inputs, len(rows))

    def answer(
        self, subject: Subject, model: "PreTrainedModel", rows: Sequence[Row], encoded: Encoded
    ) -> list[list[Answer]]:
        outputs = model(**encoded.inputs)
        of_images = self._prompted(subject, rows)
        masks = subject.processor.post_process_masks(
            outputs.pred_masks.float().cpu(), of_images["original_sizes"], of_images["reshaped_input_sizes"]
        )
        scores = outputs.iou_scores.float().cpu()
        return [
            [{"score": float(score[0, k]), "mask": mask[0, k].numpy()} for k in score[0].argsort(descending=True)]
            for mask, score in zip(masks, scores, strict=True)
        ]

    def _prompted(self, subject: Subject, rows: Sequence[Row]) -> Any:
        points = [[list(map(list, row.points))] for row in rows]
        return subject.processor(pictures(rows), input_points=points, return_tensors="pt")


class ImageGeneration(_OfPhotographs):
    """A picture continued: its upper half is given, pixel by pixel, and the model paints the rest."""

    names = ("image-generation",)

    def answer(
        self, subject: Subject, model: "PreTrainedModel", rows: Sequence[Row], encoded: Encoded
    ) -> list[Image.Image]:
        pixels = encoded.inputs["input_ids"]
        start = torch.full_like(pixels[:, :1], model.config.vocab_size - 1)
        given = torch.cat([start, pixels[:, : pixels.shape[1] // 2]], dim=1)
        painted = model.generate(
            given,
            attention_mask=torch.ones_like(given),
            max_length=pixels.shape[1] + 1,
            min_length=pixels.shape[1] + 1,
            do_sample=False,
        )[:, 1:]
        return [self._picture(subject, one) for one in painted]

    def _picture(self, subject: Subject, pixels: torch.Tensor) -> Image.Image:
        size = subject.processor.size
        colours = np.asarray(subject.processor.clusters)[pixels.cpu().numpy()]
        rgb = np.rint(127.5 * (colours + 1)).clip(0, 255).astype(np.uint8)
        return Image.fromarray(rgb.reshape(size["height"], size["width"], 3))


def framed(subject: Subject) -> list[Image.Image]:
    """The photographs; resized to squares for processors that keep the shape of pictures, which then make no batch."""
    photos = photographs()
    if not isinstance(subject.processor, ImageProcessingMixin) or not _keeps_shape(subject.processor):
        return photos
    side = image_side(subject.config)[0]
    return [photo.resize((side, side)) for photo in photos]


def _keeps_shape(processor: Any) -> bool:
    """Whether an image processor makes arrays of several shapes of pictures of several shapes."""
    made = processor(photographs(), **beside(processor, photographs())).get("pixel_values", ())
    return len({np.shape(one) for one in made}) > 1


def encoded_pictures(subject: Subject, rows: Sequence[Row]) -> dict[str, Any]:
    """What an image processor alone makes of the picture of each row, and of what it reads beside it."""
    photos = pictures(rows)
    return dict(subject.processor(photos, **beside(subject.processor, photos), return_tensors="pt"))


def beside(processor: Any, photos: Sequence[Image.Image]) -> dict[str, Any]:
    """What a processor reads beside pictures, by its names for it."""
    asked = inspect.signature(getattr(processor, "preprocess", processor)).parameters
    return {name: make(photos) for name, make in _BESIDE.items() if name in asked}


def _maps(photos: Sequence[Image.Image], *levels: int) -> list[Image.Image]:
    """A map of each picture: rectangles one in the other, of those levels, from the outermost to the innermost."""
    maps = []
    for photo in photos:
        level_of = np.full((photo.height, photo.width), levels[0], np.uint8)
        for n, level in enumerate(levels[1:], start=1):
            top, left = (n * length // (2 * len(levels)) for length in level_of.shape)
            level_of[top : photo.height - top, left : photo.width - left] = level
        maps.append(Image.fromarray(level_of))
    return maps


_BESIDE: dict[str, Callable[[Sequence[Image.Image]], Any]] = {
    "task_inputs": lambda photos: ["instance" for _ in photos],
    # (x, y, width, height) of the people in each picture
    "boxes": lambda photos: [[[0.0, 0.0, photo.width, photo.height]] for photo in photos],
    # background, unknown, foreground
    "trimaps": lambda photos: _maps(photos, 0, 128, 255),
    # an example to go by: another picture, and what is sought in it
    "prompt_images": lambda photos: [*photos[1:], photos[0]],
    "prompt_masks": lambda photos: _maps([*photos[1:], photos[0]], 0, 1),
}


def pictures(rows: Sequence[Row]) -> list[Image.Image]:
    """The one picture of each row."""
    return [picture for row in rows for picture in row.images]


def sizes(rows: Sequence[Row]) -> list[tuple[int, int]]:
    """(height, width) of each row's picture, as post-processing wants it."""
    return [(picture.height, picture.width) for picture in pictures(rows)]


def best_labels(scores: torch.Tensor, labels: Sequence[str]) -> list[Answer]:
    """The best labels by score, the best first."""
    best = scores.topk(min(BEST, len(labels)))
    return [
        {"label": labels[int(at)], "score": float(score)} for score, at in zip(best.values, best.indices, strict=True)
    ]


def best_boxes(found: Any, names: Any) -> list[Answer]:
    """The best of the boxes that post-processing found: label, score, and (x0, y0, x1, y1) in pixels."""
    best = found["scores"].argsort(descending=True)[:BEST]
    return [
        {
            # some post-processing gives the words themselves
            "label": label if isinstance(label := found["labels"][at], str) else names[int(label)],
            "score": float(found["scores"][at]),
            "box": [round(float(edge), 1) for edge in found["boxes"][at]],
        }
        for at in best
    ]


TASKS: tuple[Task, ...] = (
    ImageClassification(),
    ObjectDetection(),
    InstanceSegmentation(),
    ImageSegmentation(),
    DepthEstimation(),
    MaskGeneration(),
    ImageGeneration(),
)
