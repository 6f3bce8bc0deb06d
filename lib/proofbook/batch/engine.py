"""The papermill engine ``proofbook``: nbclient's, with a time limit for the whole notebook and honest metadata.

papermill alone marks every cell of a notebook as completed whose kernel died or ran out of time, those that were
never reached included. Here the cell concerned is marked failed and shows the cause as its error, cells that
never ran stay pending, and ``metadata.proofbook`` holds ``verdict`` and ``reason``. An execution that came to the
end of its last cell has no such entry.

By hand: ``papermill --engine proofbook --execution-timeout 120 IN.ipynb OUT.ipynb``.
"""

import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, nullcontext
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode
from nbformat.v4 import new_output
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, NotebookExecutionManager
from papermill.log import logger

from proofbook.batch.account import MEASURED
from proofbook.batch.kernels import Kernel, Stopped, Switch, start_kernel
from proofbook.batch.ledger import METADATA
from proofbook.batch.limits import Limits, Watch
from proofbook.batch.output import Budget
from proofbook.batch.parents import Parents
from proofbook.batch.quiet import TAG, Load, Quiet
from proofbook.verdict import Verdict

# seconds for a kernel to start, and for the output of a finished cell to arrive on a busy machine
STARTUP, OUTPUT = 120, 60
# the longest message of an error that becomes a reason, in characters
SAID = 500
# the key of a notebook's metadata under which its limits stand, and what enforced them
LIMITS = "proofbook_limits"


class ProofbookEngine(NBClientEngine):  # type: ignore[misc]
    """nbclient's engine with a limit for the whole notebook, and metadata that say what happened."""

    @classmethod
    def execute_notebook(
        cls,
        nb: NotebookNode,
        kernel_name: str,
        output_path: str | None = None,
        progress_bar: bool = True,
        log_output: bool = False,
        autosave_cell_every: int = 30,
        **kwargs: Any,
    ) -> NotebookNode:
        """As papermill's, except that no cell is called completed that did not run."""
        watched = _Manager(nb, output_path, log_output, progress_bar, autosave_cell_every)
        watched.notebook_start()
        try:
            cls.execute_managed_notebook(watched, kernel_name, log_output=log_output, **kwargs)
        finally:
            watched.cleanup_pbar()
            watched.notebook_complete()
        return watched.nb

    @classmethod
    def execute_managed_notebook(
        cls,
        nb_man: NotebookExecutionManager,
        kernel_name: str,
        log_output: bool = False,
        stdout_file: Any = None,
        stderr_file: Any = None,
        start_timeout: int = STARTUP,
        execution_timeout: float | None = None,
        limits: Limits | None = None,
        resources: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        interpreter: str | None = None,
        parents: Parents | None = None,
        switch: Switch | None = None,
        quiet: Quiet | None = None,
        over: Callable[[], None] | None = None,
        **kwargs: Any,
    ) -> None:
        """Execute the cells in a kernel of its own.

        Args:
            nb_man: papermill's view of the notebook.
            kernel_name: not used: ``interpreter`` says which kernel.
            log_output, stdout_file, stderr_file, start_timeout: as papermill's.
            execution_timeout: seconds for the whole notebook, the start of the kernel included; None for no limit.
            limits: the same, and limits of memory and processes; instead of ``execution_timeout``.
            resources: ``{"metadata": {"path": …}}`` is the folder in which the kernel works; that of this process
                by default.
            environment: variables for the kernel, over those of this process.
            interpreter: the kernel's Python; this one by default.
            parents: whence a warm kernel comes; without, the kernel is cold.
            switch: what else can end the execution.
            quiet: lets cells tagged ``timings`` run while nothing else does that it knows of. Without, they run as all
                others.
            over: called when no cell runs any more, and the kernel has yet to be ended.
            kwargs: other options of papermill's; none of them has a meaning here.

        Raises:
            Stopped: the switch was turned off meanwhile.
        """
        switch = switch or Switch()
        limits = limits or Limits(seconds=execution_timeout)
        nb_man.nb.metadata[LIMITS] = limits.record()
        folder = Path((resources or {}).get("metadata", {}).get("path") or Path.cwd())
        with (
            quiet.beside() if quiet else nullcontext(),
            start_kernel(environment or {}, folder, interpreter or sys.executable, parents) as kernel,
            switch.holds(kernel),
        ):
            client = _Client(
                nb_man,
                km=kernel.manager,
                log=logger,
                log_output=log_output,
                stdout_file=stdout_file,
                stderr_file=stderr_file,
                startup_timeout=math.ceil(limits.seconds or start_timeout),
                iopub_timeout=OUTPUT,
            )
            with Watch(kernel, limits) as watch:
                client.limit, client.quiet = watch, quiet
                error = client.run()
            if switch.is_off:
                raise Stopped
            if over:
                over()
            nb_man.nb.metadata[MEASURED] = client.measured()
            if watch.breach or error is not None:
                _record(nb_man, client.at, _how_it_ended(kernel, watch, error), kernel)
            if isinstance(error, KeyboardInterrupt):
                raise error


class _Client(PapermillNotebookClient):  # type: ignore[misc]
    """papermill's client, which keeps the error that ended the execution and the cell in which it came."""

    at: int | None = None
    limit: Watch
    quiet: Quiet | None = None
    busy_cores: float | None = None

    def __init__(self, nb_man: NotebookExecutionManager, **options: Any) -> None:
        super().__init__(nb_man, **options)
        self.budget = Budget()

    def process_message(self, msg: dict[str, Any], cell: NotebookNode, cell_index: int) -> NotebookNode | None:
        """As papermill's, for what the notebook has room for."""
        kept = self.budget.spend(msg)
        return super().process_message(kept, cell, cell_index) if kept else None

    def measured(self) -> dict[str, float]:
        """What is told of the execution beside its outputs; see :class:`proofbook.workbook.records.Execution`."""
        found = {"busy_cores": self.busy_cores, "resident_mb": self.limit.resident / 1e6 or None}
        return {name: round(value, 3) for name, value in found.items() if value is not None}

    def run(self) -> BaseException | None:
        """Execute all cells; the error that ended it before the last, if one did."""
        try:
            self.execute(cleanup_kc=False)
        except (Exception, KeyboardInterrupt) as error:
            return error
        finally:
            if self.kc is not None:
                self.kc.stop_channels()
        return None

    def papermill_execute_cells(self) -> None:
        cells = list(enumerate(self.nb.cells))
        for timed, group in groupby(cells, lambda one: TAG in one[1].metadata.get("tags", ())):
            if self.quiet is None:
                self._execute(group)
            elif timed:
                self._execute_alone(self.quiet, group)
            else:
                self._execute(group, self.quiet)

    def _execute_alone(self, quiet: Quiet, cells: Iterable[tuple[int, NotebookNode]]) -> None:
        with ExitStack() as stack:
            with self.limit.suspended():
                load: Load = stack.enter_context(quiet.alone())
            self._execute(cells)
        self.busy_cores = load.cores

    def _execute(self, cells: Iterable[tuple[int, NotebookNode]], quiet: Quiet | None = None) -> None:
        for index, cell in cells:
            if quiet:
                with self.limit.suspended():
                    quiet.let_pass()
            self.at = index
            self.nb_man.cell_start(cell, index)
            try:
                self.execute_cell(cell, index)
            except BaseException as error:
                if cell.cell_type == "code":  # a kernel may die before it tells the number itself
                    cell.execution_count = cell.execution_count or self.code_cells_executed
                self.nb_man.cell_exception(cell, cell_index=index, exception=error)
                raise
            finally:
                if said := self.budget.dropped():
                    cell.outputs.append(new_output("stream", name="stderr", text=said))
                self.nb_man.cell_complete(cell, cell_index=index)


class _Manager(NotebookExecutionManager):  # type: ignore[misc]
    """papermill's record of an execution, without its closing assumption that all cells ran.

    Its times are those of one look at the clock and, from then on, of what can't be set: durations are never negative.
    """

    def __init__(self, *arguments: Any) -> None:
        self._epoch, self._began = datetime.now(UTC), time.monotonic()
        super().__init__(*arguments)

    def now(self) -> datetime:
        """The time, UTC."""
        return self._epoch + timedelta(seconds=time.monotonic() - self._began)

    def notebook_start(self, **kwargs: Any) -> None:
        self.nb.metadata.pop(METADATA, None)
        super().notebook_start(**kwargs)

    def notebook_complete(self, **kwargs: Any) -> None:
        self.end_time = self.now()
        record = self.nb.metadata.papermill
        record["end_time"] = self.end_time.isoformat()
        record["duration"] = (self.end_time - self.start_time).total_seconds()
        self.save()


def _how_it_ended(kernel: Kernel, watch: Watch, error: BaseException | None) -> tuple[Verdict, str]:
    """The verdict of an execution that did not end well, and what happened, to be followed by where."""
    if watch.breach:
        return watch.breach.verdict, watch.breach.what
    if isinstance(error, CellExecutionError):
        said = _short(error.evalue.strip().partition("\n")[0], SAID)
        what = f"{error.ename}: {said}" if said else error.ename
        return Verdict.ERROR, f"{what} ({watch.leap})" if watch.leap and _lacked_memory(error) else what
    if isinstance(error, KeyboardInterrupt):
        return Verdict.ERROR, "the execution was interrupted by hand"
    if isinstance(error, DeadKernelError) or kernel.died:
        return Verdict.CRASH, f"the kernel died: {kernel.cause_of_death()}"
    return Verdict.ERROR, f"{type(error).__name__}: {error}"


def _record(watched: NotebookExecutionManager, at: int | None, ended: tuple[Verdict, str], kernel: Kernel) -> None:
    """Write into the notebook how its execution ended: its metadata, and the cell concerned."""
    cells = watched.nb.cells
    verdict, what = ended
    reason = f"{what}, {'while the kernel started' if at is None else f'in {_name(cells[at])}'}"
    watched.nb.metadata[METADATA] = {"verdict": str(verdict), "reason": reason}
    watched.nb.metadata.papermill["exception"] = True
    # a kernel that never started is shown where its work would have begun
    index = at if at is not None else next((i for i, cell in enumerate(cells) if cell.cell_type == "code"), None)
    if index is None or cells[index].cell_type != "code":
        return
    watched.cell_exception(cells[index], cell_index=index)
    if verdict is not Verdict.ERROR or not any(map(_stops_papermill, cells[index].outputs)):
        trace = [f"{verdict}: {reason}", *kernel.last_frames(), *kernel.last_words()]
        cells[index].outputs.append(new_output("error", ename=verdict.capitalize(), evalue=reason, traceback=trace))


def _stops_papermill(output: NotebookNode) -> bool:
    """Whether papermill takes an output for a failure: any error but ``sys.exit(0)``."""
    return output.output_type == "error" and not (output.ename == "SystemExit" and output.evalue in ("", "0", "None"))


def _name(cell: NotebookNode) -> str:
    """A cell as a reader finds it: its number, and its tag or first line."""
    tags = [tag for tag in cell.metadata.get("tags", []) if not tag.endswith("parameters")]
    line = cell.source.strip().partition("\n")[0]
    label = tags[0] if tags else _short(line, 60)
    number = cell.get("execution_count")
    return f"cell [{number}] ({label})" if number else f"a cell without code ({label})"


def _lacked_memory(error: CellExecutionError) -> bool:
    """Whether an allocation failed, by the words of Python, NumPy, torch and the system."""
    words = ("an't allocate memory", "annot allocate memory")
    return error.ename.endswith("MemoryError") or any(said in error.evalue for said in words)


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
