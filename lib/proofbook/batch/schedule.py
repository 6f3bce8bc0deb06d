"""Which case runs next: the longest first, as far as jobs, memory and devices reach.

Longest first (LPT, Graham 1969) leaves at most a short case for the end, when cores would otherwise be idle. A case for
which there is no room yet lets shorter ones pass; it is never starved, as the cases of a run are finite.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from proofbook.batch.history import Need
from proofbook.batch.plan import PlannedCase

# seconds after which the free memory is looked at again, while cases wait for it
LOOK_AGAIN = 1.0


@dataclass(frozen=True)
class Room:
    """What a machine has for the cases of a batch."""

    # how many cases may run at a time
    jobs: int
    # the cores that their threads compute on
    cores: int
    # bytes that new processes could have, asked again and again
    free: Callable[[], int]
    # how many units each device has, such as {"cuda": 2}; those of other devices aren't counted
    devices: Mapping[str, int] = field(default_factory=dict)
    # how many cases may share a unit
    per_device: int = 1


@dataclass(frozen=True)
class Admission:
    """A case that may run now, and the unit of its device that it runs on, counted from 0."""

    case: PlannedCase
    need: Need
    unit: int | None = None


class Schedule:
    """Hands out cases to whoever executes them. Safe to use from several threads.

    At least one case runs at any time, whatever it needs. More than one run as long as there are jobs left, and

    - what all of them need, by their estimates, is no more than was free when the first began, and what the next one
      needs is free now, whoever else takes memory;
    - each has a unit of its device to itself, unless ``per_device`` lets more share it;
    - none of them is one that must be alone.

    Args:
        cases: the cases to execute, and what each needs.
        room: where.

    ``cases`` are all of them afterwards, the longest first.
    """

    def __init__(self, cases: Iterable[tuple[PlannedCase, Need]], room: Room) -> None:
        self.room = room
        # sorting is stable: among equals the plan's order stays
        self._waiting = sorted(cases, key=lambda one: -one[1].seconds)
        self.cases = tuple(case for case, _ in self._waiting)
        self._running: list[Admission] = []
        self._at_first = 0
        self._changed = threading.Condition()
        self._stopped = False

    def take(self) -> Admission | None:
        """The next case, as soon as there is room for it; None when none is left or the schedule was stopped."""
        with self._changed:
            while self._waiting and not self._stopped:
                free = self.room.free()
                if not self._running:
                    self._at_first = free
                left = min(free, self._at_first - sum(one.need.memory for one in self._running))
                for at, (case, need) in enumerate(self._waiting):
                    if self._fits(need, left):
                        admitted = Admission(case, need, self._unit(need))
                        del self._waiting[at]
                        self._running.append(admitted)
                        return admitted
                self._changed.wait(LOOK_AGAIN)
            return None

    def give_back(self, admitted: Admission) -> None:
        """Say that a case computes no more; twice does no harm."""
        with self._changed:
            if admitted in self._running:
                self._running.remove(admitted)
                self._changed.notify_all()

    def stop(self) -> None:
        """Hand out nothing any more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _fits(self, need: Need, memory: int) -> bool:
        if not self._running:
            return True
        if len(self._running) >= self.room.jobs or need.alone or any(one.need.alone for one in self._running):
            return False
        if need.device in self.room.devices and self._unit(need) is None:
            return False
        return need.memory <= memory

    def _unit(self, need: Need) -> int | None:
        """The unit of a case's device that the fewest cases run on; None where all are taken, or none is counted."""
        if need.device is None or need.device not in self.room.devices:
            return None
        taken = Counter(one.unit for one in self._running if one.need.device == need.device)
        unit = min(range(self.room.devices[need.device]), key=lambda unit: taken[unit], default=None)
        return None if unit is None or taken[unit] >= self.room.per_device else unit


def shares(
    cases: Iterable[PlannedCase], count: int, seconds: Callable[[PlannedCase], float]
) -> list[list[PlannedCase]]:
    """The cases in so many shares of about the same duration, longest first; the same for whoever asks the same.

    Within a share the cases keep their order.
    """
    given = list(cases)
    parts: list[list[int]] = [[] for _ in range(count)]
    sums = [0.0] * count
    for at in sorted(range(len(given)), key=lambda at: (-seconds(given[at]), given[at].case)):
        lightest = sums.index(min(sums))
        parts[lightest].append(at)
        sums[lightest] += seconds(given[at])
    return [[given[at] for at in sorted(part)] for part in parts]
