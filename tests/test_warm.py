"""Warm kernels: as separate as cold ones, as honest about their end, and replaced by cold ones where there are none."""

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import nbformat
import papermill
import psutil
import pytest
from jupyter_core.utils import run_sync
from nbformat.v4 import new_code_cell, new_notebook
from papermill.exceptions import PapermillExecutionError
from rich.console import Console

import proofbook
from proofbook.batch.kernels import PROVISIONER, kernel_environment, start_kernel
from proofbook.batch.parents import REPLACEMENTS, Parents, unavailable
from proofbook.batch.plan import make_plan
from proofbook.batch.run import execute_run
from proofbook.catalog import load_catalog
from synthetic_workbook import write_workbook

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=f"no warm kernels: {unavailable()}")

Execute = Callable[..., nbformat.NotebookNode]


@pytest.fixture(scope="module")
def parents() -> Iterator[Parents]:
    """One warm parent for all tests that leave it alone."""
    with Parents() as parents:
        yield parents


@pytest.fixture
def execute(parents: Parents, tmp_path: Path) -> Execute:
    """Executes cells in a kernel of their own, a warm one, and gives the notebook, however it ended."""

    def execute(*cells: str, of: Parents = parents, **more: object) -> nbformat.NotebookNode:
        source, out = tmp_path / "in.ipynb", tmp_path / "out.ipynb"
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(new_notebook(cells=[*map(new_code_cell, cells)], metadata={"kernelspec": kernel}), source)
        options = {"environment": kernel_environment(1), "resources": {"metadata": {"path": str(tmp_path)}}}
        with suppress(PapermillExecutionError), pytest.MonkeyPatch.context() as patch:
            patch.delenv("PYTEST_CURRENT_TEST")  # or each test has another environment, and a parent of its own
            papermill.execute_notebook(
                *(source, out), engine_name="proofbook", progress_bar=False, parents=of, **{**options, **more}
            )
        return nbformat.read(out, 4)

    return execute


def printed(notebook: nbformat.NotebookNode) -> list[str]:
    """The words that the cells printed."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return " ".join(output.text for output in outputs if output.output_type == "stream").split()


def reason(notebook: nbformat.NotebookNode) -> str:
    return str(notebook.metadata.get("proofbook", {}).get("reason"))


def gone(pid: int) -> bool:
    """Whether a process ends within five seconds."""
    for _ in range(100):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_a_kernel_finds_torch_imported_and_is_otherwise_as_a_new_one(execute: Execute, tmp_path: Path) -> None:
    code = "import os, sys; print('torch' in sys.modules, os.getcwd(), __name__, os.getpgrp() == os.getpid())"
    assert printed(execute(code)) == ["True", str(tmp_path), "__main__", "True"]


def test_two_kernels_share_no_state(execute: Execute) -> None:
    leave = "import torch, random, os; torch.left = 1; os.environ['LEFT'] = '1'; torch.manual_seed(7)"
    look = "import torch, random, os; print(hasattr(torch, 'left'), 'LEFT' in os.environ, torch.initial_seed() == 7)"
    execute(leave)
    assert printed(execute(look)) == ["False"] * 3
    draw = "import random, numpy, torch; print(random.random(), numpy.random.rand(), torch.rand(1).item())"
    assert not set(printed(execute(draw))) & set(printed(execute(draw)))


def test_a_kernel_proves_its_scripts_in_forks_of_what_it_was_at_first(execute: Execute) -> None:
    code = """
        import torch
        from pathlib import Path
        from proofbook.reproduce.host import Host
        torch.left = 1
        text = "import torch, transformers; assert not hasattr(torch, 'left')"
        Path("sound.py").write_text(text)
        Path("ours.py").write_text(text + "; import proofbook.catalog")
        with Host() as host:
            print(host.run(Path("sound.py").resolve(), 60) or "sound")
            print("ModuleNotFoundError" in host.run(Path("ours.py").resolve(), 60))
    """
    assert printed(execute(textwrap.dedent(code))) == ["sound", "True"]


def test_a_kernel_that_is_asked_to_leave_does_so_at_once(parents: Parents, tmp_path: Path) -> None:
    with start_kernel(kernel_environment(1), tmp_path, parents=parents) as kernel:
        process = kernel.process
        client = kernel.manager.client()
        client.start_channels()
        run_sync(client.wait_for_ready)(timeout=60)
        client.stop_channels()
        # jupyter_client gives it half of this, then terminates it, then kills it
        kernel.manager.shutdown_wait_time = 30
        began = time.monotonic()
        run_sync(kernel.manager.shutdown_kernel)()
        assert process.poll() == 0
        assert time.monotonic() - began < 10


@pytest.mark.slow
def test_variables_that_are_read_at_import_have_a_parent_of_their_own(parents: Parents, execute: Execute) -> None:
    other = kernel_environment(1) | {"HF_HOME": "/nowhere"}
    code = "import os, huggingface_hub.constants as c; print(os.getppid(), c.HF_HOME)"
    (first, _), (second, home) = printed(execute(code)), printed(execute(code, environment=other))
    assert home == "/nowhere"
    assert first != second


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import ctypes; ctypes.string_at(0)", "killed by SIGSEGV (segmentation fault), in cell [2]"),
        ("import os; os._exit(0)", "it left with exit status 0, in cell [2]"),
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL (out of memory?), in cell [2]"),
        ("import time; time.sleep(1000)", "ran into its limit of 3 s, in cell [2]"),
        ("while True:\n    try:\n        while True: pass\n    except BaseException: pass", "its limit of 3 s"),
    ],
)
def test_how_a_kernel_ended_is_known_and_nothing_of_it_is_left(execute: Execute, code: str, words: str) -> None:
    child = "import subprocess; print(subprocess.Popen(['sleep', '1000']).pid)"
    made = execute(child, code, "1 + 1", execution_timeout=3)
    assert words in reason(made)
    assert [cell.metadata.papermill.status for cell in made.cells if "papermill" in cell.metadata] == [
        "completed",
        "failed",
        "pending",
    ]
    assert gone(int(printed(made)[0]))


def test_a_kernel_outlives_its_parent_and_the_next_has_a_new_one(execute: Execute) -> None:
    with Parents() as mortal:
        made = execute("import os, signal", "os.kill(os.getppid(), signal.SIGKILL)", "print('alive')", of=mortal)
        assert printed(made) == ["alive"]
        assert "proofbook" not in made.metadata
        assert "torch" in printed(execute("import sys; print(*sys.modules)", of=mortal))
        assert mortal.news() == ["the process to fork from has died, killed by SIGKILL; a new one takes its place"]
        assert mortal.news() == []


def test_parents_that_die_again_and_again_give_way_to_cold_kernels(execute: Execute, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os, sys\nif '-m' in sys.orig_argv[:2]: os.abort()")
    with Parents() as doomed:
        made = execute("print(1)", of=doomed, environment=kernel_environment(1) | {"PYTHONPATH": path(tmp_path)})
        assert "SIGABRT" in reason(made)  # as the kernel itself runs into it, too
        *replaced, last = doomed.news()
        assert [line.partition(";")[0] for line in replaced] == [
            "the process to fork from has died, killed by SIGABRT"
        ] * REPLACEMENTS
        assert last == "a cold kernel took over: the process to fork from has died, as 3 before it"


def test_a_library_that_starts_a_thread_when_imported_is_kept_from_it(execute: Execute, tmp_path: Path) -> None:
    # as transformers 4.57 does, by way of scikit-learn and pandas
    (tmp_path / "sitecustomize.py").write_text("import pyarrow")
    with Parents() as one:
        made = execute("print(1)", of=one, environment=kernel_environment(1) | {"PYTHONPATH": path(tmp_path)})
        assert printed(made) == ["1"]
        assert one.news() == []


@pytest.mark.slow
def test_a_kernel_that_dies_after_its_parent_is_a_crash(execute: Execute) -> None:
    code = "import os; os.kill(os.getppid(), 9); import time; time.sleep(0.5); os._exit(0)"
    with Parents() as mortal:
        assert "the kernel died: how is not known" in reason(execute(code, of=mortal))


def test_a_process_with_two_threads_is_not_forked(execute: Execute, tmp_path: Path) -> None:
    start = "import threading, time; threading.Thread(target=time.sleep, args=(600,), daemon=True).start()"
    (tmp_path / "sitecustomize.py").write_text(start)
    with Parents() as threaded:
        made = execute("print(1)", of=threaded, environment=kernel_environment(1) | {"PYTHONPATH": path(tmp_path)})
        assert printed(made) == ["1"]
        (said,) = threaded.news()
        assert "has 2 threads" in said


def path(first: Path) -> str:
    """A search path that begins with a folder."""
    return os.pathsep.join((str(first), str(Path(proofbook.__file__).parents[1]), os.environ.get("PYTHONPATH", "")))


def test_only_one_thread_is_forkable() -> None:
    code = "from proofbook.batch.warm import check_forkable as c; import threading, time; c(); print('one')\n"
    code += "threading.Thread(target=time.sleep, args=(600,), daemon=True).start(); c()"
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert made.stdout == "one\n"
    assert "has 2 threads" in made.stderr


@pytest.mark.slow
def test_parents_and_kernels_end_with_a_runner_that_is_killed(tmp_path: Path) -> None:
    code = f"""
        import sys, threading, time
        from pathlib import Path
        from proofbook.batch.kernels import kernel_environment, start_kernel
        from proofbook.batch.parents import Parents
        parents = Parents()
        with start_kernel(kernel_environment(1), Path({str(tmp_path)!r}), parents=parents) as kernel:
            print(kernel.process.pid, kernel.process._parent.pid, flush=True)
            time.sleep(100)
    """
    runner = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    assert runner.stdout is not None
    kernel, parent = map(int, runner.stdout.readline().split())
    assert psutil.Process(kernel).ppid() == parent
    runner.kill()
    runner.wait()
    assert gone(kernel)
    assert gone(parent)


@pytest.mark.slow
def test_a_run_survives_the_death_of_its_warm_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTHETIC_NOTES", str(tmp_path))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    write_workbook(tmp_path)
    vision = tmp_path / "notebooks" / "vision.ipynb"
    content = nbformat.read(vision, 4)
    kill = "import os, signal\nif model == 'litters': os.kill(os.getppid(), signal.SIGKILL)"
    content.cells.insert(2, new_code_cell(kill))
    nbformat.write(content, vision)
    names = ["passes", "litters", "fails", "raises", "os-exit", "spawns"]
    plan = make_plan(load_catalog(tmp_path / "params"), run="run", models=names, targets=["cpu"], time_limit=30)
    plan.save(tmp_path / "run")
    with (tmp_path / "said").open("w") as said:
        ledger = execute_run(
            plan, tmp_path / "run", tmp_path / "notebooks", 1, Console(file=said, width=200), warm=True
        )
    verdicts = {case.model: str(case.verdict) for case in ledger.cases}
    assert verdicts == dict(zip(names, ["pass", "pass", "fail", "error", "crash", "pass"], strict=True))
    shown = (tmp_path / "said").read_text()
    assert shown.count("the process to fork from has died, killed by SIGKILL; a new one takes its place") == 1
    assert "ledger: 6 planned = " in shown


@pytest.mark.slow
def test_plain_papermill_uses_the_kernelspec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = json.loads((Path(__file__).parents[1] / "share/jupyter/kernels/proofbook-warm/kernel.json").read_text())
    assert spec["metadata"]["kernel_provisioner"]["provisioner_name"] == PROVISIONER
    kernels = tmp_path / "kernels" / PROVISIONER
    kernels.mkdir(parents=True)
    assert spec["env"] == kernel_environment(1)
    (kernels / "kernel.json").write_text(json.dumps(spec))
    installed = tmp_path / "site" / "warm_for_test-1.dist-info"  # the entry point, wherever proofbook is installed
    installed.mkdir(parents=True)
    entry = "proofbook-warm = proofbook.batch.provisioner:WarmProvisioner"
    (installed / "entry_points.txt").write_text(f"[jupyter_client.kernel_provisioners]\n{entry}\n")
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: warm_for_test\nVersion: 1\n")
    code = "import sys; print('torch' in sys.modules)"
    nbformat.write(new_notebook(cells=[new_code_cell(code)]), tmp_path / "in.ipynb")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", path(tmp_path / "site"))
    command = [sys.executable, "-m", "papermill", "-k", PROVISIONER, "-l", "python", "in.ipynb", "out.ipynb"]
    made = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert printed(nbformat.read(tmp_path / "out.ipynb", 4)) == ["True"]


def test_a_kernel_says_that_it_is_warm(execute: Execute) -> None:
    code = "from proofbook.workbook.surroundings import surroundings; print(surroundings('cpu')['kernel'])"
    assert printed(execute(code))[0] == "warm:"
