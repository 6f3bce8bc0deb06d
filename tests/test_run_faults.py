"""Whatever a notebook does to its kernel costs its own case only, and is called by its name."""

import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import nbformat
import psutil
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from proofbook.batch import limits
from proofbook.batch.ledger import CASES_FILE
from proofbook.batch.parents import unavailable
from proofbook.batch.plan import make_plan
from proofbook.batch.run import execute_run
from proofbook.batch.scratch import scratch
from proofbook.catalog import load_catalog
from proofbook.verdict import Verdict
from synthetic_workbook import MODELS, statuses, write_workbook

no_warm = pytest.mark.skipif(unavailable() is not None, reason=f"no warm kernels: {unavailable()}")
# of the models that hang, the others need about a second; a busy machine takes several times that
TIME_LIMIT = 15
# GB, and processes at a time
MEMORY_LIMIT, PROCESSES = 0.6, 40
QUICK = [name for name in MODELS if not name.startswith("slow")]
BROKEN = ["some-speech", "some-multimodal"]
EXPECTED = {
    "passes": Verdict.PASS,
    "litters": Verdict.PASS,
    "spawns": Verdict.PASS,
    "floods": Verdict.PASS,
    "zombies": Verdict.PASS,
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
    "leaps": Verdict.ERROR,
    "eats": Verdict.CRASH,
    "forks": Verdict.CRASH,
    "aborts": Verdict.CRASH,
    "sigkill": Verdict.CRASH,
    "segfault": Verdict.CRASH,
    "os-exit": Verdict.CRASH,
    "no-scraps": Verdict.CRASH,
    "spawns-and-dies": Verdict.CRASH,
}


# what depends on how a kernel was started
OF_WARM_ONES = (
    *("passes", "hangs-deaf", "swallows-interrupts", "segfault", "aborts", "os-exit", "eats", "leaps", "forks"),
    *("floods", "zombies", "litters", "spawns", "spawns-and-dies"),
)


class Run:
    """A run of faults, executed once for all tests of this module."""

    def __init__(self, root: Path, models: Sequence[str], *, warm: bool) -> None:
        self.notes, self.folder = root, root / "outputs" / "faults"
        write_workbook(root)
        catalog = load_catalog(root / "params")
        bounds = {"time_limit": TIME_LIMIT, "memory_limit": MEMORY_LIMIT}
        plan = make_plan(catalog, run="faults", models=models, targets=["cpu"], **bounds)
        plan.save(self.folder)
        with (root / "said").open("w") as said:
            console = Console(file=said, width=200)
            self.ledger = execute_run(plan, self.folder, root / "notebooks", 3, console, warm)
        self.said = (root / "said").read_text()

    def notebook(self, model: str) -> Path:
        category = {name: name.removeprefix("some-") for name in BROKEN}.get(model, "vision")
        return self.folder / "cases" / category / f"{model}@cpu.ipynb"

    def reason(self, model: str) -> str:
        return next(case.reason for case in self.ledger.cases if case.model == model)


def executed(root: Path, models: Sequence[str], *, warm: bool) -> Iterator[Run]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYNTHETIC_NOTES", str(root))
        patch.delenv("OMP_NUM_THREADS", raising=False)
        patch.setattr(limits, "PROCESSES", PROCESSES)
        yield Run(root, models, warm=warm)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """All faults, in cold kernels."""
    root = tmp_path_factory.mktemp("work book {run}")  # papermill takes braces in a path for parameters
    yield from executed(root, QUICK + BROKEN, warm=False)


@pytest.fixture(scope="module")
def warm_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Those to whom it matters, in warm kernels."""
    yield from executed(tmp_path_factory.mktemp("warm"), OF_WARM_ONES, warm=True)


@pytest.fixture(params=["run", pytest.param("warm_run", marks=no_warm)])
def any_run(request: pytest.FixtureRequest) -> Run:
    made: Run = request.getfixturevalue(request.param)
    return made


pytestmark = pytest.mark.slow


def test_each_fault_has_its_verdict(run: Run, warm_run: Run) -> None:
    assert {case.model: case.verdict for case in run.ledger.cases} == EXPECTED
    found = {case.model: case.verdict for case in warm_run.ledger.cases}
    assert found == {model: EXPECTED[model] for model in OF_WARM_ONES}


def test_a_case_beyond_a_limit_says_which_and_what_was_in_force(any_run: Run) -> None:
    assert "beyond its limit of 0.6 GB of memory: 0." in any_run.reason("eats")
    assert f"beyond its limit of {PROCESSES} processes: " in any_run.reason("forks")
    assert "MemoryError (a process of the case may have 1.2 GB), in cell [3]" in any_run.reason("leaps")
    metadata = json.loads(any_run.notebook("passes").read_text())["metadata"]
    assert metadata["proofbook_limits"] == {
        "seconds": TIME_LIMIT,
        "memory_bytes": 6e8,
        "processes": PROCESSES,
        "by": "watched every 0.1 s; RLIMIT_DATA of 1.2 GB a process",
    }


def test_a_flood_of_output_is_cut_and_that_is_said(any_run: Run) -> None:
    notebook = any_run.notebook("floods")
    assert notebook.stat().st_size < 1_000_000
    cell = next(cell for cell in nbformat.read(notebook, 4).cells if "act" in cell.metadata.get("tags", []))
    assert "or more of output were dropped: a notebook keeps 256 kB of text" in cell.outputs[-1].text
    assert sum(len(output.text) for output in cell.outputs) < 260_000


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
        ("aborts", "the kernel died: killed by SIGABRT, in cell [3] (act)"),
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


@pytest.mark.parametrize("model", ["hangs", "hangs-deaf", "sigkill", "segfault", "forks", "eats", "sys-exit", "raises"])
def test_the_metadata_tell_what_ran_from_what_did_not(run: Run, model: str) -> None:
    cells = statuses(run.notebook(model))
    by_status = {status: [line for line in cells if cells[line] == status] for status in cells.values()}
    assert [line[:6] for line in by_status["failed"]] == ["import"]
    assert len(by_status["pending"]) == 2
    content = json.loads(run.notebook(model).read_text())
    assert content["metadata"]["papermill"]["exception"] is True
    assert content["metadata"]["proofbook"] == {"verdict": EXPECTED[model], "reason": run.reason(model)}


@pytest.mark.parametrize("model", ["hangs", "hangs-deaf", "segfault", "eats"])
def test_the_notebook_shows_the_line_at_which_it_ended(run: Run, model: str) -> None:
    cell = next(cell for cell in nbformat.read(run.notebook(model), 4).cells if "act" in cell.metadata.get("tags", []))
    shown = "\n".join(line for output in cell.outputs for line in output.get("traceback", []))
    assert "in act" in shown
    assert run.reason(model) in shown


def test_no_process_outlives_its_case(any_run: Run) -> None:
    for model in ("spawns", "spawns-and-dies"):
        pids = [int(pid) for pid in (any_run.notes / f"{model}.pids").read_text().split()]
        assert len(pids) == 3
        assert not [pid for pid in pids if not _ended(pid)], f"a child of {model} is still there"
    for child in psutil.Process().children(recursive=True):
        assert "ipykernel" not in " ".join(_words(child))
        assert child.status() != psutil.STATUS_ZOMBIE


def test_nothing_that_a_run_started_is_still_there(any_run: Run) -> None:
    assert not [process for process in psutil.process_iter() if _belongs(process, any_run.notes)]


def test_a_notebook_names_no_folder_of_this_machine(run: Run) -> None:
    record = json.loads(run.notebook("passes").read_text())["metadata"]["papermill"]
    assert (record["input_path"], record["output_path"]) == ("notebooks/vision.ipynb", "cases/vision/passes@cpu.ipynb")


def test_nothing_is_left_beside_the_notebooks(run: Run) -> None:
    found = {path.name for path in (run.folder / "cases").rglob("*") if path.is_file()}
    assert found == {f"{model}@cpu.ipynb" for model in EXPECTED}
    assert not Path("litter").exists()


def test_no_file_outlives_its_case(any_run: Run) -> None:
    assert not [path for path in any_run.notes.rglob("litter*") if path.suffix != ".ipynb"]
    assert [path.name for path in scratch().iterdir()] == ["lock"]
    assert not list(Path(tempfile.gettempdir()).glob("litter*"))


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


def _belongs(process: psutil.Process, notes: Path) -> bool:
    """Whether a process was started, or is a fork of one that was, with the variables of a run."""
    try:
        return process.environ().get("SYNTHETIC_NOTES") == str(notes)
    except (psutil.Error, OSError):
        return False


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
