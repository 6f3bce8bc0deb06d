"""Timings count every call, wait for the device, and quote no percentile that too few calls stand behind."""

import time

import pytest

from proofbook.measure.latency import MAX_CALLS, MIN_CALLS, WARM_UP, Latency, time_calls


def test_calls_are_counted_and_the_device_is_waited_for() -> None:
    events: list[str] = []
    latency = time_calls(lambda: events.append("call"), lambda: events.append("wait"), budget_s=60)
    assert len(latency.calls_ms) == MAX_CALLS
    assert events.count("call") == 1 + WARM_UP + MAX_CALLS
    assert events[:3] == ["wait", "call", "wait"]


def test_a_slow_call_ends_at_the_budget_but_not_before_the_fewest_calls() -> None:
    latency = time_calls(lambda: time.sleep(0.02), lambda: None, budget_s=0.01)
    assert len(latency.calls_ms) == MIN_CALLS
    assert min(latency.calls_ms) >= 20
    assert latency.first_s >= 0.02


@pytest.mark.parametrize(("calls", "quoted"), [(5, [50]), (10, [50, 90]), (99, [50, 90]), (100, [50, 90, 99])])
def test_a_percentile_needs_calls_beyond_it(calls: int, quoted: list[float]) -> None:
    latency = Latency(0.1, tuple(float(i) for i in range(calls)))
    assert [percent for percent in (50, 90, 99) if latency.percentile(percent) is not None] == quoted


def test_throughput_is_work_over_the_median_call() -> None:
    assert Latency(0.1, (10.0, 20.0, 90.0)).throughput(work=4) == pytest.approx(200)
