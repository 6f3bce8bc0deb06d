"""What checks of precision, attention, training, export and loading declare as reproductions: a sound model's script
comes to its end, that of a model with a fault planted in the library asserts."""

import inspect
import runpy
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2LMHeadModel, LlamaForCausalLM, modeling_utils
from transformers.models.llama.modeling_llama import LlamaMLP

from proofbook.checks.registry import examine
from proofbook.checks.reproduction import reproduces, reproduction_of
from proofbook.compat import AttentionInterface
from proofbook.reproduce.reproduction import _subject, forward
from proofbook.reproduce.script import write_script
from proofbook.workbook.case import Case
from test_checks import bake_length
from test_reproduce_checks import CHECKS, run_script

SOUND = (
    *("bfloat16", "float16", "attention-implementations", "gradients", "gradients-by-difference"),
    *("gradient-checkpointing", "exported-graph", "tuple-outputs", "argument-order", "sharded-files"),
)


def wrapped(monkeypatch: pytest.MonkeyPatch, kind: Any, name: str, change: Callable[..., Any]) -> None:
    """Plant a fault: a method of the library gives what ``change`` makes of what it gave."""
    usual = kind[name] if isinstance(kind, dict) else getattr(kind, name)

    @wraps(usual)
    def changed(*args: Any, **kwargs: Any) -> Any:
        return change(usual(*args, **kwargs))

    (monkeypatch.setitem if isinstance(kind, dict) else monkeypatch.setattr)(kind, name, changed)


def test_the_script_of_a_sound_model_comes_to_its_end(tmp_path: Path) -> None:
    case = Case("llama")
    assert all(run_script(case, name, tmp_path) for name in SOUND)


@pytest.mark.parametrize(
    ("name", "evidence"),
    [
        ("attention-implementations", {"raising": "flex_attention"}),
        ("attention-implementations", {"asked": "eager", "astray": ["model.layers.0.self_attn"]}),
        ("gradients", {"leading": ["logits"]}),
        ("gradient-checkpointing", {"arguments": {"use_cache": False}}),
        ("exported-graph", {"claim": "_can_compile_fullgraph"}),
        ("tuple-outputs", {"arguments": {"return_dict": False}}),
    ],
)
def test_so_does_that_of_each_way_in_which_it_may_fail(name: str, evidence: dict[str, Any], tmp_path: Path) -> None:
    case = Case("llama")
    assert case.outputs
    question = reproduction_of(name, evidence)
    assert question is not None and inspect.signature(question).parameters.keys() & evidence.keys()
    script = write_script(_subject(case), question, evidence, "about", name, exact=False)
    path = tmp_path / "script.py"
    path.write_text(script.text, encoding="utf-8")
    runpy.run_path(str(path))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_half_precision_that_is_wrong_is_shown_by_a_script(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapped(monkeypatch, LlamaMLP, "forward", lambda out: out * (2 if out.dtype is getattr(torch, dtype) else 1))
    case = Case("llama")
    assert not run_script(case, dtype, tmp_path)
    assert run_script(case, "matches-truth", tmp_path)


def test_an_attention_that_is_wrong_is_shown_by_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = AttentionInterface._global_mapping
    wrapped(monkeypatch, kinds, "sdpa", lambda found: (found[0] * 1.1, found[1]))
    assert not run_script(Case("llama"), "attention-implementations", tmp_path)


def test_an_attention_that_raises_is_shown_by_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(found: Any) -> Any:
        raise IndexError("out of bounds")

    wrapped(monkeypatch, AttentionInterface._global_mapping, "flex_attention", refuse)
    assert not run_script(Case("llama"), "attention-implementations", tmp_path)


def test_a_layer_that_takes_another_attention_is_shown_by_a_script(tmp_path: Path) -> None:
    assert not run_script(Case("clipseg"), "attention-implementations", tmp_path)  # a known fault


def test_gradients_that_are_wrong_are_shown_by_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = AttentionInterface._global_mapping
    wrapped(monkeypatch, kinds, "sdpa", lambda found: (found[0] + (found[0] - found[0].detach()) * 0.1, found[1]))
    assert not run_script(Case("llama"), "gradients", tmp_path)


def test_a_gradient_that_is_no_slope_is_shown_by_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrapped(monkeypatch, LlamaMLP, "forward", lambda out: out + (out - out.detach()) * 0.1)
    assert not run_script(Case("llama"), "gradients-by-difference", tmp_path)


def test_checkpointing_that_does_not_happen_is_shown_by_a_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modeling_utils.PreTrainedModel, "_set_gradient_checkpointing", lambda *_, **__: None)
    assert not run_script(Case("llama"), "gradient-checkpointing", tmp_path)


def test_checkpointing_that_changes_gradients_is_shown_by_a_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapped(monkeypatch, modeling_utils, "checkpoint", lambda out: out * 1.1)
    assert not run_script(Case("llama"), "gradient-checkpointing", tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda out: out * (1.1 if torch.compiler.is_exporting() else 1.0),
        lambda out: out * (1.0 if out.sum() > 0 else 1.1),  # which no graph can know beforehand
    ],
    ids=["numbers", "branch"],
)
def test_a_graph_that_is_wrong_or_none_is_shown_by_a_script(
    change: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapped(monkeypatch, LlamaMLP, "forward", change)
    assert not run_script(Case("llama"), "exported-graph", tmp_path)


def test_a_graph_that_is_wrong_at_another_size_is_shown_by_a_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bake_length(monkeypatch)
    assert not run_script(Case("llama"), "exported-graph", tmp_path)


@pytest.mark.parametrize("kept", [slice(1), slice(None, None, -1)], ids=["too few", "in another order"])
def test_a_tuple_unlike_the_outputs_is_shown_by_a_script(
    kept: slice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapped(monkeypatch, LlamaForCausalLM, "forward", lambda out: out[kept] if type(out) is tuple else out)
    assert not run_script(Case("llama"), "tuple-outputs", tmp_path)


def test_an_argument_that_counts_by_its_place_is_shown_by_a_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = LlamaForCausalLM.forward

    @wraps(usual)
    def changed(self: Any, *args: Any, **kwargs: Any) -> Any:
        return usual(self, *(one.flip(1) for one in args), **kwargs)

    monkeypatch.setattr(LlamaForCausalLM, "forward", changed)
    assert not run_script(Case("llama"), "argument-order", tmp_path)


def test_several_files_that_change_a_model_are_shown_by_a_script(tmp_path: Path) -> None:
    assert not run_script(Case("pixio"), "sharded-files", tmp_path)  # a known fault


def test_ties_that_come_apart_are_shown_by_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_script(Case("gpt2"), "tied-weights", tmp_path)
    monkeypatch.setattr(GPT2LMHeadModel, "tie_weights", lambda *_, **__: None)
    assert not run_script(Case("gpt2"), "tied-weights", tmp_path)


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
