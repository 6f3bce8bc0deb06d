"""How long a call takes on its device: by the device's own events where it has them, by the wall clock otherwise."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

Call = Callable[[], object]
# of the wall clock's time, how much events must see for them to be of the same work
SEEN = 0.5


class Clock(Protocol):
    """Times calls, each until its device has finished."""

    @property
    def name(self) -> str:
        """What it times by."""

    def ms(self, call: Call) -> float:
        """The milliseconds that one call takes."""


@dataclass(frozen=True)
class WallClock:
    """From before a call until the device has nothing left to do."""

    synchronize: Callable[[], None]
    name: str = "wall clock"

    def ms(self, call: Call) -> float:
        self.synchronize()
        start = time.perf_counter()
        call()
        self.synchronize()
        return (time.perf_counter() - start) * 1000


@dataclass(frozen=True)
class EventClock:
    """Between two events that the device itself notes, before and behind a call's work in its queue.

    That leaves out how long the host takes to learn that the device is done.
    """

    device: torch.device
    synchronize: Callable[[], None]
    name: str = "device events"

    def ms(self, call: Call) -> float:
        self.synchronize()
        start, end = (torch.Event(self.device, enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        self.synchronize()
        end.synchronize()
        return float(start.elapsed_time(end))


def clock_for(device: torch.device, synchronize: Callable[[], None], call: Call) -> Clock:
    """The best clock for calls on a device; it makes one or two of them to see.

    Events are those of torch's queue. A runtime that works in one of its own is not seen by them: then, as where the
    device has none, it is the wall clock.
    """
    wall = WallClock(synchronize)
    if not _has_events(device):
        return wall
    events = EventClock(device, synchronize)
    lasted = wall.ms(call)
    return events if events.ms(call) >= SEEN * lasted else wall


def _has_events(device: torch.device) -> bool:
    """Whether torch times by events on that device: it is an accelerator, and two events can be held apart."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is None or accelerator.type != device.type:
        return False
    try:
        start, end = (torch.Event(device, enable_timing=True) for _ in range(2))
        start.record()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) >= 0
    except (RuntimeError, NotImplementedError):  # each backend has its own for what it lacks
        return False
