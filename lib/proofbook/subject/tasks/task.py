"""What a task is: how raw input becomes a model's arguments, and its outputs an answer."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from transformers import PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Row:
    """One raw example, as a user of the model would hold it. What a task does not need stays empty."""

    text: str | None = None
    # the second text: of a pair, a question about the first, a translation's target
    pair: str | None = None
    labels: tuple[str, ...] = ()
    images: tuple["Image", ...] = ()
    # frames × height × width × 3, uint8
    video: "np.ndarray[Any, Any] | None" = None
    # samples, float32 in -1..1, at `sampling_rate` per second
    audio: "np.ndarray[Any, Any] | None" = None
    sampling_rate: int | None = None
    # the words of a document page, each with its box (x0, y0, x1, y1) in 0..1000
    words: tuple[str, ...] = ()
    boxes: tuple[tuple[int, int, int, int], ...] = ()
    # a table's rows of cells, the heads of its columns first
    table: tuple[tuple[str, ...], ...] = ()
    # a page as a browser gets it
    markup: str = ""
    # points or boxes that prompt a mask, in pixels
    points: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Encoded:
    """The keyword arguments of one call of ``model.forward``, and how much work they are."""

    inputs: dict[str, Any]
    # in the unit of the task: tokens, images, frames, seconds of audio
    work: float
    # the dotted path of the part whose forward is called, where the model itself has none
    module: str = ""


@dataclass(frozen=True)
class Subject:
    """What a task works with: the model's configuration, its processor, and the options of its entry."""

    config: "PreTrainedConfig"
    processor: Any
    options: Mapping[str, Any] = field(default_factory=dict)


class Task(ABC):
    """One task: its raw rows, how they are encoded, and how outputs are read.

    Subclasses are registered by their ``names``; a task has no state.
    """

    names: ClassVar[tuple[str, ...]]
    # the unit of throughput: "tokens", "images", "frames", "seconds of audio"
    unit: ClassVar[str]

    @abstractmethod
    def rows(self, subject: Subject) -> list[Row]:
        """The raw batch: at least three rows, of unequal length where the modality has a length."""

    @abstractmethod
    def encode(self, subject: Subject, rows: Sequence[Row]) -> Encoded:
        """Process rows into the arguments of one forward call: CPU tensors, padded to a common length."""

    @abstractmethod
    def answer(self, subject: Subject, model: "PreTrainedModel", rows: Sequence[Row], encoded: Encoded) -> list[Any]:
        """The answer a row, as a user's pipeline gives it: the text, the labels with scores, the boxes, …

        It calls the model, by ``generate`` where the class generates, and post-processes with the processor's
        own methods. Values are plain Python, PIL images, or NumPy arrays (audio, masks, depth maps).
        """
