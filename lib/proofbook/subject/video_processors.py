"""Video processors: the model's own class where torchvision is there, else its frames through an image processor."""

from typing import Any

import numpy as np
import torch
import transformers
from transformers import BatchFeature, PreTrainedConfig
from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING_NAMES
from transformers.video_processing_utils import VideoProcessorMixin

from proofbook.catalog import Model
from proofbook.subject.image_processors import settings
from proofbook.verdict import Blocked


class FrameByFrame(VideoProcessorMixin):  # type: ignore[misc]
    """A video processor made of an image processor, which gets one frame at a time.

    For models whose video processor resizes, crops and normalises each frame by itself: the numbers are those of
    the class that it stands for, up to the rounding of the resize.
    """

    def __init__(self, image_processor: Any) -> None:
        super().__init__()
        self.image_processor = image_processor

    def preprocess(self, videos: Any, **kwargs: Any) -> BatchFeature:
        """``pixel_values_videos``: clips × frames × channels × height × width.

        Args:
            videos: clips of equally many frames, each height × width × 3, uint8.
            kwargs: as for the image processor.
        """
        kwargs["return_tensors"] = "pt"
        clips = [self.image_processor(list(np.asarray(frames)), **kwargs)["pixel_values"] for frames in videos]
        return BatchFeature({"pixel_values_videos": torch.stack(clips)})


def build_video_processor(spec: Model, config: PreTrainedConfig) -> Any:
    """The video processor of a model, sized for ``config``; None where the task of the model does without one.

    Where torchvision is missing, :class:`FrameByFrame` over the image processor that the entry names as ``frames`` of
    ``tiny.processor.video_processor``.

    Raises:
        Blocked: the task works on clips, torchvision is missing, and the entry names no image processor.
    """
    name = (VIDEO_PROCESSOR_MAPPING_NAMES.get(spec.model_type) or {}).get("torchvision")
    if name:
        cls = getattr(transformers, name)
        return cls(**settings(cls, config))
    given = spec.tiny.processor.get("video_processor", {}) if spec.tiny else {}
    if "frames" in given:
        frames = getattr(transformers, f"{given['frames']}Pil")
        return FrameByFrame(frames(**settings(frames, config)))
    if spec.task.startswith("video"):
        raise Blocked(
            "torchvision",
            f"transformers has no video processor for {spec.model_type} without it",
            "Install the torchvision that matches the installed torch",
        )
    return None
