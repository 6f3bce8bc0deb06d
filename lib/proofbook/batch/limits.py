"""What a case may use: time, memory and processes; and the watch that ends one that goes beyond.

Memory and processes are those of the kernel and of all below it. They are looked at ten times a second; what processes
share counts in parts (PSS), as far as the system tells. Against a single leap between two looks each process has, on
Linux, a limit of its own (``RLIMIT_DATA``): beyond :data:`LEAP` times the memory of the case an allocation fails.
"""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from proofbook.batch import keeper
from proofbook.batch.kernels import GRACE, Kernel
from proofbook.batch.plan import PlannedCase
from proofbook.catalog import Weights
from proofbook.verdict import Verdict

# bytes for a case with tiny weights, several times what any was seen to need
TINY_BYTES = 6e9
# the part of this machine's memory that any other case may take, so that its runner outlives it
SHARE = 0.9
# a kernel has one, and what it starts for its own purposes a few a core
PROCESSES = 256
LEAP = 2
# seconds between two looks
PERIOD = 0.1
# processes with a graphics card reserve addresses far beyond the memory that they use
_GRAPHICS = ("/dev/nvidiactl", "/dev/kfd")


@dataclass(frozen=True)
class Limits:
    """What a case may use; None for as much as it likes.

    Args:
        seconds: for the whole of it, from the start of its kernel.
        memory: bytes of all its processes.
        processes: how many at a time.
    """

    seconds: float | None = None
    memory: float | None = None
    processes: int | None = None

    def record(self) -> dict[str, Any]:
        """What a notebook says of the limits under which it was executed, and of what enforced them."""
        by = f"watched every {PERIOD:g} s"
        if self.memory and bounds_leaps():
            by += f"; RLIMIT_DATA of {LEAP * self.memory / 1e9:.3g} GB a process"
        return {"seconds": self.seconds, "memory_bytes": self.memory, "processes": self.processes, "by": by}


def limits_for(case: PlannedCase) -> Limits:
    """The limits of a case: what its plan says, else what this machine can bear."""
    import psutil

    bearable = SHARE * psutil.virtual_memory().total
    usual = min(TINY_BYTES, bearable) if case.weights is Weights.TINY else bearable
    return Limits(case.time_limit, case.memory_limit * 1e9 if case.memory_limit else usual, PROCESSES)


@dataclass(frozen=True)
class Breach:
    """A limit that was passed: the verdict of such a case, and what happened, in words."""

    verdict: Verdict
    what: str


class Watch(AbstractContextManager["Watch"]):
    """Ends a kernel that goes beyond its limits: :attr:`breach` says which.

    One that runs out of time is interrupted first, and killed when it does not mind.
    """

    def __init__(self, kernel: Kernel, limits: Limits) -> None:
        self.breach: Breach | None = None
        # the most bytes that the processes were seen to have in memory, what they share with others included
        self.resident = 0.0
        self._kernel, self._limits = kernel, limits
        self._bounded: set[int] = set()
        self._began = time.monotonic()
        self._exact_again = float("-inf")
        self._waited = 0.0
        self._waits_since: float | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Let the time within the block not count."""
        self._waits_since = time.monotonic()
        try:
            yield
        finally:
            self._waited, self._waits_since = self._waited + time.monotonic() - self._waits_since, None

    @property
    def leap(self) -> str:
        """How much one process may have before an allocation fails, as a clause; empty if that is not limited."""
        memory = self._limits.memory
        return f"a process of the case may have {LEAP * memory / 1e9:.3g} GB" if memory and bounds_leaps() else ""

    def _watch(self) -> None:
        self._began = time.monotonic()
        while (left := self._left()) > 0:
            if breach := self._crowd() or self._memory():
                self.breach = breach
                self._kernel.report()
                self._kernel.kill()
                return
            if self._over.wait(min(left, PERIOD)):
                return
        self.breach = Breach(Verdict.TIMEOUT, f"the case ran into its limit of {self._limits.seconds:g} s")
        self._kernel.interrupt()
        if not self._over.wait(GRACE):
            self._kernel.kill()

    def _left(self) -> float:
        """Seconds until the case has run out of time."""
        if self._limits.seconds is None:
            return PERIOD
        now, since = time.monotonic(), self._waits_since
        return self._limits.seconds + self._waited + (now - since if since is not None else 0) - (now - self._began)

    def _crowd(self) -> Breach | None:
        """Whether there are too many processes."""
        limit = self._limits.processes
        if limit is None or (found := len(_processes(self._kernel))) <= limit:
            return None
        return Breach(Verdict.CRASH, f"the case went beyond its limit of {limit} processes: {found} at a time")

    def _memory(self) -> Breach | None:
        """Whether they take too much memory; first by what is quickly read, and more than the truth."""
        limit = self._limits.memory
        if limit is None:
            return None
        group = _processes(self._kernel)
        self._bound(group, limit)
        resident = sum(map(_resident, group))
        self.resident = max(self.resident, resident)
        if resident <= limit or (began := time.monotonic()) < self._exact_again:
            return None
        used = 0.0
        for count, process in enumerate(group, 1):
            # milliseconds to seconds each, by the number of pages and of those who share them
            used += _proportional(process)
            if used > limit:
                what = f"{used / 1e9:.2f} GB in {_count(count)}"
                return Breach(Verdict.CRASH, f"the case went beyond its limit of {limit / 1e9:g} GB of memory: {what}")
            if self._over.is_set() or self._left() <= 0:
                return None
            if breach := self._crowd():
                return breach
        self._exact_again = time.monotonic() + 10 * (time.monotonic() - began)
        return None

    def _bound(self, group: list[int], memory: float) -> None:
        """Set the limits that the system itself keeps; whatever a process starts from then on inherits them."""
        if not bounds_leaps():
            return
        for process in set(group) - self._bounded:
            _set_limits(process, int(LEAP * memory))
        self._bounded.update(group)


def bounds_leaps() -> bool:
    """Whether the memory of each single process is limited by the system itself."""
    return sys.platform.startswith("linux") and not any(Path(card).exists() for card in _GRAPHICS)


def _processes(kernel: Kernel) -> list[int]:
    """The kernel and all below it."""
    import psutil

    root = kernel.process.pid
    if keeper.available():
        return [root, *keeper.descendants(root, table=_table())]
    try:
        return [root, *(child.pid for child in psutil.Process(root).children(recursive=True))]
    except psutil.NoSuchProcess:
        return [root]


def _resident(process: int) -> float:
    """Bytes that a process has in memory, with all that it shares; none where it has ended, or is another user's."""
    import psutil

    try:
        return float(psutil.Process(process).memory_info().rss)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0.0


def _proportional(process: int) -> float:
    """The same, of what it shares only its part; where the system does not tell that, without what it shares."""
    import psutil

    try:
        full = psutil.Process(process).memory_full_info()
        return float(getattr(full, "pss", full.uss))
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0.0


def _set_limits(process: int, data: int) -> None:
    import resource

    try:
        resource.prlimit(process, resource.RLIMIT_DATA, (data, data))
        resource.prlimit(process, resource.RLIMIT_CORE, (0, 0))
    except (ProcessLookupError, PermissionError):
        return  # it has ended, or has become another user's


class _Table:
    """The processes of this machine, read once for all kernels that are watched at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read = float("-inf")
        self._rows: dict[int, int] = {}

    def __call__(self) -> dict[int, int]:
        with self._lock:
            now = time.monotonic()
            if now - self._read > PERIOD / 2:
                self._rows, self._read = keeper.processes(), now
            return self._rows


_table = _Table()


def _count(processes: int) -> str:
    return "1 process" if processes == 1 else f"{processes} processes"
