"""What proofbook keeps between runs because it is costly to compute, as files that may go at any time."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

from proofbook.files import write_atomic
from proofbook.paths import cache_dir

# bytes that a store holds at most, unless told otherwise
LIMIT = 2 * 1024**3
# seconds after which a file that is still being written belongs to a process that died
ABANDONED = 3600
# the store of truths
TRUTH = "truth"
# the folders of a store, by the first digit of a key; each is kept below its part of the limit
_SHARDS = 16


class Store:
    """Contents by their key, in a folder; the least recently used go first when there is too much. Any number of
    processes may use it at a time.

    Args:
        name: what the contents are, such as :data:`TRUTH`.
        limit: bytes that it holds at most.
    """

    def __init__(self, name: str, limit: int = LIMIT) -> None:
        self.folder = cache_dir() / name
        self._limit = limit // _SHARDS

    def find(self, key: str) -> Path | None:
        """The file of a key, a hexadecimal number; None where there is none that can be had."""
        path = self._path(key)
        try:
            os.utime(path)  # it counts as used now
        except OSError:
            return None
        return path

    def put(self, key: str, content: bytes) -> None:
        """Keep a content, unless it is too big. Raises :class:`OSError` where the disk is full or can't be written."""
        if len(content) > self._limit:
            return
        path = self._path(key)
        write_atomic(path, content)
        self._make_room(path.parent)

    def _path(self, key: str) -> Path:
        return self.folder / key[0] / key

    def _make_room(self, shard: Path) -> None:
        found = sorted(_with_status(shard), key=lambda one: one[1].st_mtime, reverse=True)
        held = 0
        for path, status in found:
            if path.name.startswith(".") and time.time() - status.st_mtime < ABANDONED:
                continue  # somebody writes it
            held += status.st_size
            if held > self._limit:
                path.unlink(missing_ok=True)


def held() -> dict[str, tuple[int, int]]:
    """By the name of what is kept: how many files, how many bytes."""
    found = {name: [path.stat().st_size for path in paths] for name, paths in _kept().items()}
    return {name: (len(sizes), sum(sizes)) for name, sizes in found.items()}


def clear() -> int:
    """Remove all that is kept, and nothing else that may lie in the same folder; how many bytes that was."""
    freed = sum(size for _, size in held().values())
    for paths in _kept().values():
        for path in paths:
            path.unlink(missing_ok=True)
    return freed


def _kept() -> dict[str, list[Path]]:
    """The files that proofbook makes in its cache."""
    folder = cache_dir()
    patterns = {TRUTH: f"{TRUTH}/[0-9a-f]/*", "discovered models": "registered-*.json"}
    return {name: sorted(folder.glob(pattern)) for name, pattern in patterns.items()}


def _with_status(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for path in folder.iterdir():
        try:
            yield path, path.stat()
        except FileNotFoundError:  # another process made room
            continue
