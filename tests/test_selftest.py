"""Faults are planted in real models, found, and taken away again."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from proofbook.catalog import Weights, load_catalog
from proofbook.checks.registry import NotApplicable
from proofbook.checks.trial import Trial
from proofbook.cli.selftesting import selftest_suite
from proofbook.selftest import trials
from proofbook.selftest.matrix import hidden, matrix
from proofbook.selftest.register import Fault, Reach, faults
from proofbook.selftest.trials import Planted, Result, clean, plant

FAULTS = {fault.name: fault for fault in faults()}


def llama() -> Trial:
    catalog = load_catalog()
    return Trial(catalog.model("llama"), catalog.target("cpu"), Weights.TINY, 0, catalog.tolerances)


@pytest.mark.parametrize(
    ("fault", "model", "check"),
    [
        ("padding-attended", "bert", "inputs-matter"),
        ("output-scaled", "vit", "matches-truth"),
        ("key-missing-in-checkpoint", "t5", "loads"),
        ("image-tokens-misplaced", "llava", "matches-truth"),
        # of which each row has two texts, one behind the other
        ("rows-leak", "owlvit", "batch-matches-single"),
        # whose own code gives a table of positions no gradient
        ("gradient-detached", "marian", "gradients-by-difference"),
        # whose decoder reads no tokens
        ("causal-mask-dropped", "speecht5", "causal-states"),
    ],
)
def test_the_battery_finds_a_fault(fault: str, model: str, check: str) -> None:
    planted = plant(fault, model)
    assert (planted.result, planted.check) == (Result.FOUND, check)


@pytest.mark.parametrize(
    ("fault", "model", "why"),
    [
        ("causal-mask-dropped", "vit", ""),
        ("layers-on-the-cpu", "vit", "the target is the CPU itself"),
        ("causal-flag-ignored-by-sdpa", "falcon", "without a mask"),
    ],
)
def test_a_fault_that_a_case_can_not_have_is_not_applicable(fault: str, model: str, why: str) -> None:
    planted = plant(fault, model)
    assert planted.result is Result.NOT_APPLICABLE
    assert why in planted.detail


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_a_fault_is_taken_away_again(name: str) -> None:
    trial = llama()
    before = trial.outputs
    try:
        with FAULTS[name].plant(trial):
            pass
    except NotApplicable as reason:
        pytest.skip(str(reason))
    after = trial.run()
    assert all(torch.equal(after[key], value) for key, value in before.items())


@contextmanager
def nothing(_: Trial) -> Iterator[None]:
    yield


def test_a_fault_that_nothing_sees_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    unseen = Fault("unseen", "numbers", Reach.LIBRARY, "nothing at all", nothing)
    monkeypatch.setattr(trials, "_faults", lambda: {"unseen": unseen})
    assert plant("unseen", "llama").result is Result.MISSED


def test_a_clean_model_raises_no_alarm() -> None:
    assert clean("llama") == []


def test_the_matrix_counts_what_was_planted_alone() -> None:
    results = [Result.FOUND, Result.MISSED, Result.NOT_APPLICABLE]
    (line,) = matrix([Planted("f", "m", "vision", result, "c" * (result is Result.FOUND)) for result in results])
    assert (line.found, line.planted, line.categories) == (1, 2, {"vision": (1, 2)})
    assert line.checks == ("c",)


def test_a_fault_that_a_known_one_hides_is_told_apart_from_one_that_is_missed() -> None:
    found = Planted("f", "m", "vision", Result.FOUND, "c")
    missed, behind = (
        Planted("f", "n", "vision", Result.MISSED, expected=expected) for expected in (("heads",), ("heads", "c"))
    )
    assert hidden([found, missed, behind]) == [behind]
    (line,) = matrix([found, missed, behind])
    assert (line.found, line.planted) == (1, 2)


@pytest.mark.slow
def test_the_command_prints_the_matrix(capsys: pytest.CaptureFixture[str]) -> None:
    code = selftest_suite("spread", ["gpt2"], ["output-scaled", "tying-lost"], 1, "cpu", 2, as_json=False)
    printed = capsys.readouterr().out
    assert code == 0, printed
    assert "found 2 of 2 faults (100.0%)" in printed
    assert "0 false alarms in 1 clean runs" in printed
