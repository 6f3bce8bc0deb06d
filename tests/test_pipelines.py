"""A pipeline of diffusers goes through the same case as a model of transformers."""

import pytest

from proofbook.verdict import Verdict
from proofbook.workbook.case import Case


def test_a_pipeline_is_validated_by_its_denoiser_and_answers_with_sound() -> None:
    pytest.importorskip("diffusers")
    case = Case("audioldm2")
    for family in ("loading", "forward", "accuracy", "signal", "batching", "answers"):
        case.check(family)
    case.show_model()
    assert case.verdict is Verdict.PASS, case.reason
    assert {"sample"} == set(case.outputs)
    assert len({sound.tobytes() for sound in case.answers}) == 3
    assert all(sound.ndim == 1 and abs(sound).max() > 0 for sound in case.answers)
