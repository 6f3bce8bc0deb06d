"""How a kernel is started and stopped: the one place that knows.

A kernel is this interpreter, or that of an environment, whatever kernelspecs the user has installed; it talks over
sockets in a scratch folder of its own (no ports to collide, nothing for others to connect to), reads no profile of the
user's, and takes all its processes with it when it ends.
"""

import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proofbook.batch import keeper
from proofbook.batch.parents import UNKNOWN, ForkedProcess, Parents
from proofbook.batch.scratch import scratch as scratch_folder

if TYPE_CHECKING:
    import psutil
    from jupyter_client.kernelspec import KernelSpec

KERNEL_NAME = "python3"
# the provisioner of warm kernels
PROVISIONER = "proofbook-warm"
# how long a kernel may take to answer an interrupt before it is killed, in seconds
GRACE = 5.0
# how long it may take to write down where it is, in seconds
REPORT = 1.0
# the longest path of a socket, less the number that is added to it; macOS has the shortest
SOCKET_PATH = 100
# the signal on which a kernel writes down where it is; Windows has none
_REPORT = getattr(signal, "SIGUSR1", None)


class Stopped(Exception):
    """The batch was stopped while this case ran."""


@dataclass(eq=False)
class Kernel:
    """A running kernel and all its processes."""

    manager: Any
    process: Any
    scratch: Path
    _killing: threading.Lock = field(default_factory=threading.Lock)

    def interrupt(self) -> None:
        """Ask the cell that runs to stop, as the stop button of JupyterLab does."""
        self.report()
        self._signal(signal.SIGINT)

    def report(self) -> None:
        """Let the kernel write down where it is, and wait a moment, as a busy machine may run what follows first."""
        if not _REPORT:
            return
        self._signal(_REPORT, whole_group=False)
        seen, until = "", time.monotonic() + REPORT
        while time.monotonic() < until and not self.died:
            time.sleep(0.02)
            before, seen = seen, _read(self.scratch / "interrupted")
            if seen and seen == before:
                return

    def kill(self) -> None:
        """End the kernel and every process that came from it. Twice does no harm."""
        with self._killing:
            if self.died:
                return
            if self.is_warm:
                self._signal(signal.SIGSTOP)  # so that it starts nothing more
                keeper.end(self.process.pid)
                self._signal(signal.SIGKILL)
            elif keeper.available():
                self._signal(signal.SIGTERM, whole_group=False)  # the keeper ends the rest
            else:
                descendants = self._descendants()
                self._signal(getattr(signal, "SIGKILL", signal.SIGTERM))
                for process in descendants:  # those that left the kernel's process group
                    _end(process)
            self.process.wait()

    @property
    def is_warm(self) -> bool:
        """Whether it was forked."""
        return isinstance(self.process, ForkedProcess)

    @property
    def died(self) -> bool:
        """Whether the kernel's process has ended."""
        return self.process.poll() is not None

    def cause_of_death(self) -> str:
        """In words, how the process ended."""
        status = self.process.poll()
        if status is None:
            return "it no longer answers"
        if status == UNKNOWN:
            return "how is not known, as the process that it was forked from is gone"
        if status >= 0:
            return f"it left with exit status {status}"
        name = signal.Signals(-status).name
        guess = {"SIGKILL": " (out of memory?)", "SIGSEGV": " (segmentation fault)"}.get(name, "")
        return f"killed by {name}{guess}"

    def last_frames(self) -> list[str]:
        """Where the cell was in Python code when its kernel crashed or was interrupted, the innermost frame first."""
        for name in ("fault", "interrupted"):
            # whichever thread a signal meets, the cell runs in the one that has IPython below it
            for thread in _read(self.scratch / name).split("\n\n"):
                frames = re.findall(r"^  File .+$", thread, flags=re.MULTILINE)
                below = [number for number, frame in enumerate(frames) if frame.endswith("in run_code")]
                if below:
                    return frames[: below[0]]
        return []

    def last_words(self) -> list[str]:
        """The last lines that the process wrote outside of any cell."""
        return _read(self.scratch / "log").strip().splitlines()[-10:]

    def _signal(self, number: int, *, whole_group: bool = True) -> None:
        """Signal the kernel, and with it the process group that it leads."""
        try:
            if whole_group and hasattr(os, "killpg"):
                os.killpg(self.process.pid, number)
            else:
                self.process.send_signal(number)
        except ProcessLookupError:
            return  # all of them have ended

    def _descendants(self) -> "list[psutil.Process]":
        import psutil

        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []


class Switch:
    """Stops all kernels of a batch at once, those that are about to start included."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[Kernel] = set()
        self.is_off = False

    def off(self) -> None:
        """Kill what runs, and whatever starts from now on."""
        with self._lock:
            self.is_off = True
            running = list(self._running)
        for kernel in running:
            kernel.kill()

    @contextmanager
    def holds(self, kernel: Kernel) -> Iterator[None]:
        """Let this switch reach a kernel for as long as the block runs."""
        with self._lock:
            self._running.add(kernel)
            too_late = self.is_off
        if too_late:
            kernel.kill()
        try:
            yield
        finally:
            with self._lock:
                self._running.discard(kernel)


@contextmanager
def start_kernel(
    environment: Mapping[str, str],
    folder: Path,
    interpreter: str = sys.executable,
    parents: Parents | None = None,
) -> Iterator[Kernel]:
    """A fresh kernel; at the end of the block nothing of it is left.

    Args:
        environment: variables laid over those of this process (see :func:`kernel_environment`).
        folder: where it works.
        interpreter: which Python it is: this one by default, else that of an environment.
        parents: whence a warm kernel comes, as far as one can be had; without, the kernel is cold.
    """
    from jupyter_client.manager import AsyncKernelManager
    from jupyter_core.utils import run_sync

    from proofbook.batch.client import Client

    with tempfile.TemporaryDirectory(prefix="k", dir=scratch_folder(), ignore_cleanup_errors=True) as made:
        scratch = Path(made)
        sockets = str(scratch / "s")
        over = {"transport": "ipc", "ip": sockets} if os.name == "posix" and len(sockets) < SOCKET_PATH else {}
        manager = AsyncKernelManager(
            kernel_name=KERNEL_NAME,
            kernel_spec_manager=_spec_manager(scratch, interpreter, parents),
            connection_file=str(scratch / "connection.json"),
            client_factory=Client,
            **over,
        )
        variables = {**os.environ, **environment, "IPYTHONDIR": str(scratch / "ipython")}
        with (scratch / "log").open("wb") as log:
            run_sync(manager.start_kernel)(cwd=str(folder), env=variables, stdout=log, stderr=log)
        kernel = Kernel(manager, manager.provisioner.process, scratch)
        try:
            yield kernel
        finally:
            kernel.kill()
            run_sync(manager.cleanup_resources)()


def kernel_environment(threads: int) -> dict[str, str]:
    """The variables in which a kernel differs from the process that starts it.

    The same for a batch and for debugging by hand, so that both give the same numbers.
    """
    counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    return {**counts, "PYTHONHASHSEED": "0", "TOKENIZERS_PARALLELISM": "false"}


def _spec_manager(scratch: Path, interpreter: str, parents: Parents | None) -> Any:
    """A kernelspec manager that knows one kernel: ipykernel in that interpreter."""
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager

    command = [
        *(interpreter, "-m", "ipykernel_launcher", "-f", "{connection_file}"),
        "--log-level=ERROR",
        "--HistoryManager.hist_file=:memory:",
        "--IPKernelApp.outstream_class=proofbook.batch.stream.BoundedStream",
        f"--IPKernelApp.exec_lines={_reporting(scratch)}",
    ]
    spec = KernelSpec(
        # a warm kernel's keeper is its parent
        argv=keeper.kept(command) if parents is None else command,
        display_name="Python 3 (proofbook)",
        language="python",
        metadata=_provisioning(parents),
    )

    class OneKernel(KernelSpecManager):  # type: ignore[misc]
        def get_kernel_spec(self, kernel_name: str) -> "KernelSpec":
            return spec

    return OneKernel()


def _provisioning(parents: Parents | None) -> dict[str, Any]:
    """What a kernelspec says of the provisioner that starts it: nothing, or that it comes from warm parents."""
    if parents is None:
        return {}
    from importlib.metadata import EntryPoint

    from jupyter_client.provisioning import KernelProvisionerFactory

    # as the entry point of the installed package, which an editable install may be too old to have
    entry = EntryPoint(PROVISIONER, "proofbook.batch.provisioner:WarmProvisioner", KernelProvisionerFactory.GROUP_NAME)
    KernelProvisionerFactory.provisioners.setdefault(PROVISIONER, entry)
    return {"kernel_provisioner": {"provisioner_name": PROVISIONER, "config": {"parents": parents, "keeps": True}}}


def _reporting(scratch: Path) -> str:
    """Code by which a kernel writes its Python frames into ``scratch`` when it crashes, and on :data:`_REPORT`.

    It is an expression, so that it leaves no name behind among those of the notebook.
    """
    handler = "__import__('faulthandler')"
    code = f"{handler}.enable(open({str(scratch / 'fault')!r}, 'w'))"
    if _REPORT:
        file = f"open({str(scratch / 'interrupted')!r}, 'w')"
        code += f"; {handler}.register({int(_REPORT)}, {file})"
    return code


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _end(process: "psutil.Process") -> None:
    import psutil

    try:
        process.kill()
    except psutil.NoSuchProcess:
        return
