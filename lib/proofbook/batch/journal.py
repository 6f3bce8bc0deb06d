"""Keeps the file of a run's events, and prints them for machines."""

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TextIO

from proofbook.batch.events import EVENTS_FILE, AnyEvent, CaseFinished, CaseStarted, Notice, RunFinished, RunStarted
from proofbook.batch.ledger import Ledger
from proofbook.batch.local import Event, Finished, Noticed, Started
from proofbook.batch.plan import Plan, PlannedCase
from proofbook.catalog import Category


class Journal:
    """Writes down what a runner does. A disk without room costs lines of the file, which its reader can do without.

    Args:
        folder: the run's folder.
        plan: its plan.
        stream: where each event is also printed, as a line of JSON.
    """

    def __init__(self, folder: Path, plan: Plan, stream: TextIO | None = None) -> None:
        self._run, self._stream = plan.run, stream
        self._planned = len(plan.cases)
        self._began = time.monotonic()
        self._since: dict[str, float] = {}
        self._file = os.open(folder / EVENTS_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        self._lost = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def started(
        self, cases: Sequence[PlannedCase], jobs: int, seconds: Mapping[Category, float], *, warm: bool
    ) -> AnyEvent:
        """This runner begins with some cases; ``seconds`` is what one of each category is expected to take."""
        categories = Counter(case.category for case in cases)
        return self._write(
            RunStarted,
            planned=self._planned,
            to_execute=len(cases),
            jobs=jobs,
            kernels="warm" if warm else "cold",
            categories=dict(categories),
            seconds=dict(seconds),
        )

    def follow(self, event: Event) -> AnyEvent:
        """Write what the executor tells."""
        match event:
            case Started(case):
                self._since[case.case] = time.monotonic()
                return self._write(CaseStarted, case=case.case, category=case.category, time_limit=case.time_limit)
            case Finished(case, result):
                row, seconds = result.case, time.monotonic() - self._since.pop(case.case)
                return self._write(
                    CaseFinished,
                    case=row.case,
                    category=row.category,
                    target=row.target,
                    verdict=row.verdict,
                    reason=row.reason,
                    seconds=round(seconds, 3),
                    notebook=row.notebook,
                    rerun=row.rerun,
                )
            case Noticed(text):
                return self._write(Notice, text=text)

    def finished(self, ledger: Ledger, *, stopped: bool) -> Ledger:
        """This runner has made the ledger, at its end or because it was stopped; the same ledger."""
        outcome = "stopped" if stopped else "complete"
        self._write(RunFinished, outcome=outcome, text=ledger.closes(), totals=dict(ledger.totals))
        return ledger

    def failed(self, error: BaseException) -> None:
        """This runner ends because something went wrong that is no case's."""
        self._write(RunFinished, outcome="failed", text=f"{type(error).__name__}: {error}")

    def _write(self, kind: Callable[..., Any], **fields: Any) -> AnyEvent:
        event: AnyEvent = kind(run=self._run, elapsed=round(time.monotonic() - self._began, 3), **fields)
        line = event.model_dump_json() + "\n"
        # after a line that the disk had no room for, the next one begins anew
        data = ("\n" + line if self._lost else line).encode()
        try:
            self._lost = os.write(self._file, data) < len(data)
        except OSError:
            self._lost = True
        if self._stream is not None:
            print(line, end="", file=self._stream, flush=True)
        return event
