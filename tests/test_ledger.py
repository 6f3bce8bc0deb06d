"""The ledger is made from the plan and the notebooks alone, and closes whatever they hold."""

import json
import math
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_notebook, new_output, writes

from proofbook.batch.ledger import (
    CASES_FILE,
    CHECKS_FILE,
    SWEEPS_FILE,
    Ledger,
    LedgerOpen,
    Result,
    current_ledger,
    read_ledger,
)
from proofbook.batch.plan import Plan, PlannedCase, make_plan
from proofbook.catalog import load_catalog
from proofbook.verdict import Verdict
from proofbook.workbook.records import CaseRecord, CheckRecord
from proofbook.workbook.scraps import CASE, CHECKS


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    made = make_plan(load_catalog(), run="r", models=["vit", "bert"], targets=["cpu", "cuda"])
    made.save(tmp_path)
    return made


def record(case: PlannedCase, verdict: Verdict = Verdict.PASS, **more: object) -> CaseRecord:
    return CaseRecord(verdict=verdict, **{**case.model_dump(include=set(CaseRecord.model_fields)), **more})  # type: ignore[arg-type]


def write(folder: Path, case: PlannedCase, row: CaseRecord | None, **metadata: object) -> Path:
    outputs = []
    if row is not None:
        check = CheckRecord(case=row.case, check="behaves", family="forward", verdict=row.verdict)
        glued = {CASE: row.model_dump(mode="json"), CHECKS: [check.model_dump(mode="json")]}
        outputs = [
            new_output(
                "display_data",
                data={
                    "application/scrapbook.scrap.json+json": {
                        "name": name,
                        "data": data,
                        "encoder": "json",
                        "version": 1,
                    }
                },
                metadata={"scrapbook": {"name": name, "data": True, "display": False}},
            )
            for name, data in glued.items()
        ]
    path = folder / case.notebook
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(writes(new_notebook(cells=[new_code_cell("glue()", outputs=outputs)], metadata=metadata)))
    return path


def verdict_of(folder: Path, case: PlannedCase) -> tuple[Verdict, str]:
    (row,) = (row for row in read_ledger(folder).cases if row.case == case.case)
    return row.verdict, row.reason


def test_a_case_without_a_notebook_has_not_run(tmp_path: Path, plan: Plan) -> None:
    ledger = read_ledger(tmp_path)
    assert ledger.totals == {Verdict.NOT_RUN: 4}
    assert ledger.closes() == "4 planned = 4 not-run"
    assert ledger.fell_short


def test_a_pass_needs_scraps_and_an_execution_that_agrees(tmp_path: Path, plan: Plan) -> None:
    case = plan.cases[0]
    write(tmp_path, case, record(case))
    assert verdict_of(tmp_path, case) == (Verdict.PASS, "")
    write(tmp_path, case, record(case), papermill={"exception": True})
    assert verdict_of(tmp_path, case)[0] is Verdict.ERROR
    write(tmp_path, case, record(case), proofbook={"verdict": "error", "reason": "x"})
    assert verdict_of(tmp_path, case) == (Verdict.ERROR, "its scraps say pass, but x")
    for ended in (Verdict.TIMEOUT, Verdict.CRASH):
        write(tmp_path, case, record(case), proofbook={"verdict": ended, "reason": "why"})
        assert verdict_of(tmp_path, case) == (ended, "why")
    write(tmp_path, case, None)
    assert verdict_of(tmp_path, case)[0] is Verdict.CRASH


def test_a_failure_keeps_its_own_reason_though_its_last_cell_raised(tmp_path: Path, plan: Plan) -> None:
    case = plan.cases[0]
    row = record(case, Verdict.FAIL, reason="accuracy: off")
    write(tmp_path, case, row, papermill={"exception": True}, proofbook={"verdict": "error", "reason": "CaseFailed"})
    assert verdict_of(tmp_path, case) == (Verdict.FAIL, "accuracy: off")


def test_an_unreadable_notebook_is_an_error_that_names_the_file(tmp_path: Path, plan: Plan) -> None:
    case = plan.cases[0]
    path = write(tmp_path, case, record(case))
    path.write_text(path.read_text()[:200])
    verdict, reason = verdict_of(tmp_path, case)
    assert verdict is Verdict.ERROR
    assert reason.startswith(f"{case.notebook} is not a readable notebook")


def test_scraps_of_another_shape_are_an_error(tmp_path: Path, plan: Plan) -> None:
    case = plan.cases[0]
    path = write(tmp_path, case, record(case))
    path.write_text(path.read_text().replace('"verdict": "pass"', '"verdict": "fine"'))
    verdict, reason = verdict_of(tmp_path, case)
    assert verdict is Verdict.ERROR
    assert "another shape" in reason
    assert str(tmp_path) not in reason


@given(content=st.recursive(st.none() | st.text(max_size=5) | st.integers(), lambda of: st.lists(of, max_size=3)
                            | st.dictionaries(st.sampled_from(["cells", "metadata", "papermill", "proofbook",
                                                               "verdict", "reason", "nbformat"]), of)))  # fmt: skip
def test_whatever_a_notebook_holds_the_ledger_closes_without_a_pass(
    tmp_path_factory: pytest.TempPathFactory, content: object
) -> None:
    folder = tmp_path_factory.mktemp("run")
    plan = make_plan(load_catalog(), run="r", models=["vit"], targets=["cpu"])
    plan.save(folder)
    path = folder / plan.cases[0].notebook
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content))
    ledger = read_ledger(folder)
    assert ledger.closes()
    assert ledger.fell_short


def test_the_tables_have_the_same_columns_with_and_without_values(tmp_path: Path, plan: Plan) -> None:
    read_ledger(tmp_path).write(tmp_path)
    empty = {name: pq.read_schema(tmp_path / name) for name in (CASES_FILE, CHECKS_FILE, SWEEPS_FILE)}
    case = plan.cases[0]
    row = record(case, p50_ms=1.5, throughput=math.inf, versions={"torch": "2"}, parameters=7)
    write(tmp_path, case, row)
    read_ledger(tmp_path).write(tmp_path)
    assert {name: pq.read_schema(tmp_path / name) for name in empty} == empty
    cases = pd.read_parquet(tmp_path / CASES_FILE).set_index("case")
    assert cases.loc[case.case, "p50_ms"] == 1.5
    assert json.loads(cases.loc[case.case, "versions"]) == {"torch": "2"}
    assert cases.loc[case.case, "notebook"] == case.notebook
    assert list(pd.read_parquet(tmp_path / CHECKS_FILE)["check"]) == ["behaves"]


def test_a_damaged_table_is_simply_made_again(tmp_path: Path, plan: Plan) -> None:
    read_ledger(tmp_path).write(tmp_path)
    (tmp_path / CASES_FILE).write_bytes(b"PAR1 and nothing more")
    ledger = read_ledger(tmp_path)
    ledger.write(tmp_path)
    assert len(pd.read_parquet(tmp_path / CASES_FILE)) == len(ledger.cases) == 4


def test_tables_are_read_back_as_they_were_written(tmp_path: Path, plan: Plan) -> None:
    for case, verdict in zip(plan.cases, (Verdict.PASS, Verdict.FAIL, Verdict.BLOCKED), strict=False):
        write(tmp_path, case, record(case, verdict, p50_ms=0.1, versions={"torch": "2"}, reason="größer ≠ <b>"))
    ledger = read_ledger(tmp_path)
    ledger.write(tmp_path)
    assert current_ledger(tmp_path) == ledger
    # from the tables, as what they say in another order shows
    Ledger(plan, ledger.results[::-1], ledger.state).write(tmp_path)
    assert current_ledger(tmp_path).cases == ledger.cases[::-1]


@pytest.mark.parametrize("change", ["replaced", "removed", "added", "planned", "damaged", "of another state"])
def test_tables_that_are_no_longer_those_of_the_notebooks_are_not_believed(
    tmp_path: Path, plan: Plan, change: str
) -> None:
    first, last = plan.cases[0], plan.cases[-1]
    write(tmp_path, first, record(first, Verdict.PASS))
    ledger = read_ledger(tmp_path)
    wrong = Ledger(plan, tuple(Result(record(case, Verdict.FAIL)) for case in plan.cases), ledger.state)
    wrong.write(tmp_path)
    assert current_ledger(tmp_path).totals == {Verdict.FAIL: 4}
    match change:
        case "replaced":
            write(tmp_path, first, record(first, Verdict.PASS))
        case "removed":
            (tmp_path / first.notebook).unlink()
        case "added":
            write(tmp_path, last, record(last, Verdict.PASS))
        case "planned":
            plan.save(tmp_path)
        case "damaged":
            (tmp_path / CHECKS_FILE).write_bytes((tmp_path / CHECKS_FILE).read_bytes()[:-9])
        case _:
            Ledger(plan, wrong.results).write(tmp_path)
    assert current_ledger(tmp_path) == read_ledger(tmp_path)
    assert Verdict.FAIL not in current_ledger(tmp_path).totals


def test_a_ledger_that_lacks_a_case_or_has_one_twice_does_not_close(plan: Plan) -> None:
    results = tuple(Result(record(case)) for case in plan.cases)
    assert Ledger(plan, results).closes() == "4 planned = 4 pass"
    for wrong in (results[:-1], (*results[:-1], results[0]), (*results, results[0])):
        with pytest.raises(LedgerOpen, match="does not close"):
            Ledger(plan, wrong).closes()


def test_a_target_on_which_nothing_could_run_falls_short(plan: Plan) -> None:
    def ledger(of_cuda: Verdict) -> Ledger:
        verdicts = {"cpu": Verdict.PASS, "cuda": of_cuda}
        return Ledger(plan, tuple(Result(record(case, verdicts[case.target])) for case in plan.cases))

    assert ledger(Verdict.BLOCKED).blocked_targets() == ["cuda"]
    assert ledger(Verdict.BLOCKED).fell_short
    assert not ledger(Verdict.SKIP).fell_short
    assert not ledger(Verdict.XFAIL).fell_short
    assert ledger(Verdict.XPASS).fell_short
