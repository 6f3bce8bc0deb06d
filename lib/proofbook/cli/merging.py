"""``proofbook merge``."""

from collections.abc import Sequence

from proofbook.batch.journal import Journal
from proofbook.batch.lock import locked
from proofbook.batch.run import write_ledger
from proofbook.batch.shards import copy_cases, merged_plan
from proofbook.batch.store import open_run
from proofbook.cli.console import console, root, shown
from proofbook.cli.errors import FELL_SHORT
from proofbook.cli.running import conclude, destination


def merge_runs(shards: Sequence[str], chosen: str | None, report: bool) -> int:
    """Join the runs of all shards into one in a new folder; the exit status, as that of ``proofbook run``."""
    out, outputs = console(), root() / "outputs"
    folders = [open_run(name, outputs) for name in shards]
    plan = merged_plan(folders, "")
    folder, store = destination(outputs, chosen)
    plan = plan.model_copy(update={"run": folder.name})
    with locked(folder), Journal(folder, plan) as journal:
        plan.save(folder)
        if store:
            store.begin(folder)
        copied = copy_cases(folders, plan, folder)
        out.print(f"{copied} notebooks of {len(folders)} shards, in {shown(folder)}", highlight=False, soft_wrap=True)
        ledger = journal.finished(write_ledger(folder, out), stopped=False)
        conclude(ledger, folder, out, report=report, store=store)
    return FELL_SHORT if ledger.fell_short else 0
