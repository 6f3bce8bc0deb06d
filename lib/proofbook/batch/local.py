"""Executes planned cases on this machine, several at a time, each by papermill in a kernel of its own."""

import json
import logging
import os
import queue
import shutil
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proofbook.batch.account import MEASURED, Batch
from proofbook.batch.account import METADATA as ACCOUNT
from proofbook.batch.kernels import KERNEL_NAME, Stopped, Switch, kernel_environment
from proofbook.batch.ledger import METADATA, Result, read_result
from proofbook.batch.limits import limits_for
from proofbook.batch.machine import MachineryFailed, threads, visible
from proofbook.batch.parents import Cold, Parents
from proofbook.batch.plan import Plan, PlannedCase
from proofbook.batch.quiet import Quiet
from proofbook.batch.reuse import Keys
from proofbook.batch.schedule import Admission, Schedule
from proofbook.batch.scratch import scratch
from proofbook.catalog import Timings, Weights
from proofbook.catalog.environments import CURRENT
from proofbook.environments import interpreter, kernel_name, own_name
from proofbook.files import is_full, remedy, write_atomic
from proofbook.verdict import Blocked, Verdict
from proofbook.workbook.records import reproduction_files


@dataclass(frozen=True)
class Started:
    """A case has begun."""

    case: PlannedCase


@dataclass(frozen=True)
class Finished:
    """A case has come to its end, with what its notebook says."""

    case: PlannedCase
    result: Result


@dataclass(frozen=True)
class Noticed:
    """Something of the run as a whole, in words."""

    text: str


Event = Started | Finished | Noticed


def execute(
    plan: Plan,
    folder: Path,
    notebooks: Path,
    schedule: Schedule,
    *,
    keys: Keys | None = None,
    warm: bool = False,
) -> Generator[Event, None, None]:
    """Execute cases of a plan, and yield what happens as it happens.

    When the iterator is closed or interrupted, the kernels that run are killed, and their cases leave nothing.

    Args:
        plan: the run's plan.
        folder: the run's folder.
        notebooks: the folder of the category notebooks.
        schedule: the cases to execute, and which of them may run at a time.
        keys: what the outcome of each depends on; without, nobody can tell later whether that has changed.
        warm: whether cases with tiny weights run in warm kernels, as far as these can be had.

    Raises:
        MachineryFailed: not even the failure of a case could be written down.
    """
    batch = Batch(min(schedule.room.cores, schedule.room.jobs * threads(Weights.TINY)))
    with Parents() as parents:
        if warm:
            _warm_up(parents, schedule.cases)
        _load_papermill()
        yield from _Workers(plan, folder, notebooks, schedule, batch, keys, parents if warm else None)


def _warm_up(parents: Parents, cases: Sequence[PlannedCase]) -> None:
    """Let the parent of most cases import what it needs while this process does the same."""
    if any(case.environment in (CURRENT, own_name()) and case.weights is Weights.TINY for case in cases):
        with suppress(Cold):  # each kernel asks again, and says why
            parents.start(sys.executable, {**os.environ, **kernel_environment(threads(Weights.TINY))})


class _Workers:
    """Threads that execute cases until none is left; iterating yields their events."""

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        notebooks: Path,
        schedule: Schedule,
        batch: Batch,
        keys: Keys | None,
        parents: Parents | None,
    ) -> None:
        self._plan, self._folder, self._notebooks, self._parents = plan, folder, notebooks, parents
        self._schedule, self._batch, self._keys = schedule, batch, keys
        self._quiet = Quiet() if plan.timings is Timings.ALONE else None
        self._events: queue.SimpleQueue[Event | BaseException] = queue.SimpleQueue()
        self._unfinished = len(schedule.cases)
        self._switch = Switch()
        # as many again wait for a case to be over, and begin theirs while its kernel is ended and its notebook written
        width = min(2 * schedule.room.jobs, len(schedule.cases))
        self._threads = [threading.Thread(target=self._work, name=f"case-{number}") for number in range(width)]

    def __iter__(self) -> Iterator[Event]:
        try:
            for thread in self._threads:
                thread.start()
            while self._unfinished:
                event = self._events.get()
                if isinstance(event, BaseException):
                    raise event
                self._unfinished -= isinstance(event, Finished)
                yield event
        finally:
            self._schedule.stop()
            self._switch.off()
            if self._parents:  # a thread may wait for one that still imports
                self._parents.close()
            for thread in self._threads:
                if thread.ident is not None:  # it was started
                    thread.join()

    def _work(self) -> None:
        while (admitted := self._schedule.take()) is not None:
            try:
                self._execute(admitted)
            except Stopped:
                return
            except OSError as error:
                said = f"{admitted.case.case}: its notebook can't be written: {error}{remedy(error)}"
                self._events.put(MachineryFailed(said))
                return
            except BaseException as error:  # a defect of the batch: it must end the run, not a thread
                self._events.put(error)
                return
            finally:
                self._schedule.give_back(admitted)

    def _execute(self, admitted: Admission) -> None:
        case = admitted.case
        self._events.put(Started(case))
        execute_case(
            case,
            self._plan.run,
            self._folder,
            self._notebooks,
            self._switch,
            # beside what a case with real weights does, imports are nothing; and with several threads nothing is forked
            self._parents if case.weights is Weights.TINY else None,
            variables=visible(admitted.need.device, admitted.unit),
            batch=self._batch,
            quiet=self._quiet,
            keys=self._keys,
            # the memory of a GPU is free only when the kernel has ended
            over=(lambda: self._schedule.give_back(admitted)) if admitted.unit is None else None,
        )
        for sentence in self._parents.news() if self._parents else ():
            self._events.put(Noticed(sentence))
        self._events.put(Finished(case, read_result(self._folder, self._plan.run, case)))


def execute_case(
    case: PlannedCase,
    run: str,
    folder: Path,
    notebooks: Path,
    switch: Switch | None = None,
    parents: Parents | None = None,
    *,
    variables: Mapping[str, str] | None = None,
    batch: Batch | None = None,
    quiet: Quiet | None = None,
    keys: Keys | None = None,
    over: Callable[[], None] | None = None,
) -> None:
    """Execute one case. Its notebook appears in the run's folder when it is complete, whatever its verdict.

    Without ``parents`` its kernel is cold. ``variables`` are set in it beside the usual ones. For a ``batch`` the
    notebook holds an account of the execution, with its key among ``keys``. With ``quiet`` its calls are timed alone.
    ``over`` is called when it computes no more, and its kernel has yet to be ended.

    Raises:
        Stopped: the switch was turned off; there is no notebook.
        OSError: the notebook can't be written.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError

    source, final = notebooks / f"{case.category}.ipynb", folder / case.notebook
    partial = final.with_name(f".{case.case}.{os.getpid()}.partial.ipynb")
    final.parent.mkdir(parents=True, exist_ok=True)
    begun = batch.begin(case) if batch else None
    if begun and keys:
        keys.ask_ahead(case)
    try:
        # where the case may leave whatever it likes
        with tempfile.TemporaryDirectory(prefix="w", dir=scratch(), ignore_cleanup_errors=True) as work:
            (temporary := Path(work, "tmp")).mkdir()
            # a failing cell is what a notebook may hold; papermill has written it down when it raises this
            with suppress(PapermillExecutionError):
                papermill.execute_notebook(
                    _unformatted(source),
                    _unformatted(partial),
                    parameters=parameters(case, run),
                    engine_name="proofbook",
                    kernel_name=KERNEL_NAME,
                    language="python",
                    progress_bar=False,
                    request_save_on_cell_execute=False,
                    limits=limits_for(case),
                    resources={"metadata": {"path": work}},
                    environment={
                        **kernel_environment(threads(case.weights)),
                        **(variables or {}),
                        "TMPDIR": str(temporary),
                    },
                    interpreter=interpreter(case.environment),
                    parents=parents,
                    switch=switch,
                    quiet=quiet,
                    over=over,
                )
            _bring_reproduction(Path(work), final)
        content = _relocated(partial, source, case)
    except (Stopped, MemoryError):
        raise
    except Exception as error:  # a notebook that is damaged or missing, a kernel that can't be launched
        if is_full(error):
            raise
        content = _obituary(case, source, error)
    finally:
        partial.unlink(missing_ok=True)
    measured = content["metadata"].pop(MEASURED, {})
    if batch and begun:
        # asked only now, as whatever changed meanwhile makes it unknown
        key = keys.of(case) if keys and keys.hold() else ""
        account = batch.end(begun, content, measured, key)
        content["metadata"][ACCOUNT] = account.model_dump(mode="json", exclude_defaults=True)
    write_atomic(final, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def parameters(case: PlannedCase, run: str = "") -> dict[str, Any]:
    """What a case's notebook gets as its parameters; all others keep their defaults."""
    chosen = {
        "model": case.model,
        "target": case.target,
        "weights": str(case.weights),
        "folder": case.folder,
        "seed": case.seed,
        "run": run,
        "variant": case.variant,
        "sweep": case.sweep,
    }
    return {name: value for name, value in chosen.items() if value not in (None, "")}


def kernelspec(case: PlannedCase) -> dict[str, str]:
    """What a notebook's metadata say of the kernel that runs the case."""
    place = "" if case.environment == CURRENT else f" (proofbook, {case.environment})"
    name = kernel_name(case.environment)
    return {"name": name, "display_name": f"Python 3{place or ' (ipykernel)'}", "language": "python"}


def _bring_reproduction(work: Path, notebook: Path) -> None:
    """Put the script that reproduces a case's failure, which its notebook left where it worked, beside the notebook."""
    for name in reproduction_files(notebook.stem):
        final = notebook.with_name(name)
        final.unlink(missing_ok=True)
        if (made := work / name).is_file():
            shutil.copyfile(made, final)


def _unformatted(path: Path) -> str:
    """A path as papermill takes it literally: it reads braces as places for parameters."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _relocated(partial: Path, source: Path, case: PlannedCase) -> dict[str, Any]:
    """The executed notebook, whose metadata name its own place rather than paths of this machine."""
    content: dict[str, Any] = json.loads(partial.read_text(encoding="utf-8"))
    metadata = content["metadata"]
    metadata["papermill"].update(input_path=f"notebooks/{source.name}", output_path=case.notebook)
    metadata["kernelspec"] = kernelspec(case)  # so that JupyterLab opens it in the same environment
    return content


def _obituary(case: PlannedCase, source: Path, error: Exception) -> dict[str, Any]:
    """A notebook for a case that could not be executed at all."""
    import nbformat

    said = str(error).strip().partition("\n")[0]
    verdict, reason = Verdict.ERROR, f"notebooks/{source.name} could not be executed: {type(error).__name__}: {said}"
    if isinstance(error, Blocked):
        verdict, reason = Verdict.BLOCKED, said
    trace = "".join(traceback.format_exception(error))
    cells = [
        nbformat.v4.new_markdown_cell(f"# {case.case}\n\n{reason}\n\nAgain: `{case.rerun}`"),
        nbformat.v4.new_raw_cell(trace),
    ]
    metadata = {
        METADATA: {"verdict": str(verdict), "reason": reason},
        "papermill": {"parameters": parameters(case)},
    }
    return dict(nbformat.v4.new_notebook(cells=cells, metadata=metadata))


def _load_papermill() -> None:
    """Import what the threads need before there are any, and keep papermill from logging to the terminal."""
    import papermill
    import scrapbook  # noqa: F401

    logging.getLogger(papermill.__name__).addHandler(logging.NullHandler())
