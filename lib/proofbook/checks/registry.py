"""The register of checks: each one question, one small function in the module of its family."""

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING

from proofbook.checks.compare import Comparison
from proofbook.verdict import Blocked, Verdict

if TYPE_CHECKING:
    from proofbook.checks.trial import Trial

# in the order in which a notebook asks them; each is a module of this package
FAMILIES = ("loading", "forward", "accuracy", "batching", "answers", "timing")


class NotApplicable(Exception):
    """Raised by a check that has no meaning for a case; the reason becomes that of its ``skip``."""


@dataclass(frozen=True)
class Observation:
    """What a check saw, what it allows, and whether the one is within the other."""

    passed: bool
    observed: str
    allowed: str
    detail: str = ""
    comparisons: tuple[Comparison, ...] = ()


@dataclass(frozen=True)
class Check:
    """A registered check."""

    name: str
    family: str
    description: str
    function: Callable[["Trial"], Observation]


@dataclass(frozen=True)
class Finding:
    """A check's answer for one trial."""

    check: Check
    verdict: Verdict
    seconds: float
    observed: str | None = None
    allowed: str | None = None
    detail: str = ""
    comparisons: tuple[Comparison, ...] = ()
    # the traceback of an error, for the person who debugs it
    traceback: str = field(default="", repr=False)


_register: dict[str, Check] = {}


def check(function: Callable[["Trial"], Observation]) -> Callable[["Trial"], Observation]:
    """Register a check: named by its function, described by the first line of its docstring, of its module's family.

    The function returns an :class:`Observation`, or raises :class:`NotApplicable` or
    :class:`~proofbook.verdict.Blocked`; any other exception is the verdict ``error``.
    """
    name = function.__name__.replace("_", "-")
    family = function.__module__.rpartition(".")[2]
    description = (function.__doc__ or "").strip().partition("\n")[0]
    if family not in FAMILIES:
        raise ValueError(f"check {name}: {family} is not a family; known: {', '.join(FAMILIES)}")
    if not description:
        raise ValueError(f"check {name}: has no docstring to describe it")
    if name in _register:
        raise ValueError(f"check {name}: registered twice, in {_register[name].family} and {family}")
    _register[name] = Check(name, family, description, function)
    return function


def registered() -> list[Check]:
    """All checks, by family in the order of :data:`FAMILIES`."""
    for family in FAMILIES:
        import_module(f"proofbook.checks.{family}")
    return sorted(_register.values(), key=lambda one: FAMILIES.index(one.family))


def examine(check: Check, trial: "Trial") -> Finding:
    """Ask one check of a trial; whatever happens becomes a finding."""
    start = time.perf_counter()

    def finding(verdict: Verdict, **observed: object) -> Finding:
        return Finding(check, verdict, time.perf_counter() - start, **observed)  # type: ignore[arg-type]

    try:
        seen = check.function(trial)
    except NotApplicable as reason:
        return finding(Verdict.SKIP, detail=str(reason))
    except Blocked as blocked:
        return finding(Verdict.BLOCKED, observed=blocked.name, detail=str(blocked))
    except Exception as error:  # whatever a model raises is its verdict
        cause = f"{type(error).__name__}: {error}"
        return finding(Verdict.ERROR, detail=cause, traceback="".join(traceback.format_exception(error)))
    return finding(
        Verdict.PASS if seen.passed else Verdict.FAIL,
        observed=seen.observed,
        allowed=seen.allowed,
        detail=seen.detail,
        comparisons=seen.comparisons,
    )
