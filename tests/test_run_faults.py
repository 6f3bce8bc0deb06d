"""Whatever a notebook does to its kernel costs its own case only, and is called by its name."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import psutil
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from proofbook.batch.ledger import CASES_FILE
from proofbook.batch.plan import make_plan
from proofbook.batch.run import execute_run
from proofbook.catalog import load_catalog
from proofbook.verdict import Verdict
from synthetic_workbook import MODELS, statuses, write_workbook

# of the models that hang, the others need about a second; a busy machine takes several times that
TIME_LIMIT = 10
QUICK = [name for name in MODELS if not name.startswith("slow")]
BROKEN = ["some-speech", "some-multimodal"]
EXPECTED = {
    "passes": Verdict.PASS,
    "litters": Verdict.PASS,
    "spawns": Verdict.PASS,
    "fails": Verdict.FAIL,
    "blocked": Verdict.BLOCKED,
    "raises": Verdict.ERROR,
    "boasts": Verdict.ERROR,
    "impostor": Verdict.ERROR,
    "sys-exit": Verdict.ERROR,
    "some-speech": Verdict.ERROR,
    "some-multimodal": Verdict.ERROR,
    "hangs": Verdict.TIMEOUT,
    "hangs-deaf": Verdict.TIMEOUT,
    "swallows-interrupts": Verdict.TIMEOUT,
    "sigkill": Verdict.CRASH,
    "segfault": Verdict.CRASH,
    "os-exit": Verdict.CRASH,
    "no-scraps": Verdict.CRASH,
    "spawns-and-dies": Verdict.CRASH,
}


class Run:
    """The run of all faults, executed once for all tests of this module."""

    def __init__(self, root: Path) -> None:
        self.notes, self.folder = root, root / "outputs" / "faults"
        write_workbook(root)
        catalog = load_catalog(root / "params")
        plan = make_plan(catalog, run="faults", models=QUICK + BROKEN, targets=["cpu"], time_limit=TIME_LIMIT)
        plan.save(self.folder)
        with (root / "said").open("w") as said:
            self.ledger = execute_run(plan, self.folder, root / "notebooks", 3, Console(file=said, width=200))
        self.said = (root / "said").read_text()

    def notebook(self, model: str) -> Path:
        category = {name: name.removeprefix("some-") for name in BROKEN}.get(model, "vision")
        return self.folder / "cases" / category / f"{model}@cpu.ipynb"

    def reason(self, model: str) -> str:
        return next(case.reason for case in self.ledger.cases if case.model == model)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    root = tmp_path_factory.mktemp("work book {run}")  # papermill takes braces in a path for parameters
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYNTHETIC_NOTES", str(root))
        patch.delenv("OMP_NUM_THREADS", raising=False)
        yield Run(root)


pytestmark = pytest.mark.slow


def test_each_fault_has_its_verdict(run: Run) -> None:
    assert {case.model: case.verdict for case in run.ledger.cases} == EXPECTED


def test_the_ledger_closes_and_says_so(run: Run) -> None:
    line = run.ledger.closes()
    assert line.startswith(f"{len(EXPECTED)} planned = ")
    assert f"ledger: {line}" in run.said
    table = pq.read_table(run.folder / CASES_FILE)
    assert table.column("verdict").to_pylist() == [EXPECTED[model] for model in table.column("model").to_pylist()]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("hangs", f"the case ran into its limit of {TIME_LIMIT} s, in cell [3] (act)"),
        ("hangs-deaf", f"the case ran into its limit of {TIME_LIMIT} s, in cell [3] (act)"),
        ("sigkill", "the kernel died: killed by SIGKILL (out of memory?), in cell [3] (act)"),
        ("segfault", "the kernel died: killed by SIGSEGV (segmentation fault), in cell [3] (act)"),
        ("os-exit", "the kernel died: it left with exit status 0, in cell [3] (act)"),
        ("sys-exit", "SystemExit: 0, in cell [3] (act)"),
        ("raises", "ZeroDivisionError: a defect of the notebook, in cell [3] (act)"),
        ("boasts", "its scraps say pass, but AssertionError"),
        ("impostor", "holds the scraps of another case, passes@cpu"),
        ("no-scraps", "came to its end without a verdict"),
        ("some-speech", "notebooks/speech.ipynb could not be executed"),
        ("some-multimodal", "notebooks/multimodal.ipynb could not be executed: FileNotFoundError"),
    ],
)
def test_the_reason_says_what_happened_and_where(run: Run, model: str, words: str) -> None:
    assert words in run.reason(model)
    assert words in run.said


@pytest.mark.parametrize("model", ["hangs", "hangs-deaf", "sigkill", "segfault", "os-exit", "sys-exit", "raises"])
def test_the_metadata_tell_what_ran_from_what_did_not(run: Run, model: str) -> None:
    cells = statuses(run.notebook(model))
    by_status = {status: [line for line in cells if cells[line] == status] for status in cells.values()}
    assert [line[:6] for line in by_status["failed"]] == ["import"]
    assert len(by_status["pending"]) == 2
    content = json.loads(run.notebook(model).read_text())
    assert content["metadata"]["papermill"]["exception"] is True
    assert content["metadata"]["proofbook"] == {"verdict": EXPECTED[model], "reason": run.reason(model)}


@pytest.mark.parametrize("model", ["hangs", "hangs-deaf", "segfault"])
def test_the_notebook_shows_the_line_at_which_it_ended(run: Run, model: str) -> None:
    cell = next(cell for cell in nbformat.read(run.notebook(model), 4).cells if "act" in cell.metadata.get("tags", []))
    shown = "\n".join(line for output in cell.outputs for line in output.get("traceback", []))
    assert "in act" in shown
    assert run.reason(model) in shown


def test_no_process_outlives_its_case(run: Run) -> None:
    for model in ("spawns", "spawns-and-dies"):
        for pid in map(int, (run.notes / f"{model}.pids").read_text().split()):
            assert _ended(pid), f"a child of {model} is still there"
    assert not [child for child in psutil.Process().children(recursive=True) if "ipykernel" in " ".join(_words(child))]


def test_a_notebook_names_no_folder_of_this_machine(run: Run) -> None:
    record = json.loads(run.notebook("passes").read_text())["metadata"]["papermill"]
    assert (record["input_path"], record["output_path"]) == ("notebooks/vision.ipynb", "cases/vision/passes@cpu.ipynb")


def test_nothing_is_left_beside_the_notebooks(run: Run) -> None:
    found = {path.name for path in (run.folder / "cases").rglob("*") if path.is_file()}
    assert found == {f"{model}@cpu.ipynb" for model in EXPECTED}
    assert not list(run.notes.rglob("litter"))
    assert not Path("litter").exists()


def test_a_case_has_one_thread_whatever_runs_beside_it(run: Run) -> None:
    case = next(case for case in run.ledger.cases if case.model == "passes")
    assert case.versions == {"threads": "1"}
    assert case.run == "faults"


def _ended(pid: int) -> bool:
    for _ in range(50):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.1)
    return False


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
