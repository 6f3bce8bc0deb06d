"""The output shapes that transformers documents, by the kind of head that a class name ends in."""

import re
from collections.abc import Mapping
from typing import Any

import torch

Shape = tuple[int | None, ...]

# the docstrings of transformers.modeling_outputs name these symbols
_BY_HEAD: tuple[tuple[str, dict[str, tuple[str, ...]]], ...] = (
    # one row or vocabulary a codebook; whether speech ends; picture and text in one sequence; further tokens;
    # both towers' poolers joined; a row each frame
    (r"^(Musicgen|Dia)", {"logits": ("?", "length", "vocabulary")}),
    (r"^(PocketTTS|GradiumPhonon)", {"logits": ("batch", "length", "1")}),
    (r"^HiggsAudio", {"logits": ("batch", "length", "?")}),
    (r"^Git", {"logits": ("batch", "?", "vocabulary")}),
    (r"^TvpModel$", {"last_hidden_state": ("batch", "?", "hidden"), "pooler_output": ("batch", "hidden")}),
    (r"^UdopForCond", {"logits": ("batch", "length", "vocabulary")}),
    (r"^VideomtFor", {"class_queries_logits": ("?", "queries", "labels+1")}),
    (r"^SegGptModel$", {"last_hidden_state": ("batch", "?", "?", "hidden")}),
    (r"^BridgeTowerModel$", {"pooler_output": ("batch", "?")}),
    # the decoder's states, projected on the features of the series
    (r"^Autoformer", {"last_hidden_state": ("batch", "?", "?")}),
    (r"^IdeficsFor", {"logits": ("batch", "length", "?")}),
    (r"For(MaskedLM|CausalLM|ConditionalGeneration|PreTraining)$|LMHead(Model)?$|MTModel$",
     {"logits": ("batch", "length", "vocabulary"), "encoder_last_hidden_state": ("batch", "source", "?")}),
    (r"ForCTC$", {"logits": ("batch", "?", "vocabulary")}),
    (r"For(Sequence|Image)Classification$", {"logits": ("batch", "labels")}),
    (r"ForTokenClassification$", {"logits": ("batch", "length", "labels")}),
    (r"ForQuestionAnswering$", {"logits": ("batch", "labels")}),
    (r"ForObjectDetection$", {"logits": ("images", "?", "?"), "pred_boxes": ("images", "?", "4")}),
    (r"ForSemanticSegmentation$", {"logits": ("batch", "labels", "?", "?")}),
    (r"ForUniversalSegmentation$", {"class_queries_logits": ("batch", "queries", "labels+1"),
                                    "masks_queries_logits": ("batch", "queries", "?", "?")}),
    (r"ForImageSegmentation$", {"logits": ("batch", "?", "?")}),
    (r"ForDepthEstimation$", {"predicted_depth": ("batch", "?", "?")}),
    (r"ForCausalImageModeling$", {"logits": ("batch", "length", "?")}),
    (r"ForTextToSpeech$|ForVision2Seq$|ForVisionText2Text$", {"logits": ("batch", "length", "vocabulary")}),
    (r"^XCLIP", {"logits_per_video": ("?", "texts"), "logits_per_text": ("texts", "?")}),
    (r"^Sam", {"pred_masks": ("batch", "?", "?", "?", "?"), "iou_scores": ("batch", "?", "?")}),
    (r"^Encodec", {"audio_values": ("batch", "?", "?")}),
    (r"^VitDet", {"last_hidden_state": ("batch", "hidden", "?", "?")}),
    (r"Model$", {"last_hidden_state": ("batch", "length", "hidden"), "pooler_output": ("batch", "hidden"),
                 "logits_per_image": ("images", "texts"), "logits_per_text": ("texts", "images"),
                 "image_embeds": ("images", "?"), "text_embeds": ("texts", "?")}),
)  # fmt: skip


def documented_shapes(model_class: str, config: Any, inputs: Mapping[str, Any]) -> dict[str, Shape]:
    """The documented shape of each output that a class names; None stands for a size it leaves open.

    Args:
        model_class: the class's name.
        config: the configuration of the model.
        inputs: the arguments of the call, of which the sizes follow.
    """
    sizes = _sizes(config, inputs)
    for pattern, outputs in _BY_HEAD:
        if re.search(pattern, model_class):
            return {name: tuple(_size(symbol, sizes) for symbol in shape) for name, shape in outputs.items()}
    return {}


def _size(symbol: str, sizes: Mapping[str, int | None]) -> int | None:
    return int(symbol) if symbol.isdigit() else sizes.get(symbol)


def _sizes(config: Any, inputs: Mapping[str, Any]) -> dict[str, int | None]:
    text = config.get_text_config(decoder=True)
    labels = getattr(config, "num_labels", None)
    main = next((value for value in inputs.values() if isinstance(value, torch.Tensor) and value.dim()), None)
    source, target = _tensor(inputs, "input_ids"), _tensor(inputs, "decoder_input_ids")
    written = target if target is not None else source
    pixels = _tensor(inputs, "pixel_values")
    return {
        "batch": main.shape[0] if main is not None else None,
        "source": source.shape[1] if source is not None and source.dim() == 2 else None,
        "length": written.shape[1] if written is not None and written.dim() == 2 else None,
        "vocabulary": getattr(text, "vocab_size", None),
        "hidden": getattr(text, "hidden_size", None),
        "labels": labels,
        "labels+1": labels + 1 if labels is not None else None,
        "queries": getattr(config, "num_queries", None),
        "images": pixels.shape[0] if pixels is not None else None,
        "texts": source.shape[0] if source is not None else None,
    }


def _tensor(inputs: Mapping[str, Any], name: str) -> torch.Tensor | None:
    value = inputs.get(name)
    return value if isinstance(value, torch.Tensor) else None
