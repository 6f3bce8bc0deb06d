"""How fast a model is by the size of its batch and the length of its text."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import Any

import torch

from proofbook.measure.grid import Grid
from proofbook.measure.latency import Latency, time_calls
from proofbook.runtimes import Session
from proofbook.subject.tasks.task import Encoded, Row, Subject, Task

# seconds spent on the calls of one point at most
POINT_BUDGET_S = 0.5


class NoPoint(Exception):
    """The task has no inputs of that size; the message says why."""


@dataclass(frozen=True)
class Point:
    """One size of input: its rows and tokens (None for the case's own length), and its times, or why it has none."""

    batch: int
    length: int | None
    latency: Latency | None = None
    # of one call, in the task's unit
    work: float = 0.0
    reason: str = ""

    @property
    def throughput(self) -> float | None:
        """Work a second at the median call."""
        return self.latency.throughput(self.work) if self.latency else None


def sweep(
    task: Task,
    subject: Subject,
    rows: Sequence[Row],
    own: Encoded,
    session: Session,
    grid: Grid,
    budget_s: float = POINT_BUDGET_S,
) -> list[Point]:
    """Time forward calls at every point of a grid. A point that can't be had, or that the model refuses, says why.

    Where rows have no length that could be another, batches are timed at their own.

    Args:
        task, subject, rows: of the case.
        own: the case's own batch.
        session: what is timed; a runtime that makes something for each size makes it before the timed calls.
        grid: the points.
        budget_s: seconds a point.
    """
    fixed = no_length(rows) if grid.lengths else ""

    def timed(batch: int, length: int | None) -> Point:
        try:
            encoded = sized(task, subject, rows, own, batch, length)
            placed = session.place(encoded.inputs)
            latency = time_calls(lambda: session.call(placed), session.synchronize, budget_s, session.device)
        except NoPoint as reason:
            return Point(batch, length, reason=str(reason))
        except Exception as refusal:  # of the processor, the model or the runtime: each size stands for itself
            return Point(batch, length, reason=f"{type(refusal).__name__}: {refusal}"[:300])
        return Point(batch, length, latency, encoded.work)

    sizes = Grid(grid.batches).points if fixed else grid.points
    found = [timed(batch or len(rows), length) for batch, length in sizes]
    return found + [Point(len(rows), length, reason=fixed) for length in grid.lengths if fixed]


def no_length(rows: Sequence[Row]) -> str:
    """Why rows can't be made of another length: they are not of text alone; an empty text where they can."""
    beside = ("labels", "images", "video", "audio", "words", "boxes", "table", "markup", "points")
    has = sorted(
        {name for row in rows for name in beside if getattr(row, name) is not None and len(getattr(row, name))}
    )
    if has or any(row.text is None for row in rows):
        return f"a length is one of text alone, and its rows hold {', '.join(has) or 'no text'}"
    return ""


def sized(task: Task, subject: Subject, rows: Sequence[Row], own: Encoded, batch: int, length: int | None) -> Encoded:
    """The inputs of a batch of so many rows, of so many tokens each.

    Rows are the task's own, in turns. For a length they are of text alone (:func:`no_length`): each text is repeated
    until it has as many tokens, and cut there; what a decoder beside it reads stays as it is.

    Args:
        own: the case's own batch; its arguments other than tensors are kept.

    Raises:
        NoPoint: the task's configuration has fewer positions, or its processor makes inputs of another size.
    """
    chosen = list(islice(cycle(rows), batch))
    found = task.encode(subject, chosen) if length is None else _long(task, subject, chosen, length)
    alone = task.encode(subject, [rows[0]]).inputs
    for name, tensor in own.inputs.items():
        # what has as many rows by chance, such as texts that are candidates, has no fewer for one
        if _rows(tensor) == len(rows) and _rows(alone.get(name)) == 1 and _rows(found.inputs.get(name)) != batch:
            raise NoPoint(f"{name} has {_rows(found.inputs.get(name))} rows, not {batch}")
    beside = {name: value for name, value in own.inputs.items() if not isinstance(value, torch.Tensor)}
    return replace(found, inputs={**beside, **found.inputs})


def _rows(value: Any) -> int | None:
    """The first dimension of a tensor; None of anything else."""
    return len(value) if isinstance(value, torch.Tensor) and value.dim() else None


def _long(task: Task, subject: Subject, rows: Sequence[Row], length: int) -> Encoded:
    parts = (subject.config, *(getattr(subject.config, name, None) for name in ("text_config", "text_encoder")))
    last = next((found for one in parts if (found := getattr(one, "max_position_embeddings", None))), -1)
    if 0 < last < length:
        raise NoPoint(f"its configuration has positions for {last} tokens")
    options = {**subject.options, "padding": "max_length", "max_length": length, "truncation": True}
    asked = replace(subject, options=options)
    times = 1
    while True:
        repeated = [replace(row, text=" ".join([row.text or ""] * times)) for row in rows]
        found = task.encode(asked, repeated)
        tokens = found.inputs.get("input_ids")
        if tokens is None or tokens.dim() != 2 or tokens.shape[1] != length:
            had = "no tokens" if tokens is None else f"{tokens.shape[-1]} tokens"
            raise NoPoint(f"its processor makes {had} of a text, not {length}")
        # without padding, so that all of it is work
        mask = found.inputs.get("attention_mask")
        if times > length or mask is None or bool(mask.bool().all()):
            return found
        times *= 2
