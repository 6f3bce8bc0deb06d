"""How a run looks while it goes on: a line a category, the cases that run, those that fell short."""

from collections import Counter
from datetime import timedelta
from textwrap import shorten

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from proofbook.batch.events import CaseFinished
from proofbook.batch.state import State
from proofbook.catalog import Category
from proofbook.verdict import Verdict

# running cases shown, at most, and the width of a bar
RUNNING_SHOWN, BAR = 5, 24
# characters of why a case has its verdict, at most
SAID = 600
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


def clock(seconds: float) -> str:
    """A duration as a clock shows it: ``0:01:05``."""
    return str(timedelta(seconds=round(seconds)))


def overview(state: State, elapsed: float) -> RenderableType:
    """A run so far.

    Args:
        state: where it stands.
        elapsed: seconds since its runner began.
    """
    parts: list[RenderableType] = [_head(state, elapsed), _categories(state)]
    return Group(*parts, *([_running(state, elapsed)] if state.running else []))


def outcome(finished: CaseFinished) -> Text:
    """A case that has its verdict, in one line."""
    return Text.assemble(
        (f"{finished.verdict:8}", style(finished.verdict)), f" {finished.case}  {finished.seconds:.1f} s"
    )


def explanation(finished: CaseFinished, indent: int) -> Text:
    """Why a case has its verdict, to be read below its line; empty where there is nothing to say.

    The notebook has all of it: the message of an exception may be a page of numbers.
    """
    said = shorten(finished.reason, SAID, placeholder=" …") if finished.verdict is not Verdict.PASS else ""
    return Text(f"\n{' ' * indent}{said}" if said else "", style="dim")


def _head(state: State, elapsed: float) -> Text:
    parts = [f"{state.done.total()} of {state.planned.total()} cases"]
    if state.began and not state.ended:
        parts += [f"{len(state.running)} running, of {state.began.jobs} at a time", f"{clock(elapsed)} gone"]
        if left := state.seconds_left(elapsed):
            parts.append(f"about {clock(left)} left")
    return Text.assemble((state.name, "bold"), "  ", " · ".join(parts))


def _categories(state: State) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(width=BAR)
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    # drawn by a thread of the display, while events go on: from copies
    done = state.done.copy()
    for category in Category:
        if planned := state.planned[category]:
            counts = _counts(state.verdicts(category))
            bar = ProgressBar(planned, done[category], BAR, complete_style="cyan", finished_style="cyan")
            table.add_row(f"  {category}", bar, f"{done[category]}/{planned}", counts)
    return table


def _counts(verdicts: Counter[Verdict]) -> Text:
    return Text("  ").join(Text(f"{verdicts[one]} {one}", style(one)) for one in Verdict if verdicts[one])


def _running(state: State, elapsed: float) -> Text:
    slowest = state.slowest(RUNNING_SHOWN)
    lines = [f"  {one.case}  {max(elapsed - one.elapsed, 0):.0f} s of at most {one.time_limit:g} s" for one in slowest]
    more = len(state.running) - len(slowest)
    return Text("\n".join([*lines, *([f"  … and {more} more"] if more > 0 else [])]), style="dim")
