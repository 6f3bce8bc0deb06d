"""One fault in one model, or one clean model: does the battery say what it should?"""

import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from functools import cache

import torch
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from proofbook.catalog import Weights, load_catalog
from proofbook.checks.compare import differing
from proofbook.checks.hidden import without_padding
from proofbook.checks.known_faults import judged
from proofbook.checks.registry import Check, Finding, NotApplicable, examine, registered
from proofbook.checks.trial import Trial
from proofbook.selftest.register import Fault, Reach, faults
from proofbook.verdict import Blocked, Verdict

# nothing that a fault could be seen by, and it takes its time
_LEFT_OUT = ("timing",)


class Result(StrEnum):
    """What became of a fault in a model."""

    FOUND = "found"
    MISSED = "missed"
    NOT_APPLICABLE = "not applicable"  # the model has no part that could be wrong so
    UNPLANTED = "unplanted"  # planting it raised: a defect of the catalogue


@dataclass(frozen=True)
class Planted:
    """One fault in one model."""

    fault: str
    model: str
    category: str
    result: Result
    # the check that fell short first, with its verdict and what it saw; else why there was none
    check: str = ""
    detail: str = ""
    # of all checks up to that one
    seconds: float = 0.0
    # of one that was missed: the checks that fell short, as the model's entry says that they do without it
    expected: tuple[str, ...] = ()


@dataclass(frozen=True)
class Alarm:
    """A check that fell short on a model without a fault."""

    model: str
    seed: int
    check: str
    detail: str


def plant(name: str, model: str, target: str = "cpu", seed: int = 0) -> Planted:
    """Plant a fault in a model and ask the battery until a check falls short."""
    fault = _faults()[name]
    trial = _trial(model, target, seed)
    told = (name, model, str(trial.spec.category))
    try:
        if fault.reach is Reach.LIBRARY:
            with fault.plant(trial):
                return _searched(trial, told)
        _ = trial.truth, trial.noise  # what the model computed before
        right = without_padding(trial.run(), trial.inputs)
        with fault.plant(trial):
            if not differing(right, without_padding(trial.run(), trial.inputs)):
                raise NotApplicable("nothing that a call of the batch gives depends on it")
            return _searched(trial, told)
    except (NotApplicable, Blocked) as reason:
        return Planted(*told, Result.NOT_APPLICABLE, detail=str(reason))
    except Exception as error:  # whatever a model does to a fault is shown beside it
        return Planted(*told, Result.UNPLANTED, detail=f"{type(error).__name__}: {error}")


def clean(model: str, target: str = "cpu", seed: int = 0) -> list[Alarm]:
    """Ask the whole battery of a model that nothing was planted in; a fault that its entry knows of is no alarm, unless
    it does not show."""
    trial = _trial(model, target, seed)
    today = date.today()
    found = (judged(finding, trial.spec.known_faults, target, today) for finding in _findings(trial))
    return [
        Alarm(model, seed, finding.check.name, finding.detail or str(finding.observed))
        for finding in found
        if finding.verdict.fell_short
    ]


def _searched(trial: Trial, told: tuple[str, str, str]) -> Planted:
    start, today, expected = time.perf_counter(), date.today(), list[str]()
    for found in _findings(trial):
        # what falls short without the fault as well does not tell of it
        finding = judged(found, trial.spec.known_faults, trial.target.name, today)
        if finding.verdict.fell_short and finding.verdict is not Verdict.XPASS:
            seen = f"{finding.verdict}: {finding.detail or finding.observed}"
            return Planted(*told, Result.FOUND, finding.check.name, seen, time.perf_counter() - start)
        expected += [finding.check.name] * (finding.verdict is Verdict.XFAIL)
    return Planted(*told, Result.MISSED, seconds=time.perf_counter() - start, expected=tuple(expected))


def _findings(trial: Trial) -> Iterator[Finding]:
    for check in _battery():
        yield examine(check, trial)


def _trial(model: str, target: str, seed: int) -> Trial:
    torch.set_num_threads(1)
    disable_progress_bar()
    set_verbosity_error()  # a planted fault is warned of, over and over
    warnings.simplefilter("ignore")
    catalog = load_catalog()
    return Trial(catalog.model(model), catalog.target(target), Weights.TINY, seed, catalog.tolerances)


@cache
def _battery() -> list[Check]:
    return [check for check in registered() if check.family not in _LEFT_OUT]


@cache
def _faults() -> dict[str, Fault]:
    return {fault.name: fault for fault in faults()}
