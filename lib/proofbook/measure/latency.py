"""How long one call takes."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch

from proofbook.measure.clock import WallClock, clock_for
from proofbook.measure.statistics import Interval, WarmUp, quantile_interval, warm_up

# enough for a 99th percentile: it stands on at least one call in a hundred
MAX_CALLS = 100
# behind the warm-up; enough for the confidence interval of a median
MIN_CALLS = 6


@dataclass(frozen=True)
class Latency:
    """The time of calls after warm-up.

    ``first_s`` is the very first call, with everything it initialises. ``calls_ms`` are the calls after the warm-up in
    their order, and ``warming_ms`` those between the first and them. ``clock`` is what they were timed by.
    """

    first_s: float
    calls_ms: tuple[float, ...]
    warming_ms: tuple[float, ...] = ()
    # whether times had become steady; None where there are too few calls to tell
    steady: bool | None = None
    clock: str = "wall clock"

    @property
    def median_ms(self) -> float:
        """The median in milliseconds."""
        return float(np.median(self.calls_ms))

    @property
    def interval(self) -> Interval | None:
        """The confidence interval of the median in milliseconds; None for fewer than 6 calls."""
        return quantile_interval(self.calls_ms)

    def percentile(self, percent: float) -> float | None:
        """A percentile in milliseconds, by linear interpolation; None when too few calls stand behind it.

        A percentile p is quoted from 100 / (100 - p) calls on: the 90th from 10, the 99th from 100.
        """
        if len(self.calls_ms) < round(100 / (100 - percent)):
            return None
        return float(np.percentile(self.calls_ms, percent))

    def throughput(self, work: float) -> float:
        """Work a second at the median call, for calls that each do ``work``."""
        return work / (self.median_ms / 1000)


def time_calls(
    call: Callable[[], object],
    synchronize: Callable[[], None],
    budget_s: float,
    device: torch.device = torch.device("cpu"),  # noqa: B008  # a constant
    most: int = MAX_CALLS,
) -> Latency:
    """Time calls of a function, each until its device has finished.

    The first is kept apart. Of those after it the warm-up is left out by the rule of
    :func:`~proofbook.measure.statistics.warm_up`, and as many are made as leave ``most`` behind it.

    Args:
        call: does the work, perhaps only queueing it on a device.
        synchronize: waits for the device.
        budget_s: stop after that many seconds, but not before :data:`MIN_CALLS` calls behind the warm-up.
        device: where it works, which may have a clock of its own.
        most: so many calls behind the warm-up are enough.
    """
    first = WallClock(synchronize).ms(call) / 1000
    clock = clock_for(device, synchronize, call)
    times: list[float] = []
    warming = WarmUp(0, None)
    deadline = perf_counter() + budget_s
    with uncollected():
        while (left := most - (len(times) - warming.calls)) > 0:
            for _ in range(left):
                if perf_counter() >= deadline and len(times) - warm_up(times).calls >= MIN_CALLS:
                    return _latency(first, times, clock.name)
                times.append(clock.ms(call))
            warming = warm_up(times)
    return _latency(first, times, clock.name)


@contextmanager
def uncollected() -> Iterator[None]:
    """No collection of garbage in the middle of a call, which is not the model's time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _latency(first: float, times: list[float], clock: str) -> Latency:
    found = warm_up(times)
    return Latency(first, tuple(times[found.calls :]), tuple(times[: found.calls]), found.steady, clock)
