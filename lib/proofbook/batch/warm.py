"""The warm parent: a process that has imported what notebooks import, and forks a kernel whenever it is asked to.

``python -m proofbook.batch.warm FD`` is started by :mod:`proofbook.batch.parents`, which holds the other end of
the socket FD. The parent says there that it is ready, or why nothing can be forked from it. Each byte that comes then
is an order for one kernel; with it come three files: the kernel's channel, its standard output, its standard error.

The channel belongs to that one kernel. Through it the kernel says its process id, the owner what the kernel is to be
(its arguments, folder and variables), and the parent, at last, how it ended. A channel that the owner closes, be it by
its own death, ends the kernel; the end of FD ends the parent and all its kernels. A parent that dies leaves its kernels
in peace. What a kernel leaves behind comes to the parent, which ends it (:mod:`proofbook.batch.keeper`).
"""

import gc
import importlib
import json
import os
import random
import select
import signal
import socket
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proofbook.batch import keeper

# what a kernel finds imported, beside the checks and tasks; each brings most of what it imports itself when it is used
MODULES = (
    *("ipykernel.kernelapp", "ipykernel.ipkernel", "ipykernel.zmqshell", "ipykernel.heartbeat"),
    *("matplotlib.pyplot", "matplotlib_inline.backend_inline", "PIL.Image", "scipy.stats", "torch", "transformers"),
    *("transformers.models.auto", "transformers.generation.utils", "transformers.generation.candidate_generator"),
    # flex attention, which brings in all of inductor even where it is not compiled, and the exporter
    *("torch._dynamo", "torch._inductor.compile_fx", "torch.export._trace", "torch._export.converter"),
    *("proofbook.workbook.case", "proofbook.runtimes.eager"),
)
# files that a process has open once it has spoken with a graphics card, whose driver does not survive a fork
DEVICES = ("/dev/nvidia", "/dev/kfd", "/dev/dri")


class Unsafe(RuntimeError):
    """This process can't be forked; the message says why."""


def check_forkable() -> None:
    """See that a child would work: one thread, as it gets no other, and no driver that belongs to this process.

    Raises:
        Unsafe: it would not.
    """
    count = len(list(Path("/proc/self/task").iterdir()))
    if count != 1:
        raise Unsafe(f"the process to fork from has {count} threads, and a fork would keep only one of them")
    for file in Path("/proc/self/fd").iterdir():
        if file.is_symlink() and str(target := file.readlink()).startswith(DEVICES):
            raise Unsafe(f"the process to fork from has already opened {target}")


@dataclass(frozen=True)
class Child:
    """A kernel that was forked: its process, and its channel, of which the parent keeps a copy."""

    pid: int
    channel: socket.socket


def serve(control: socket.socket) -> socket.socket | None:
    """Fork a kernel for each order until the owner ends.

    Returns:
        In the parent, at last, None; in each child, at once, its channel.
    """
    children: dict[int, Child] = {}  # by a file descriptor that becomes readable when the process has ended
    while True:
        for ready in select.select([control.fileno(), *children], [], [])[0]:
            if ready != control.fileno():
                _report(ready, children.pop(ready), children)
                continue
            order, files, *_ = socket.recv_fds(control, 1, 3)
            if not order:
                _end(children)
                return None
            channel = socket.socket(fileno=files[0])
            pid = _fork(channel)
            if pid == 0:
                control.close()
                for descriptor, sibling in children.items():
                    sibling.channel.close()
                    os.close(descriptor)
                _enter(*files[1:])
                return channel
            for descriptor in files[1:]:
                os.close(descriptor)
            if pid is not None:
                children[os.pidfd_open(pid)] = Child(pid, channel)


def become_kernel(channel: socket.socket) -> None:
    """Be the kernel that the channel asks for, until that ends."""
    say(channel, pid=os.getpid())
    order = json.loads(channel.makefile("r").readline())
    keeper.adopt()
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["folder"])
    _as_if_new()
    from proofbook.reproduce.host import keep_host

    keep_host()  # as long as there is one thread
    threading.Thread(target=_watch, args=(channel,), daemon=True).start()
    from ipykernel.kernelapp import IPKernelApp

    sys.argv = ["ipykernel_launcher", *order["arguments"]]
    # no poller of the parent's death, as the channel has one; 1 means a process that nobody has to watch
    IPKernelApp.launch_instance(argv=[*order["arguments"], "--IPKernelApp.parent_handle=1"])


def say(to: socket.socket, **message: Any) -> None:
    """Write a message as a line of JSON."""
    to.sendall(json.dumps(message).encode() + b"\n")


def _prepare() -> None:
    """Import what kernels use, and leave as little as possible that a child would have to copy."""
    check_forkable()  # whatever starts with Python may have started a thread
    for name in MODULES:
        importlib.import_module(name)
    from proofbook.checks.registry import registered
    from proofbook.subject.tasks import tasks
    from proofbook.workbook import surroundings

    registered()
    tasks()
    surroundings.kernel = surroundings.WARM
    gc.collect()
    gc.freeze()
    check_forkable()


def _fork(channel: socket.socket) -> int | None:
    """Fork: 0 in the child, its process id in the parent, or None if it could not be, which the channel is told."""
    try:
        check_forkable()
        return os.fork()
    except (Unsafe, OSError) as error:
        with channel:
            say(channel, refused=str(error))
        return None


def _enter(output: int, errors: int) -> None:
    """Make this process the leader of a session and a process group of its own, with its own output."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (errors, 2)):
        os.dup2(source, target)
        os.close(source)


def _as_if_new() -> None:
    """Forget what a process keeps that should be its own: random numbers, folders, the time zone."""
    import numpy
    import torch

    random.seed()
    numpy.random.seed()
    torch.default_generator.seed()
    tempfile.tempdir = None
    time.tzset()


def _watch(channel: socket.socket) -> None:
    """End this kernel and all its process group as soon as nobody wants it any more."""
    channel.recv(1)
    os.killpg(0, signal.SIGKILL)


def _report(descriptor: int, child: Child, others: dict[int, Child]) -> None:
    """Tell a kernel's owner how it ended, once nothing of it is left."""
    os.close(descriptor)
    status = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
    keeper.reap(spared={other.pid for other in others.values()})
    with child.channel:
        try:
            say(child.channel, status=status)
        except (BrokenPipeError, ConnectionResetError):
            return  # its owner has gone


def _end(children: dict[int, Child]) -> None:
    for child in children.values():
        os.kill(child.pid, signal.SIGKILL)
    while children:
        _report(*children.popitem(), children)


def main() -> None:
    """Serve the socket whose file descriptor is the argument."""
    del sys.path[0]  # the folder of whoever started this is none of a notebook's
    control = socket.socket(fileno=int(sys.argv[1]))
    began = time.perf_counter()
    keeper.adopt()
    try:
        _prepare()
    except Exception as error:  # a package that is missing or broken here: the owner is told
        cause = str(error) if isinstance(error, Unsafe) else f"{type(error).__name__}: {error}"
        say(control, refused=cause)
        return
    say(control, ready=True, seconds=time.perf_counter() - began)
    channel = serve(control)
    if channel is not None:
        become_kernel(channel)


if __name__ == "__main__":
    main()
