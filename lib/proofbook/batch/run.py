"""A run from its plan to its ledger, and its continuation after an interruption."""

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, TextIO

from rich.console import Console

from proofbook.batch.history import History, Need
from proofbook.batch.ledger import Ledger, is_readable, read_ledger
from proofbook.batch.machine import available_bytes, cores, units
from proofbook.batch.plan import Plan, PlannedCase
from proofbook.batch.reuse import Keys
from proofbook.batch.schedule import Room, Schedule
from proofbook.catalog import Catalog, Category, load_catalog
from proofbook.verdict import Verdict

if TYPE_CHECKING:
    from proofbook.batch.store import Store


class BadFolder(ValueError):
    """A run's folder that can't be used; the message says why and what to do."""


class Executor(StrEnum):
    """What executes cases: threads of this process, or tasks of Ray."""

    LOCAL = "local"
    RAY = "ray"


class Interrupted(Exception):
    """The run was stopped before its end; what is there is valid, and ``--resume`` goes on."""

    def __init__(self, folder: Path, ledger: Ledger) -> None:
        left = ledger.totals[Verdict.NOT_RUN]
        super().__init__(f"stopped: {left} of {len(ledger.plan.cases)} cases have not run")
        self.folder = folder
        self.ledger = ledger


def new_folder(outputs: Path, chosen: Path | None = None, name: str = "") -> Path:
    """The folder of a new run: the one chosen, else one in ``outputs`` of that name, or named by the time (UTC).

    Raises:
        BadFolder: the one chosen holds something already.
    """
    if chosen is not None:
        folder = chosen.resolve()
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise BadFolder(
                f"--out {chosen}: it exists and is not an empty folder. "
                f"Choose another, or continue the run in it with `proofbook run --resume {chosen}`"
            )
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    folder = fresh_folder(outputs, name or datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ"))
    _point_latest(outputs, folder.name)
    return folder


def fresh_folder(outputs: Path, name: str) -> Path:
    """Make a folder of that name in ``outputs``, or with a number behind it.

    Raises:
        BadFolder: there are a thousand of them.
    """
    for each in (name, *(f"{name}-{number}" for number in range(2, 1000))):
        try:
            (outputs / each).mkdir(parents=True)
        except FileExistsError:
            continue
        return outputs / each
    raise BadFolder(f"{outputs} holds a thousand runs of the name {name}")


def find_run(name: str, outputs: Path) -> Path:
    """The folder of a run, by its path or by its name in ``outputs``; ``latest`` is the newest.

    Raises:
        BadFolder: there is none.
    """
    for folder in (Path(name), outputs / name):
        if folder.is_dir():
            return folder.resolve()
    raise BadFolder(f"no run {name!r}: neither that path nor {outputs / name} is a folder")


def unfinished(plan: Plan, folder: Path) -> list[PlannedCase]:
    """The cases of a plan that have no executed notebook yet, or a damaged one."""
    return [case for case in plan.cases if not is_readable(folder / case.notebook)]


def execute_run(
    plan: Plan,
    folder: Path,
    notebooks: Path,
    jobs: int,
    console: Console,
    warm: bool = False,
    *,
    history: History | None = None,
    keys: Keys | None = None,
    per_device: int = 1,
    stream: TextIO | None = None,
    executor: Executor = Executor.LOCAL,
    store: "Store | None" = None,
) -> Ledger:
    """Execute what a run still lacks, write its ledger and close it.

    Args:
        plan: the plan, already saved in the folder.
        folder: the run's folder.
        notebooks: the folder of the category notebooks.
        jobs: how many cases run at a time.
        console: where to show the progress.
        warm: whether cases run in warm kernels, as far as these can be had.
        history: what earlier runs tell of how long cases take, and how much memory.
        keys: what the outcome of each case depends on, to be kept with it.
        per_device: how many cases may share a GPU.
        stream: where events are printed as lines of JSON, beside the file of them in the run's folder.
        executor: what executes the cases.
        store: where each finished case is copied.

    Raises:
        Interrupted: by Ctrl-C or SIGTERM; the ledger of what is done has been written.
        LedgerOpen: the ledger does not close.
        MachineryFailed: a case's notebook can't be written.
    """
    from proofbook.batch import local, on_ray
    from proofbook.batch.journal import Journal
    from proofbook.batch.progress import Progress
    from proofbook.batch.state import State

    cases = unfinished(plan, folder)
    needs = _needs(cases, load_catalog(notebooks.parent / "params"), history or History())
    if executor is Executor.RAY:
        happening = on_ray.execute(plan, folder, notebooks, needs, jobs=jobs, per_device=per_device, warm=warm)
    else:
        schedule = _schedule(needs, jobs, per_device)
        happening = local.execute(plan, folder, notebooks, schedule, keys=keys, warm=warm)
    state = State(plan.run, Counter(case.category for case in plan.cases))
    with Journal(folder, plan, stream) as journal, _interruptible_once():
        try:
            with (
                closing(happening) as events,
                Progress(console, state) as progress,
            ):
                progress.show(journal.started(cases, jobs, _expected(cases, history), warm=warm))
                for event in events:
                    progress.show(journal.follow(event))
                    if store and isinstance(event, local.Finished) and (said := store.add(folder, event.case)):
                        progress.show(journal.follow(local.Noticed(said)))
            return journal.finished(write_ledger(folder, console), stopped=False)
        except KeyboardInterrupt:
            ledger = journal.finished(write_ledger(folder, console), stopped=True)
            raise Interrupted(folder, ledger) from None
        except BaseException as error:
            journal.failed(error)
            raise


def _expected(cases: Sequence[PlannedCase], history: History | None) -> dict[Category, float]:
    """Seconds that a case of each category takes on average, by what earlier runs tell; empty without any."""
    if history is None:
        return {}
    seconds: dict[Category, list[float]] = {}
    for case in cases:
        seconds.setdefault(case.category, []).append(history.seconds(case))
    return {category: round(mean(each), 3) for category, each in seconds.items()}


def _needs(cases: Sequence[PlannedCase], catalog: Catalog, history: History) -> list[tuple[PlannedCase, Need]]:
    return [(case, history.need(case, catalog.target(case.target))) for case in cases]


def _schedule(needs: Sequence[tuple[PlannedCase, Need]], jobs: int, per_device: int) -> Schedule:
    devices = units(need.device for _, need in needs if need.device)
    return Schedule(needs, Room(jobs, cores(), available_bytes, devices, per_device))


def write_ledger(folder: Path, console: Console) -> Ledger:
    """Make the ledger of a run from its notebooks, write it, close it and print its closing line.

    Raises:
        BadPlan: the folder has no usable plan.
        LedgerOpen: the ledger does not close.
    """
    ledger = read_ledger(folder)
    ledger.write(folder)
    console.print(f"ledger: {ledger.closes()}", highlight=False)
    if ledger.efficiency:
        console.print(str(ledger.efficiency), highlight=False)
    return ledger


@contextmanager
def _interruptible_once() -> Iterator[None]:
    """Let the first Ctrl-C, or the SIGTERM by which CI stops a job, raise KeyboardInterrupt, and no second one.

    A second one would break into the second or two that putting things in order takes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread receives signals
        return
    interrupted = False

    def interrupt(*_: object) -> None:
        nonlocal interrupted
        if not interrupted:
            interrupted = True
            raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _point_latest(outputs: Path, name: str) -> None:
    """Let the link ``latest`` point at a run, where the system has links and nothing else is called so."""
    link = outputs / "latest"
    if os.name != "posix" or (link.exists() and not link.is_symlink()):
        return
    link.unlink(missing_ok=True)
    link.symlink_to(name)
