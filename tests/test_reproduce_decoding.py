"""What checks of caches and of generation declare as reproductions: a sound model's script comes to its end, that of a
model with a fault planted in the library asserts, or raises what the check raised."""

from pathlib import Path

import pytest
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.generation.logits_process import LogitsProcessorList

from proofbook.workbook.case import Case
from test_reproduce_checks import run_script

CACHES = ("cache-kinds", "cache-rows")
WRITES = ("greedy", "beams", "sampling")


@pytest.mark.parametrize(
    ("model", "names"),
    [("llama", (*CACHES, *WRITES)), ("t5", (*CACHES, *WRITES)), ("llava", ("cache-kinds", "greedy", "sampling"))],
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
    monkeypatch.setattr(DynamicCache, "reorder_cache", lambda *_: None)
    case = Case("llama")
    assert not run_script(case, "cache-rows", tmp_path)
    assert not run_script(case, "beams", tmp_path)


def test_tokens_that_scores_do_not_name_are_shown_by_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LogitsProcessorList, "__call__", lambda self, ids, scores, **_: -scores)
    case = Case("llama")
    assert not any(run_script(case, name, tmp_path) for name in ("greedy", "sampling"))
