"""How the command line ends when something goes wrong: in words, with the exit status that the help promises."""

import sys
import traceback

from proofbook.batch.debug import BadCase
from proofbook.batch.lock import FolderInUse
from proofbook.batch.machine import MachineryFailed
from proofbook.batch.plan import BadPlan
from proofbook.batch.run import BadFolder
from proofbook.catalog import UnknownName
from proofbook.catalog.catalog import ParamsError
from proofbook.files import remedy

FELL_SHORT, WRONG_USAGE, MACHINERY, STOPPED = 1, 2, 3, 130


class WrongUsage(ValueError):
    """The command line asks for something that can't be; the message says what is allowed."""


_USAGE = (WrongUsage, UnknownName, ParamsError, BadPlan, BadFolder, FolderInUse, BadCase)
# failures outside of this program, whose message says all
_ENVIRONMENT = (MachineryFailed, OSError)


def exit_code_of(error: BaseException) -> int:
    """Say on the standard error stream what went wrong, and give the exit status for it."""
    if isinstance(error, KeyboardInterrupt):
        _say("stopped")
        return STOPPED
    if isinstance(error, _USAGE):
        _say(f"error: {error}")
        return WRONG_USAGE
    defect = error.__cause__ if isinstance(error, _ENVIRONMENT) else error
    if defect is not None:  # whoever mends it needs the place
        traceback.print_exception(defect)
    _say(f"error: the machinery failed: {type(error).__name__}: {error}{remedy(error)}")
    return MACHINERY


def _say(line: str) -> None:
    print(line, file=sys.stderr)
