"""Nothing of a kernel outlives it: processes whose parents end come to their keeper, who ends them.

On Linux a process may adopt whatever its descendants leave behind (``PR_SET_CHILD_SUBREAPER``), those in sessions of
their own included. Each kernel does so, so that all it started is below it for as long as it lives; and what it leaves
when it dies comes to its own parent. That of a warm kernel is the warm parent. A cold kernel has a keeper, this file as
a script: it starts the command in its arguments in a session of its own, passes on the signals that interrupt it and
that ask for a report, ends what is left when the command or its owner has ended, or when it is to terminate, and leaves
as the command did. It uses the standard library alone, so that it starts in hundredths of a second.
"""

import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Collection, Iterator, Sequence

# on Linux, from <linux/prctl.h>
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
# between two looks at whether the owner is still there, and until processes that were killed have ended, in seconds
_LOOK, _END = 0.5, 10.0
# for the kernel's killer of processes, of 1000: a kernel goes before the process that runs it
_OOM_SCORE = 500


def available() -> bool:
    """Whether this system has what keeping needs."""
    return sys.platform.startswith("linux")


def kept(command: Sequence[str]) -> list[str]:
    """The command that starts a command under a keeper, where the system has one."""
    return [sys.executable, "-I", "-S", __file__, *command] if available() else list(command)


def adopt() -> None:
    """Let whatever the descendants of this process leave behind become its children; be killed before the owner."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    if os.access(own := "/proc/self/oom_score_adj", os.W_OK):
        with open(own, "w") as score:  # noqa: PTH123 -- a keeper imports no more than it must
            score.write(str(_OOM_SCORE))


def processes(*, ended: bool = True) -> dict[int, int]:
    """The parent of each process of this machine; those included that have ``ended`` and wait for it to be read."""
    found = {}
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdecimal():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
                    # the second field, a name in parentheses, may hold anything
                    state, parent, _ = file.read().rpartition(b")")[2].split(None, 2)
                if ended or state != b"Z":
                    found[int(name)] = int(parent)
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has just been read
    return found


def descendants(root: int, spared: Collection[int] = (), table: dict[int, int] | None = None) -> list[int]:
    """All processes below one, but for those spared and what is below these; parents come before their children."""
    children: dict[int, list[int]] = {}
    for process, parent in (processes() if table is None else table).items():
        children.setdefault(parent, []).append(process)
    found = [root]
    for process in found:
        found += (child for child in children.get(process, ()) if child not in spared)
    return found[1:]


def end(root: int) -> None:
    """End all that is below a process, whatever of it is still being started included."""
    deadline = time.monotonic() + _END
    while (found := descendants(root, table=processes(ended=False))) and time.monotonic() < deadline:
        _kill(found)
        time.sleep(0.005)


def reap(spared: Collection[int] = ()) -> None:
    """End all descendants of this process, but for those spared and what is below these, and read how they ended."""
    me, deadline = os.getpid(), time.monotonic() + _END
    while time.monotonic() < deadline:
        table = processes()
        if not (found := descendants(me, spared, table)):
            return
        _kill(found)
        for process in found:
            if table[process] == me:
                os.waitpid(process, os.WNOHANG)
        time.sleep(0.001)


def _kill(found: Collection[int]) -> None:
    """Kill processes with the groups that they are in, other than this process's own.

    A signal to a group also meets what is being forked in it: nothing escapes by forking faster than it is counted.
    """
    own = os.getpgrp()
    for process in found:
        try:
            group = os.getpgid(process)
            os.kill(process, signal.SIGKILL) if group == own else os.killpg(group, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue  # it has ended, or has become another user's


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _keep(command: Sequence[str]) -> int:
    """Run a command; its status, as :func:`os.waitstatus_to_exitcode` gives it, once nothing of it is left."""
    watched = {signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1}
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    owner, keeper = os.getppid(), os.getpid()
    adopt()
    child = os.fork()
    if child == 0:
        _be(command, keeper, watched)
    while os.getppid() == owner:
        got = signal.sigtimedwait(watched, _LOOK)
        if got and got.si_signo == signal.SIGTERM:
            break
        if got and got.si_signo == signal.SIGUSR1:
            os.kill(child, signal.SIGUSR1)
        elif got and got.si_signo != signal.SIGCHLD:
            os.killpg(child, got.si_signo)
        for ended, status in _ended():
            if ended == child:
                reap()
                return os.waitstatus_to_exitcode(status)
    reap()
    return -signal.SIGKILL


def _be(command: Sequence[str], keeper: int, blocked: set[signal.Signals]) -> None:
    """Become the command, which ends with its keeper."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == keeper:  # else it has gone already
        os.setsid()
        adopt()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
        try:
            os.execv(command[0], list(command))
        except OSError as error:
            print(f"{command[0]}: {error}", file=sys.stderr, flush=True)
    os._exit(127)


def _ended() -> Iterator[tuple[int, int]]:
    """The children that have ended, and how."""
    while True:
        try:
            ended, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if ended == 0:
            return
        yield ended, status


def _leave(status: int) -> None:
    """End as the command did."""
    if status < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -status != signal.SIGKILL:  # which has no other effect
            signal.signal(-status, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {-status})
        os.kill(os.getpid(), -status)
    os._exit(status)


if __name__ == "__main__":
    _leave(_keep(sys.argv[1:]))
