"""A timing section that is to be alone runs while no other case of the batch does, and is said to."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell
from rich.console import Console

from proofbook.batch.limits import Limits, Watch
from proofbook.batch.plan import make_plan
from proofbook.batch.quiet import TAG, Quiet
from proofbook.batch.run import execute_run
from proofbook.catalog import Timings, load_catalog
from proofbook.paths import notebooks_dir
from synthetic_workbook import category_notebook, write_workbook


@settings(max_examples=5)
@given(st.lists(st.lists(st.booleans(), max_size=4), min_size=2, max_size=4))
def test_whoever_is_alone_meets_nobody_and_all_come_to_their_end(cases: list[list[bool]]) -> None:
    quiet, inside, met = Quiet(), set(), []

    def work(number: int) -> None:
        with quiet.beside():
            for alone in cases[number]:
                if alone:
                    with quiet.alone() as load:
                        met.append(set(inside))
                        time.sleep(0.002)
                        met.append(set(inside))
                    assert load.cores is not None
                else:
                    quiet.let_pass()
                    inside.add(number)
                    time.sleep(0.002)
                    inside.discard(number)

    with ThreadPoolExecutor(len(cases)) as pool:
        list(pool.map(work, range(len(cases)), timeout=30))
    assert met == [set()] * len(met)


class Counted:
    """A kernel that counts how often it was interrupted."""

    interrupted = 0

    def interrupt(self) -> None:
        self.interrupted += 1

    def kill(self) -> None:
        self.interrupted += 1


def test_waiting_for_others_does_not_count_as_the_time_of_a_case() -> None:
    kernel = Counted()
    with Watch(kernel, Limits(seconds=0.3)) as limit:  # type: ignore[arg-type]
        with limit.suspended():
            time.sleep(0.6)
        assert not limit.breach
        time.sleep(0.5)
        assert limit.breach
    assert kernel.interrupted == 1


def test_the_notebooks_tag_their_timing_sections() -> None:
    for path in notebooks_dir().glob("*.ipynb"):
        tagged = [cell.source for cell in nbformat.read(path, 4).cells if TAG in cell.metadata.get("tags", ())]
        expected = (
            [] if path.stem == "summary" else ["case.show_timings()", "case.show_sweep()", 'case.check("timing")']
        )
        assert tagged == expected, path


@pytest.mark.slow
def test_timings_of_a_run_are_alone_and_the_ledger_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTHETIC_NOTES", str(tmp_path))
    root = write_workbook(tmp_path / "workbook")
    note = "import pathlib, time\nmarks = pathlib.Path(os.environ['SYNTHETIC_NOTES'], f'{model}.marks')\n"
    mark = "with marks.open('a') as file: print('{0}', time.monotonic(), file=file)"
    book = category_notebook()
    for tags, name in (([], "beside"), ([TAG], "timed"), ([], "beside")):
        code = f"{note}{mark.format(name)}\ntime.sleep(0.3)\n{mark.format(name)}"
        book.cells.insert(len(book.cells) - 2, new_code_cell(code, metadata={"tags": tags}))
    nbformat.write(book, root / "notebooks" / "vision.ipynb")
    models = ["passes", "fails", "litters"]
    catalog = load_catalog(root / "params")
    plan = make_plan(catalog, run="r", models=models, targets=["cpu"], timings=Timings.ALONE)
    folder = root / "outputs" / "r"
    plan.save(folder)
    with (tmp_path / "said").open("w") as said:
        ledger = execute_run(plan, folder, root / "notebooks", 3, Console(file=said))
    assert {case.timings for case in ledger.cases} == {Timings.ALONE}
    assert all(case.busy_cores is not None for case in ledger.cases)
    spans = {model: _spans(tmp_path / f"{model}.marks") for model in models}
    for model in models:
        (timed,) = (span for name, span in spans[model] if name == "timed")
        others = [span for other in models if other != model for _, span in spans[other]]
        assert not [span for span in others if span[0] < timed[1] and timed[0] < span[1]]
    metadata = json.loads((folder / plan.cases[0].notebook).read_text())["metadata"]
    assert metadata["proofbook_execution"]["timings"] == "alone"


def _spans(path: Path) -> list[tuple[str, tuple[float, float]]]:
    marks = [(name, float(at)) for name, at in map(str.split, path.read_text().splitlines())]
    return [(name, (start, end)) for (name, start), (_, end) in zip(marks[::2], marks[1::2], strict=True)]


def test_nothing_waits_where_nobody_wants_to_be_alone() -> None:
    quiet, barrier = Quiet(), threading.Barrier(3, timeout=10)

    def work(_: int) -> None:
        with quiet.beside():
            quiet.let_pass()
            barrier.wait()

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, range(3), timeout=20))
