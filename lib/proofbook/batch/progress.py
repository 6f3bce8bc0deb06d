"""What a person sees while a batch runs: a live table on a terminal, plain lines elsewhere."""

import threading
import time
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live

from proofbook.batch.events import AnyEvent, CaseFinished, Notice, RunStarted
from proofbook.batch.state import State
from proofbook.batch.view import explanation, outcome, overview, style
from proofbook.verdict import Verdict

__all__ = ["Progress", "style"]


class Progress:
    """Shows the events of a batch: each case on a line of its own or, on a terminal, those that did not pass.

    Args:
        console: where to.
        state: where the run stands, which this keeps.
    """

    def __init__(self, console: Console, state: State) -> None:
        self._console, self._state = console, state
        self._lock = threading.Lock()  # as a thread of the display draws
        self._began = time.monotonic()
        self._count = self._total = 0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            live = Live(get_renderable=self._table, console=self._console, refresh_per_second=4, transient=True)
            self._stack.enter_context(live)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def show(self, event: AnyEvent) -> None:
        """Show an event."""
        with self._lock:
            self._state.apply(event)
        match event:
            case RunStarted(to_execute=total):
                self._total = total
            case Notice(text=text):
                self._console.print(text, style="yellow", markup=False, soft_wrap=True, highlight=False)
            case CaseFinished():
                self._count += 1
                if not (self._console.is_terminal and event.verdict is Verdict.PASS):
                    self._announce(event)

    def _announce(self, event: CaseFinished) -> None:
        count = f"[{self._count:{len(str(self._total))}}/{self._total}] "
        line = outcome(event)
        line = line.__class__.assemble(count, line, explanation(event, len(count)))
        self._console.print(line, soft_wrap=True, highlight=False)

    def _table(self) -> RenderableType:
        with self._lock:
            return overview(self._state, time.monotonic() - self._began)
