"""The papermill engine by itself, as anybody's papermill can use it."""

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from papermill.exceptions import PapermillExecutionError


def notebook(folder: Path, *sources: str) -> Path:
    path = folder / "in.ipynb"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [new_markdown_cell("# A title"), *map(new_code_cell, sources)]
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


def execute(source: Path, **more: object) -> nbformat.NotebookNode:
    return papermill.execute_notebook(
        source, source.with_name("out.ipynb"), engine_name="proofbook", progress_bar=False, **more
    )


def test_papermills_command_line_reports_a_timeout_as_a_failure(tmp_path: Path) -> None:
    source, out = notebook(tmp_path, "import time", "time.sleep(1000)", "1 + 1"), tmp_path / "out.ipynb"
    command = [sys.executable, "-m", "papermill", "--engine", "proofbook", "--execution-timeout", "6"]
    ended = subprocess.run([*command, str(source), str(out)], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "TCP" not in ended.stderr
    written = json.loads(out.read_text())
    assert written["metadata"]["proofbook"]["verdict"] == "timeout"
    status = [cell["metadata"]["papermill"]["status"] for cell in written["cells"] if cell["cell_type"] == "code"]
    assert status == ["completed", "failed", "pending"]


def test_a_kernel_that_dies_before_its_first_cell_is_a_crash(tmp_path: Path) -> None:
    (tmp_path / "ipykernel_launcher.py").write_text("raise SystemExit('no kernel today')")
    with pytest.raises(PapermillExecutionError, match="exit status 1"):
        execute(notebook(tmp_path, "1 + 1"), environment={"PYTHONPATH": str(tmp_path)})
    written = nbformat.read(tmp_path / "out.ipynb", 4)
    metadata, own = written.metadata, [cell for cell in written.cells if "papermill" in cell.metadata]
    assert [cell.metadata.papermill.status for cell in own] == ["pending", "failed"]
    assert metadata.proofbook.verdict == "crash"
    assert "while the kernel started" in metadata.proofbook.reason
    assert "no kernel today" in (tmp_path / "out.ipynb").read_text()


def test_a_good_end_leaves_no_mark_and_takes_away_an_old_one(tmp_path: Path) -> None:
    source = notebook(tmp_path, "import os, sys", "print(os.getcwd(), sys.executable)")
    content = nbformat.read(source, 4)
    content.metadata["proofbook"] = {"verdict": "crash", "reason": "of another day"}
    nbformat.write(content, source)
    made = execute(source, resources={"metadata": {"path": str(tmp_path)}})
    assert "proofbook" not in made.metadata
    assert made.cells[2].outputs[0].text.split() == [str(tmp_path), sys.executable]
    assert made.metadata.papermill.exception is None


def test_it_says_that_no_cell_runs_any_more_before_the_kernel_has_ended(tmp_path: Path) -> None:
    there = []

    def over() -> None:
        there.append(psutil.pid_exists(int((tmp_path / "pid").read_text())))

    note = "import os, pathlib; pathlib.Path('pid').write_text(str(os.getpid()))"
    execute(notebook(tmp_path, note), over=over, resources={"metadata": {"path": str(tmp_path)}})
    assert there == [True]
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))
