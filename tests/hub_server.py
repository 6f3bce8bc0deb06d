"""A hub on this machine: as much of the Hugging Face hub's API as a download asks, over HTTP, for tests."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """What it serves: the files of ``repositories`` by id; ids in ``gated`` show their files and refuse them."""

    def __init__(self, repositories: dict[str, Path], gated: frozenset[str] = frozenset(), down: bool = False) -> None:
        self.repositories = repositories
        self.gated = gated
        self.down = down
        self.asked: list[str] = []
        self.address = ""


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve a hub on a free port of the loopback interface."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.partition("?")[0].strip("/")
            hub.asked.append(path)
            if hub.down:
                return self.answer(503)
            if path.startswith("api/models/"):
                owner, name, kind, *_ = path.removeprefix("api/models/").split("/")
                repository = f"{owner}/{name}"
                if repository not in hub.repositories:
                    return self.answer(404, {"X-Error-Code": "RepoNotFound"})
                return self.answer(200, content=json.dumps(self.listed(repository, kind)).encode())
            owner, name, _, _, file = path.split("/", 4)
            if f"{owner}/{name}" in hub.gated:
                return self.answer(403, {"X-Error-Code": "GatedRepo"})
            if f"{owner}/{name}" not in hub.repositories:
                return self.answer(404, {"X-Error-Code": "RepoNotFound"})
            if not (hub.repositories[f"{owner}/{name}"] / file).is_file():
                return self.answer(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            content = (hub.repositories[f"{owner}/{name}"] / file).read_bytes()
            etag = hashlib.sha256(content).hexdigest()
            return self.answer(200, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, content)

        def listed(self, repository: str, kind: str) -> object:
            folder = hub.repositories[repository]
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            names = [path.relative_to(folder).as_posix() for path in files]
            if kind == "tree":
                return [
                    {"type": "file", "path": name, "size": path.stat().st_size, "oid": f"{number:040x}"}
                    for number, (name, path) in enumerate(zip(names, files, strict=True))
                ]
            return {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}

        def answer(self, status: int, headers: dict[str, str] | None = None, content: bytes = b"") -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
