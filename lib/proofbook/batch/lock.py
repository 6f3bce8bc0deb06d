"""One runner a folder: whoever comes second is told who is there; a runner that died leaves nothing to clear away."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel, ValidationError

from proofbook.files import write_atomic

# the system's lock on the first ends with the process that holds it; the second only says whose it is
LOCK_FILE, HOLDER_FILE = ".lock", ".runner.json"
# seconds to wait for those who only look whether a folder is locked
_GLANCE = 0.5


class FolderInUse(ValueError):
    """Another runner works in this folder; the message names it."""


class Holder(BaseModel):
    """The process that holds a folder, or held it last."""

    pid: int
    host: str
    # UTC, ISO 8601
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run's folder while the block runs.

    Raises:
        FolderInUse: another process holds it.
        OSError: the folder can't be written.
    """
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=_GLANCE)
    except Timeout:
        raise FolderInUse(
            f"{folder} is in use by {holder(folder) or 'another process'}. Wait for it, or end it"
        ) from None
    try:
        own = Holder(pid=os.getpid(), host=platform.node(), since=datetime.now(UTC).isoformat(timespec="seconds"))
        write_atomic(folder / HOLDER_FILE, own.model_dump_json() + "\n")
        yield
    finally:
        lock.release()


def is_locked(folder: Path) -> bool:
    """Whether a runner works in a folder.

    Raises:
        OSError: it can't be told, as the folder can't be written.
    """
    if not (folder / LOCK_FILE).exists():
        return False
    try:
        with FileLock(folder / LOCK_FILE).acquire(timeout=0):
            return False
    except Timeout:
        return True


def holder(folder: Path) -> Holder | None:
    """Who holds a folder, or held it last; None where that is not written down."""
    try:
        return Holder.model_validate_json((folder / HOLDER_FILE).read_bytes())
    except (OSError, ValidationError):
        return None
