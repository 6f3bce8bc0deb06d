"""``proofbook status``."""

import shlex

from proofbook.batch.run import find_run
from proofbook.batch.status import Condition, Status, read_status
from proofbook.batch.store import is_url
from proofbook.batch.view import explanation, outcome, overview
from proofbook.cli.console import console, root, shown
from proofbook.cli.errors import WrongUsage

# cases that fell short shown at most, the last ones
SHORT_SHOWN = 10
_AGAIN = {Condition.STOPPED, Condition.FAILED, Condition.KILLED, Condition.PLANNED}


def show_status(name: str, json: bool) -> None:
    """Print where a run stands."""
    if is_url(name):
        raise WrongUsage(
            f"status {name}: only of a run on this machine, which alone knows whether somebody executes it"
        )
    folder = find_run(name, root() / "outputs")
    status, state = read_status(folder)
    if json:
        print(status.model_dump_json())
        return
    out = console()
    out.print(_sentence(status), markup=False, highlight=False, soft_wrap=True)
    out.print(overview(state, status.elapsed or 0.0))
    for case in status.fell_short[-SHORT_SHOWN:]:
        out.print(outcome(case).append_text(explanation(case, 9)), soft_wrap=True, highlight=False)
    if status.condition in _AGAIN:
        again = f"proofbook run --resume {shlex.quote(shown(folder))}"
        out.print(f"Continue with:\n{again}", markup=False, highlight=False, soft_wrap=True)


def _sentence(status: Status) -> str:
    """Who does what, or why nobody does, in words."""
    match status.condition:
        case Condition.RUNNING:
            return f"running: {status.runner or 'by an unknown process'}"
        case Condition.KILLED:
            return f"killed: its runner is gone and could not close the ledger ({status.runner or 'unknown'})"
        case Condition.PLANNED:
            return "planned: nothing has been executed yet"
    return f"{status.condition}: {status.text}"
