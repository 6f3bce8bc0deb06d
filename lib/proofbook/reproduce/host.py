"""A process that has imported torch and transformers and nothing else, and runs each script in a fork of itself.

A script is proven by a process that has no part in the case's own. Nearly all the time of such a process goes into
imports, so that one host serves all scripts of a case. It is this file run by itself; or, in a kernel that was forked
from a warm parent, a fork made before anything was run there (:func:`keep_host`), in which proofbook can't be imported.
"""

import importlib
import os
import runpy
import signal
import socket
import subprocess
import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import Self

# the exit status of a script whose host has ended
UNKNOWN = 256

_kept: socket.socket | None = None


class Host:
    """Runs scripts, each in a process of its own. To be used in a ``with`` statement, which ends what it started."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._orders = _kept

    def run(self, script: Path, limit: float) -> str:
        """Run a script in its folder; what it wrote to its standard error, or an empty string if its exit status was 0.

        Raises:
            TimeoutError: it took more than ``limit`` seconds, and was ended.
        """
        orders = self._orders or self._start()
        said = script.with_suffix(".stderr")
        said.touch()
        orders.sendall(f"{limit}\n{script}\n".encode())
        answer = orders.recv(64)
        if not answer:  # it has ended, and the next script gets another
            self._orders = None
        status = int(answer or UNKNOWN)
        if status == -signal.SIGALRM:
            raise TimeoutError(f"it ran for {limit:g} s")
        return "" if status == 0 else said.read_text(errors="replace") or f"exit status {status}"

    def _start(self) -> socket.socket:
        self._orders, theirs = socket.socketpair()
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        environment.pop("PYTHONPATH", None)  # nothing of this process's own
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        return self._orders

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            if self._orders is not None:
                self._orders.close()
            self._process.kill()
            self._process.wait()


def keep_host() -> None:
    """Fork a host for this process, which must have one thread and have run nothing that a script could notice."""
    global _kept
    _kept, theirs = socket.socketpair()
    if os.fork():
        theirs.close()
        return
    _kept.close()
    # ipykernel, before it leaves, waits for all of its own group, and that nobody is left to read how they ended
    os.setpgid(0, 0)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    os.closerange(3, theirs.fileno())
    os.closerange(theirs.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
    os.environ["HF_HUB_OFFLINE"] = "1"
    for name in [name for name in sys.modules if name.partition(".")[0] == "proofbook"]:
        sys.modules[name] = None  # type: ignore[assignment]  # which makes importing it fail
    _serve(theirs)
    os._exit(0)


def _serve(orders: socket.socket) -> None:
    """Run each script that comes, until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the notebook
    lines = orders.makefile("r")
    while limit := lines.readline():
        script = Path(lines.readline().rstrip("\n"))
        child = os.fork()
        if child == 0:
            _run(script, float(limit))
        orders.sendall(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())


def _run(script: Path, limit: float) -> None:
    """Be the process of a script."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, limit)  # whose signal ends a process that does not wait for it
    os.dup2(os.open(script.with_suffix(".stderr"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os.chdir(script.parent)
    status = 1
    try:
        runpy.run_path(str(script), run_name="__main__")
        status = 0
    except BaseException:  # whatever ends a script is what it says
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    del sys.path[0]  # the folder of this file
    for name in ("torch", "transformers.generation.utils", "transformers.modeling_utils", "safetensors.torch"):
        importlib.import_module(name)
    _serve(socket.socket(fileno=int(sys.argv[1])))
