"""Faults × models, asked in several processes, and what came of them as a matrix fault × category."""

import multiprocessing
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import TypeVar

from proofbook.selftest.trials import Alarm, Planted, Result, clean, plant

T = TypeVar("T")


@dataclass(frozen=True)
class Line:
    """One fault over the models in which it was planted."""

    fault: str
    # found and planted, by category; categories in which it applies to no model are left out
    categories: dict[str, tuple[int, int]]
    # the checks that found it, the most frequent first
    checks: tuple[str, ...]
    # of the time to find it; None when it was not found
    median_s: float | None

    @property
    def found(self) -> int:
        return sum(found for found, _ in self.categories.values())

    @property
    def planted(self) -> int:
        return sum(planted for _, planted in self.categories.values())


def plant_all(faults: Sequence[str], models: Sequence[str], target: str, jobs: int) -> Iterator[Planted]:
    """Every fault in every model, as they finish."""
    return _each([partial(plant, fault, model, target) for model in models for fault in faults], jobs)


def clean_all(models: Sequence[str], seeds: Iterable[int], target: str, jobs: int) -> Iterator[list[Alarm]]:
    """Every model without a fault, drawn from every seed, as they finish."""
    return _each([partial(clean, model, target, seed) for seed in seeds for model in models], jobs)


def hidden(planted: Sequence[Planted]) -> list[Planted]:
    """Those that were missed in a model of which a check by which others were found is known to fall short anyway."""
    by = {(one.fault, one.check) for one in planted if one.result is Result.FOUND}
    missed = (one for one in planted if one.result is Result.MISSED)
    return [one for one in missed if any((one.fault, check) in by for check in one.expected)]


def matrix(planted: Sequence[Planted]) -> list[Line]:
    """One line a fault, in the order in which they come; faults that were planted nowhere, or where a known fault hides
    them, are left out."""
    by_fault: defaultdict[str, list[Planted]] = defaultdict(list)
    left_out = hidden(planted)
    for one in planted:
        if one.result in (Result.FOUND, Result.MISSED) and one not in left_out:
            by_fault[one.fault].append(one)
    return [_line(fault, several) for fault, several in by_fault.items()]


def _line(fault: str, several: Sequence[Planted]) -> Line:
    found = [one for one in several if one.result is Result.FOUND]
    planted, seen = Counter(one.category for one in several), Counter(one.category for one in found)
    checks = Counter(one.check for one in found)
    return Line(
        fault,
        {category: (seen[category], planted[category]) for category in sorted(planted)},
        tuple(name for name, _ in checks.most_common()),
        median(one.seconds for one in found) if found else None,
    )


def _each(calls: Sequence["partial[T]"], jobs: int) -> Iterator[T]:
    # spawned, for a forked process would inherit the threads of torch
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        waiting: list[Future[T]] = [pool.submit(call) for call in calls]
        try:
            for future in as_completed(waiting):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)
