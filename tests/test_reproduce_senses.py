"""What checks of pictures, sound and heads declare as reproductions: a sound model's script comes to its end, that of a
model with a fault asserts, or raises what the check raised."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.bert.modeling_bert import BertForSequenceClassification
from transformers.models.resnet.modeling_resnet import ResNetBackbone
from transformers.models.vit.modeling_vit import ViTEmbeddings

from proofbook.workbook.case import Case
from test_reproduce_checks import run_script


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
        ("unispeech", ("padded-samples",)),
        ("bert", ("heads",)),
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


def test_a_head_that_is_wrong_is_shown_by_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def off(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        outputs = forward(*args, **kwargs)
        outputs.loss = 1.01 * outputs.loss
        return outputs

    fault(monkeypatch, BertForSequenceClassification, off)
    assert not run_script(Case("bert"), "heads", tmp_path)


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
