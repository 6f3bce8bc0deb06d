"""What a person and a machine see of a run: events, a table, a status."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from proofbook.batch.events import ADAPTER, VERSION, AnyEvent, read_events
from proofbook.batch.state import State
from proofbook.batch.view import explanation, overview
from proofbook.catalog import Category
from proofbook.verdict import Verdict
from synthetic_workbook import write_workbook


def event(kind: str, elapsed: float, **fields: object) -> AnyEvent:
    return ADAPTER.validate_python({"event": kind, "run": "r", "elapsed": elapsed, **fields})


def finished(case: str, elapsed: float, verdict: str, reason: str = "") -> AnyEvent:
    fields = {"category": "vision", "target": "cpu", "reason": reason, "seconds": 4, "notebook": "", "rerun": ""}
    return event("case-finished", elapsed, case=case, verdict=verdict, **fields)


@pytest.fixture
def state() -> State:
    began = {"planned": 5, "to_execute": 4, "jobs": 2, "kernels": "warm", "categories": {"vision": 4}}
    start = [event("case-started", at, case=case, category="vision", time_limit=9) for case, at in (("a", 1), ("b", 2))]
    state = State("r", Counter({Category.VISION: 5}))
    return state.replay([event("run-started", 0, **began), *start, finished("a", 5, "fail")])


def test_a_state_counts_what_earlier_runners_did_and_foresees_the_rest(state: State) -> None:
    assert (state.done.total(), state.left, list(state.running)) == (2, 3, ["b"])
    assert state.verdicts() == {Verdict.FAIL: 1}
    assert state.seconds_left(5) == (2 * 4 + 1) / 2  # two that wait, and what is left of b
    assert [case.case for case in state.fell_short()] == ["a"]


def test_a_table_shows_categories_verdicts_and_what_runs(state: State) -> None:
    console = Console(width=100)
    with console.capture() as said:
        console.print(overview(state, 6))
    shown = said.get()
    assert "2 of 5 cases · 1 running, of 2 at a time · 0:00:06 gone · about 0:00:04 left" in shown
    assert "2/5 1 fail" in shown
    assert "b  4 s of at most 9 s" in shown


def test_an_explanation_is_no_page_of_numbers() -> None:
    said = explanation(finished("a", 5, "fail", "no such tensor: " + "0.1,\n " * 1000), 3).plain  # type: ignore[arg-type]
    assert said.startswith("\n   no such tensor: 0.1, 0.1") and said.endswith("…") and len(said) < 700


def test_lines_that_are_damaged_are_left_out(tmp_path: Path) -> None:
    lines = [finished("a", 5, "pass").model_dump_json(), '{"half', "", finished("b", 6, "pass").model_dump_json()]
    (tmp_path / "events.jsonl").write_text("\n".join(lines))
    assert [one.case for one in read_events(tmp_path)] == ["a", "b"]  # type: ignore[union-attr]


def test_the_schema_of_events_is_that_in_the_docs() -> None:
    written = Path(__file__).parents[1] / "docs" / "events.schema.json"
    assert json.loads(written.read_text()) == ADAPTER.json_schema(mode="serialization")
    assert finished("a", 5, "pass").version == VERSION


def test_a_run_prints_events_and_nothing_else_and_its_status_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROOFBOOK_ROOT", str(write_workbook(tmp_path / "workbook")))
    monkeypatch.setenv("SYNTHETIC_NOTES", str(tmp_path))
    command = [sys.executable, "-c", "from proofbook.cli import main; main()"]
    run = [*command, "run", "--model", "passes,fails", "--target", "cpu", "--json", "--out", str(tmp_path / "run")]
    made = subprocess.run([*run, "--no-report"], capture_output=True, text=True)
    assert made.returncode == 1
    assert "ledger: 2 planned = 1 fail + 1 pass" in made.stderr
    events = [ADAPTER.validate_json(line) for line in made.stdout.splitlines()]
    assert events == list(read_events(tmp_path / "run"))
    assert Counter(one.event for one in events) == {
        "run-started": 1,
        "case-started": 2,
        "case-finished": 2,
        "run-finished": 1,
    }
    said = subprocess.run([*command, "status", str(tmp_path / "run"), "--json"], capture_output=True, text=True).stdout
    status = json.loads(said)
    assert (status["condition"], status["finished"], status["verdicts"]) == ("complete", 2, {"pass": 1, "fail": 1})
