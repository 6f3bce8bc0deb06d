"""What has not changed is not executed again, and its result is never passed off as new."""

import json
import os
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from proofbook.batch.bringing import ANSWERS, bring_over
from proofbook.batch.history import History
from proofbook.batch.ledger import CASES_FILE, Ledger, read_ledger
from proofbook.batch.plan import Plan, make_plan, plan_case
from proofbook.batch.reuse import Keys
from proofbook.batch.run import execute_run, unfinished
from proofbook.catalog import Timings, Weights, load_catalog
from proofbook.report.collect import Results
from proofbook.report.junit import junit_xml
from proofbook.report.markdown import summary_markdown
from proofbook.report.overview import headline, matrix
from proofbook.report.site import _about_case
from proofbook.verdict import Verdict
from synthetic_workbook import write_workbook

TODAY = date(2026, 11, 23)
MODELS = ("passes", "fails", "raises", "blocked", "sigkill")


def keys(root: Path, timings: Timings = Timings.BESIDE, today: date = TODAY) -> Keys:
    params = root / "params"
    return Keys(load_catalog(params), params, root / "notebooks", timings, today)


def run(root: Path, name: str, models: tuple[str, ...] = MODELS) -> tuple[Plan, Path, Ledger]:
    """A run that brings over what it can and executes the rest."""
    plan = make_plan(load_catalog(root / "params"), run=name, models=models, targets=["cpu"])
    folder, outputs = root / "outputs" / name, root / "outputs"
    plan.save(folder)
    here = keys(root)
    bring_over(plan, folder, here, outputs)
    with (root / "said").open("a") as said:
        history = History.of(outputs)
        return (
            plan,
            folder,
            execute_run(plan, folder, root / "notebooks", 2, Console(file=said), history=history, keys=here),
        )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reuse")
    os.environ["SYNTHETIC_NOTES"] = str(folder)
    return write_workbook(folder / "workbook")


@pytest.fixture(scope="module")
def two(root: Path) -> list[tuple[Plan, Path, Ledger]]:
    return [run(root, "first"), run(root, "second")]


@pytest.mark.slow
def test_answers_are_brought_over_and_what_was_none_runs_again(two: list[tuple[Plan, Path, Ledger]]) -> None:
    (_, _, first), (_, folder, second) = two
    assert not any(case.reused for case in first.cases)
    by_model = {case.model: case for case in second.cases}
    assert {model for model, case in by_model.items() if case.reused} == {"passes", "fails"}
    assert [case.verdict for case in second.cases] == [case.verdict for case in first.cases]
    before = next(case for case in first.cases if case.model == "passes")
    assert by_model["passes"].reused == "first"
    assert by_model["passes"].executed == before.executed
    assert by_model["passes"].run == "second"
    assert not (folder / by_model["passes"].notebook).is_symlink()
    assert (folder / by_model["passes"].notebook).stat().st_nlink == 1


@pytest.mark.slow
def test_a_notebook_that_was_brought_over_says_so_once_and_keeps_its_origin(
    root: Path, two: list[tuple[Plan, Path, Ledger]]
) -> None:
    _, folder, third = run(root, "third", ("passes",))
    (case,) = third.cases
    assert case.reused == "first"  # which executed it, not `second`, which had it from there
    cells = json.loads((folder / case.notebook).read_text())["cells"]
    said = [cell for cell in cells if "Brought over" in "".join(cell["source"])]
    assert said == cells[:1]
    assert "`first`" in "".join(said[0]["source"])
    assert case.executed in "".join(said[0]["source"])
    assert third.efficiency is None


@pytest.mark.slow
def test_reports_mark_and_date_what_was_brought_over(two: list[tuple[Plan, Path, Ledger]]) -> None:
    _, folder, ledger = two[1]
    results = Results(folder, ledger)
    day = ledger.cases[0].executed[:10]
    assert f"2 results brought over (↺), executed {day} by first" in repr(headline(results))
    assert matrix(results).html.count("↺") == 2
    assert f"| `first` | {day} | 2 | " in summary_markdown(results)
    tests = {test.get("name"): test for test in ET.fromstring(junit_xml(results).partition("\n")[2]).iter("testcase")}
    found = {one.get("name"): one.get("value") for one in tests["passes@cpu"].iter("property")}
    assert found["reused from run"] == "first"
    assert not list(tests["raises@cpu"].iter("property"))
    case = next(case for case in ledger.cases if case.model == "passes")
    banner = str(_about_case(results, case)["banner"])
    assert f"Brought over from run first, which executed it on {case.executed}" in banner
    assert read_ledger(folder) == ledger


@pytest.mark.slow
def test_runs_without_a_ledger_and_damaged_ones_cost_nothing_but_themselves(
    root: Path, two: list[tuple[Plan, Path, Ledger]], tmp_path: Path
) -> None:
    plan, first, _ = two[0]
    (tmp_path / "killed").mkdir()
    for case in plan.cases[:2]:
        copy = tmp_path / "killed" / case.notebook
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((first / case.notebook).read_bytes())
    copy.with_name("half.ipynb").write_bytes(copy.read_bytes()[:500])
    damaged = tmp_path / "damaged" / CASES_FILE
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes((first / CASES_FILE).read_bytes()[:900])
    into = tmp_path / "new"
    plan.save(into)
    found = bring_over(plan, into, keys(root), tmp_path)
    assert {case.model for case in found.cases} == {"passes", "fails"}
    assert [path in said for path, said in zip(("damaged", "half.ipynb"), found.damaged, strict=True)] == [True, True]
    assert {case.model for case in unfinished(plan, into)} == {"raises", "blocked", "sigkill"}


@pytest.mark.slow
def test_the_efficiency_is_that_of_the_cells(two: list[tuple[Plan, Path, Ledger]]) -> None:
    _, _, first = two[0]
    found = first.efficiency
    assert found is not None
    assert 0 < found.share < 1
    assert all((case.resident_mb or 0) > 20 for case in first.cases)
    assert found.core_seconds == pytest.approx(sum(case.cells_s or 0 for case in first.cases))
    assert f"of {found.cores} × " in str(found)


def test_only_answers_are_brought_over() -> None:
    assert set(Verdict) - ANSWERS == {
        Verdict.CRASH,
        Verdict.TIMEOUT,
        Verdict.ERROR,
        Verdict.BLOCKED,
        Verdict.NOT_RUN,
    }


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_workbook(tmp_path / "workbook")


def key(root: Path, **made: object) -> str:
    case = plan_case(load_catalog(root / "params").model("passes"), "cpu", Weights.TINY, seed=0)
    return keys(root, **made).of(case)  # type: ignore[arg-type]


def _edit(path: Path, change: Callable[[dict[str, dict[str, dict[str, object]]]], object]) -> None:
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.safe_dump(content))


def _change_cell(root: Path) -> None:
    path = root / "notebooks" / "vision.ipynb"
    path.write_text(path.read_text().replace("the last cell ran", "the last cell did run"))


def _change_model(root: Path) -> None:
    path = root / "params" / "models" / "vision.yaml"
    _edit(path, lambda content: content["models"]["passes"].update(config={"hidden_size": 8}))


def _change_tolerance(root: Path) -> None:
    _edit(root / "params" / "tolerances.yaml", lambda content: content["tolerances"]["float32"].update(multiple=99))


def _change_target(root: Path) -> None:
    _edit(root / "params" / "targets.yaml", lambda content: content["targets"]["cpu"].update(dtype="float16"))


@pytest.mark.parametrize("change", [_change_cell, _change_model, _change_tolerance, _change_target])
def test_whatever_a_case_depends_on_changes_its_key(small: Path, change: Callable[[Path], None]) -> None:
    before = key(small)
    assert before == key(small)
    change(small)
    assert key(small) != before


def test_what_shows_in_variants_is_part_of_their_keys_alone(small: Path) -> None:
    def of_variant() -> str:
        model = load_catalog(small / "params").model("passes")
        return keys(small).of(plan_case(model, "cpu", Weights.TINY, seed=0, variant="hidden_size=8"))

    plain, before = key(small), of_variant()
    fault = {"check": "loads", "reason": "ten letters", "issue": "https://e.org", "expires": "2099-01-01"}
    entry = {"when": {"hidden_size": 8}, "known_faults": [fault]}
    _edit(small / "params" / "variants.yaml", lambda content: content["variants"].update(some=entry))
    assert of_variant() != before
    assert key(small) == plain


def test_what_a_case_does_not_depend_on_leaves_its_key(small: Path) -> None:
    before = key(small)
    path = small / "params" / "models" / "vision.yaml"
    _edit(path, lambda content: content["models"]["fails"].update(config={"hidden_size": 8}))
    book = small / "notebooks" / "vision.ipynb"
    content = json.loads(book.read_text())
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            cell.update(execution_count=3, outputs=[{"output_type": "stream", "name": "stdout", "text": ["left"]}])
    book.write_text(json.dumps(content))
    assert key(small) == before


def test_variables_that_libraries_of_numbers_read_are_part_of_the_key(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = key(small)
    monkeypatch.setenv("PROMPT", "$")
    assert key(small) == before
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    assert key(small) != before


def test_timings_made_alone_are_not_those_made_beside_others(small: Path) -> None:
    assert key(small, timings=Timings.ALONE) != key(small)


def test_a_known_fault_that_expired_since_is_not_brought_over(small: Path) -> None:
    fault = {
        "check": "behaves",
        "reason": "it is written down",
        "issue": "https://example.org/1",
        "expires": TODAY,
    }
    path = small / "params" / "models" / "vision.yaml"
    _edit(path, lambda content: content["models"]["passes"].update(known_faults=[fault]))
    assert key(small, today=TODAY) == key(small, today=TODAY - timedelta(1))
    assert key(small, today=TODAY) != key(small, today=TODAY + timedelta(1))


def test_what_lies_in_a_folder_or_on_the_hub_has_no_key(small: Path) -> None:
    model = load_catalog(small / "params").model("passes")
    assert keys(small).of(plan_case(model, "cpu", Weights.HUB, seed=0)) == ""


def test_keys_do_not_hold_once_a_file_has_changed(small: Path) -> None:
    made = keys(small)
    assert made.hold()
    _change_model(small)
    assert not made.hold()


@given(
    seed=st.integers(0, 3),
    variant=st.sampled_from(["", "a=1", "a=2"]),
    target=st.sampled_from(["cpu", "cpu-bf16"]),
    sweep=st.sampled_from(["", "batch=1,8"]),
)
def test_cases_have_the_same_key_exactly_if_they_are_the_same(seed: int, variant: str, target: str, sweep: str) -> None:
    catalog = load_catalog()
    first = plan_case(catalog.model("vit"), "cpu", Weights.TINY, 0)
    other = plan_case(catalog.model("vit"), target, Weights.TINY, seed, variant=variant, sweep=sweep)
    made = REAL
    assert (made.of(first) == made.of(other)) == ((seed, variant, target, sweep) == (0, "", "cpu", ""))


def _real() -> Keys:
    from proofbook.paths import notebooks_dir, params_dir

    return Keys(load_catalog(), params_dir(), notebooks_dir(), Timings.BESIDE, TODAY)


REAL = _real()
