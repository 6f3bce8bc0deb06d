"""What is said of times holds for any times."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofbook.measure.statistics import FEWEST_JUDGED, paired_ratio, quantile_interval, warm_up

times = st.lists(st.floats(1e-3, 1e3), min_size=6, max_size=120)


@given(times)
def test_the_interval_of_a_median_holds_it_and_is_made_of_values(values: list[float]) -> None:
    found = quantile_interval(values)
    assert found is not None
    assert found.low <= np.median(values) <= found.high
    assert {found.low, found.high} <= set(values)


@pytest.mark.parametrize(("count", "ranks"), [(5, None), (6, (1, 6)), (10, (2, 9)), (100, (40, 61))])
def test_the_ranks_are_those_of_the_binomial_distribution(count: int, ranks: tuple[int, int] | None) -> None:
    """Each of them: the largest that leave out at most 2.5% at either end."""
    found = quantile_interval([float(value) for value in range(1, count + 1)])
    assert ranks == (None if found is None else (found.low, found.high))
    if ranks:
        beyond = sum(math.comb(count, below) for below in range(ranks[0])) / 2**count
        assert beyond <= 0.025 < beyond + math.comb(count, ranks[0]) / 2**count


@given(st.lists(st.floats(1, 2), min_size=20, max_size=150), st.integers(1, 8))
def test_calls_that_last_much_longer_at_first_are_warm_up(steady: list[float], slow: int) -> None:
    found = warm_up([1000.0] * slow + steady)
    assert slow <= found.calls <= (slow + len(steady)) / 2 + 5
    assert found.steady is not None


@given(st.lists(st.floats(1e-3, 1e3), max_size=250))
def test_at_least_half_of_the_calls_are_left(values: list[float]) -> None:
    found = warm_up(values)
    assert 0 <= found.calls <= len(values) / 2
    assert (found.steady is None) == (len(values) < FEWEST_JUDGED)


def test_calls_that_all_last_the_same_have_no_warm_up() -> None:
    assert warm_up([2.0] * 50) == warm_up([3.0] * 50)
    assert (warm_up([2.0] * 50).calls, warm_up([2.0] * 50).steady) == (0, True)


def test_calls_that_get_ever_faster_are_not_steady() -> None:
    assert warm_up([1000.0 / (1 + call) for call in range(20)] + [1.0 - call / 1000 for call in range(180)])
    assert warm_up([float(200 - call) for call in range(200)]).steady is False


def test_one_disturbed_call_is_no_warm_up() -> None:
    drawn = np.random.default_rng(0).normal(10, 0.1, 200).tolist()
    drawn[40] = 1000.0
    assert warm_up(drawn).calls < 40


@given(times, st.floats(0.1, 10))
def test_what_slows_both_of_a_pair_is_not_in_their_ratio(values: list[float], factor: float) -> None:
    found = paired_ratio([factor * value for value in values], values)
    assert found.median == pytest.approx(factor)
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == (pytest.approx(factor), pytest.approx(factor))
    assert found.pairs == len(values)
