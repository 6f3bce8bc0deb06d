"""A run loses nothing: not to a second runner, a full disk, a damaged file or a clock that is set, nor to kill -9."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import nbformat
import papermill
import psutil
import pyarrow.parquet as pq
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from proofbook.batch import engine, keeper
from proofbook.batch.kernels import kernel_environment
from proofbook.batch.ledger import CASES_FILE, read_ledger
from proofbook.batch.lock import FolderInUse, is_locked, locked
from proofbook.batch.parents import unavailable
from proofbook.batch.scratch import sweep
from proofbook.verdict import Verdict
from synthetic_workbook import write_workbook

PROOFBOOK = [sys.executable, "-c", "from proofbook.cli import main; main()"]
linux = pytest.mark.skipif(not keeper.available(), reason="keepers are for Linux")


@pytest.fixture
def workbook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = write_workbook(tmp_path / "workbook")
    monkeypatch.setenv("PROOFBOOK_ROOT", str(root))
    monkeypatch.setenv("SYNTHETIC_NOTES", str(root))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return root


Call = Callable[..., tuple[int, str]]


def eventually(condition: Callable[[], bool], seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.fixture
def another(tmp_path: Path) -> Iterator[Callable[[str], "subprocess.Popen[str]"]]:
    """Starts a process that executes some lines, says something, and waits."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str) -> "subprocess.Popen[str]":
        lines = f"{textwrap.dedent(code)}\nprint(flush=True); import time; time.sleep(600)"
        process = subprocess.Popen([sys.executable, "-c", lines], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_folder_has_one_runner_and_that_is_named(tmp_path: Path, another: Callable[[str], object]) -> None:
    with locked(tmp_path):
        assert is_locked(tmp_path)
        held = f"from pathlib import Path; from proofbook.batch.lock import locked; locked(Path({str(tmp_path)!r}))"
        code = f"{held}.__enter__()"
        second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert f"is in use by process {os.getpid()} on" in second.stderr
    assert not is_locked(tmp_path)


def test_the_lock_of_a_runner_that_was_killed_is_no_obstacle(
    tmp_path: Path, another: Callable[[str], "subprocess.Popen[str]"]
) -> None:
    runner = another(
        f"""
        from pathlib import Path
        from proofbook.batch.lock import locked
        holds = locked(Path({str(tmp_path)!r}))
        holds.__enter__()
        """
    )
    with pytest.raises(FolderInUse, match=f"process {runner.pid} on "), locked(tmp_path):
        pass
    runner.kill()
    runner.wait()
    with locked(tmp_path):
        assert is_locked(tmp_path)


def test_two_runners_on_one_run_are_told_apart(workbook: Path, proofbook: Call) -> None:
    folder = workbook / "outputs" / "run"
    proofbook("run", "--target", "cpu", "--no-report", "--out", folder)
    with locked(folder):
        status, said = proofbook("run", "--resume", folder, "--no-report")
    assert (status, f"is in use by process {os.getpid()} on" in said) == (2, True)
    assert "Traceback" not in said


def test_files_of_a_runner_that_was_killed_are_removed_and_no_others(
    tmp_path: Path, another: Callable[[str], "subprocess.Popen[str]"], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code = "from proofbook.batch.scratch import scratch; (scratch() / 'big').write_text('left')"
    dead, alive = another(code), another(code)
    assert len(list(tmp_path.glob("pb-*/big"))) == 2
    assert sweep() == []
    dead.kill()
    dead.wait()
    assert len(sweep()) == 1
    assert len(list(tmp_path.glob("pb-*/big"))) == 1
    assert alive.poll() is None


@linux
@pytest.mark.parametrize(("script", "status"), [("exit 7", 7), ("kill -ABRT $$", -signal.SIGABRT)])
def test_a_keeper_leaves_as_its_command_did_and_leaves_nothing(tmp_path: Path, script: str, status: int) -> None:
    daemon = "import os; os.setsid(); os.fork() and os._exit(0)\n"
    daemon += f"import time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    waits = f"while [ ! -s {tmp_path}/pid ]; do sleep 0.05; done"
    command = keeper.kept(["/bin/sh", "-c", f'"$0" -c "$1"; {waits}; {script}', sys.executable, daemon])
    assert subprocess.run(command, start_new_session=True).returncode == status
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


@linux
def test_a_command_ends_with_its_keeper_and_a_keeper_with_its_owner(another: Callable[[str], object]) -> None:
    code = f"""
        import subprocess
        print(subprocess.Popen({keeper.kept(["/bin/sleep", "600"])!r}, start_new_session=True).pid, end=" ")
    """
    lines = f"{textwrap.dedent(code)}\nprint(flush=True); import time; time.sleep(600)"
    for whom in ("owner", "keeper"):
        owner = subprocess.Popen([sys.executable, "-c", lines], stdout=subprocess.PIPE, text=True)
        assert owner.stdout is not None
        kept = psutil.Process(int(owner.stdout.readline()))
        assert eventually(lambda kept=kept: bool(kept.children()))
        (command,) = kept.children()
        owner.kill() if whom == "owner" else kept.kill()
        assert eventually(lambda command=command: gone(command), 10)
        assert eventually(lambda kept=kept: gone(kept), 10)
        owner.kill()
        owner.communicate()


def test_what_is_damaged_is_executed_again_and_nothing_else(workbook: Path, proofbook: Call) -> None:
    folder = workbook / "outputs" / "run"
    models = ("passes", "litters", "zombies")
    proofbook("run", "--model", ",".join(models), "--target", "cpu", "--no-report", "--out", folder)
    notebooks = {model: folder / "cases" / "vision" / f"{model}@cpu.ipynb" for model in models}
    before = {model: path.read_bytes() for model, path in notebooks.items()}
    notebooks["litters"].write_bytes(before["litters"][:500])
    (folder / CASES_FILE).write_bytes(b"PAR1 and then nothing")
    (folder / "events.jsonl").write_bytes(b'{"half a line')
    assert {case.model: case.verdict for case in read_ledger(folder).cases}["litters"] is Verdict.ERROR
    status, said = proofbook("run", "--resume", folder, "--no-report")
    assert (status, "1 of 3 cases to execute" in said, "ledger: 3 planned = 3 pass" in said) == (0, True, True)
    assert notebooks["passes"].read_bytes() == before["passes"]
    assert pq.read_table(folder / CASES_FILE).column("verdict").to_pylist() == ["pass"] * 3
    plan = folder / "plan.json"
    plan.write_bytes(plan.read_bytes()[:200])
    status, said = proofbook("run", "--resume", folder)
    assert (status, "plan.json can't be used" in said, "Traceback" in said) == (2, True, False)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with a few hundred kilobytes."""
    (folder := tmp_path / "disk").mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a file system can't be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_stops_the_run_and_resume_completes_it(workbook: Path, proofbook: Call, small_disk: Path) -> None:
    vision = workbook / "notebooks" / "vision.ipynb"
    content = nbformat.read(vision, 4)
    content.cells.insert(2, new_code_cell("print('x' * 150_000)"))
    nbformat.write(content, vision)
    folder = small_disk / "run"
    models = "passes,litters,zombies,fails"
    arguments = ("run", "--model", models, "--target", "cpu", "--jobs", 1, "--no-report", "--out", folder)
    status, said = proofbook(*arguments)
    assert status == 3
    assert "No space left on device" in said
    assert "Make room, and continue with `proofbook run --resume`" in said
    done = [case for case in read_ledger(folder).cases if case.verdict is not Verdict.NOT_RUN]
    assert 0 < len(done) < 4
    assert all(case.verdict in (Verdict.PASS, Verdict.FAIL) for case in done), "the disk was taken for a case's fault"
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    status, said = proofbook("run", "--resume", folder, "--no-report")
    assert (status, "ledger: 4 planned = 1 fail + 3 pass" in said) == (1, True)
    assert f"{4 - len(done)} of 4 cases to execute" in said


def test_a_clock_that_is_set_back_makes_no_duration_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class SetBack(datetime):
        """A clock that is set back by an hour whenever it is looked at."""

        looks = 0

        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            cls.looks += 1
            return datetime.now(tz) - timedelta(hours=cls.looks)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "datetime", SetBack)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=[new_code_cell("1 + 1")], metadata={"kernelspec": kernel}), tmp_path / "in.ipynb")
    papermill.execute_notebook(
        *(tmp_path / "in.ipynb", tmp_path / "out.ipynb"),
        engine_name="proofbook",
        progress_bar=False,
        environment=kernel_environment(1),
    )
    made = json.loads((tmp_path / "out.ipynb").read_text())
    assert 0 < made["metadata"]["papermill"]["duration"] < 120
    assert all(0 <= cell["metadata"]["papermill"]["duration"] < 120 for cell in made["cells"])


@linux
@pytest.mark.slow
@pytest.mark.parametrize(
    "kernels", ["cold", pytest.param("warm", marks=pytest.mark.skipif(bool(unavailable()), reason="no fork"))]
)
def test_nothing_outlives_a_runner_that_is_killed_and_resume_goes_on(
    workbook: Path, proofbook: Call, kernels: str
) -> None:
    folder = workbook / "outputs" / "run"
    cold = ["--cold"] if kernels == "cold" else []
    models = "spawns,hangs-deaf,passes,fails"
    arguments = ["--model", models, "--target", "cpu", "--time-limit", "20", "--jobs", "2", *cold]
    runner = subprocess.Popen(
        [*PROOFBOOK, "run", *arguments, "--no-report", "--out", str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert eventually((workbook / "deaf").exists, 150)
    started = psutil.Process(runner.pid).children(recursive=True)
    runner.kill()
    runner.wait()
    assert eventually(lambda: all(map(gone, started)), 15), [one.cmdline() for one in started if not gone(one)]
    status, said = proofbook("status", folder)
    assert (status, said.startswith("killed: its runner is gone")) == (0, True)
    status, said = proofbook("run", "--resume", folder, "--no-report", *cold)
    assert "ledger: 4 planned = 1 timeout + 1 fail + 2 pass" in said
    assert proofbook("status", folder)[1].startswith("complete: 4 planned")
