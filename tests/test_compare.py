"""The comparison passes rounding and nothing else."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from proofbook.catalog import load_catalog
from proofbook.checks.compare import Errors, compare, compare_all, errors_between, largest_errors

FLOAT32 = load_catalog().tolerances["float32"]


def noisy(truth: torch.Tensor, error: float) -> torch.Tensor:
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (truth + noise * error).to(truth.dtype)


def floor_of(floor: torch.Tensor, truth: torch.Tensor) -> Errors:
    return errors_between({"x": floor}, {"x": truth}, FLOAT32)["x"]


@pytest.fixture
def truth() -> torch.Tensor:
    return torch.randn(4, 6, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_rounding_passes(truth: torch.Tensor) -> None:
    assert compare("x", truth.float(), truth, FLOAT32).passed


def test_an_error_of_the_floors_size_passes_and_ten_times_it_fails(truth: torch.Tensor) -> None:
    floor = noisy(truth, 1e-5)
    assert compare("x", noisy(truth, -1e-5), truth, FLOAT32, floor_of(floor, truth)).passed
    assert not compare("x", noisy(truth, 1e-4), truth, FLOAT32, floor_of(floor, truth)).passed


def test_a_floor_beyond_its_cap_counts_where_rounding_moves_truth_nearly_so_far(truth: torch.Tensor) -> None:
    def judged(moved: float) -> bool:
        floor, by_rounding = (floor_of(noisy(truth, size), truth) for size in (1e-3, moved))
        return compare("x", noisy(truth, -5e-5), truth, FLOAT32, floor, by_rounding).passed

    assert not judged(0.0)
    assert judged(2e-5)
    assert not judged(1e-4), "that much it decides, which is told"


def test_a_part_rounds_as_the_whole_of_which_it_is(truth: torch.Tensor) -> None:
    part = truth[0, 0] * 1e-3  # what was added up to little
    floor = floor_of(noisy(truth, 1e-7), truth)
    assert floor.scale == pytest.approx(1, rel=0.1)
    assert not compare("x", noisy(part, 1e-6), part, FLOAT32).passed
    assert compare("x", noisy(part, 1e-6), part, FLOAT32, floor).passed


def test_of_several_floors_the_largest_of_each_norm_counts() -> None:
    flat, peak = Errors(2.0, 2.0, 2.0, (0,), 1.0), Errors(1.0, 3.0, 4.0, (7,), 1.0)
    assert largest_errors([{"x": flat}, {"x": peak}]) == {"x": Errors(2.0, 3.0, 4.0, (7,), 1.0)}


def test_a_floor_that_is_itself_wrong_excuses_nothing(truth: torch.Tensor) -> None:
    wrong = noisy(truth, 0.1)
    assert not compare("x", wrong, truth, FLOAT32, floor_of(wrong, truth)).passed


@pytest.mark.parametrize("factor", [2.0, 0.999, -1.0])
def test_a_wrong_scale_fails_where_a_correlation_would_pass(truth: torch.Tensor, factor: float) -> None:
    assert not compare("x", truth * factor, truth, FLOAT32, floor_of(truth.float(), truth)).passed


def test_one_wrong_element_among_many_fails_where_the_rmse_would_pass() -> None:
    truth = torch.randn(512, 512, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    actual = truth.float().clone()
    actual[300, 7] += 0.05
    result = compare("x", actual, truth, FLOAT32, floor_of(truth.float(), truth))
    assert not result.passed
    assert result.errors is not None
    assert result.errors.at == (300, 7)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_fails_where_truth_is(truth: torch.Tensor, value: float) -> None:
    actual = truth.float().clone()
    actual[1, 2, 3] = value
    assert not compare("x", actual, truth, FLOAT32, floor_of(truth.float(), truth)).passed


def test_masked_values_are_equal_whatever_lowest_value_the_dtype_fills_in() -> None:
    truth = torch.tensor([1.0, torch.finfo(torch.float64).min])
    actual = torch.tensor([1.0, torch.finfo(torch.float32).min])
    assert compare("x", actual, truth.double(), FLOAT32).passed
    assert not compare("x", -actual, -truth.double() * torch.tensor([1, -1]), FLOAT32).passed


def test_integers_are_exact() -> None:
    assert compare("x", torch.tensor([1, 2]), torch.tensor([1, 2]), FLOAT32).passed
    assert not compare("x", torch.tensor([1, 3]), torch.tensor([1, 2]), FLOAT32).passed


def test_a_shape_that_would_broadcast_fails() -> None:
    assert not compare("x", torch.zeros(1, 3), torch.zeros(3), FLOAT32).passed


def test_an_output_that_is_missing_or_new_fails() -> None:
    x = torch.ones(3, dtype=torch.float64)
    results = {one.name: one.passed for one in compare_all({"a": x, "b": x}, {"a": x, "c": x}, FLOAT32)}
    assert results == {"a": True, "b": False, "c": False}


@given(st.floats(1e-3, 1e3), st.floats(-0.5, 0.5))
def test_judgement_does_not_depend_on_the_unit(unit: float, error: float) -> None:
    truth = torch.linspace(-1, 1, 64, dtype=torch.float64).reshape(4, 16)
    actual = truth.clone()
    actual[2, 5] += error
    one, scaled = compare("x", actual, truth, FLOAT32), compare("x", actual * unit, truth * unit, FLOAT32)
    assert one.passed == scaled.passed
