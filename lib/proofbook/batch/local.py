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
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proofbook.batch.kernels import KERNEL_NAME, Stopped, Switch, kernel_environment
from proofbook.batch.ledger import METADATA, Result, read_result
from proofbook.batch.machine import MachineryFailed, threads
from proofbook.batch.parents import Cold, Parents
from proofbook.batch.plan import Plan, PlannedCase
from proofbook.catalog import Weights
from proofbook.catalog.environments import CURRENT
from proofbook.environments import interpreter, kernel_name, own_name
from proofbook.files import write_atomic
from proofbook.verdict import Blocked, Verdict
from proofbook.workbook.records import reproduction_name


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
    jobs: int,
    *,
    only: Sequence[PlannedCase] | None = None,
    warm: bool = False,
) -> Generator[Event, None, None]:
    """Execute cases of a plan, and yield what happens as it happens.

    Cases with tiny weights run ``jobs`` at a time; each with real weights has the machine to itself. When the
    iterator is closed or interrupted, the kernels that run are killed, and their cases leave nothing.

    Args:
        plan: the run's plan.
        folder: the run's folder.
        notebooks: the folder of the category notebooks.
        jobs: how many cases run at a time, one or more.
        only: the cases to execute; all by default.
        warm: whether cases with tiny weights run in warm kernels, as far as these can be had.

    Raises:
        MachineryFailed: not even the failure of a case could be written down.
    """
    cases = plan.cases if only is None else only
    tiny = [case for case in cases if case.weights is Weights.TINY]
    # beside what they do themselves, imports are nothing; and with several threads nothing is forked
    real = [case for case in cases if case.weights is not Weights.TINY]
    with Parents() as parents:
        if warm:
            _warm_up(parents, tiny)
        _load_papermill()
        yield from _Workers(plan, folder, notebooks, tiny, jobs, parents if warm else None)
    yield from _Workers(plan, folder, notebooks, real, 1)


def _warm_up(parents: Parents, cases: Sequence[PlannedCase]) -> None:
    """Let the parent of most cases import what it needs while this process does the same."""
    if any(case.environment in (CURRENT, own_name()) for case in cases):
        with suppress(Cold):  # each kernel asks again, and says why
            parents.start(sys.executable, {**os.environ, **kernel_environment(threads(Weights.TINY))})


class _Workers:
    """Threads that execute cases until none is left; iterating yields their events."""

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        notebooks: Path,
        cases: Sequence[PlannedCase],
        width: int,
        parents: Parents | None = None,
    ) -> None:
        self._plan, self._folder, self._notebooks, self._parents = plan, folder, notebooks, parents
        self._left: queue.SimpleQueue[PlannedCase] = queue.SimpleQueue()
        for case in cases:
            self._left.put(case)
        self._events: queue.SimpleQueue[Event | BaseException] = queue.SimpleQueue()
        self._unfinished = len(cases)
        self._switch = Switch()
        self._threads = [
            threading.Thread(target=self._work, name=f"case-{number}") for number in range(min(width, len(cases)))
        ]

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
            self._switch.off()
            if self._parents:  # a thread may wait for one that still imports
                self._parents.close()
            for thread in self._threads:
                if thread.ident is not None:  # it was started
                    thread.join()

    def _work(self) -> None:
        while not self._switch.is_off:
            try:
                case = self._left.get_nowait()
            except queue.Empty:
                return
            self._events.put(Started(case))
            try:
                execute_case(case, self._plan.run, self._folder, self._notebooks, self._switch, self._parents)
                for sentence in self._parents.news() if self._parents else ():
                    self._events.put(Noticed(sentence))
                self._events.put(Finished(case, read_result(self._folder, self._plan.run, case)))
            except Stopped:
                return
            except OSError as error:
                self._events.put(MachineryFailed(f"{case.case}: its notebook can't be written: {error}"))
                return
            except BaseException as error:  # a defect of the batch: it must end the run, not a thread
                self._events.put(error)
                return


def execute_case(
    case: PlannedCase,
    run: str,
    folder: Path,
    notebooks: Path,
    switch: Switch | None = None,
    parents: Parents | None = None,
) -> None:
    """Execute one case. Its notebook appears in the run's folder when it is complete, whatever its verdict.

    Without ``parents`` its kernel is cold.

    Raises:
        Stopped: the switch was turned off; there is no notebook.
        OSError: the notebook can't be written.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError

    source, final = notebooks / f"{case.category}.ipynb", folder / case.notebook
    partial = final.with_name(f".{case.case}.{os.getpid()}.partial.ipynb")
    final.parent.mkdir(parents=True, exist_ok=True)
    try:
        # where the case may leave whatever it likes
        with tempfile.TemporaryDirectory(prefix="pb-", ignore_cleanup_errors=True) as work:
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
                    execution_timeout=case.time_limit,
                    resources={"metadata": {"path": work}},
                    environment=kernel_environment(threads(case.weights)),
                    interpreter=interpreter(case.environment),
                    parents=parents,
                    switch=switch,
                )
            _bring_reproduction(Path(work), final)
        content = _relocated(partial, source, case)
    except (Stopped, MemoryError):
        raise
    except Exception as error:  # a notebook that is damaged or missing, a kernel that can't be launched
        content = _obituary(case, source, error)
    finally:
        partial.unlink(missing_ok=True)
    write_atomic(final, content)


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
    }
    return {name: value for name, value in chosen.items() if value not in (None, "")}


def kernelspec(case: PlannedCase) -> dict[str, str]:
    """What a notebook's metadata say of the kernel that runs the case."""
    place = "" if case.environment == CURRENT else f" (proofbook, {case.environment})"
    name = kernel_name(case.environment)
    return {"name": name, "display_name": f"Python 3{place or ' (ipykernel)'}", "language": "python"}


def _bring_reproduction(work: Path, notebook: Path) -> None:
    """Put the script that reproduces a case's failure, which its notebook left where it worked, beside the notebook."""
    name = reproduction_name(notebook.stem)
    for suffix in (".py", ".safetensors"):
        final = notebook.with_name(f"{name}{suffix}")
        final.unlink(missing_ok=True)
        if (made := work / final.name).is_file():
            shutil.copyfile(made, final)


def _unformatted(path: Path) -> str:
    """A path as papermill takes it literally: it reads braces as places for parameters."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _relocated(partial: Path, source: Path, case: PlannedCase) -> str:
    """The executed notebook, whose metadata name its own place rather than paths of this machine."""
    content = json.loads(partial.read_text(encoding="utf-8"))
    metadata = content["metadata"]
    metadata["papermill"].update(input_path=f"notebooks/{source.name}", output_path=case.notebook)
    metadata["kernelspec"] = kernelspec(case)  # so that JupyterLab opens it in the same environment
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _obituary(case: PlannedCase, source: Path, error: Exception) -> str:
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
    return f"{nbformat.writes(nbformat.v4.new_notebook(cells=cells, metadata=metadata))}\n"


def _load_papermill() -> None:
    """Import what the threads need before there are any, and keep papermill from logging to the terminal."""
    import papermill
    import scrapbook  # noqa: F401

    logging.getLogger(papermill.__name__).addHandler(logging.NullHandler())
