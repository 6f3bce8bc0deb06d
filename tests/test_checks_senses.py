"""The checks of encoders, of models of pictures and of those with two towers find faults that are planted in them."""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from proofbook.checks.registry import examine
from proofbook.checks.trial import Trial
from proofbook.verdict import Verdict
from test_checks import CHECKS, changed, trial_of, verdict

CLEAN = {
    "bert": ["order-of-tokens", "packed-rows", "heads"],
    "vit": ["every-corner", "order-of-patches", "resolution", "channels-last"],
    "resnet": ["resolution", "channels-last", "feature-maps"],
    "detr": ["detections", "every-corner"],
    "conditional-detr": ["detections"],
    "segformer": ["semantic-maps"],
    "mask2former": ["semantic-maps", "instance-maps"],
    "clip": ["towers-alone", "similarity", "one-beside-many"],
    "xclip": ["towers-alone", "similarity", "one-beside-many"],
}


@pytest.mark.parametrize("target", ["cpu", "cpu-bf16"])
@pytest.mark.parametrize("model", CLEAN)
def test_a_right_model_passes(model: str, target: str) -> None:
    trial = trial_of(model, target)
    assert {name: verdict(name, trial) for name in CLEAN[model]} == dict.fromkeys(CLEAN[model], Verdict.PASS)


@pytest.mark.parametrize("name", ["order-of-patches", "semantic-maps", "feature-maps", "similarity"])
def test_what_does_not_apply_is_skipped(name: str) -> None:
    assert verdict(name, trial_of("bert")) is Verdict.SKIP


def seen_otherwise(trial: Trial, change: Callable[[Tensor], Tensor]) -> None:
    """Let the model, and copies of it, see changed pictures."""

    def before(_: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
        return args, {**kwargs, "pixel_values": change(kwargs["pixel_values"])}

    trial.model.register_forward_pre_hook(before, with_kwargs=True)


def test_every_corner_finds_one_that_is_not_read() -> None:
    def cut(pixels: Tensor) -> Tensor:
        pixels = pixels.clone()
        pixels[..., -8:, -8:] = 0
        return pixels

    trial = trial_of("vit")
    seen_otherwise(trial, cut)
    assert verdict("every-corner", trial) is Verdict.FAIL


@pytest.mark.parametrize(("model", "name"), [("bert", "order-of-tokens"), ("vit", "order-of-patches")])
def test_order_finds_positions_that_are_not_read(model: str, name: str) -> None:
    trial = trial_of(model)
    for key, parameter in trial.model.named_parameters():
        if "position_embeddings" in key:
            parameter.data.zero_()
    assert verdict(name, trial) is Verdict.FAIL


def test_packed_rows_find_a_mask_of_tokens_by_tokens_that_is_dropped() -> None:
    def before(_: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
        mask = kwargs["attention_mask"]
        return args, {**kwargs, "attention_mask": mask if mask.dim() == 2 else torch.zeros_like(mask)}

    trial = trial_of("bert")
    trial.model.register_forward_pre_hook(before, with_kwargs=True)
    assert verdict("packed-rows", trial) is Verdict.FAIL


def test_detections_find_scores_by_which_no_box_is_found() -> None:
    trial = trial_of("detr")
    changed(trial.model.class_labels_classifier, lambda scores: scores * torch.nan)
    assert verdict("detections", trial) is Verdict.FAIL


def test_resolution_finds_positions_that_change_when_interpolated() -> None:
    trial = trial_of("vit")
    embeddings = trial.model.vit.embeddings
    right = embeddings.interpolate_pos_encoding
    embeddings.interpolate_pos_encoding = lambda *given: 1.001 * right(*given)
    assert verdict("resolution", trial) is Verdict.FAIL


def test_channels_last_finds_memory_read_in_the_wrong_order() -> None:
    trial = trial_of("vit")
    seen_otherwise(trial, lambda pixels: torch.as_strided(pixels, pixels.shape, torch.empty(pixels.shape).stride()))
    assert verdict("channels-last", trial) is Verdict.FAIL


def test_feature_maps_find_a_width_that_is_not_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers.ResNetBackbone, "channels", property(lambda self: [1 for _ in self.out_features]))
    assert verdict("feature-maps", trial_of("resnet")) is Verdict.FAIL


def test_a_stage_without_a_map_is_a_failure_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    right = transformers.ResNetBackbone.forward

    def short(self: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = right(self, *args, **kwargs)
        outputs.feature_maps = outputs.feature_maps[:1]
        return outputs

    monkeypatch.setattr(transformers.ResNetBackbone, "forward", short)
    found = examine(CHECKS["feature-maps"], trial_of("resnet"))
    assert found.verdict is Verdict.FAIL
    assert "1 maps for 4 stages" in found.detail


def processed_otherwise(trial: Trial, kind: str, change: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    name = f"post_process_{kind}"
    setattr(trial.processor, name, change(getattr(trial.processor, name)))


@pytest.mark.parametrize(
    ("model", "kind", "name"),
    [
        ("detr", "object_detection", "detections"),
        ("conditional-detr", "object_detection", "detections"),
        ("segformer", "semantic_segmentation", "semantic-maps"),
        ("mask2former", "instance_segmentation", "instance-maps"),
        ("glpn", "depth_estimation", "depth-maps"),
    ],
)
def test_post_processing_with_height_and_width_exchanged_is_found(model: str, kind: str, name: str) -> None:
    def exchange(right: Callable[..., Any]) -> Callable[..., Any]:
        return lambda outputs, target_sizes=(), **more: right(
            outputs, target_sizes=[(width, height) for height, width in target_sizes] or None, **more
        )

    trial = trial_of(model)
    processed_otherwise(trial, kind, exchange)
    assert verdict(name, trial) is Verdict.FAIL


def test_detections_find_a_threshold_that_is_ignored() -> None:
    trial = trial_of("detr")
    processed_otherwise(
        trial, "object_detection", lambda right: lambda outputs, threshold, **more: right(outputs, threshold=0, **more)
    )
    assert verdict("detections", trial) is Verdict.FAIL


def test_depth_maps_find_depths_in_the_wrong_place() -> None:
    def shifted(right: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given, **more: [
            {"predicted_depth": one["predicted_depth"].roll(1, dims=0)} for one in right(*given, **more)
        ]

    trial = trial_of("depth-anything")
    assert verdict("depth-maps", trial) is Verdict.PASS
    processed_otherwise(trial, "depth_estimation", shifted)
    assert verdict("depth-maps", trial) is Verdict.FAIL


def test_semantic_maps_find_labels_off_by_one() -> None:
    trial = trial_of("mask2former")
    processed_otherwise(
        trial, "semantic_segmentation", lambda right: lambda *given, **more: [one + 1 for one in right(*given, **more)]
    )
    assert verdict("semantic-maps", trial) is Verdict.FAIL


def test_instance_maps_find_scores_of_another_label() -> None:
    def shift(right: Callable[..., Any]) -> Callable[..., Any]:
        def wrong(*given: Any, **more: Any) -> Any:
            found = right(*given, **more)
            for segment in found[0]["segments_info"]:
                segment["score"] *= 0.99
            return found

        return wrong

    trial = trial_of("mask2former")
    processed_otherwise(trial, "instance_segmentation", shift)
    assert verdict("instance-maps", trial) is Verdict.FAIL


def test_heads_find_a_loss_that_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    entropy = torch.nn.functional.cross_entropy
    monkeypatch.setattr(
        torch.nn.CrossEntropyLoss, "forward", lambda self, given, labels: 1.001 * entropy(given, labels)
    )
    assert verdict("heads", trial_of("electra")) is Verdict.FAIL


@pytest.mark.parametrize(
    ("model", "heads"),
    [
        ("wav2vec2", ["AudioFrameClassification", "PreTraining", "SequenceClassification", "XVector"]),
        ("whisper", ["AudioClassification", "CausalLM"]),
        ("clip", ["ImageClassification"]),
        ("t5", ["QuestionAnswering", "SequenceClassification", "TokenClassification"]),
        ("mllama", ["CausalLM"]),
    ],
)
def test_heads_of_sound_of_pictures_and_of_two_bodies_are_asked(model: str, heads: list[str]) -> None:
    found = examine(CHECKS["heads"], trial_of(model))
    assert found.verdict is Verdict.PASS, found.detail
    asked = {one.name.rpartition("For")[2] for one in found.comparisons if one.name.startswith("weights under ")}
    assert asked == set(heads)


def test_heads_find_scores_of_sound_that_are_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2ForSequenceClassification as Classifier

    forward = Classifier.forward

    @wraps(forward)
    def wrong(self: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = forward(self, *args, **kwargs)
        outputs.logits = outputs.logits * (1.0 if outputs.logits.dtype is torch.float64 else 1.01)
        return outputs

    monkeypatch.setattr(Classifier, "forward", wrong)
    assert verdict("heads", trial_of("wav2vec2")) is Verdict.FAIL


def test_a_decoder_that_starts_with_an_embedding_of_its_own_is_found() -> None:
    found = examine(CHECKS["heads"], trial_of("bart"))
    assert found.verdict is Verdict.FAIL
    assert "decoder.embed_tokens.weight" in found.detail


def test_heads_find_a_body_that_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = transformers.BertForQuestionAnswering
    load = kind.from_pretrained.__func__

    def lossy(cls: Any, *given: Any, **more: Any) -> Any:
        model, astray = load(cls, *given, **more)
        model.bert.encoder.layer[0].output.dense.weight.data.mul_(1.001)
        return model, astray

    monkeypatch.setattr(kind, "from_pretrained", classmethod(lossy))
    assert verdict("heads", trial_of("bert")) is Verdict.FAIL


def test_towers_alone_find_another_direction() -> None:
    def turned(output: Any) -> Any:
        output.text_embeds = output.text_embeds + 0.01 * output.text_embeds.roll(1, dims=-1)
        return output

    trial = trial_of("clip")
    changed(trial.model, turned)
    assert verdict("towers-alone", trial) is Verdict.FAIL


@pytest.mark.parametrize("both", [False, True])
def test_similarity_finds_likeness_in_one_direction_or_of_another_scale(both: bool) -> None:
    def scaled(output: Any) -> Any:
        output.logits_per_text = 1.001 * output.logits_per_text
        if both:
            output.logits_per_image = 1.001 * output.logits_per_image
        return output

    trial = trial_of("clip")
    changed(trial.model, scaled)
    assert verdict("similarity", trial) is Verdict.FAIL


@pytest.mark.parametrize("tower", ["text_projection", "visual_projection"])
def test_one_beside_many_finds_rows_that_leak(tower: str) -> None:
    trial = trial_of("clip")
    changed(getattr(trial.model, tower), lambda output: output + 0.01 * output.mean(dim=0, keepdim=True))
    assert verdict("one-beside-many", trial) is Verdict.FAIL


def test_padded_pictures_find_a_ground_that_is_read() -> None:
    trial = trial_of("vilt")
    assert verdict("padded-pictures", trial) is Verdict.PASS
    trial.model.register_forward_pre_hook(
        lambda _module, args, kwargs: (args, {**kwargs, "pixel_mask": torch.ones_like(kwargs["pixel_mask"])}),
        with_kwargs=True,
    )
    _ = vars(trial).pop("outputs")
    assert verdict("padded-pictures", trial) is Verdict.FAIL


def test_prompted_masks_find_padding_that_was_left_in() -> None:
    def padded(right: Callable[..., Any]) -> Callable[..., Any]:
        return lambda masks, original_sizes, reshaped_input_sizes, **more: right(
            masks, original_sizes, [(max(one), max(one)) for one in reshaped_input_sizes], **more
        )

    trial = trial_of("sam")
    assert verdict("prompted-masks", trial) is Verdict.PASS
    processed_otherwise(trial, "masks", padded)
    assert verdict("prompted-masks", trial) is Verdict.FAIL
