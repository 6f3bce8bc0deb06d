"""The register of checks: each one question, one small function in the module of its family."""

import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, overload

from proofbook.checks.compare import Comparison
from proofbook.checks.localise import Execution
from proofbook.runtimes import Refused
from proofbook.verdict import Blocked, Verdict

if TYPE_CHECKING:
    from proofbook.checks.trial import Trial

# in the order in which a notebook asks them; each is a module of this package
FAMILIES = (
    *("loading", "conversion", "forward", "calling", "accuracy", "attention", "precision", "signal", "batching"),
    *("padding", "encoding", "heads", "causality", "caching", "states", "positions", "images", "backbone"),
    *("postprocessing", "towers", "gradients", "export", "memory", "generation", "prompts", "sound", "codecs"),
    *("speaking", "answers", "timing"),
)

Executions = Callable[[], tuple[Execution, Execution]]
Function = Callable[["Trial"], "Observation"]


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
    # what its reproduction needs to know: plain values and tensors, by name (see `checks/reproduction.py`)
    evidence: Mapping[str, Any] = field(default_factory=dict, repr=False)
    # makes the two executions that part where the check fails, to look for the place; None where there are none
    executions: Executions | None = None

    @classmethod
    def of(
        cls, comparisons: Sequence[Comparison], allowed: str, note: str = "", executions: Executions | None = None
    ) -> "Observation":
        """What comparisons, at least one, amount to: passed when each is; observed is the one nearest its bound."""
        worst = max(comparisons, key=lambda one: one.ratio)
        broken = [f"{one.name}: {one.broken}" for one in comparisons if not one.passed]
        return cls(
            passed=not broken,
            observed=f"{worst.ratio:.3g} of the error allowed, in {worst.name}",
            allowed=allowed,
            detail="; ".join(broken[:3] + [note] * bool(note)),
            comparisons=tuple(comparisons),
            executions=executions,
        )


@dataclass(frozen=True)
class Question:
    """What is asked of a trial: the name of a check, or of a step of the notebook."""

    name: str
    family: str
    description: str


@dataclass(frozen=True)
class Check(Question):
    """A registered check."""

    function: Callable[["Trial"], Observation]
    # whether it asks forward calls alone, which a target that runs a graph of the model has as well
    graphs: bool = False
    # whether it asks weights in floating point, which some targets hold in integers
    floats: bool = False


@dataclass(frozen=True)
class Finding:
    """The answer to a question about one trial."""

    check: Question
    verdict: Verdict
    seconds: float
    observed: str | None = None
    allowed: str | None = None
    detail: str = ""
    comparisons: tuple[Comparison, ...] = ()
    executions: Executions | None = None
    # the traceback of an error, for the person who debugs it
    traceback: str = field(default="", repr=False)
    evidence: Mapping[str, Any] = field(default_factory=dict, repr=False)


_register: dict[str, Check] = {}


@overload
def check(function: Function) -> Function: ...


@overload
def check(*, graphs: bool = False, floats: bool = False) -> Callable[[Function], Function]: ...


def check(
    function: Function | None = None, *, graphs: bool = False, floats: bool = False
) -> Function | Callable[[Function], Function]:
    """Register a check: named by its function, described by the first line of its docstring, of its module's family.

    The function returns an :class:`Observation`, or raises :class:`NotApplicable` or
    :class:`~proofbook.verdict.Blocked`; any other exception is the verdict ``error``.

    Args:
        graphs: whether it asks only what a forward call gives (``trial.run`` and its like), so that it is asked as
            well of targets that run a graph of the model and not the module of torch.
        floats: whether it asks weights in floating point (gradients, files, other precisions), so that it is not asked
            of targets that hold them in integers.
    """
    if function is None:
        return lambda function: _registered(function, graphs, floats)
    return _registered(function, graphs, floats)


def _registered(function: Function, graphs: bool, floats: bool) -> Function:
    name = function.__name__.replace("_", "-")
    family = function.__module__.rpartition(".")[2]
    description = (function.__doc__ or "").strip().partition("\n")[0]
    if family not in FAMILIES:
        raise ValueError(f"check {name}: {family} is not a family; known: {', '.join(FAMILIES)}")
    if not description:
        raise ValueError(f"check {name}: has no docstring to describe it")
    if name in _register:
        raise ValueError(f"check {name}: registered twice, in {_register[name].family} and {family}")
    _register[name] = Check(name, family, description, function, graphs, floats)
    return function


def registered() -> list[Check]:
    """All checks, by family in the order of :data:`FAMILIES`."""
    for family in FAMILIES:
        import_module(f"proofbook.checks.{family}")
    return sorted(_register.values(), key=lambda one: FAMILIES.index(one.family))


def chosen(names: str) -> list[Check]:
    """The checks that a comma-separated list of checks and families names; ``all`` stands for all.

    Raises:
        ValueError: a name is neither; the message lists what is.
    """
    checks = registered()
    if names == "all":
        return checks
    wanted = {name.strip() for name in names.split(",") if name.strip()}
    known = {check.name for check in checks} | set(FAMILIES)
    if not wanted or wanted - known:
        unknown = ", ".join(sorted(wanted - known)) or "(none named)"
        raise ValueError(f"unknown checks {unknown}; known: all, {', '.join(sorted(known))}")
    # a model that did not load has nothing to say about the rest
    return [check for check in checks if {check.name, check.family} & wanted or check.name == "loads"]


def examine(check: Check, trial: "Trial") -> Finding:
    """Ask one check of a trial; whatever happens becomes a finding."""
    start = time.perf_counter()
    try:
        if not check.graphs:
            trial.require_module()
        if check.floats and trial.target.weight_dtype:
            raise NotApplicable(f"asks weights in floating point, not in {trial.target.weight_dtype}")
        seen = check.function(trial)
    except Exception as error:  # whatever a model raises is its verdict
        return raised(check, error, time.perf_counter() - start)
    return Finding(
        check,
        Verdict.PASS if seen.passed else Verdict.FAIL,
        time.perf_counter() - start,
        observed=seen.observed,
        allowed=seen.allowed,
        detail=seen.detail,
        comparisons=seen.comparisons,
        evidence=seen.evidence,
        executions=seen.executions,
    )


@contextmanager
def evidence(**values: Any) -> Iterator[None]:
    """Keep what a reproduction needs to know with an exception that is raised in here.

    Where it is one forward call that raises, ``inputs`` and ``dtype`` say which, unless it is that of the batch.
    """
    try:
        yield
    except Exception as error:
        vars(error)["evidence"] = values
        raise


def raised(question: Question, error: Exception, seconds: float) -> Finding:
    """The finding that an exception amounts to: ``skip``, ``blocked`` or ``error``."""
    kept = vars(error).get("evidence", {})
    match error:
        case NotApplicable():
            return Finding(question, Verdict.SKIP, seconds, detail=str(error))
        case Blocked():
            return Finding(question, Verdict.BLOCKED, seconds, observed=error.name, detail=str(error))
        case Refused():
            return Finding(question, Verdict.ERROR, seconds, observed=error.cause, detail=str(error), evidence=kept)
    cause = f"{type(error).__name__}: {error}"
    trace = "".join(traceback.format_exception(error))
    return Finding(question, Verdict.ERROR, seconds, detail=cause, traceback=trace, evidence=kept)
