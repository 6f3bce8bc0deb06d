"""TF32: what is read of a factor, the noise that this makes, and targets that ask for it."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from proofbook.catalog import Target, Weights, load_catalog
from proofbook.checks.forward import no_value_is_nan
from proofbook.checks.registry import examine
from proofbook.checks.trial import Trial
from proofbook.reproduce.reproduction import _subject
from proofbook.reproduce.script import write_script
from proofbook.runtimes.products import compute_products, reading_tf32, tf32
from proofbook.verdict import Verdict
from proofbook.workbook.case import Case
from test_checks import CHECKS

CATALOG = load_catalog()
# as a GPU's, on the device that is here
TARGET = CATALOG.target("cuda-tf32").model_copy(update={"device": "cpu"})


@given(
    st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False), st.sampled_from([torch.float32, torch.float64])
)
def test_ten_bits_of_the_mantissa_are_kept(number: float, dtype: torch.dtype) -> None:
    found = float(tf32(torch.tensor(number, dtype=dtype)))
    assert abs(found) <= abs(number)
    assert abs(number - found) <= 2.0**-10 * abs(number)
    mantissa, _ = math.frexp(found)
    assert mantissa * 2**11 == int(mantissa * 2**11)
    assert float(tf32(torch.tensor(found, dtype=dtype))) == found


def test_factors_are_read_so_and_nothing_else() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Conv1d(4, 4, 3, padding=1))
    inputs = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    linear, norm, conv = model
    expected = nn.functional.linear(tf32(inputs), tf32(linear.weight), linear.bias)
    expected = nn.functional.conv1d(tf32(norm(expected)), tf32(conv.weight), conv.bias, padding=1)
    assert torch.equal(reading_tf32(model)(inputs), expected)
    assert not torch.equal(model(inputs), expected)


@pytest.mark.parametrize("model", ["llama", "resnet"])
def test_a_device_that_multiplies_so_passes_and_one_that_rounds_further_fails(model: str) -> None:
    trial = Trial(CATALOG.model(model), TARGET, Weights.TINY, 0, CATALOG.tolerances)
    exact = trial.outputs
    trial.outputs = trial.run_with(reading_tf32(trial.model))
    assert any(not torch.equal(trial.outputs[name], one) for name, one in exact.items())
    assert examine(CHECKS["matches-truth"], trial).verdict is Verdict.PASS
    trial.outputs = {name: one * 1.1 if one.is_floating_point() else one for name, one in exact.items()}
    assert examine(CHECKS["matches-truth"], trial).verdict is Verdict.FAIL


def test_a_process_multiplies_in_float32_unless_it_is_told() -> None:
    try:
        compute_products("tf32")
        assert torch.backends.cuda.matmul.allow_tf32 and torch.backends.cudnn.allow_tf32
    finally:
        compute_products(None)
    assert not (torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32)


def test_only_float32_is_multiplied_so() -> None:
    with pytest.raises(ValidationError, match="product_dtype is how float32 is multiplied"):
        Target(name="x", device="cuda", dtype="float16", product_dtype="tf32", description="x")


def test_a_script_for_a_gpu_says_how_it_multiplies() -> None:
    case = Case("llama")
    case.target = TARGET
    subject = replace(_subject(case), device="cuda")
    script = write_script(subject, no_value_is_nan, {}, "about", "finite", exact=False)
    assert 'torch.set_float32_matmul_precision("high")\ntorch.backends.cudnn.allow_tf32 = True' in script.text
