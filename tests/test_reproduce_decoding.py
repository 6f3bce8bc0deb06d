"""What checks of caches and of generation declare as reproductions: a sound model's script comes to its end, that of a
model with a fault planted in the library asserts, or raises what the check raised."""

import runpy
from pathlib import Path
from typing import Any

import pytest
from transformers.cache_utils import Cache, DynamicLayer
from transformers.generation.logits_process import LogitsProcessorList
from transformers.masking_utils import create_causal_mask
from transformers.models.clip.modeling_clip import CLIPModel
from transformers.models.llama import modeling_llama
from transformers.models.mistral import modeling_mistral
from transformers.models.moonshine.modeling_moonshine import MoonshineEncoder
from transformers.models.t5 import modeling_t5

from proofbook.checks.registry import examine
from proofbook.checks.reproduction import reproduction_of
from proofbook.reproduce.reproduction import _subject
from proofbook.reproduce.script import write_script
from proofbook.verdict import Verdict
from proofbook.workbook.case import Case
from test_reproduce_checks import CHECKS, run_script
from test_reproduce_precision import wrapped

CACHES = ("cache-kinds", "cache-rows")
WRITES = ("greedy", "beams", "sampling")


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("llama", (*CACHES, *WRITES, "quantised-cache", "padded-decoding")),
        ("t5", (*CACHES, *WRITES, "cross-attention-mask")),
        ("llava", ("cache-kinds", "greedy", "sampling", "mixed-generation")),
        ("moonshine", ("generated-transcription",)),
        ("clip", ("one-beside-many",)),
        ("mistral", ("window",)),
    ],
)
def test_the_script_of_a_sound_model_comes_to_its_end(model: str, names: tuple[str, ...], tmp_path: Path) -> None:
    case = Case(model)
    assert all(run_script(case, name, tmp_path) for name in names)


def test_a_cache_that_changes_what_it_keeps_is_shown_by_a_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = DynamicLayer.update

    def changed(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        if self.is_initialized:
            self.keys = self.keys * 1.01
        return update(self, *args, **kwargs)

    monkeypatch.setattr(DynamicLayer, "update", changed)
    case = Case("llama")
    assert not any(run_script(case, name, tmp_path) for name in ("cache-kinds", "greedy", "beams"))


def test_rows_of_a_cache_that_stay_are_shown_by_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cache, "reorder_cache", lambda *_: None)
    case = Case("llama")
    assert not any(run_script(case, name, tmp_path) for name in ("cache-rows", "beams", "quantised-cache"))


@pytest.mark.parametrize(("model", "name"), [("llama", "padded-decoding"), ("llava", "mixed-generation")])
def test_padding_that_is_seen_behind_a_cache_is_shown_by_a_script(
    model: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modeling_llama, "create_causal_mask", lambda *_, **__: None)
    assert not run_script(Case(model), name, tmp_path)


@pytest.mark.parametrize(
    ("model", "name", "kind", "output"),
    [
        ("clip", "one-beside-many", CLIPModel, "logits_per_text"),
        ("moonshine", "generated-transcription", MoonshineEncoder, "last_hidden_state"),
    ],
)
def test_rows_that_know_of_each_other_are_shown_by_a_script(
    model: str, name: str, kind: Any, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def counted(found: Any) -> Any:
        found[output] = found[output] * (1 + 0.01 * found[output].shape[0])
        return found

    wrapped(monkeypatch, kind, "forward", counted)
    assert not run_script(Case(model), name, tmp_path)


@pytest.mark.parametrize("name", [*CACHES, *WRITES, "padded-decoding"])
def test_what_a_cache_raises_is_raised_by_a_script(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    update = DynamicLayer.update

    def full(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        if self.is_initialized:
            raise RuntimeError("it is full")
        return update(self, *args, **kwargs)

    monkeypatch.setattr(DynamicLayer, "update", full)
    case = Case("llama")
    finding = examine(CHECKS[name], case)
    question = reproduction_of(name, finding.evidence)
    assert finding.verdict is Verdict.ERROR and question is not None
    script = write_script(_subject(case), question, finding.evidence, "about", name, exact=False)
    path = tmp_path / f"{name}.py"
    path.write_text(script.text, encoding="utf-8")
    with pytest.raises(RuntimeError, match="it is full"):
        runpy.run_path(str(path))


def test_tokens_that_scores_do_not_name_are_shown_by_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LogitsProcessorList, "__call__", lambda self, ids, scores, **_: -scores)
    case = Case("llama")
    assert not any(run_script(case, name, tmp_path) for name in ("greedy", "sampling"))


def test_a_window_that_is_lost_is_shown_by_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modeling_mistral, "create_sliding_window_causal_mask", create_causal_mask)
    assert not run_script(Case("mistral"), "window", tmp_path)


def test_states_that_are_seen_behind_a_mask_are_shown_by_a_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modeling_t5, "create_bidirectional_mask", lambda *_, **__: None)
    assert not run_script(Case("t5"), "cross-attention-mask", tmp_path)
