"""What checks of decoding, padding and calling declare as reproductions: a sound model's script comes to its end, that
of a model with a fault planted in the library asserts."""

import runpy
from contextlib import nullcontext
from functools import wraps
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers.cache_utils import DynamicLayer
from transformers.models.clip.modeling_clip import CLIPModel
from transformers.models.llama import modeling_llama

from proofbook.checks.registry import registered
from proofbook.checks.reproduction import reproduction_of
from proofbook.reproduce.bundle import bundled
from proofbook.reproduce.reproduction import _subject
from proofbook.reproduce.script import has_rough_form, write_script
from proofbook.workbook.case import Case

CHECKS = {check.name: check for check in registered()}
DECODES = ("causal", "cache-token-by-token", "cache-in-chunks", "embeddings-for-ids")


def run_script(case: Case, name: str, folder: Path) -> bool:
    """Run the script of a check with the very weights; whether the check itself passes."""
    seen = CHECKS[name].function(case)
    question = reproduction_of(name, seen.evidence)
    assert question is not None
    script = write_script(_subject(case), question, seen.evidence, "about", name, exact=True)
    assert "from proofbook" not in script.text
    save_file(dict(script.tensors), folder / f"{name}.safetensors")
    path = folder / f"{name}.py"
    path.write_text(script.text, encoding="utf-8")
    if seen.passed:
        runpy.run_path(str(path))
    else:
        with pytest.raises(AssertionError, match=r"observed .* allowed"):
            runpy.run_path(str(path))
    return seen.passed


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("llama", (*DECODES, "padding-changes-nothing", "cache-switch", "optional-inputs", "beyond-trained-length")),
        ("t5", DECODES),
        ("clip", ("towers-alone",)),
    ],
)
def test_the_script_of_a_sound_model_comes_to_its_end(model: str, names: tuple[str, ...], tmp_path: Path) -> None:
    case = Case(model)
    assert all(run_script(case, name, tmp_path) for name in names)


def test_a_future_that_is_seen_is_shown_by_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attend = modeling_llama.eager_attention_forward

    def unmasked(module, query, key, value, mask, *args, **kwargs):  # type: ignore[no-untyped-def]
        return attend(module, query, key, value, None, *args, **kwargs)

    monkeypatch.setattr(modeling_llama, "eager_attention_forward", unmasked)
    assert not run_script(Case("llama"), "causal", tmp_path)


def test_padding_that_is_seen_is_shown_by_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modeling_llama, "create_causal_mask", lambda *_, **__: None)
    assert not run_script(Case("llama"), "padding-changes-nothing", tmp_path)


@pytest.mark.parametrize("name", ["cache-token-by-token", "cache-in-chunks"])
def test_a_cache_that_changes_what_it_keeps_is_shown_by_a_script(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = DynamicLayer.update

    def changed(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        if self.is_initialized:
            self.keys = self.keys * 1.01
        return update(self, *args, **kwargs)

    monkeypatch.setattr(DynamicLayer, "update", changed)
    assert not run_script(Case("llama"), name, tmp_path)


def test_a_tower_that_differs_alone_is_shown_by_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = CLIPModel.forward

    @wraps(usual)
    def turned(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        found = usual(self, *args, **kwargs)
        found.text_embeds = found.text_embeds * torch.linspace(0.99, 1.01, found.text_embeds.shape[-1])
        return found

    monkeypatch.setattr(CLIPModel, "forward", turned)
    assert not run_script(Case("clip"), "towers-alone", tmp_path)


def test_decorators_of_torch_stay_those_of_ours_go() -> None:
    question = reproduction_of("parameters-matter")
    assert question is not None
    source = bundled([question]).definitions
    assert "@torch.no_grad()\ndef parameters_move_outputs" in source and "@reproduces" not in source


@pytest.mark.parametrize("name", [name for name in CHECKS if reproduction_of(name)])
def test_a_question_stands_at_the_top_and_can_be_defined_there(name: str) -> None:
    question = reproduction_of(name)
    assert question is not None
    bundle = bundled([question])
    exec("\n".join([*sorted(bundle.imports), bundle.definitions]), {})
    functions = [line for line in bundle.definitions.splitlines() if line.startswith("def ")]
    assert functions[0].startswith(f"def {question.__name__}(")


@pytest.mark.parametrize(("model", "fails"), [("llama", False), ("esm", True)])
def test_an_error_far_beyond_rounding_is_held_against_no_float64(model: str, fails: bool, tmp_path: Path) -> None:
    case, question = Case(model), reproduction_of("embeddings-for-ids")
    assert question is not None and has_rough_form(question)
    seen = CHECKS["embeddings-for-ids"].function(case)
    whole, script = (
        write_script(_subject(case), question, seen.evidence, "about", "x", exact=False, rough=rough)
        for rough in (False, True)
    )
    assert "class Float64" in whole.text and "class Float64" not in script.text
    path = tmp_path / "x.py"
    path.write_text(script.text, encoding="utf-8")
    with pytest.raises(AssertionError, match=r"observed .* allowed") if fails else nullcontext():
        runpy.run_path(str(path))
