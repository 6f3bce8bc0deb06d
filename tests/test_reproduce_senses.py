"""What checks of pictures, sound and heads declare as reproductions: a sound model's script comes to its end, that of a
model with a fault asserts, or raises what the check raised."""

from pathlib import Path

import pytest

from proofbook.workbook.case import Case
from test_reproduce_checks import run_script


@pytest.mark.parametrize(("model", "names"), [("unispeech", ("padded-samples",))])
def test_the_script_of_a_sound_model_comes_to_its_end(model: str, names: tuple[str, ...], tmp_path: Path) -> None:
    case = Case(model)
    assert all(run_script(case, name, tmp_path) for name in names)


def test_padding_that_is_normalised_is_shown_by_a_script_without_a_model(tmp_path: Path) -> None:
    case = Case("unispeech")
    case.processor.feature_extractor.return_attention_mask = False
    assert not run_script(case, "padded-samples", tmp_path)
    assert "CONFIG" not in (tmp_path / "padded-samples.py").read_text()
