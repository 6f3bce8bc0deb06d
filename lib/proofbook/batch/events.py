"""What happens in a run, one JSON object a line: in the run's folder for whoever looks, and by ``--json`` for machines.

The schema is that of :data:`AnyEvent`, also in ``docs/events.schema.json``. Its version is :data:`VERSION`, which grows
when a field changes its meaning or goes; new fields and new kinds of events may come at any time.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from proofbook.catalog import Category
from proofbook.verdict import Verdict

VERSION = 1
EVENTS_FILE = "events.jsonl"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, ser_json_inf_nan="null")

    version: int = VERSION
    run: str
    # UTC, ISO 8601: by the clock, which may be set
    time: str = Field(default_factory=_now)
    # seconds since this runner began, which only grow
    elapsed: float = 0.0


class RunStarted(_Event):
    """A runner begins; it may be a run's second, by ``--resume``. What an earlier one left running is no more."""

    event: Literal["run-started"] = "run-started"
    planned: int
    # how many of these this runner is to execute
    to_execute: int
    jobs: int
    kernels: Literal["warm", "cold"]
    # how many cases this runner is to execute of each category
    categories: dict[Category, int]
    # how long one of them takes on average, in seconds, by what earlier runs tell
    seconds: dict[Category, float] = {}


class CaseStarted(_Event):
    """A kernel starts for a case."""

    event: Literal["case-started"] = "case-started"
    case: str
    category: Category
    # seconds that it may take
    time_limit: float


class CaseFinished(_Event):
    """A case has its verdict."""

    event: Literal["case-finished"] = "case-finished"
    case: str
    category: Category
    target: str
    verdict: Verdict
    reason: str
    # from the start of its kernel to its notebook
    seconds: float
    # relative to the run's folder
    notebook: str
    rerun: str


class Notice(_Event):
    """Something of the run as a whole, in words."""

    event: Literal["notice"] = "notice"
    text: str


class RunFinished(_Event):
    """A runner ends. Where this is missing and none works in the folder, it was killed."""

    event: Literal["run-finished"] = "run-finished"
    # whether it came to the end of its cases, was stopped by Ctrl-C or SIGTERM, or failed
    outcome: Literal["complete", "stopped", "failed"]
    # the closing line of the ledger, or why it failed
    text: str
    # cases of the whole run by verdict, where the ledger was made
    totals: dict[Verdict, int] = {}


AnyEvent = Annotated[RunStarted | CaseStarted | CaseFinished | Notice | RunFinished, Field(discriminator="event")]
ADAPTER: TypeAdapter[AnyEvent] = TypeAdapter(AnyEvent)


def read_events(folder: Path) -> Iterator[AnyEvent]:
    """The events of a run as far as they can be read: a line that is damaged, or of a later version, is left out."""
    path = folder / EVENTS_FILE
    if not path.is_file():
        return
    with path.open("rb") as lines:
        for line in lines:
            try:
                yield ADAPTER.validate_json(line)
            except ValidationError:
                continue  # half a line, where a runner was killed or the disk was full
