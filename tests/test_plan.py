"""A plan holds the cases asked for, once each, and says clearly what can't be asked for."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofbook.batch.plan import PLAN_FILE, BadPlan, Plan, make_plan, suite_cases
from proofbook.catalog import Category, Timings, UnknownName, Weights, load_catalog

catalog = load_catalog()


def plan(**wanted: object) -> Plan:
    return make_plan(catalog, run="r", **{"targets": ["cpu"], **wanted})  # type: ignore[arg-type]


def test_without_a_selection_the_suite_is_smoke() -> None:
    made = plan()
    assert made.suite == "smoke"
    assert len(made.cases) == len(suite_cases(catalog, "smoke"))
    assert {case.weights for case in made.cases} == {Weights.TINY, Weights.LOCAL}


def test_the_tracked_suite_holds_every_tracked_model_on_every_target() -> None:
    made = plan(suite="tracked", targets=["cpu", "cpu-bf16"])
    assert len(made.cases) == len({case.case for case in made.cases}) == 2 * 164
    assert made.targets == ("cpu", "cpu-bf16")


def test_models_and_categories_select_from_all_models() -> None:
    assert [case.case for case in plan(models=["vit"]).cases] == ["vit@cpu"]
    assert {case.category for case in plan(categories=[Category.SPEECH]).cases} == {Category.SPEECH}


@pytest.mark.slow
def test_a_model_that_discovery_derives_is_planned_by_its_name() -> None:
    assert [case.model for case in plan(models=["biogpt", "bert"]).cases] == ["biogpt", "bert"]


def test_models_and_categories_filter_a_suite() -> None:
    made = plan(suite="smoke", categories=[Category.VISION])
    assert {case.model for case in made.cases} < {model.name for model, _ in suite_cases(catalog, "smoke")}
    with pytest.raises(BadPlan, match="nothing to run: suite smoke holds no case"):
        plan(suite="smoke", models=["beit"])


def test_targets_named_twice_count_once() -> None:
    assert len(plan(models=["vit", "vit"], targets=["cpu", "cpu"]).cases) == 1


def test_weights_of_the_command_line_replace_those_of_the_suite() -> None:
    assert {case.weights for case in plan(weights=Weights.HUB).cases} == {Weights.HUB}


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"models": ["vitt"]}, "unknown model 'vitt'.*Did you mean vit"),
        ({"targets": ["gpu"]}, "unknown target 'gpu'.*Known: .*cuda"),
        ({"suite": "smoky"}, "unknown suite 'smoky'.*Did you mean smoke"),
        ({"categories": ["sound"]}, "unknown category 'sound'.*speech"),
    ],
)
def test_an_unknown_name_is_answered_with_those_that_exist(wanted: dict[str, object], said: str) -> None:
    with pytest.raises(UnknownName, match=said):
        plan(**wanted)


def test_a_folder_is_for_the_local_weights_of_one_model(tmp_path: Path) -> None:
    (case,) = plan(models=["bert"], weights=Weights.LOCAL, folder=tmp_path).cases
    assert case.folder == str(tmp_path)
    assert case.rerun.endswith(f"--folder {tmp_path}")
    for wrong in ({"models": ["bert"]}, {"models": ["bert", "vit"], "weights": Weights.LOCAL}):
        with pytest.raises(BadPlan, match="--folder"):
            plan(folder=tmp_path, **wrong)
    with pytest.raises(BadPlan, match="no such folder"):
        plan(models=["bert"], weights=Weights.LOCAL, folder=tmp_path / "nowhere")


def test_the_time_limit_is_the_suites_unless_another_is_given() -> None:
    assert {case.time_limit for case in plan().cases} == {catalog.suite("smoke").time_limit}
    assert {case.time_limit for case in plan(time_limit=7).cases} == {7}


def test_a_saved_plan_is_read_back_equal(tmp_path: Path) -> None:
    made = plan(suite="tracked", seed=3)
    made.save(tmp_path)
    assert Plan.load(tmp_path) == made
    assert [path.name for path in tmp_path.iterdir()] == [PLAN_FILE]


def test_a_plan_of_before_timings_could_be_made_alone_is_still_read(tmp_path: Path) -> None:
    made = plan(models=["vit"])
    content = made.model_dump(mode="json")
    del content["timings"]
    (tmp_path / PLAN_FILE).write_text(json.dumps(content))
    assert Plan.load(tmp_path) == made
    assert plan(suite="published").timings is Timings.ALONE
    assert plan(suite="published", timings=Timings.BESIDE).timings is Timings.BESIDE


@given(cut=st.integers(min_value=0, max_value=1500))
def test_a_truncated_plan_is_refused_by_name(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("run")
    made = plan(models=["vit"])
    text = made.model_dump_json(indent=1)
    (folder / PLAN_FILE).write_text(text[: min(cut, len(text) - 1)])
    with pytest.raises(BadPlan, match=PLAN_FILE):
        Plan.load(folder)


def test_a_folder_without_a_plan_is_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(BadPlan, match="is not a run"):
        Plan.load(tmp_path)


def test_variants_are_further_cases_of_tiny_weights() -> None:
    switched = ["num_key_value_heads=1", 'hidden_act="gelu"']
    made = plan(models=["llama", "gpt2"], variants={"llama": switched})
    assert [case.variant for case in made.cases if case.model == "llama"] == ["", *switched]
    assert [case.variant for case in made.cases if case.model == "gpt2"] == [""]
    assert len({case.case for case in made.cases} | {case.notebook for case in made.cases}) == 2 * len(made.cases)
    assert "--variant num_key_value_heads=1" in next(case.rerun for case in made.cases if case.variant == switched[0])
