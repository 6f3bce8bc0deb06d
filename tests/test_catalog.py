"""params/ is whole, and what is wrong in it is named by file, key and what is allowed."""

import shutil
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from proofbook.catalog import Category, Model, UnknownName, load_catalog
from proofbook.catalog.catalog import ParamsError
from proofbook.paths import params_dir, workbook_root


@pytest.fixture
def params(tmp_path: Path) -> Path:
    return Path(shutil.copytree(params_dir(), tmp_path / "params"))


def test_the_tracked_models_are_164_in_seven_categories() -> None:
    tracked = [model for model in load_catalog().models.values() if model.tracked]
    assert len(tracked) == 164
    # `other` is a category of models beyond the tracked ones
    assert {model.category for model in tracked} == set(Category) - {Category.OTHER}


def test_a_file_that_changes_is_read_again(params: Path) -> None:
    before = load_catalog(params)
    assert load_catalog(params) is before
    targets = params / "targets.yaml"
    added = "  cpu-half: {device: cpu, dtype: float16, description: eager torch on the CPU in float16}\n"
    targets.write_text(targets.read_text() + added)
    assert "cpu-half" in load_catalog(params).targets


def test_every_category_has_its_notebook_and_its_file() -> None:
    for category in Category:
        assert (workbook_root() / "notebooks" / f"{category}.ipynb").is_file()
        assert (params_dir() / "models" / f"{category}.yaml").is_file()


def test_every_target_has_a_tolerance_for_its_dtype() -> None:
    catalog = load_catalog()
    targets = catalog.targets.values()
    dtypes = {target.precision for target in targets} | {target.weight_dtype for target in targets} - {None}
    assert {target.dtype for target in targets} | dtypes <= set(catalog.tolerances)


def test_the_smoke_suite_covers_every_category_and_real_weights() -> None:
    catalog = load_catalog()
    smoke = catalog.suite("smoke").cases
    assert {catalog.model(case.model).category for case in smoke} == set(Category)
    assert any(case.weights == "local" for case in smoke)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r"unknown model 'lama'\. Did you mean llama"):
        load_catalog().model("lama")


FAULT = {"check": "loads", "reason": "ten letters", "issue": "https://e.org", "expires": "2099-01-01"}


@pytest.mark.parametrize(
    ("file", "edit", "says"),
    [
        ("models/vision.yaml", {"models": {"x": {"clas": "A"}}}, r"models\.x\.clas: unknown key; allowed: .*class"),
        ("models/vision.yaml", {"models": {"x": {"class": "A"}}}, r"models\.x\.model_type: missing"),
        ("models/vision.yaml", {"models": {"x": None}}, r"models\.x: must be a mapping"),
        ("models/vision.yaml", {"model": {}}, r"must hold one mapping, 'models'"),
        (
            "targets.yaml",
            {"targets": {"t": {"device": "cpu", "dtype": "float32", "weight_group": 32, "description": "none"}}},
            r"targets\.t: .*need a weight_dtype",
        ),
        ("targets.yaml", {"targets": {"t": {"device": "tpu"}}}, r"targets\.t\.device: .*'cpu', 'cuda'.*got 'tpu'"),
        ("suites.yaml", {"suites": {"s": {"description": "empty"}}}, r"a suite needs cases or categories"),
        (
            "suites.yaml",
            {"suites": {"s": {"description": "d", "cases": [{"model": "vitt"}]}}},
            r"suites\.s\.cases: unknown model 'vitt'. Did you mean vit",
        ),
        (
            "tolerances.yaml",
            {"tolerances": {"float32": {"multiple": 1, "smallest": 9, "largest": 2, "reason": "ten letters"}}},
            r"largest \(2.0\) is below smallest \(9.0\)",
        ),
        (
            "variants.yaml",
            {"variants": {"x": {"when": {"a": 1}, "known_faults": [{**FAULT, "targets": ["cpuu"]}]}}},
            r"x: known_faults: unknown target 'cpuu'. Did you mean cpu",
        ),
        (
            "variants.yaml",
            {"variants": {"x": {"when": {}, "known_faults": [FAULT]}}},
            r"variants\.x\.when: .*at least 1",
        ),
        ("variants.yaml", {"variants": {"x": {"when": {"a": 1}}}}, r"needs one of: idle, known_faults"),
    ],
)
def test_a_wrong_entry_is_named(params: Path, file: str, edit: object, says: str) -> None:
    (params / file).write_text(yaml.safe_dump(edit))
    with pytest.raises(ParamsError, match=says) as error:
        load_catalog(params)
    assert file in str(error.value)


def test_one_cause_may_be_a_known_fault_of_several_checks() -> None:
    cause = {"reason": "no mask is read", "issue": "https://example.org/1", "expires": "2027-06-30"}
    given = [{"check": ["causal", "greedy"], **cause}, {"check": "beams", **cause}]
    model = load_catalog().model("gpt2").model_dump(by_alias=True) | {"known_faults": given}
    assert [fault.check for fault in Model.model_validate(model).known_faults] == ["causal", "greedy", "beams"]


def test_what_is_merged_into_an_entry_may_be_said_anew(params: Path) -> None:
    with (params / "targets.yaml").open("a") as file:
        file.write("  usual: &usual {device: cpu, dtype: float32, description: a first one}\n")
        file.write("  other:\n    <<: *usual\n    description: a second one\n")
    other = load_catalog(params).target("other")
    assert (other.dtype, other.description) == ("float32", "a second one")


def test_a_key_that_stands_twice_is_refused(params: Path) -> None:
    with (params / "targets.yaml").open("a") as file:
        file.write("  cpu: {device: cpu, dtype: float64, description: a second one}\n")
    with pytest.raises(ParamsError, match="'cpu' stands twice"):
        load_catalog(params)


def test_a_model_in_two_categories_is_refused(params: Path) -> None:
    speech = params / "models" / "speech.yaml"
    entry = {"model_type": "vit", "class": "ViTModel", "task": "t", "hub_id": "h"}
    speech.write_text(yaml.safe_dump({"models": {"vit": entry}}))
    with pytest.raises(ParamsError, match=r"speech\.yaml: model 'vit' is already in vision\.yaml"):
        load_catalog(params)


@given(st.text(max_size=200))
def test_no_content_of_a_file_escapes_as_anything_but_a_named_error(tmp_path_factory, text: str) -> None:
    folder = tmp_path_factory.mktemp("params") / "params"
    shutil.copytree(params_dir(), folder)
    (folder / "targets.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ParamsError, match=r"targets\.yaml"):
        load_catalog(folder)
