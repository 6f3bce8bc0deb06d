"""Where a run stands, from its plan and its events; the same for who executes it and for who looks on."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from proofbook.batch.events import AnyEvent, CaseFinished, CaseStarted, Notice, RunFinished, RunStarted
from proofbook.catalog import Category
from proofbook.verdict import Verdict


@dataclass
class State:
    """What has come of a run so far.

    Args:
        name: the run's name.
        planned: how many cases it has of each category.
    """

    name: str
    planned: Counter[Category]
    # of the runner that works on it, or was the last to: how it began and ended, and the cases that it executes
    began: RunStarted | None = None
    ended: RunFinished | None = None
    running: dict[str, CaseStarted] = field(default_factory=dict)
    # of all its runners
    finished: dict[str, CaseFinished] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    # seconds of this runner until the last event
    elapsed: float = 0.0
    _done_before: Counter[Category] = field(default_factory=Counter)
    _done: Counter[Category] = field(default_factory=Counter)

    def apply(self, event: AnyEvent) -> None:
        """Take an event into account."""
        self.elapsed = event.elapsed
        match event:
            case RunStarted():
                self.began, self.ended = event, None
                self.running.clear()
                self._done = Counter()
                self._done_before = self.planned - Counter(event.categories)
            case CaseStarted():
                self.running[event.case] = event
            case CaseFinished():
                self.running.pop(event.case, None)
                self.finished[event.case] = event
                self._done[event.category] += 1
            case Notice():
                self.notices.append(event.text)
            case RunFinished():
                self.ended = event
                self.running.clear()

    def replay(self, events: Iterable[AnyEvent]) -> "State":
        """Take events into account, in their order; this state."""
        for event in events:
            self.apply(event)
        return self

    @property
    def done(self) -> Counter[Category]:
        """How many cases have come to their end, of each category."""
        return self._done_before + self._done

    @property
    def left(self) -> int:
        """How many cases have not come to their end."""
        return self.planned.total() - self.done.total()

    def verdicts(self, category: Category | None = None) -> Counter[Verdict]:
        """The verdicts of a category's cases, or of all, as far as events tell."""
        cases = self.finished.values()
        return Counter(one.verdict for one in cases if category in (None, one.category))

    def slowest(self, count: int) -> list[CaseStarted]:
        """The running cases that began first."""
        return sorted(self.running.values(), key=lambda one: one.elapsed)[:count]

    def fell_short(self) -> list[CaseFinished]:
        """The cases that fell short, the last one last."""
        return [one for one in self.finished.values() if one.verdict.fell_short]

    def seconds_left(self, elapsed: float) -> float | None:
        """How long it will take from a time on, in seconds of this runner; None where nothing tells, or it was wrong.

        Each case that is left takes what was foreseen for it, else the mean of its category, else of all; those that
        run, what then is left of it; and as many run at a time as this runner was told.
        """
        if self.began is None:
            return None
        foreseen = dict(self.began.seconds)
        means = self._means()
        if not foreseen and not means:
            return None
        overall = sum(means.values()) / len(means) if means else 0.0
        waiting = 0.0
        for category, number in (Counter(self.began.categories) - self._done).items():
            running = sum(one.category == category for one in self.running.values())
            mean = means.get(category, foreseen.get(category, overall))
            waiting += (number - running) * mean
        begun = sum(
            max(means.get(one.category, foreseen.get(one.category, overall)) - (elapsed - one.elapsed), 0.0)
            for one in self.running.values()
        )
        return (waiting + begun) / self.began.jobs or None

    def _means(self) -> dict[Category, float]:
        """The mean duration of this runner's cases, in seconds, of each category that has any."""
        seconds: dict[Category, list[float]] = {}
        for one in self.finished.values():
            seconds.setdefault(one.category, []).append(one.seconds)
        return {category: sum(all_) / len(all_) for category, all_ in seconds.items()}
