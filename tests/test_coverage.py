"""The coverage of a run: made of its ledger, and of those beside it."""

from pathlib import Path

import pytest

import report_run
from proofbook.batch.ledger import CASES_FILE
from proofbook.batch.plan import PlannedCase
from proofbook.catalog import Category
from proofbook.report.collect import Results
from proofbook.report.coverage import architectures, coverage_markdown, coverage_page
from proofbook.report.markup import label
from proofbook.verdict import Verdict

FATES = {"llama": Verdict.PASS, "codellama": Verdict.FAIL, "bert": Verdict.PASS, "whisper": Verdict.BLOCKED}


@pytest.fixture
def results(tmp_path: Path) -> Results:
    plan = report_run.plan("cpu", "cpu-bf16", models=list(FATES))
    return report_run.write_run(tmp_path / "outputs" / "run", plan, lambda case: FATES[case.model])


def test_models_of_one_architecture_stand_together(results: Results) -> None:
    (llama,) = architectures(results)[Category.DECODER_ONLY]
    assert (llama.name, llama.models) == ("llama", ("llama", "codellama"))
    assert dict(llama.on("cpu")) == {Verdict.PASS: 1, Verdict.FAIL: 1}
    assert not llama.passes_on("cpu")
    assert architectures(results)[Category.ENCODER_ONLY][0].passes_on("cpu-bf16")


def test_what_is_missing_is_named(results: Results) -> None:
    (whisper,) = architectures(results)[Category.SPEECH]
    assert whisper.blocked_by == ("detectron2",)
    assert whisper.since == ""


def test_every_case_is_counted_once(results: Results) -> None:
    found = [case for rows in architectures(results).values() for row in rows for case in row.cases]
    assert sorted(case.case for case in found) == sorted(case.case for case in results.cases)


def test_since_is_the_first_release_of_this_run_and_those_beside_it(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    def since(model: str) -> str:
        rows = [row for rows in architectures(results).values() for row in rows]
        return next(row.since for row in rows if model in row.models)

    assert since("bert") == "5.23.0"
    monkeypatch.setitem(report_run.VERSIONS, "transformers", "4.57.6")
    plan = report_run.plan("cpu", models=["bert", "llama"], name="older")
    fates = {"bert": Verdict.PASS, "llama": Verdict.FAIL}
    older = report_run.write_run(results.folder.parent / "older", plan, lambda case: fates[case.model])
    older.ledger.write(older.folder)
    damaged = results.folder.parent / "damaged" / CASES_FILE
    damaged.parent.mkdir(parents=True)
    damaged.write_text("not a table")
    assert since("bert") == "4.57.6"
    assert since("llama") == "5.23.0"  # there it failed


def test_the_page_and_the_markdown_say_the_same(results: Results) -> None:
    html, markdown = coverage_page(results)._repr_html_(), coverage_markdown(results)
    for said in ("1 architecture: 0 pass on cpu, 0 pass on cpu-bf16.", "detectron2", "codellama", "5.23.0"):
        assert said in html
        assert said in markdown
    assert f"1 × {label(Verdict.FAIL)}, 1 × {label(Verdict.PASS)}" in markdown
    assert 'href="cases/encoder-only/bert@cpu.ipynb"' in html
    rows = [line for line in markdown.splitlines() if line.startswith("| `")]
    assert len(rows) == 3
    assert {line.count(" | ") for line in rows} == {5}


def no_case(case: PlannedCase) -> Verdict:
    raise AssertionError(f"{case.case} was not planned")


def test_a_run_without_cases(tmp_path: Path) -> None:
    empty = report_run.write_run(
        tmp_path, report_run.plan("cpu", models=["bert"]).model_copy(update={"cases": ()}), str
    )
    assert "No case was planned." in repr(coverage_page(empty))
    assert coverage_markdown(empty).startswith("# Coverage: ")
