"""A run's folder copied to a URL as it grows, and fetched from there: object storage, or whatever fsspec knows.

A run works in a folder of this machine, which holds its lock and all that comes of it. The URL gets every notebook when
it is finished, the events from time to time, and the rest at the end. Nothing there can keep two machines from
continuing the same run at once.
"""

import time
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from proofbook.batch.events import EVENTS_FILE
from proofbook.batch.lock import locked
from proofbook.batch.machine import MachineryFailed
from proofbook.batch.plan import PLAN_FILE, Plan, PlannedCase
from proofbook.batch.run import BadFolder, find_run, fresh_folder
from proofbook.batch.shards import made_by
from proofbook.files import write_atomic
from proofbook.subject.requirements import installing

# in a run's folder: the URL that it is copied to
STORE_FILE = ".store"
CASES = "cases"
# seconds between two copies of the events, and before a URL that could not be written is tried again
EVENTS_EVERY, PAUSE = 10.0, 60.0


class StoreFailed(MachineryFailed):
    """A URL that can't be read or written; the message names it, and why."""


def is_url(name: str) -> bool:
    """Whether a run is named by a URL rather than by a path or its name."""
    return "://" in name


class Store:
    """The URL to which a run's folder is copied.

    Args:
        url: ``s3://bucket/run``, or any other that fsspec has a file system for.

    Raises:
        BadFolder: fsspec has none, or it needs a package that is missing.
    """

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        self.url = url.rstrip("/")
        options = {"auto_mkdir": True} if url.startswith(("file://", "local://")) else {}
        try:
            self._files, self._root = url_to_fs(self.url, **options)
        except ImportError as error:
            raise BadFolder(f"{url}: {error}. For s3://: `{installing('s3fs')}`") from None
        except ValueError as error:
            raise BadFolder(f"{url}: {error}") from None
        # one thread, so that what is copied later is there later
        self._worker = ThreadPoolExecutor(1, "store")
        self._unsent: set[str] = set()
        self._trouble = ""
        self._again_at = self._events_at = 0.0

    @classmethod
    def of(cls, folder: Path) -> "Store | None":
        """The URL that a folder is copied to; None where there is none."""
        path = folder / STORE_FILE
        return cls(path.read_text(encoding="utf-8").strip()) if path.is_file() else None

    @property
    def name(self) -> str:
        """What a folder for it is called on this machine."""
        return self.url.rpartition("/")[2].lstrip(".") or "run"

    @property
    def holds_run(self) -> bool:
        """Whether there is a plan. Raises :class:`StoreFailed` where that can't be told."""
        return self._read(PLAN_FILE) is not None

    def check_free(self) -> None:
        """Make sure that a new run can go there.

        Raises:
            BadFolder: it holds a run already.
            StoreFailed: it can't be read.
        """
        if self.holds_run:
            raise BadFolder(
                f"--out {self.url}: it holds a run already. "
                f"Choose another, or continue that one with `proofbook run --resume {self.url}`"
            )

    def begin(self, folder: Path) -> None:
        """Let a folder, which holds nothing but a plan, be copied there from now on.

        Raises:
            StoreFailed: it can't be written.
        """
        self._tie(folder)
        self._put(folder, [PLAN_FILE])

    def add(self, folder: Path, case: PlannedCase) -> str:
        """Begin to copy what a case made, without waiting for it.

        Returns:
            why an earlier copy failed, once; it is tried again after :data:`PAUSE`, and by :meth:`complete`.
        """
        said, self._trouble = self._trouble, ""
        names = {path.relative_to(folder).as_posix() for path in made_by(case, folder)}
        self._worker.submit(self._copy, folder, names)
        return said

    def settle(self) -> None:
        """Wait until nothing is on its way any more."""
        self._worker.submit(lambda: None).result()

    def complete(self, folder: Path) -> None:
        """Copy all that is not there yet; of what is below ``cases/``, what has another size there.

        Raises:
            StoreFailed: it can't be written; the folder has all of it.
        """
        self.settle()
        there = self._sizes()
        found = {
            path.relative_to(folder).as_posix(): path.stat().st_size
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        }
        names = [name for name, size in found.items() if name in self._unsent or there.get(name) != size]
        try:
            self._put(folder, names)
        except StoreFailed as error:
            raise StoreFailed(
                f"{error}. All of it is in {folder}: `proofbook report {folder}` copies it again"
            ) from None

    def fetch(self, folder: Path) -> None:
        """Bring plan, notebooks and events into a folder, which is copied there from now on.

        Of notebooks whose size differs the URL's are taken. What only the folder has stays.

        Raises:
            BadPlan: what is there is no usable plan.
            FolderInUse: somebody runs it.
            StoreFailed: it can't be read.
        """
        with locked(folder):
            write_atomic(folder / PLAN_FILE, self._read(PLAN_FILE) or b"")
            Plan.load(folder)
            wanted = [name for name, size in self._sizes().items() if size != _size(folder / name)]
            if not (folder / EVENTS_FILE).exists() and self._read(EVENTS_FILE) is not None:
                wanted.append(EVENTS_FILE)
            self._get(folder, wanted)
            self._tie(folder)

    def _tie(self, folder: Path) -> None:
        write_atomic(folder / STORE_FILE, f"{self.url}\n")

    def _copy(self, folder: Path, names: Collection[str]) -> None:
        self._unsent.update(names)
        now = time.monotonic()
        if now < self._again_at:
            return
        if now >= self._events_at and (folder / EVENTS_FILE).is_file():
            self._unsent.add(EVENTS_FILE)
            self._events_at = now + EVENTS_EVERY
        try:
            self._put(folder, sorted(self._unsent))
            self._unsent.clear()
        except StoreFailed as error:
            self._trouble = f"{error}. It is tried again; the run goes on in {folder}"
            self._again_at = time.monotonic() + PAUSE

    def _put(self, folder: Path, names: Collection[str]) -> None:
        if not names:
            return
        with self._failing("written"):
            self._files.put([str(folder / name) for name in names], [f"{self._root}/{name}" for name in names])

    def _get(self, folder: Path, names: Collection[str]) -> None:
        if not names:
            return
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with self._failing("read"):
            self._files.get([f"{self._root}/{name}" for name in names], [str(folder / name) for name in names])

    def _read(self, name: str) -> bytes | None:
        """A file's content; None where it is not there."""
        with self._failing("read"):
            try:
                return bytes(self._files.cat_file(f"{self._root}/{name}"))
            except FileNotFoundError:
                return None

    def _sizes(self) -> dict[str, int]:
        """What is there below ``cases/``, by its path within the run, and its size in bytes."""
        with self._failing("read"):
            self._files.invalidate_cache()
            found: dict[str, dict[str, Any]] = self._files.find(f"{self._root}/{CASES}", detail=True)
        names = {name: info["size"] for path, info in found.items() if (name := _below(self._root, path))}
        if strange := [name for name in names if ".." in name.split("/")]:
            raise StoreFailed(f"{self.url} holds what is no part of a run: {strange[0]}")
        return names

    @contextmanager
    def _failing(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # each storage has errors of its own
            said = " ".join(str(error).split()) or "it does not say why"
            raise StoreFailed(f"{self.url} can't be {what}: {type(error).__name__}: {said}") from None


def open_run(name: str, outputs: Path) -> Path:
    """The folder of a run, by its path, its name in ``outputs``, or a URL, from which it is fetched into ``outputs``.

    Raises:
        BadFolder: there is none.
        BadPlan: what is there is no usable plan.
        FolderInUse: it is to be fetched, and somebody runs it here.
        StoreFailed: the URL can't be read.
    """
    if not is_url(name):
        return find_run(name, outputs)
    store = Store(name)
    if not store.holds_run:
        raise BadFolder(f"no run {name}: it has no {PLAN_FILE}")
    folder = _tied(store.url, outputs) or fresh_folder(outputs, store.name)
    store.fetch(folder)
    return folder


def _tied(url: str, outputs: Path) -> Path | None:
    """The folder that was copied to a URL, or fetched from it, before."""
    paths = (path for path in outputs.glob(f"*/{STORE_FILE}") if not path.parent.is_symlink())
    return next((path.parent.resolve() for path in paths if path.read_text(encoding="utf-8").strip() == url), None)


def _below(root: str, path: str) -> str:
    return path[path.index(root) + len(root) :].lstrip("/") if root in path else ""


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
