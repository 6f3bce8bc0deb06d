"""What a notebook glues is what scrapbook reads, and a notebook without it is named."""

import json
from pathlib import Path

import nbformat
import pytest
import scrapbook
from nbclient import NotebookClient

from proofbook.catalog import Category, Weights
from proofbook.verdict import Verdict
from proofbook.workbook.records import CaseRecord, CheckRecord, case_id, notebook_path
from proofbook.workbook.scraps import CASE, CHECKS, NoScraps, read

GLUE = """
from proofbook.workbook.records import CaseRecord, CheckRecord
from proofbook.workbook.scraps import glue
case = CaseRecord(case="vit@cpu", model="vit", model_type="vit", category="vision", target="cpu", weights="tiny",
                  task="image-classification", verdict="fail", reason="größer als 1 ≠ <b>", p50_ms=float("nan"))
glue(case, [CheckRecord(case="vit@cpu", check="finite", family="forward", verdict="fail", observed="3 NaN")])
"""


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scraps") / "case.ipynb"
    own = 'import scrapbook\nscrapbook.glue("own", {"a": 1})'
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in (GLUE, own)])
    NotebookClient(notebook, kernel_name="python3", timeout=120).execute()
    nbformat.write(notebook, path)
    return path


def test_records_come_back_as_they_were_glued(executed: Path) -> None:
    scraps = read(executed)
    assert scraps.case.verdict is Verdict.FAIL
    assert scraps.case.reason == "größer als 1 ≠ <b>"
    assert scraps.case.p50_ms is None  # JSON has no NaN
    assert scraps.checks[0].observed == "3 NaN"


def test_scrapbook_reads_the_same(executed: Path) -> None:
    theirs = scrapbook.read_notebook(str(executed)).scraps
    assert theirs["own"].data == {"a": 1}
    ours = read(executed)
    assert CaseRecord.model_validate(theirs[CASE].data) == ours.case
    assert [CheckRecord.model_validate(row) for row in theirs[CHECKS].data] == list(ours.checks)


def test_our_message_has_the_form_of_scrapbooks_own(executed: Path) -> None:
    media = "application/scrapbook.scrap.json+json"
    outputs = [
        output
        for cell in nbformat.read(executed, as_version=4).cells
        for output in cell.outputs
        if media in output.get("data", {})
    ]
    ours, theirs = outputs[0], outputs[-1]
    assert set(ours.data[media]) == set(theirs.data[media])
    assert set(ours.data) == set(theirs.data)
    assert ours.metadata.scrapbook.keys() == theirs.metadata.scrapbook.keys()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda text: text[: len(text) // 2], "not a readable notebook"),
        (lambda text: text.replace("proofbook.checks", "other"), "no scrap proofbook.checks"),
        (lambda text: text.replace('"fail"', '"fine"'), "of another shape"),
    ],
)
def test_a_damaged_notebook_is_named(executed: Path, tmp_path: Path, damage, says: str) -> None:
    path = tmp_path / "damaged.ipynb"
    path.write_text(damage(executed.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(NoScraps, match=says) as error:
        read(path)
    assert str(path) in str(error.value)


def test_a_missing_notebook_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoScraps, match=r"none\.ipynb"):
        read(tmp_path / "none.ipynb")


def test_records_are_plain_json() -> None:
    record = CheckRecord(case="a@cpu", check="c", family="f", verdict=Verdict.PASS, seconds=float("inf"))
    assert json.loads(record.model_dump_json())["seconds"] is None
    assert CaseRecord.model_fields.keys() >= {"run", "case", "verdict", "p99_ms", "peak_mb", "input_hash", "rerun"}


def test_a_case_is_named_by_model_and_target_and_by_weights_that_are_not_tiny() -> None:
    assert case_id("vit", "cpu", Weights.TINY) == "vit@cpu"
    assert case_id("vit", "cpu", Weights.HUB) == "vit.hub@cpu"
    assert str(notebook_path(Category.VISION, "vit@cpu")) == "cases/vision/vit@cpu.ipynb"
