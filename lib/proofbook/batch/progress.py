"""What a person sees while a batch runs: a live table on a terminal, plain lines elsewhere."""

import time
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from datetime import timedelta
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from proofbook.batch.local import Event, Finished, Noticed, Started
from proofbook.verdict import Verdict

# running cases listed below the bar, at most
RUNNING_SHOWN = 20
STYLES = {
    Verdict.PASS: "green",
    Verdict.SKIP: "bright_black",
    Verdict.BLOCKED: "yellow",
    Verdict.XFAIL: "yellow",
    Verdict.NOT_RUN: "magenta",
}
"""The colour of each verdict; those that fell short are red."""


def style(verdict: Verdict) -> str:
    """The colour of a verdict."""
    return STYLES.get(verdict, "bold red")


class Progress:
    """Shows the events of a batch.

    Args:
        console: where to.
        total: how many cases there are to execute.
    """

    def __init__(self, console: Console, total: int) -> None:
        self._console, self._total = console, total
        self._began = time.monotonic()
        self._running: dict[str, float] = {}
        self._done: Counter[Verdict] = Counter()
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

    def follow(self, events: Iterable[Event]) -> None:
        """Show each event as it comes."""
        for event in events:
            if isinstance(event, Started):
                self._running[event.case.case] = time.monotonic()
            elif isinstance(event, Noticed):
                self._console.print(event.text, style="yellow", markup=False, soft_wrap=True, highlight=False)
            else:
                self._done[event.result.case.verdict] += 1
                self._announce(event, time.monotonic() - self._running.pop(event.case.case))

    @property
    def seconds_left(self) -> float | None:
        """An estimate from the cases done so far; None before there are any."""
        done = self._done.total()
        if not done:
            return None
        return (time.monotonic() - self._began) / done * (self._total - done)

    def _announce(self, event: Finished, seconds: float) -> None:
        row = event.result.case
        count = f"[{self._done.total():{len(str(self._total))}}/{self._total}]"
        line = Text.assemble(f"{count} ", (f"{row.verdict:8}", style(row.verdict)), f" {row.case}  {seconds:.1f} s")
        if row.verdict is not Verdict.PASS and row.reason:
            line.append(f"\n{' ' * (len(count) + 1)}{row.reason}", style="dim")
        self._console.print(line, soft_wrap=True, highlight=False)

    def _table(self) -> RenderableType:
        # drawn by a thread of the display, from copies: the events go on meanwhile
        verdicts, running = list(self._done.items()), list(self._running.items())
        done, left = self._done.total(), self.seconds_left
        head = Table.grid(padding=(0, 1))
        head.add_row(
            ProgressBar(total=max(self._total, 1), completed=done, width=30),
            f"{done} of {self._total}",
            *(Text(f"{number} {verdict}", style(verdict)) for verdict, number in verdicts),
            "" if left is None else f"{clock(left)} left",
        )
        now = time.monotonic()
        lines = [Text(f"  {case}  {now - since:.0f} s", style="dim") for case, since in running[:RUNNING_SHOWN]]
        return Group(head, *lines)


def clock(seconds: float) -> str:
    """A duration as a clock shows it: ``0:01:05``."""
    return str(timedelta(seconds=round(seconds)))
