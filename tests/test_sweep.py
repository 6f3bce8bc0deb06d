"""A sweep times the batches and lengths that it was asked for, and no others; what it can't, it says."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofbook.batch.debug import BadCase, find_case
from proofbook.batch.ledger import Ledger, Result, current_ledger, read_ledger
from proofbook.batch.local import parameters
from proofbook.batch.plan import BadPlan, make_plan
from proofbook.catalog import load_catalog
from proofbook.measure.grid import Grid, parse_grid
from proofbook.measure.sweep import no_length, sized
from proofbook.workbook.case import Case
from proofbook.workbook.records import SweepRecord
from proofbook.workbook.scraps import MEDIA_TYPE, scraps_of

sizes = st.lists(st.integers(1, 4096), max_size=4, unique=True)


@given(sizes, sizes)
def test_what_is_written_is_read(batches: list[int], lengths: list[int]) -> None:
    axes = {"batch": batches, "length": lengths}
    text = "; ".join(f"{axis}={', '.join(map(str, found))}" for axis, found in axes.items() if found)
    grid = parse_grid(text)
    assert grid == Grid(tuple(batches), tuple(lengths))
    assert len(grid.points) == (max(1, len(batches)) * max(1, len(lengths)) if batches or lengths else 0)


@pytest.mark.parametrize("text", ["batch", "batch=", "batch=0", "batch=-1", "batch=1.5", "rows=1", "batch=1;batch=2"])
def test_what_is_no_grid_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"batch=N,… or length=N,…"):
        parse_grid(text)
    with pytest.raises(BadPlan, match="sweep"):
        make_plan(load_catalog(), run="", targets=["cpu"], models=["vit"], sweep=text)
    with pytest.raises(BadCase, match="sweep"):
        find_case(load_catalog(), "vit", sweep=text)


@pytest.mark.parametrize("model", ["bert", "gpt2", "t5"])
def test_texts_are_repeated_to_the_length_without_padding(model: str) -> None:
    case = Case(model)
    found = sized(case.task, case.subject, case.rows, case.encoded, 5, 40)
    assert found.inputs["input_ids"].shape == (5, 40)
    assert bool(found.inputs["attention_mask"].all())
    case.run(found.inputs)


def test_points_are_timed_shown_and_glued() -> None:
    case = Case("bert", sweep="batch=1,2;length=16,9999")
    case.check("loading")
    shown = repr(case.show_sweep())
    assert [(one.batch, one.length, one.latency is not None) for one in case.points] == [
        *((1, 16, True), (1, 9999, False), (2, 16, True), (2, 9999, False))
    ]
    assert "positions for 512 tokens" in shown
    assert case.points[2].work == 2 * 16
    records = case.sweep_records()
    assert [record.throughput is None for record in records] == [False, True, False, True]
    assert records[0].p50_low_ms is not None
    assert "--sweep 'batch=1,2;length=16,9999'" in case.case_record().rerun


def test_pictures_have_batches_and_no_lengths() -> None:
    case = Case("vit", sweep="batch=2;length=16")
    assert [(one.batch, one.length, bool(one.reason)) for one in case.points] == [(2, None, False), (3, 16, True)]
    assert "images" in no_length(case.rows)
    assert case.inputs["pixel_values"].shape[0] == 3


@pytest.mark.parametrize(("model", "reason"), [("clip", ""), ("patchtst", "past_values has 3 rows, not 5")])
def test_a_batch_has_as_many_rows_or_says_what_has_not(model: str, reason: str) -> None:
    case = Case(model, sweep="batch=5")
    assert [point.reason for point in case.points] == [reason]


def test_without_a_sweep_nothing_is_timed() -> None:
    case = Case("vit")
    assert "No sweep was asked for" in repr(case.show_sweep())
    assert case.sweep_records() == []


def test_records_of_a_sweep_are_read_back() -> None:
    case = Case("bert", sweep="batch=1", checks="loading")
    case.check("loading")
    case.show_sweep()
    names = ("proofbook.case", "proofbook.checks", "proofbook.sweep")
    data = (
        case.case_record().model_dump(mode="json"),
        [one.model_dump(mode="json") for one in case.check_records()],
        [one.model_dump(mode="json") for one in case.sweep_records()],
    )
    outputs = [
        {"data": {MEDIA_TYPE: {"name": name, "data": one, "encoder": "json", "version": 1}}}
        for name, one in zip(names, data, strict=True)
    ]
    assert scraps_of({"cells": [{"outputs": outputs}]}).sweep == tuple(case.sweep_records())
    assert scraps_of({"cells": [{"outputs": outputs[:2]}]}).sweep == ()


def test_the_ledger_has_a_table_of_its_points(tmp_path: Path) -> None:
    plan = make_plan(load_catalog(), run="", targets=["cpu"], models=["vit"], sweep="batch=1,8")
    plan.save(tmp_path)
    empty = read_ledger(tmp_path)
    points = tuple(SweepRecord(case="vit@cpu", batch=batch, p50_ms=1.5, calls=100) for batch in (1, 8))
    Ledger(plan, (Result(empty.cases[0], (), points),), empty.state).write(tmp_path)
    assert current_ledger(tmp_path).sweeps == points
    assert current_ledger(tmp_path).cases[0].sweep == "batch=1,8"


def test_a_sweep_goes_from_the_plan_into_the_notebook() -> None:
    (case,) = make_plan(load_catalog(), run="", targets=["cpu"], models=["vit"], sweep="batch=1,8").cases
    assert parameters(case)["sweep"] == "batch=1,8"
    assert "--sweep batch=1,8" in case.rerun
    assert find_case(load_catalog(), "vit", sweep="batch=4").sweep == "batch=4"
