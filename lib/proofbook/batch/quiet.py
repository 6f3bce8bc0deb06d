"""Timing sections of cases that run while no other case of the batch does.

Cases take part in a batch side by side. One that comes to its timing section waits until each of the others has come
to the end of the cell that it is in, and these wait at that point until the section is over: a lock of readers and
writers, whose readers let a writer pass between two cells. Nothing is stopped in the middle of a cell, so that the
seconds that a check measures of itself are its own. Processes that are none of the batch's are not held; how many cores
were busy in all is measured instead.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

# the tag of the cells of a notebook that make up its timing section
TAG = "timings"


class Quiet:
    """Lets one case after another be alone. Safe to use from several threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._active = 0
        self._wanted = 0
        self._given = False

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Run beside others; first wait for whoever is alone."""
        self._enter()
        try:
            yield
        finally:
            self._leave()

    def let_pass(self) -> None:
        """At a point where a case that runs :meth:`beside` others may wait: let those pass that want to be alone."""
        with self._changed:
            if not self._wanted:
                return
        self._leave()
        self._enter()

    @contextmanager
    def alone(self) -> Iterator["Load"]:
        """In a case that runs :meth:`beside` others: be alone for the block; gives how busy the machine is in it."""
        with self._changed:
            self._wanted += 1
            self._active -= 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._active and not self._given)
            self._given = True
        load = Load()
        try:
            yield load
        finally:
            load.end()
            with self._changed:
                self._given = False
                self._wanted -= 1
                self._active += 1
                self._changed.notify_all()

    def _enter(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._wanted)
            self._active += 1

    def _leave(self) -> None:
        with self._changed:
            self._active -= 1
            self._changed.notify_all()


class Load:
    """How many cores of the machine are busy, from now on until :meth:`end`."""

    def __init__(self) -> None:
        self._start, self._busy = time.monotonic(), _busy()
        self.cores: float | None = None

    def end(self) -> None:
        """Take the measure."""
        passed = time.monotonic() - self._start
        self.cores = (_busy() - self._busy) / passed if passed else None


def _busy() -> float:
    """Seconds that the cores of this machine have computed in all, since it started."""
    import psutil

    times = psutil.cpu_times()
    return float(times.user + times.system)
