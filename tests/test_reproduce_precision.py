"""What checks of precision, attention, training, export and loading declare as reproductions: a sound model's script
comes to its end, that of a model with a fault planted in the library asserts."""

import runpy
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaMLP

from proofbook.checks.registry import examine
from proofbook.checks.reproduction import reproduces, reproduction_of
from proofbook.reproduce.reproduction import _subject, forward
from proofbook.reproduce.script import write_script
from proofbook.workbook.case import Case
from test_reproduce_checks import CHECKS, run_script

SOUND = ("bfloat16", "float16")


def wrapped(monkeypatch: pytest.MonkeyPatch, kind: Any, name: str, change: Callable[..., Any]) -> None:
    """Plant a fault: a method of the library gives what ``change`` makes of what it gave."""
    usual = getattr(kind, name)

    @wraps(usual)
    def changed(*args: Any, **kwargs: Any) -> Any:
        return change(usual(*args, **kwargs))

    monkeypatch.setattr(kind, name, changed)


def test_the_script_of_a_sound_model_comes_to_its_end(tmp_path: Path) -> None:
    case = Case("llama")
    assert all(run_script(case, name, tmp_path) for name in SOUND)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_half_precision_that_is_wrong_is_shown_by_a_script(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapped(monkeypatch, LlamaMLP, "forward", lambda out: out * (2 if out.dtype is getattr(torch, dtype) else 1))
    case = Case("llama")
    assert not run_script(case, dtype, tmp_path)
    assert run_script(case, "matches-truth", tmp_path)


@pytest.mark.parametrize(("model", "name"), [("deberta", "float16"), ("granite_docling", "optional-inputs")])
def test_the_call_that_raises_is_all_of_a_script(model: str, name: str, tmp_path: Path) -> None:
    case = Case(model)
    finding = examine(CHECKS[name], case)
    raised = finding.traceback.splitlines()[-1].partition(": ")[2]
    script = write_script(_subject(case), forward, finding.evidence, "about", name, exact=False)
    path = tmp_path / "script.py"
    path.write_text(script.text, encoding="utf-8")
    with pytest.raises(Exception, match=raised.partition(" (")[0]):
        runpy.run_path(str(path))


def test_the_question_is_the_first_for_which_there_is_evidence() -> None:
    def check(trial: object) -> None: ...

    @reproduces(check)
    def shape(found: int) -> None: ...

    @reproduces(check)
    def value(model: object, tolerance: object, much: float) -> None: ...

    assert reproduction_of("check", {"much": 1.0}) is value
    assert reproduction_of("check", {"much": 1.0, "found": 1}) is reproduction_of("check") is shape
