"""A small workbook whose notebooks do on purpose what models do by accident.

Each model of its category ``vision`` is named by what its notebook does. The notebook of ``speech`` is damaged,
that of ``multimodal`` is missing.
"""

import json
import shutil
from pathlib import Path

import nbformat
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from proofbook.catalog import Category
from proofbook.paths import params_dir

PARAMETERS = """\
model = "passes"
target = "cpu"
weights = "tiny"
folder = ""
seed = 0
run = ""
"""

ACT = """\
import ctypes, os, pathlib, signal, subprocess, sys, tempfile, time
ends_early = False

def act():
    if model == "raises":
        raise ZeroDivisionError("a defect of the notebook\\nwith a second line")
    if model == "hangs":
        time.sleep(1000)
    if model == "hangs-deaf":
        pathlib.Path(os.environ["SYNTHETIC_NOTES"], "deaf").touch()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        while True:
            ctypes.PyDLL(None).sleep(1000)  # holds the interpreter's lock
    if model == "swallows-interrupts":
        while True:
            try:
                time.sleep(1000)
            except KeyboardInterrupt:
                pass
    if model == "sigkill":
        os.kill(os.getpid(), signal.SIGKILL)
    if model == "segfault":
        ctypes.string_at(0)
    if model == "aborts":
        os.abort()
    if model == "eats":
        eaten = []
        while True:
            eaten.append(b"x" * 20_000_000)
            time.sleep(0.05)
    if model == "leaps":
        eaten = b"x" * 3_000_000_000
    if model == "forks":
        for _ in range(7):  # no more than that, in case that nobody minds
            os.fork()
        time.sleep(1000)
    if model == "floods":
        for _ in range(60):
            print("x" * 999_999)
            os.write(2, b"y" * 99_999)
    if model == "zombies":
        for _ in range(20):
            os.fork() or os._exit(0)
    if model == "os-exit":
        os._exit(0)
    if model == "sys-exit":
        sys.exit(0)
    if model in ("spawns", "spawns-and-dies"):
        # one child in the kernel's process group, one in a session of its own, and one that nobody is the parent of
        notes = pathlib.Path(os.environ["SYNTHETIC_NOTES"], f"{model}.pids")
        notes.write_text("")
        note = f"import os, time; print(os.getpid(), file=open({str(notes)!r}, 'a')); time.sleep(1000)"
        subprocess.Popen([sys.executable, "-c", note])
        subprocess.Popen([sys.executable, "-c", note], start_new_session=True)
        subprocess.run([sys.executable, "-c", f"import os; os.setsid(); os.fork() and os._exit(0); {note}"])
        while notes.read_text().count("\\n") < 3:
            time.sleep(0.05)
        if model == "spawns-and-dies":
            os.kill(os.getpid(), signal.SIGKILL)
    if model.startswith("slow"):
        time.sleep(1.5)
    if model == "litters":
        pathlib.Path("litter").write_text("left behind")
        tempfile.NamedTemporaryFile(prefix="litter", delete=False).write(b"left behind")
act()
"""

GLUE = """\
from proofbook.catalog import Weights, load_catalog
from proofbook.verdict import Verdict
from proofbook.workbook.records import CaseRecord, CheckRecord, case_id
from proofbook.workbook.scraps import glue

verdict = Verdict({"fails": "fail", "blocked": "blocked"}.get(model, "pass"))
case = case_id("passes" if model == "impostor" else model, target, Weights(weights))
if model != "no-scraps":
    glue(
        CaseRecord(
            case=case, model=model, model_type="bert", category="vision", target=target, weights=weights,
            task="fill-mask", verdict=verdict, reason="" if verdict == "pass" else "as it was asked to",
            checks=1, failed=int(verdict == "fail"), seed=seed, p50_ms=1.5,
            versions={"threads": os.environ["OMP_NUM_THREADS"]},
        ),
        [CheckRecord(case=case, check="behaves", family="forward", verdict=verdict, observed="1", allowed="2")],
    )
if model in ("fails", "boasts"):
    raise AssertionError("the case failed")
"""

AFTER = "print('the last cell ran')"

MODELS = (
    *("passes", "fails", "blocked", "raises", "no-scraps", "boasts", "impostor", "litters"),
    *("hangs", "hangs-deaf", "swallows-interrupts", "floods", "zombies", "eats", "leaps", "forks"),
    *("sigkill", "segfault", "aborts", "os-exit", "sys-exit", "spawns", "spawns-and-dies"),
    *(f"slow{number}" for number in range(1, 9)),
)


def write_workbook(root: Path) -> Path:
    """Write the workbook into a folder; its root."""
    notebooks, params = root / "notebooks", root / "params"
    notebooks.mkdir(parents=True)
    (root / "outputs").mkdir()
    (params / "models").mkdir(parents=True)
    for path in params_dir().iterdir():
        if path.is_file():
            shutil.copy(path, params)
    for category in Category:
        names = MODELS if category is Category.VISION else (f"some-{category}",)
        entries = {name: _entry(category) for name in names}
        (params / "models" / f"{category}.yaml").write_text(yaml.safe_dump({"models": entries}))
        nbformat.write(category_notebook(), notebooks / f"{category}.ipynb")
    damaged = notebooks / "speech.ipynb"
    damaged.write_text(damaged.read_text()[:300])
    (notebooks / "multimodal.ipynb").unlink()
    slow = {"description": "eight slow cases", "cases": [{"model": f"slow{number}"} for number in range(1, 9)]}
    quick = {"description": "one case", "time_limit": 60, "cases": [{"model": "passes"}]}
    (params / "suites.yaml").write_text(yaml.safe_dump({"suites": {"slow": slow, "smoke": quick}}))
    return root


def category_notebook() -> nbformat.NotebookNode:
    """The notebook in which the model's name says what happens."""
    cells = [
        new_markdown_cell("# A synthetic category"),
        new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        new_code_cell(ACT, metadata={"tags": ["act"]}),
        new_code_cell(GLUE),
        new_code_cell(AFTER),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel})


def _entry(category: Category) -> dict[str, object]:
    return {"model_type": "bert", "class": "BertForMaskedLM", "task": "fill-mask", "hub_id": f"synthetic/{category}"}


def statuses(notebook: Path) -> dict[str, str]:
    """papermill's status of each cell of an executed notebook, by the cell's first line."""
    cells = json.loads(notebook.read_text())["cells"]
    return {
        cell["source"][0].strip(): cell["metadata"]["papermill"]["status"]
        for cell in cells
        if "papermill" in cell["metadata"]
    }
