"""How long one call takes."""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

WARM_UP = 3
# enough for a 99th percentile: it stands on at least one call in a hundred
MAX_CALLS = 100
MIN_CALLS = 5


@dataclass(frozen=True)
class Latency:
    """The time of calls after warm-up.

    ``first_s`` is the very first call, with everything it initialises. ``calls_ms`` are the calls after
    :data:`WARM_UP` in their order.
    """

    first_s: float
    calls_ms: tuple[float, ...]

    def percentile(self, percent: float) -> float | None:
        """A percentile in milliseconds, by linear interpolation; None when too few calls stand behind it.

        A percentile p is quoted from 100 / (100 - p) calls on: the 90th from 10, the 99th from 100.
        """
        if len(self.calls_ms) < round(100 / (100 - percent)):
            return None
        return float(np.percentile(self.calls_ms, percent))

    def throughput(self, work: float) -> float:
        """Work a second at the median call, for calls that each do ``work``."""
        return work / (float(np.median(self.calls_ms)) / 1000)


def time_calls(call: Callable[[], object], synchronize: Callable[[], None], budget_s: float) -> Latency:
    """Time calls of a function, each until its device has finished.

    Args:
        call: does the work, perhaps only queueing it on a device.
        synchronize: waits for the device.
        budget_s: stop after that many seconds, but not before :data:`MIN_CALLS` calls.
    """

    def timed() -> float:
        synchronize()
        start = time.perf_counter()
        call()
        synchronize()
        return time.perf_counter() - start

    first = timed()
    for _ in range(WARM_UP):
        timed()
    calls: list[float] = []
    deadline = time.perf_counter() + budget_s
    gc.collect()
    collecting = gc.isenabled()
    gc.disable()  # a collection in the middle of a call is not the model's time
    try:
        while len(calls) < MAX_CALLS and (len(calls) < MIN_CALLS or time.perf_counter() < deadline):
            calls.append(timed() * 1000)
    finally:
        if collecting:
            gc.enable()
    return Latency(first, tuple(calls))
