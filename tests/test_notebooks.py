"""The category notebooks run with papermill and with jupyter alone, and stay small."""

import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
from papermill.exceptions import PapermillExecutionError

from proofbook.catalog import Category
from proofbook.checks.registry import registered
from proofbook.paths import notebooks_dir
from proofbook.verdict import Verdict
from proofbook.workbook.scraps import read

MEGABYTE = 10**6


@pytest.mark.parametrize("category", Category)
def test_a_notebook_says_what_its_parameters_are(category: Category) -> None:
    notebook = nbformat.read(notebooks_dir() / f"{category}.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    assert len(cells) == 1
    lines = cells[0].source.splitlines()
    assert [line.split(" = ")[0] for line in lines] == [
        "model",
        "target",
        "weights",
        "folder",
        "seed",
        "checks",
        "run",
        "variant",
        "sweep",
    ]
    assert all("  # " in line for line in lines)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    assert notebook.metadata.kernelspec.name == "python3"


@pytest.mark.slow
@pytest.mark.parametrize("category", Category)
def test_papermill_alone_runs_each_notebook(category: Category, tmp_path: Path) -> None:
    path = tmp_path / "out.ipynb"
    papermill.execute_notebook(
        str(notebooks_dir() / f"{category}.ipynb"),
        str(path),
        {"checks": "loads,finite,matches-truth"},
        kernel_name="python3",
        progress_bar=False,
    )
    scraps = read(path)
    assert scraps.case.verdict in (Verdict.PASS, Verdict.XFAIL)
    assert scraps.case.category is category
    assert [one.check for one in scraps.checks] == ["loads", "finite", "matches-truth"]
    assert path.stat().st_size < MEGABYTE


@pytest.mark.slow
def test_jupyter_execute_runs_a_notebook_which_asks_the_whole_battery(tmp_path: Path) -> None:
    path = tmp_path / "out.ipynb"
    notebook = notebooks_dir() / "vision.ipynb"
    command = [sys.executable, "-m", "jupyter", "execute", str(notebook), f"--output={path}"]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    scraps = read(path)
    assert (scraps.case.case, scraps.case.verdict) == ("vit@cpu", Verdict.PASS)
    assert scraps.case.checks == len(scraps.checks)
    assert {check.name for check in registered()} <= {one.check for one in scraps.checks}
    assert path.stat().st_size < MEGABYTE


@pytest.mark.slow
def test_a_case_that_falls_short_raises_and_its_notebook_holds_the_records(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    path = tmp_path / "out.ipynb"
    with pytest.raises(PapermillExecutionError, match=r"vit\.local@cpu: error: loads"):
        papermill.execute_notebook(
            str(notebooks_dir() / "vision.ipynb"),
            str(path),
            {"weights": "local", "folder": str(tmp_path)},
            kernel_name="python3",
            progress_bar=False,
        )
    scraps = read(path)
    shown = nbformat.read(path, as_version=4).cells[-1].outputs[-1]
    assert shown.traceback == [f"CaseFailed: {shown.evalue}"]  # no frames of ours
    assert scraps.case.verdict is Verdict.ERROR
    assert scraps.case.failed == len(scraps.checks)
