"""Warm parents as their owner sees them: processes to fork kernels from (:mod:`proofbook.batch.warm`).

There is one for each interpreter and each environment of variables, as many variables are read once, at import. A
kernel whose environment is another's is no fork of that parent.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

# seconds for a parent to import everything, on a machine that is busy or reads from a slow disk
READY = 180
# how a process ended when nobody is left to tell: no exit status and no signal
UNKNOWN = 256
# how many parents may take the place of those that died, for one interpreter and its variables
REPLACEMENTS = 3
_LAUNCHER = ("-m", "ipykernel_launcher")
_DIED = "the process to fork from has died"
# variables that are a kernel's own, or that nothing reads at import
_OWN = {"IPYTHONDIR", "JPY_PARENT_PID", "JPY_SESSION_NAME", "PWD", "OLDPWD", "SHLVL", "_", "TMPDIR"}
_OWN |= {"CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"}  # of drivers, which only kernels call
# what keeps libraries from starting threads when they are imported: jemalloc within pyarrow, which pandas brings
_ONE_THREAD = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}


class Cold(Exception):
    """Why a kernel can't be warm."""


class Died(Cold):
    """The process to fork from has ended, by no wish of its owner."""

    def __init__(self) -> None:
        super().__init__(_DIED)


class ForkedProcess:
    """A kernel that a warm parent has forked, with the methods of :class:`subprocess.Popen`.

    Args:
        channel: the kernel's channel.
        parent: where it was forked.
        order: what it is to be: its arguments, folder and variables.
    """

    stdin = stdout = stderr = None

    def __init__(self, channel: socket.socket, parent: "subprocess.Popen[bytes]", order: Mapping[str, Any]) -> None:
        self.returncode: int | None = None
        self._channel, self._parent = channel, parent
        self._lock = threading.Lock()
        message = _message(channel)
        if "pid" not in message:
            channel.close()
            raise Cold(message["refused"]) if "refused" in message else Died
        self.pid: int = message["pid"]
        self._alive = os.pidfd_open(self.pid)
        channel.sendall(json.dumps(order).encode() + b"\n")

    def poll(self) -> int | None:
        """The exit status or, below zero, the signal; None while it runs, :data:`UNKNOWN` if nobody can tell."""
        with self._lock:
            if self.returncode is None:
                self.returncode = self._status()
                if self.returncode is not None:
                    self._channel.close()
                    os.close(self._alive)
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the process. Raises :class:`subprocess.TimeoutExpired`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            time.sleep(0.005)
        return status

    def send_signal(self, number: int) -> None:
        """Signal the process, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def _status(self) -> int | None:
        if not _readable(self._alive):
            return None
        if _readable(self._channel):
            return int(_message(self._channel).get("status", UNKNOWN))
        # whoever the kernel left behind may hold its channel open
        return UNKNOWN if self._parent.poll() is not None else None


class Parent:
    """A warm parent, which starts at once and is ready some seconds later.

    Args:
        interpreter: its Python.
        environment: its variables.
    """

    def __init__(self, interpreter: str, environment: Mapping[str, str]) -> None:
        self._control, theirs = socket.socketpair()
        self._lock = threading.Lock()
        self._answer: dict[str, Any] | None = None
        with theirs:
            self.process = subprocess.Popen(
                [interpreter, "-m", "proofbook.batch.warm", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**environment, **_ONE_THREAD},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def fork(self, output: int, errors: int, order: Mapping[str, Any]) -> ForkedProcess:
        """Fork a kernel.

        Args:
            output: the file descriptor of its standard output.
            errors: that of its standard error.
            order: its arguments, folder and variables.

        Raises:
            Died: this parent is no more.
            Cold: it can't be done.
        """
        self._wait_until_ready()
        ours, theirs = socket.socketpair()
        with theirs, self._lock:
            try:
                socket.send_fds(self._control, [b"\n"], [theirs.fileno(), output, errors])
            except OSError:
                raise Died from None
        try:
            return ForkedProcess(ours, self.process, order)
        except OSError:  # it died between two messages
            ours.close()
            raise Died from None

    def close(self) -> None:
        """End it and all its kernels."""
        if self._answer is None:  # it still imports, and would notice only afterwards
            self.process.kill()
        with self._lock:
            self._control.close()
        self.process.wait()

    def _wait_until_ready(self) -> None:
        with self._lock:
            if self._answer is None:
                self._control.settimeout(READY)
                try:
                    self._answer = _message(self._control)
                except TimeoutError:
                    self.process.kill()
                    self._answer = {"refused": f"the process to fork from was not ready within {READY} s"}
                self._control.settimeout(None)
        if "refused" in self._answer:
            raise Cold(self._answer["refused"])
        if "ready" not in self._answer:
            raise Died


class Parents(AbstractContextManager["Parents"]):
    """The warm parents of this process, which end with the block. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._parents: dict[_Key, Parent] = {}
        self._died: Counter[_Key] = Counter()
        self._refusals: set[str] = set()
        self._news: list[str] = []
        self._closed = False

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all parents and their kernels; from now on kernels are cold. Twice does no harm."""
        with self._lock:
            self._closed = True
            while self._parents:
                self._parents.popitem()[1].close()

    def start(self, interpreter: str, environment: Mapping[str, str]) -> Parent:
        """The parent for an interpreter and variables; a new one is not ready yet.

        Raises:
            Cold: this system has none.
        """
        if cause := unavailable():
            raise Cold(cause)
        key = _key(interpreter, environment)
        with self._lock:
            if self._closed:
                raise Cold("the processes to fork from have been ended")
            if key not in self._parents:
                self._parents[key] = Parent(interpreter, dict(key[1]))
            return self._parents[key]

    def fork(self, command: Sequence[str], folder: str, environment: Mapping[str, str], files: tuple[Any, Any]) -> Any:
        """A warm kernel for the command by which a cold one would start; a parent that died is replaced.

        Raises:
            Cold: it can't be had.
        """
        try:
            interpreter, arguments = _parsed(command)
            output, errors = map(_descriptor, files, (1, 2))
            order = {"arguments": arguments, "folder": folder, "environment": dict(environment)}
            while True:
                parent = self.start(interpreter, environment)
                try:
                    return parent.fork(output, errors, order)
                except Died:
                    self._bury(_key(interpreter, environment), parent)
        except Cold as cause:
            self._refused(str(cause))
            raise

    def news(self) -> list[str]:
        """What happened to parents since this was last asked, in sentences; why kernels were cold, each reason once."""
        with self._lock:
            news, self._news = self._news, []
            return news

    def _bury(self, key: "_Key", parent: Parent) -> None:
        """Make room for a new parent in the place of one that died. Raises :class:`Cold` where too many have."""
        with self._lock:
            if self._closed or self._parents.get(key) is not parent:
                return  # it was ended, or another thread has seen to it
            if self._died[key] == REPLACEMENTS:
                raise Cold(f"{_DIED}, as {REPLACEMENTS} before it")
            self._died[key] += 1
            del self._parents[key]
            self._news.append(f"{_DIED}{_cause(parent.process)}; a new one takes its place")
        parent.close()

    def _refused(self, cause: str) -> None:
        with self._lock:
            if cause not in self._refusals:
                self._refusals.add(cause)
                self._news.append(f"a cold kernel took over: {cause}")


# an interpreter, and the variables that may be read when something is imported
_Key = tuple[str, frozenset[tuple[str, str]]]


def _key(interpreter: str, environment: Mapping[str, str]) -> _Key:
    return interpreter, frozenset((name, value) for name, value in environment.items() if name not in _OWN)


def _cause(process: "subprocess.Popen[bytes]") -> str:
    """How a process that has just closed its sockets ended, as a clause."""
    try:
        status = process.wait(1)
    except subprocess.TimeoutExpired:
        return ""
    return f", killed by {signal.Signals(-status).name}" if status < 0 else f", with exit status {status}"


@cache
def unavailable() -> str | None:
    """Why this system has no warm kernels, or None if it has."""
    if not sys.platform.startswith("linux"):
        return f"forking a process that has imported torch is not safe on {sys.platform}"
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        return f"this kernel of Linux can't watch processes: {error}"
    return None


def _parsed(command: Sequence[str]) -> tuple[str, list[str]]:
    interpreter, *rest = command
    if tuple(rest[:2]) != _LAUNCHER:
        raise Cold(f"only ipykernel can be forked, and the kernelspec starts {' '.join(command[:3])}")
    return interpreter, rest[2:]


def _descriptor(file: Any, standard: int) -> int:
    """The file descriptor behind what Popen takes as an output."""
    if file is None:
        return standard
    number = file if isinstance(file, int) else int(file.fileno())
    if number < 0:
        raise Cold("its output was to be piped")
    return number


def _message(channel: socket.socket) -> dict[str, Any]:
    """The next line of JSON; empty at the end. It is read byte by byte, so that no later one is swallowed."""
    line = bytearray()
    while not line.endswith(b"\n"):
        try:
            got = channel.recv(1)
        except ConnectionResetError:
            got = b""
        if not got:
            return {}
        line += got
    message: dict[str, Any] = json.loads(line)
    return message


def _readable(file: int | socket.socket) -> bool:
    # poll, as select knows only the first thousand file descriptors
    watching = select.poll()
    watching.register(file, select.POLLIN)
    return bool(watching.poll(0))
