"""Executes ``notebooks/summary.ipynb`` for a run."""

from pathlib import Path

import nbformat
import papermill
from nbformat import NotebookNode

from proofbook.batch.kernels import KERNEL_NAME
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
        # read here, since papermill would take braces in the path for parameters
        nbformat.read(notebooks_dir() / NAME, as_version=4),
        None,
        parameters={"run": "."},
        engine_name="proofbook",
        kernel_name=KERNEL_NAME,
        language="python",
        progress_bar=False,
        resources={"metadata": {"path": str(run_dir)}},
    )
    notebook.metadata.papermill.update(input_path=f"notebooks/{NAME}", output_path=NAME)
    write_atomic(run_dir / NAME, nbformat.writes(notebook) + "\n")
    return notebook
