"""What checks of pictures, sound and heads declare as reproductions: a sound model's script comes to its end, that of a
model with a fault asserts, or raises what the check raised."""

import runpy
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import Wav2Vec2FeatureExtractor
from transformers.models.bert import modeling_bert
from transformers.models.bert.modeling_bert import BertForSequenceClassification
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector
from transformers.models.resnet.modeling_resnet import ResNetBackbone
from transformers.models.vit.modeling_vit import ViTEmbeddings

from proofbook.checks.postprocessing import post_processed
from proofbook.checks.registry import examine
from proofbook.checks.reproduction import reproduction_of
from proofbook.reproduce.reproduction import _subject
from proofbook.reproduce.script import write_script
from proofbook.workbook.case import Case
from test_reproduce_checks import CHECKS, run_script


def fault(monkeypatch: pytest.MonkeyPatch, kind: Any, change: Callable[..., Any]) -> None:
    """Plant a fault in the library: the forward of a class is called through a function of it and its arguments."""
    usual = kind.forward

    @wraps(usual)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return change(lambda *a, **k: usual(self, *a, **k), *args, **kwargs)

    monkeypatch.setattr(kind, "forward", forward)


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("unispeech", ("padded-samples", "sound-features")),
        ("speecht5", ("sound-features",)),
        ("whisper", ("sound-features",)),
        ("bert", ("heads", "masked-content")),
        ("llava", ("mixed-batch", "exchanged-pictures")),
        ("vit", ("every-corner", "resolution")),
        ("resnet", ("feature-maps",)),
    ],
)
def test_the_script_of_a_sound_model_comes_to_its_end(model: str, names: tuple[str, ...], tmp_path: Path) -> None:
    case = Case(model)
    assert all(run_script(case, name, tmp_path) for name in names)


def test_padding_that_is_normalised_is_shown_by_a_script_without_a_model(tmp_path: Path) -> None:
    case = Case("unispeech")
    case.processor.feature_extractor.return_attention_mask = False
    assert not run_script(case, "padded-samples", tmp_path)
    assert "CONFIG" not in (tmp_path / "padded-samples.py").read_text()


def test_features_that_are_not_those_of_the_formula_are_shown_by_a_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = Wav2Vec2FeatureExtractor.zero_mean_unit_var_norm

    def louder(*args: Any, **kwargs: Any) -> Any:
        return [one * 1.01 for one in usual(*args, **kwargs)]

    monkeypatch.setattr(Wav2Vec2FeatureExtractor, "zero_mean_unit_var_norm", staticmethod(louder))
    assert not run_script(Case("unispeech"), "sound-features", tmp_path)


def test_a_head_that_is_wrong_is_shown_by_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def off(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        outputs = forward(*args, **kwargs)
        outputs.loss = 1.01 * outputs.loss
        return outputs

    fault(monkeypatch, BertForSequenceClassification, off)
    assert not run_script(Case("bert"), "heads", tmp_path)


def test_a_head_whose_body_lies_elsewhere_in_the_checkpoint_is_shown_by_a_script(tmp_path: Path) -> None:
    assert not run_script(Case("musicgen"), "heads", tmp_path)


def test_a_corner_that_is_not_read_is_shown_by_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(forward: Callable[..., Any], pixels: torch.Tensor, **kwargs: Any) -> Any:
        pixels = pixels.clone()
        pixels[..., -8:, -8:] = 0
        return forward(pixels, **kwargs)

    fault(monkeypatch, ViTEmbeddings, cut)
    assert not run_script(Case("vit"), "every-corner", tmp_path)


def test_interpolation_to_the_same_size_that_moves_is_shown_by_a_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = ViTEmbeddings.interpolate_pos_encoding
    monkeypatch.setattr(ViTEmbeddings, "interpolate_pos_encoding", lambda *args: usual(*args) * torch.tensor(1.01))
    assert not run_script(Case("vit"), "resolution", tmp_path)


@pytest.mark.parametrize("shape", [True, False])
def test_a_wrong_map_is_shown_by_a_script(shape: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        outputs = forward(*args, **kwargs)
        maps = outputs.feature_maps
        outputs.feature_maps = tuple(one[:, 1:] if shape else one * (1 + 0.01 * (len(maps) > 1)) for one in maps)
        return outputs

    fault(monkeypatch, ResNetBackbone, wrong)
    assert not run_script(Case("resnet"), "feature-maps", tmp_path)


def test_a_mask_that_is_not_read_is_shown_by_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modeling_bert, "create_bidirectional_mask", lambda *_, **__: None)
    assert not run_script(Case("bert"), "masked-content", tmp_path)


@pytest.mark.parametrize("name", ["mixed-batch", "exchanged-pictures"])
def test_pictures_that_depend_on_their_batch_are_shown_by_a_script(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def numbered(forward: Callable[..., Any], features: torch.Tensor) -> Any:
        return forward(features * torch.linspace(1, 2, len(features))[:, None, None])

    fault(monkeypatch, LlavaMultiModalProjector, numbered)
    assert not run_script(Case("llava"), name, tmp_path)


def test_post_processing_that_raises_is_shown_by_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def post_process_object_detection(self: Any, outputs: Any, threshold: float = 0.5, target_sizes: Any = None) -> Any:
        raise NameError("no such function")

    case = Case("detr")
    monkeypatch.setattr(type(case.processor), "post_process_object_detection", post_process_object_detection)
    finding = examine(CHECKS["answers"], case)
    question = reproduction_of("answers", finding.evidence)
    assert question is post_processed
    script = write_script(_subject(case), question, finding.evidence, "about", "answers", exact=False)
    path = tmp_path / "answers.py"
    path.write_text(script.text, encoding="utf-8")
    save_file(dict(script.tensors), tmp_path / "answers.safetensors")
    with pytest.raises(NameError, match="no such function"):
        runpy.run_path(str(path))
