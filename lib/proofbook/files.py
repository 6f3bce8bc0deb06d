"""Writing files so that a reader never meets half of one."""

import errno
import os
import threading
from pathlib import Path


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file under a temporary name beside it and rename it: readers see all of it, or what was there before.

    Missing folders are made. Raises :class:`OSError` where the disk is full or the folder can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def is_full(error: BaseException) -> bool:
    """Whether an error says that there is no room left, on the disk or of what one may use of it."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def remedy(error: BaseException) -> str:
    """What to do where :func:`is_full` holds, as the end of a message; else nothing."""
    return ". Make room, and continue with `proofbook run --resume`" if is_full(error) else ""
