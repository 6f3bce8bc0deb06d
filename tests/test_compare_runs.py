"""What broke, what was mended and what got slower between two runs that are written rather than executed."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

import report_run
from proofbook.batch.ledger import Ledger, Result
from proofbook.batch.plan import plan_case
from proofbook.catalog import Weights, load_catalog
from proofbook.cli.app import app
from proofbook.report.collect import Results
from proofbook.report.compare import Comparison, comparison_markdown, headline
from proofbook.verdict import Verdict

OLD = "transformers-4.57"


def run(fates: dict[str, Verdict], environment: str | None = None, p50_ms: float = 10.0) -> Results:
    """A run of these models with these verdicts, in memory."""
    planned = report_run.plan("cpu", models=list(fates), name=environment or "now")
    models = [load_catalog().model(name) for name in fates]
    cases = tuple(plan_case(model, "cpu", Weights.TINY, seed=0, environment=environment) for model in models)
    results = []
    for case in cases:
        checks = report_run.check_records(case, fates[case.model])
        row = report_run.case_record(case, fates[case.model], checks)
        results.append(Result(row.model_copy(update={"p50_ms": p50_ms, "p90_ms": 1.2 * p50_ms}), tuple(checks)))
    return Results(Path("nowhere"), Ledger(planned.model_copy(update={"cases": cases}), tuple(results)))


def compared(before: Verdict, after: Verdict) -> Comparison:
    return Comparison(run({"bert": before}, OLD), run({"bert": after}))


@pytest.mark.parametrize("after", [Verdict.FAIL, Verdict.ERROR, Verdict.XFAIL])
def test_a_check_that_is_worse_broke_and_the_other_way_round_was_mended(after: Verdict) -> None:
    found = compared(Verdict.PASS, after)
    (change,) = found.broke
    assert (change.case, change.before, change.after) == ("bert@cpu", "pass", after)
    assert change.check and change.why and change.rerun.startswith("proofbook debug bert")
    assert not found.mended
    (change,) = compared(after, Verdict.PASS).mended
    assert (change.before, change.after) == (after, "pass")
    assert not compared(after, Verdict.PASS).broke


@pytest.mark.parametrize("after", [Verdict.CRASH, Verdict.TIMEOUT, Verdict.BLOCKED])
def test_a_case_that_came_to_no_checks_or_can_not_run_any_more_broke(after: Verdict) -> None:
    assert {one.after for one in compared(Verdict.PASS, after).broke} == {after}


def test_a_known_fault_that_becomes_another_broke() -> None:
    assert [one.after for one in compared(Verdict.XFAIL, Verdict.FAIL).broke] == ["fail"]


@pytest.mark.parametrize("same", list(Verdict))
def test_what_is_as_it_was_is_not_told(same: Verdict) -> None:
    found = compared(same, same)
    assert not found.broke and not found.mended and not found.slower
    assert "0 broke, 0 mended, 0 got slower" in headline(found)


def test_a_variant_is_held_against_itself() -> None:
    def of(fates: dict[str, Verdict]) -> Results:
        bert = load_catalog().model("bert")
        cases = tuple(plan_case(bert, "cpu", Weights.TINY, seed=0, variant=variant) for variant in fates)
        rows = [report_run.case_record(case, fates[case.variant], []) for case in cases]
        planned = report_run.plan("cpu", models=["bert"], name="variants").model_copy(update={"cases": cases})
        return Results(Path("nowhere"), Ledger(planned, tuple(Result(row, ()) for row in rows)))

    before = of({"": Verdict.PASS, "is_decoder=true": Verdict.PASS, 'hidden_act="silu"': Verdict.PASS})
    found = Comparison(before, of({"": Verdict.PASS, "is_decoder=true": Verdict.CRASH}))
    assert [one.after for one in found.broke] == ["crash"]
    assert "+" in found.broke[0].case and len(found.alone) == 1


def test_what_has_no_answer_in_one_of_the_runs_is_neither_and_is_named() -> None:
    found = Comparison(
        run({"bert": Verdict.PASS, "vit": Verdict.PASS}, OLD), run({"bert": Verdict.NOT_RUN, "gpt2": Verdict.FAIL})
    )
    assert not found.broke and not found.mended
    assert sorted(found.alone) == ["bert@cpu", "gpt2@cpu", "vit@cpu"]


def test_slower_is_beyond_the_spread_of_before() -> None:
    fates = {"bert": Verdict.PASS}
    assert not Comparison(run(fates, OLD), run(fates, p50_ms=14)).slower
    (change,) = Comparison(run(fates, OLD), run(fates, p50_ms=20)).slower
    assert (change.before, change.after, change.why) == ("10 ms", "20 ms", "2 times as long")
    assert not Comparison(run(fates, OLD), run(fates, p50_ms=20)).broke


def test_markdown_has_a_table_for_each_kind_of_change() -> None:
    before = run({"bert": Verdict.PASS, "vit": Verdict.FAIL}, OLD)
    said = comparison_markdown(Comparison(before, run({"bert": Verdict.ERROR, "vit": Verdict.PASS}, p50_ms=100)))
    assert said.startswith(f"# `{OLD}` → `now`")
    assert "Of 2 cases in both runs: 1 broke, 1 mended" in said
    for title in ("## Broke", "## Mended", "## Got slower"):
        assert title in said
    assert "| `bert@cpu` | `finite` | pass | error |" in said


def test_the_command_exits_1_only_if_something_broke(tmp_path: Path) -> None:
    plan = report_run.plan("cpu", models=["bert"])
    for name, verdict in (("good", Verdict.PASS), ("bad", Verdict.FAIL)):
        report_run.write_run(tmp_path / name, plan, lambda case, verdict=verdict: verdict)
    good, bad = str(tmp_path / "good"), str(tmp_path / "bad")
    assert CliRunner().invoke(app, ["compare", good, good]).exit_code == 0
    assert CliRunner().invoke(app, ["compare", bad, good, "--markdown"]).exit_code == 0
    told = CliRunner().invoke(app, ["compare", good, bad])
    assert told.exit_code == 1
    assert "bert@cpu" in told.stdout and "Of 1 case in both runs: 1 broke, 0 mended" in told.stdout
