"""Executes ``notebooks/summary.ipynb`` for a run."""

from pathlib import Path

import nbformat
import papermill
from nbformat import NotebookNode

from proofbook.files import write_atomic
from proofbook.paths import notebooks_dir

NAME = "summary.ipynb"


def execute_summary(run_dir: Path) -> NotebookNode:
    """Run the summary notebook inside a run's folder and write it there.

    Its parameter is ``.``, so that the executed notebook names no folder of this machine, and runs again
    wherever the run is copied.

    Raises:
        papermill.PapermillExecutionError: a cell raised; the message names it.
    """
    notebook = papermill.execute_notebook(
        notebooks_dir() / NAME,
        None,
        parameters={"run": "."},
        progress_bar=False,
        log_output=False,
        # ipykernel warns of every TCP connection
        extra_arguments=["--log-level=40"],
        resources={"metadata": {"path": str(run_dir)}},
    )
    notebook.metadata.papermill.input_path = f"notebooks/{NAME}"
    write_atomic(run_dir / NAME, nbformat.writes(notebook))
    return notebook
