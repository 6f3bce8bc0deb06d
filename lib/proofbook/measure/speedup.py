"""How much faster one way of executing a model is than another, measured in turns."""

from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol

import torch

from proofbook.measure.clock import WallClock, clock_for
from proofbook.measure.latency import MAX_CALLS, MIN_CALLS, uncollected
from proofbook.measure.statistics import Ratio, paired_ratio, warm_up


class Timed(Protocol):
    """What of a :class:`~proofbook.runtimes.Session` calls are timed by."""

    device: torch.device

    def place(self, inputs: Mapping[str, Any]) -> Any:
        """Inputs as it takes them."""

    def call(self, placed: Any) -> Any:
        """One call, not waiting for the device."""

    def synchronize(self) -> None:
        """Wait for the device."""


@dataclass(frozen=True)
class Speedup:
    """How many times as long the other session takes for a call as this one, and the calls behind that, by pairs."""

    ratio: Ratio
    own_ms: tuple[float, ...]
    other_ms: tuple[float, ...]
    clock: str


def speedup(session: Timed, other: Timed, inputs: Mapping[str, Any], budget_s: float) -> Speedup:
    """Time calls of two sessions in turns, in this process: above 1, ``session`` is the faster one.

    A pair is a call of each, one right after the other; which goes first changes from pair to pair, so that neither
    gains by what the other left in a cache. Pairs in which either still warms up are left out, by the rule of
    :func:`~proofbook.measure.statistics.warm_up`; of the rest see
    :func:`~proofbook.measure.statistics.paired_ratio`.

    Args:
        session, other: on the same device, where a speed-up is to be that of a runtime.
        inputs: of one call; each session gets its own copy.
        budget_s: stop after that many seconds, but not before :data:`~proofbook.measure.latency.MIN_CALLS` pairs.
    """
    sessions = (session, other)
    calls = [_call(one, inputs) for one in sessions]
    for one, call in zip(sessions, calls, strict=True):
        call()
        one.synchronize()
    clocks = [clock_for(one.device, one.synchronize, call) for one, call in zip(sessions, calls, strict=True)]
    if clocks[0].name != clocks[1].name:  # the device's events see only one of them
        clocks = [WallClock(one.synchronize) for one in sessions]
    times: tuple[list[float], list[float]] = ([], [])
    deadline = perf_counter() + budget_s
    with uncollected():
        while len(times[0]) < MAX_CALLS and (perf_counter() < deadline or _warm(times) < MIN_CALLS):
            order = (0, 1) if len(times[0]) % 2 else (1, 0)
            for which in order:
                times[which].append(clocks[which].ms(calls[which]))
    own, against = (tuple(one[-_warm(times) :]) for one in times)
    return Speedup(paired_ratio(against, own), own, against, clocks[0].name)


def _call(session: Timed, inputs: Mapping[str, Any]) -> Any:
    placed = session.place(inputs)
    return lambda: session.call(placed)


def _warm(times: tuple[list[float], list[float]]) -> int:
    """How many pairs there are behind the warm-up of both."""
    return len(times[0]) - max(warm_up(one).calls for one in times)
