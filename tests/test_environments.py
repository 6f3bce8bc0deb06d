"""Environments: what they may pin, how the plan chooses among those that are made, and a case that runs in one."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from proofbook import environments
from proofbook.batch.environments import create, remove
from proofbook.batch.local import execute_case
from proofbook.batch.machine import MachineryFailed
from proofbook.batch.plan import BadPlan, make_plan
from proofbook.catalog import load_catalog
from proofbook.catalog.environments import CURRENT, Environment, load_environments, met, of_release
from proofbook.environments import MARKER, Made, chosen_for, folder_of, interpreter, kernelspec_of, made
from proofbook.paths import notebooks_dir
from proofbook.verdict import Blocked, Verdict
from proofbook.workbook import scraps

catalog = load_catalog()


@pytest.fixture(autouse=True)
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place of its own for environments, with none in it."""
    monkeypatch.setenv("PROOFBOOK_PREFIX", str(tmp_path))
    return tmp_path


def pretend(name: str, release: str) -> Made:
    """The folder of an environment that is made as far as planning can see."""
    one = Made(
        name=name,
        description=f"transformers {release}",
        requirements=(f"transformers=={release}",),
        versions={"transformers": release},
        shares=(),
    )
    one.python.parent.mkdir(parents=True)
    one.python.touch()
    (folder_of(name) / MARKER).write_text(one.model_dump_json())
    return one


def environment_of(model: str, **wanted: object) -> str:
    plan = make_plan(catalog, run="r", targets=["cpu"], models=[model], **wanted)  # type: ignore[arg-type]
    return plan.cases[0].environment


def test_every_entry_pins_releases() -> None:
    for entry in load_environments().values():
        assert entry.pins["transformers"]
        assert entry.meets("transformers<5")


@pytest.mark.parametrize(
    ("requirements", "said"),
    [(["transformers>=4"], "does not pin"), (["transformers==4.*"], "does not pin"), (["numpy==2.0"], "pins transf")],
)
def test_what_is_not_pinned_is_refused(requirements: list[str], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Environment.model_validate({"name": "x", "description": "", "requirements": requirements})


@given(st.tuples(st.integers(4, 9), st.integers(0, 99), st.integers(0, 9)))
def test_a_release_is_an_environment_by_its_number_alone(release: tuple[int, int, int]) -> None:
    number = ".".join(map(str, release))
    assert of_release(f"transformers=={number}") == of_release(f"transformers-{number}")
    assert of_release(f"transformers=={number}").pins == {"transformers": number}


@given(st.text(max_size=20).filter(lambda text: "transformers" not in text.lower()))
def test_anything_else_is_no_release(text: str) -> None:
    with pytest.raises(ValueError, match="neither in"):
        of_release(text)


def test_needs_are_met_by_all_of_them() -> None:
    versions = {"transformers": "4.57.6"}
    assert met([], versions)
    assert met(["transformers<5", "transformers>=4.50"], versions)
    assert not met(["transformers<5", "detectron2"], versions)


def test_the_plan_chooses_the_newest_environment_that_meets_the_needs() -> None:
    assert environment_of("van") == environment_of("speech-to-text-2") == CURRENT
    pretend("transformers-4.50", "4.50.3")
    assert environment_of("van") == environment_of("speech-to-text-2") == "transformers-4.50"
    pretend("transformers-4.57", "4.57.6")
    assert environment_of("van") == "transformers-4.57"
    assert environment_of("speech-to-text-2") == "transformers-4.50"
    assert environment_of("vit") == environment_of("layoutlmv2") == CURRENT


def test_an_environment_asked_for_holds_for_all_cases_and_shows_in_their_names() -> None:
    pretend("transformers-4.57", "4.57.6")
    plan = make_plan(catalog, run="r", targets=["cpu"], models=["vit", "van"], environment="transformers-4.57")
    assert {case.case for case in plan.cases} == {"vit@cpu@transformers-4.57", "van@cpu@transformers-4.57"}
    assert all(case.rerun.endswith("--environment transformers-4.57") for case in plan.cases)
    assert environment_of("van", environment=CURRENT) == CURRENT
    with pytest.raises(BadPlan, match="proofbook env create transformers-9"):
        environment_of("vit", environment="transformers-9")


def test_half_an_environment_is_none() -> None:
    half = pretend("transformers-4.57", "4.57.6")
    (folder_of(half.name) / MARKER).unlink()
    assert made() == {}
    broken = pretend("transformers-4.50", "4.50.3")
    broken.python.unlink()
    assert made() == {}
    assert chosen_for(["transformers<5"]) == CURRENT


def test_a_case_whose_environment_has_gone_is_blocked(tmp_path: Path) -> None:
    pretend("transformers-4.57", "4.57.6")
    (case,) = make_plan(catalog, run="r", targets=["cpu"], models=["van"]).cases
    remove("transformers-4.57")
    execute_case(case, "r", tmp_path / "run", notebooks_dir())
    from proofbook.batch.ledger import read_result

    row = read_result(tmp_path / "run", "r", case).case
    assert row.verdict is Verdict.BLOCKED
    assert row.environment == "transformers-4.57"
    assert "`proofbook env create transformers-4.57`" in row.reason


def test_the_remedy_for_a_model_of_another_release_is_its_environment() -> None:
    from proofbook.subject.requirements import check_needs

    with pytest.raises(Blocked, match=r"proofbook env create transformers-4\.57"):
        check_needs(catalog.model("van"))
    with pytest.raises(Blocked, match="no such environment"):
        interpreter("transformers-4.57")


@pytest.mark.slow
def test_a_release_that_is_not_there_leaves_nothing() -> None:
    with pytest.raises(MachineryFailed, match=r"transformers==4\.0\.999"):
        create(of_release("transformers==4.0.999"))
    assert not folder_of("transformers-4.0.999").exists()
    assert made() == {}


@pytest.mark.slow
def test_a_model_of_an_older_release_runs_in_its_environment(tmp_path: Path) -> None:
    entry = load_environments()["transformers-4.57"]
    there = create(entry)
    assert there.versions["transformers"] == entry.pins["transformers"]
    assert "torch" not in there.versions
    assert create(entry) == there  # at once: it is made
    assert (kernelspec_of(entry.name) / "kernel.json").is_file()
    (case,) = make_plan(catalog, run="r", targets=["cpu"], models=["van"]).cases
    execute_case(case, "r", tmp_path / "run", notebooks_dir())
    found = scraps.read(tmp_path / "run" / case.notebook).case
    assert (found.case, found.environment) == ("van@cpu@transformers-4.57", "transformers-4.57")
    assert found.versions["transformers"] == entry.pins["transformers"]
    assert found.verdict is Verdict.XFAIL, found.reason  # what that release is known for
    remove(entry.name)
    assert environments.made() == {}
    assert not kernelspec_of(entry.name).exists()
