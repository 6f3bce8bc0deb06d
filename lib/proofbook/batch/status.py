"""Where a run stands, for those who do not execute it: from its plan, its events, its lock and its notebooks."""

from collections import Counter
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel

from proofbook.batch.events import CaseFinished, CaseStarted, read_events
from proofbook.batch.lock import Holder, holder, is_locked
from proofbook.batch.plan import Plan
from proofbook.batch.state import State
from proofbook.catalog import Category
from proofbook.verdict import Verdict

VERSION = 1


class Condition(StrEnum):
    """Whether somebody executes a run, and else why nobody does."""

    RUNNING = "running"
    COMPLETE = "complete"
    STOPPED = "stopped"  # by Ctrl-C or SIGTERM
    FAILED = "failed"  # the machinery did
    KILLED = "killed"  # its runner is gone, and could not say so
    PLANNED = "planned"  # nothing was ever executed


class Running(BaseModel):
    """A case that runs."""

    case: str
    seconds: float
    time_limit: float


class Status(BaseModel):
    """A run, at one moment; the answer of ``proofbook status --json``. Its version grows as that of events."""

    version: int = VERSION
    run: str
    folder: str
    condition: Condition
    # why it ended, or the closing line of its ledger; empty while it runs
    text: str
    # who executes it, or did last
    runner: Holder | None
    planned: int
    # cases with a notebook; of these, how many have which verdict, as far as events tell
    finished: int
    verdicts: dict[Verdict, int]
    categories: dict[Category, dict[str, int]]
    # seconds since its runner began, and those that are left, about
    elapsed: float | None
    left: float | None
    running: list[Running]
    fell_short: list[CaseFinished]


def read_status(folder: Path) -> tuple[Status, State]:
    """Where the run of a folder stands, and the state by which it is drawn.

    Raises:
        BadPlan: the folder is not that of a run.
    """
    plan = Plan.load(folder)
    state = State(plan.run, Counter(case.category for case in plan.cases)).replay(read_events(folder))
    condition, elapsed = _condition(folder, state), _elapsed(state)
    if condition is not Condition.RUNNING:
        state.running.clear()
    notebooks = Counter(case.category for case in plan.cases if (folder / case.notebook).is_file())
    left = state.seconds_left(elapsed) if condition is Condition.RUNNING and elapsed is not None else None
    status = Status(
        run=plan.run,
        folder=str(folder),
        condition=condition,
        text=state.ended.text if state.ended else "",
        runner=holder(folder),
        planned=len(plan.cases),
        finished=notebooks.total(),
        verdicts=dict(state.verdicts()),
        categories={
            category: {"planned": planned, "finished": notebooks[category]}
            for category, planned in state.planned.items()
        },
        elapsed=elapsed,
        left=left,
        running=[_running(case, elapsed or 0.0) for case in state.slowest(len(state.running))],
        fell_short=state.fell_short(),
    )
    return status, state


def _condition(folder: Path, state: State) -> Condition:
    if is_locked(folder):
        return Condition.RUNNING
    if state.ended:
        return Condition(state.ended.outcome)
    return Condition.KILLED if state.began else Condition.PLANNED


def _elapsed(state: State) -> float | None:
    """Seconds since the runner began: while it works by the clock, which may be set; else until its last event."""
    if state.began is None:
        return None
    if state.ended:
        return state.ended.elapsed
    since = (datetime.now(UTC) - datetime.fromisoformat(state.began.time)).total_seconds()
    return max(since, state.elapsed)


def _running(case: CaseStarted, elapsed: float) -> Running:
    return Running(case=case.case, seconds=round(max(elapsed - case.elapsed, 0), 1), time_limit=case.time_limit)
