"""The ten words in which every check and every case is answered."""

from collections.abc import Iterable
from enum import StrEnum


class Verdict(StrEnum):
    """The answer to one check, or to one case.

    The order of the members is their precedence: the verdict of a case is the first of them that any of its
    checks has (see :func:`overall`).
    """

    CRASH = "crash"  # the kernel died: a signal, out of memory
    TIMEOUT = "timeout"  # the time limit passed
    ERROR = "error"  # an exception
    FAIL = "fail"  # a wrong answer
    XPASS = "xpass"  # a known fault that no longer shows: its entry must go
    NOT_RUN = "not-run"  # planned, and not reached
    BLOCKED = "blocked"  # a dependency or a device is missing; the reason names it
    XFAIL = "xfail"  # a known fault, with its issue and an expiry date
    PASS = "pass"
    SKIP = "skip"  # not applicable; the reason says why

    @property
    def fell_short(self) -> bool:
        """Whether this verdict makes a case, and so a run, fall short of what was expected."""
        return self in _FELL_SHORT


_FELL_SHORT = frozenset({Verdict.CRASH, Verdict.TIMEOUT, Verdict.ERROR, Verdict.FAIL, Verdict.XPASS, Verdict.NOT_RUN})


def overall(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict of a whole from those of its parts: the first by precedence; ``not-run`` where there are none."""
    found = set(verdicts)
    return next((verdict for verdict in Verdict if verdict in found), Verdict.NOT_RUN)


class Blocked(Exception):
    """Something that a case needs is missing on this machine; its verdict is ``blocked``, never ``fail``.

    Args:
        name: what is missing, by its name: ``detectron2``, ``cuda``, ``huggingface hub``.
        cause: what was tried and what came of it.
        remedy: what the reader can do about it.
    """

    def __init__(self, name: str, cause: str, remedy: str) -> None:
        super().__init__(f"{name}: {cause}. {remedy}")
        self.name = name
        self.cause = cause
        self.remedy = remedy
