"""Video processors: the model's own class where torchvision is there, else a stand-in, and composites that take it."""

from functools import cache
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoTokenizer, BatchFeature
from transformers.utils import is_torchvision_available

from proofbook.catalog import Model
from proofbook.compat import (
    PreTrainedConfig,
    VideoProcessorMixin,
    pil_processor,
    processor_parts,
    saved_video_settings,
    video_processor_name,
)
from proofbook.subject.image_processors import settings
from proofbook.verdict import Blocked


class _Blocked(Blocked, AttributeError):  # type: ignore[misc]
    """Also what ``hasattr`` and the like expect."""


_WITHOUT = (
    "torchvision",
    "transformers has no video processor for this model without it",
    "Install the torchvision that matches the installed torch",
)


class StandIn(VideoProcessorMixin):  # type: ignore[misc]
    """A video processor without torchvision: an image processor that gets one frame at a time, or none at all.

    For models whose video processor resizes, crops and normalises each frame by itself: the numbers are those of
    the class that it stands for, up to the rounding of the resize.

    Args:
        frames: the image processor, or its settings as ``to_dict`` gives them, with its class; None for none.
    """

    def __init__(self, frames: Any = None, **settings: Any) -> None:
        super().__init__()
        if isinstance(frames, dict):
            kind = frames["image_processor_type"]
            frames = getattr(transformers, kind)(**{k: v for k, v in frames.items() if k != "image_processor_type"})
        self.frames = frames

    def __getattr__(self, name: str) -> Any:
        """A setting of the class that this one stands for, which it does not have."""
        raise _Blocked(*_WITHOUT) if not name.startswith("_") else AttributeError(name)

    def preprocess(self, videos: Any, **kwargs: Any) -> BatchFeature:
        """``pixel_values_videos``: clips × frames × channels × height × width.

        Args:
            videos: clips of equally many frames, each height × width × 3, uint8.
            kwargs: as for the image processor.

        Raises:
            Blocked: there is no image processor.
        """
        if self.frames is None:
            raise _Blocked(*_WITHOUT)
        kwargs["return_tensors"] = "pt"
        clips = [self.frames(list(np.asarray(clip)), **kwargs)["pixel_values"] for clip in videos]
        return BatchFeature({"pixel_values_videos": torch.stack(clips)})

    def to_dict(self) -> dict[str, Any]:
        """What :meth:`from_dict` takes."""
        return {"frames": None if self.frames is None else self.frames.to_dict()}

    @classmethod
    def from_dict(cls, video_processor_dict: dict[str, Any], **kwargs: Any) -> "StandIn":
        """The stand-in that was saved; of the settings of a class that it stands for, one that blocks."""
        return cls(video_processor_dict.get("frames"))


def build_video_processor(spec: Model, config: PreTrainedConfig) -> Any:
    """The video processor of a model, sized for ``config``.

    Where torchvision is missing, a :class:`StandIn` with the image processor that the entry names as ``frames`` of
    ``tiny.processor.video_processor``, if any.
    """
    name = video_processor_name(spec.model_type)
    if name:
        cls = getattr(transformers, name)
        return cls(**settings(cls, config))
    given = spec.tiny.processor.get("video_processor", {}) if spec.tiny else {}
    if "frames" not in given:
        return StandIn()
    frames = pil_processor(given["frames"])
    return StandIn(frames(**settings(frames, config)))


@cache
def with_stand_in(cls: Any) -> Any:
    """A composite class that takes a :class:`StandIn` where its video processor needs torchvision, and that is
    missing; the class itself otherwise."""
    if is_torchvision_available() or "video_processor" not in processor_parts(cls):
        return cls
    return type(cls.__name__, (_WithStandIn, cls), {"__module__": cls.__module__})


class _WithStandIn:
    """Before a composite class: its video processor is a stand-in, also when it is loaded."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        if argument_name == "video_processor":
            return StandIn
        return super().check_argument_for_proper_class(argument_name, argument)  # type: ignore[misc]

    @classmethod
    def _get_arguments_from_pretrained(
        cls, folder: Any, processor_dict: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[Any]:
        parts = {
            "video_processor": lambda: StandIn.from_dict(saved_video_settings(folder, processor_dict)),
            "image_processor": lambda: AutoImageProcessor.from_pretrained(folder, **kwargs),
            "feature_extractor": lambda: AutoFeatureExtractor.from_pretrained(folder, **kwargs),
            "tokenizer": lambda: AutoTokenizer.from_pretrained(folder, **kwargs),
        }
        return [
            parts[name]() if name in parts else AutoTokenizer.from_pretrained(folder, subfolder=name, **kwargs)  # type: ignore[no-untyped-call]
            for name in processor_parts(cls)
        ]
