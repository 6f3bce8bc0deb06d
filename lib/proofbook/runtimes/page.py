"""onnxruntime-web in a page of a browser, and the server on this machine that gives it files and tensors."""

import json
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from proofbook.paths import workbook_root
from proofbook.runtimes.browser import Browser, chromium
from proofbook.runtimes.runtime import Tensors
from proofbook.verdict import Blocked

# the variable that names the folder of the package of npm, and the release that this is tested with
PACKAGE, RELEASE = "PROOFBOOK_ONNXRUNTIME_WEB", "1.30.0"
_SCRIPT = Path(__file__).with_name("page.mjs")
_HTML = b'<!doctype html><script type="module">import * as page from "./page.mjs"; window.page = page;</script>'
_TYPES = {".mjs": "text/javascript", ".wasm": "application/wasm", ".html": "text/html"}


def package() -> Path:
    """The folder of onnxruntime-web: ``$PROOFBOOK_ONNXRUNTIME_WEB``, else in ``node_modules`` of the workbook.

    Raises:
        Blocked: it is not there.
    """
    named = os.environ.get(PACKAGE)
    folder = Path(named).resolve() if named else workbook_root() / "node_modules" / "onnxruntime-web"
    if not (folder / "dist" / "ort.wasm.min.mjs").is_file():
        get = f"`npm install --no-save --prefix {workbook_root()} onnxruntime-web@{RELEASE}`"
        raise Blocked("onnxruntime-web", f"{folder} does not hold it", f"{get}, or name its folder in ${PACKAGE}")
    return folder


def package_release() -> str:
    """The release of onnxruntime-web."""
    return str(json.loads((package() / "package.json").read_text())["version"])


class Page:
    """A page with onnxruntime-web, in a browser of its own.

    Raises:
        Blocked: the package or a browser is missing.
        BrowserFailed: the browser does not start.
    """

    def __init__(self) -> None:
        chromium()
        self._server = _Server(package() / "dist")
        try:
            self.browser = Browser(self._server.address("page.html"))
        except BaseException:
            self._server.end()
            raise
        self._users = self._sessions = 0

    @classmethod
    def borrowed(cls) -> "Page":
        """The page that all graphs of this process share, opened now unless there is one, until it is given back."""
        page = next((one for one in _shared if not one.browser.failed), None)
        if page is None:
            _shared.append(page := cls())
        page._users += 1
        return page

    def give_back(self) -> None:
        """Close it if nobody else has borrowed it."""
        self._users -= 1
        if not self._users:
            _shared.remove(self)
            self.close()

    def close(self) -> None:
        """End the browser and the server."""
        self.browser.close()
        self._server.end()

    def call(self, function: str, *arguments: Any) -> Any:
        """What a function of ``page.mjs`` gives, its arguments being what JSON holds.

        Raises:
            RuntimeError: what it threw.
            BrowserFailed: there is no page any more.
        """
        return self.browser.evaluate(f"page.{function}({', '.join(map(json.dumps, arguments))})")

    def open(self, model: Path, provider: dict[str, Any], options: dict[str, Any]) -> int:
        """Make a session of a file of ONNX.

        Args:
            model: the file.
            provider: the execution provider by its ``name``, and its options, as the library names them.
            options: those of the session.

        Returns:
            The number by which the page knows the session.
        """
        self._sessions += 1
        self.call("load", self._server.address(f"dist/ort.{provider['name']}.min.mjs"), torch.get_num_threads())
        with self._server.giving(model.read_bytes()) as address:
            self.call("open", self._sessions, address, provider, options)
        return self._sessions

    def run(self, number: int, tensors: Tensors, names: list[str]) -> Tensors:
        """The outputs of some names of a session."""
        alone = {name: one.detach().cpu().clone(memory_format=torch.contiguous_format) for name, one in tensors.items()}
        with self._server.giving(safetensors.torch.save(alone)) as address:
            self.call("run", number, address, names)
            return safetensors.torch.load(self._server.taken(address))

    def profile(self, number: int) -> list[dict[str, Any]]:
        """The events of a session that was opened to be profiled, in the form in which ONNX Runtime writes them."""
        said = self.browser.said
        said.clear()
        self.call("profile", number)
        return [json.loads(line.rstrip(",")) for line in said if line.startswith("{")]


# the page that graphs of this process share; one that crashed stays until all have given it back
_shared: list[Page] = []


class _Server(ThreadingHTTPServer):
    """Gives files, and gives and takes bytes, on this machine alone and below a path that nobody can guess."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = {f"/dist/{path.name}": path for path in folder.iterdir()} | {"/page.mjs": _SCRIPT}
        self.held: dict[str, bytes] = {"/page.html": _HTML}
        self.secret = f"/{secrets.token_urlsafe(16)}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def address(self, name: str) -> str:
        """Where a file is to be had."""
        return f"http://127.0.0.1:{self.server_port}{self.secret}/{name}"

    @contextmanager
    def giving(self, content: bytes) -> Iterator[str]:
        """Give bytes at an address, which takes others in their place."""
        name = secrets.token_urlsafe(8)
        self.held[f"/{name}"] = content
        try:
            yield self.address(name)
        finally:
            del self.held[f"/{name}"]

    def taken(self, address: str) -> bytes:
        """What was sent to an address."""
        return self.held[f"/{address.rpartition('/')[2]}"]

    def end(self) -> None:
        """Serve no more."""
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        name = self._name()
        content = self.server.held.get(name)
        if content is None and name in self.server.files:
            content = self.server.files[name].read_bytes()
        if content is None:
            self.send_error(404)
            return
        self._answer(content, _TYPES.get(Path(name).suffix, "application/octet-stream"))

    def do_POST(self) -> None:
        name = self._name()
        if name not in self.server.held:
            self.send_error(404)
            return
        self.server.held[name] = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(b"", "text/plain")

    def log_message(self, *_: Any) -> None:
        """Requests are not told."""

    def _name(self) -> str:
        below = self.path.startswith(f"{self.server.secret}/")
        return self.path.removeprefix(self.server.secret) if below else ""

    def _answer(self, content: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        # which isolate the page: without them WebAssembly has one thread
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.end_headers()
        self.wfile.write(content)
