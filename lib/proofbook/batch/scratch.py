"""Where a runner and its cases keep what is not to stay: one folder a runner, below the system's temporary one.

It goes with the runner. What a runner left that was killed, the next one removes: the system's lock on a file within
tells whether its owner still lives.
"""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

_PREFIX, _LOCK = "pb-", "lock"


@cache
def scratch() -> Path:
    """The folder of this process; the first call makes it."""
    made = Path(tempfile.mkdtemp(prefix=_PREFIX))
    lock = FileLock(made / _LOCK)
    lock.acquire()
    atexit.register(_leave, made, lock)
    return made


def sweep() -> list[Path]:
    """Remove the folders of runners that are no more; those that were there."""
    swept = []
    for lock in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_LOCK}"):
        try:
            with FileLock(lock).acquire(timeout=0):
                shutil.rmtree(lock.parent, ignore_errors=True)
                swept.append(lock.parent)
        except (Timeout, OSError):  # its owner lives, or is another user
            continue
    return swept


def _leave(folder: Path, lock: FileLock) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    lock.release()
