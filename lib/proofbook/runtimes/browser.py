"""A browser without a window, and one page in it, driven through a pipe with Chromium's DevTools protocol.

Chromium ends when the other end of the pipe does: the browser does not outlive the process that started it, whatever
ends that. Nothing is installed for it, and no port is open (https://chromedevtools.github.io/devtools-protocol).
"""

import atexit
import fcntl
import json
import os
import selectors
import shutil
import signal
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from proofbook.verdict import Blocked

# the variable that names the command of the browser
CHROMIUM = "PROOFBOOK_CHROMIUM"
_NAMES = (
    *("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge"),
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
_FLAGS = (
    "--headless",
    "--remote-debugging-pipe",
    # it opens pages of this process alone, and containers seldom have what the sandbox and /dev/shm would need
    *("--no-sandbox", "--disable-dev-shm-usage"),
    # it says nothing to anybody else
    *("--no-first-run", "--no-default-browser-check", "--disable-quic", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-extensions", "--disable-default-apps"),
    # on Linux no graphics card is offered without these
    *("--enable-unsafe-webgpu", "--enable-features=Vulkan"),
)
# seconds until it has started or a page is there, and until it has ended of its own accord
_START, _END = 60.0, 5.0


class BrowserFailed(RuntimeError):
    """The browser or its page has ended, or does not answer: the message says which, and how."""


def chromium() -> str:
    """The command of this machine's Chromium or Chrome: ``$PROOFBOOK_CHROMIUM``, else the first of the usual names.

    Raises:
        Blocked: there is none.
    """
    named = os.environ.get(CHROMIUM)
    found = next(filter(None, map(shutil.which, [named] if named else _NAMES)), None)
    if found is None:
        cause = f"{named} can't be executed" if named else "no Chromium, Chrome or Edge is found"
        raise Blocked("chromium", cause, f"`apt-get install chromium`, or name the command of one in ${CHROMIUM}")
    return found


@cache
def browser_release() -> str:
    """Its name and release in its own words: ``Chromium 150.0.7871.100``."""
    asked = subprocess.run([chromium(), "--version"], capture_output=True, text=True, timeout=_START)
    return asked.stdout.partition(" built on ")[0].strip()


class Browser:
    """A browser with one page.

    Args:
        address: of the page; it is there when the constructor returns.

    Raises:
        Blocked: there is no browser.
        BrowserFailed: it does not start, or the page does not load.
    """

    def __init__(self, address: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="proofbook-browser-", ignore_cleanup_errors=True)
        # what the page has printed to its console, a line each
        self.said: list[str] = []
        # why it can't be asked any more; empty as long as it can
        self.failed = ""
        self._last, self._loaded, self._unread = 0, False, b""
        self._log = Path(self._folder.name) / "stderr"
        self._process, self._from, self._to = _spawn([chromium(), *_FLAGS, "about:blank"], self._folder.name, self._log)
        atexit.register(self.close)
        try:
            self._open(address)
        except BaseException:
            self.close()
            raise

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page, awaited if it is a promise.

        Raises:
            RuntimeError: what it threw.
            BrowserFailed: there is no page any more.
        """
        given = {"expression": expression, "awaitPromise": True, "returnByValue": True}
        answer = self._request("Runtime.evaluate", given)
        if thrown := answer.get("exceptionDetails"):
            raise RuntimeError(thrown.get("exception", {}).get("description") or thrown["text"])
        return answer["result"].get("value")

    def close(self) -> None:
        """End all its processes; more than once does no harm."""
        if self.failed != _CLOSED:
            atexit.unregister(self.close)
            self.failed = _CLOSED
            processes = _all_of(self._process)
            for end in (self._to, self._from):
                os.close(end)
            _, left = psutil.wait_procs(processes, timeout=_END)
            for process in left:
                process.kill()
            psutil.wait_procs(left, timeout=_END)
            self._folder.cleanup()

    def _open(self, address: str) -> None:
        deadline = time.monotonic() + _START
        pages = self._request("Target.getTargets", page=False, deadline=deadline)["targetInfos"]
        page = next(one["targetId"] for one in pages if one["type"] == "page")
        self._request("Target.setDiscoverTargets", {"discover": True}, page=False)
        attached = self._request("Target.attachToTarget", {"targetId": page, "flatten": True}, page=False)
        self._session = attached["sessionId"]
        self._request("Page.enable")
        self._request("Runtime.enable")
        if error := self._request("Page.navigate", {"url": address}, deadline=deadline).get("errorText"):
            raise BrowserFailed(f"the page does not load: {error}")
        while not self._loaded:
            self._note(self._receive(deadline))

    def _request(
        self, method: str, given: dict[str, Any] | None = None, page: bool = True, deadline: float | None = None
    ) -> dict[str, Any]:
        """Ask the browser, or its page, and wait for the answer; what else it tells meanwhile is noted."""
        if self.failed:
            raise BrowserFailed(self.failed)
        self._last += 1
        asked = {"id": self._last, "method": method, "params": given or {}}
        try:
            _write(self._to, json.dumps(asked | ({"sessionId": self._session} if page else {})).encode() + b"\0")
        except BrokenPipeError:
            raise self._ended() from None
        while (answer := self._receive(deadline)).get("id") != self._last:
            self._note(answer)
        if error := answer.get("error"):
            raise BrowserFailed(f"{method}: {error['message']}")
        result: dict[str, Any] = answer["result"]
        return result

    def _receive(self, deadline: float | None) -> dict[str, Any]:
        while b"\0" not in self._unread:
            with selectors.DefaultSelector() as ready:
                ready.register(self._from, selectors.EVENT_READ)
                if not ready.select(None if deadline is None else max(0.0, deadline - time.monotonic())):
                    raise BrowserFailed(f"the browser did not answer within {_START:g} s")
            if not (read := os.read(self._from, 1 << 16)):
                raise self._ended()
            self._unread += read
        message, _, self._unread = self._unread.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def _note(self, event: dict[str, Any]) -> None:
        told = event.get("params", {})
        match event.get("method"):
            case "Runtime.consoleAPICalled":
                self.said.append(" ".join(str(one.get("value", one.get("description"))) for one in told["args"]))
            case "Page.loadEventFired":
                self._loaded = True
            case "Target.targetCrashed":
                self.failed = f"the page of the browser crashed: {told['status']}, code {told['errorCode']}"
                raise BrowserFailed(self.failed)

    def _ended(self) -> BrowserFailed:
        """That the browser has ended, and its last words."""
        try:
            status = self._process.wait(_END)
        except psutil.TimeoutExpired:
            status = None
        how = f"by signal {signal.Signals(-status).name}" if status and status < 0 else f"with status {status}"
        words = self._log.read_text(errors="replace").strip().rpartition("\n")[2] if self._log.exists() else ""
        self.failed = f"the browser ended {how}" + (f": {words}" if words else "")
        return BrowserFailed(self.failed)


_CLOSED = "the browser was closed"


def _spawn(command: list[str], folder: str, log: Path) -> tuple[psutil.Process, int, int]:
    """Start a browser: its process, the end of the pipe from it, and of that to it.

    It reads from descriptor 3 and writes to 4. It is the head of a group, so that what interrupts this process leaves
    it alone.
    """
    read, to = _pipe()
    from_, write = _pipe()
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_OPEN, 2, str(log), os.O_WRONLY | os.O_CREAT, 0o600),
        (os.POSIX_SPAWN_DUP2, read, 3),
        (os.POSIX_SPAWN_DUP2, write, 4),
    ]
    arguments = [*command[:-1], f"--user-data-dir={folder}", command[-1]]
    try:
        process = os.posix_spawn(command[0], arguments, os.environ, file_actions=actions, setpgroup=0)
    except OSError as error:
        os.close(to)
        os.close(from_)
        raise BrowserFailed(f"{command[0]} does not start: {error.strerror}") from error
    finally:
        os.close(read)
        os.close(write)
    return psutil.Process(process), from_, to


def _pipe() -> tuple[int, int]:
    """The ends of a pipe, neither of them a descriptor that the browser is given another as."""
    ends = os.pipe()
    high = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    return high[0], high[1]


def _write(end: int, message: bytes) -> None:
    while message:
        message = message[os.write(end, message) :]


def _all_of(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
