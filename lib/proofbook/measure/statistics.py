"""What times that were measured allow to be said: of their median, of their warm-up, of two of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
# from so many calls on steadiness is judged: of fewer, times that are steady would too often not look it
FEWEST_JUDGED = 20
# as many calls are one batch from so many calls on
BATCH, BATCHED = 5, 100


@dataclass(frozen=True)
class Interval:
    """Between which two values something lies, with a confidence of at least :data:`CONFIDENCE`."""

    low: float
    high: float


def quantile_interval(values: Sequence[float], percent: float = 50) -> Interval | None:
    """The confidence interval of a percentile, without any assumption of a distribution; None for too few values.

    Of n independent values, the number below the true quantile p is binomial (n, p); so the order statistics whose
    ranks that distribution leaves out with (1 - :data:`CONFIDENCE`) / 2 at either end enclose it. For a median that
    takes 6 values at least. (H. A. David, H. N. Nagaraja, Order Statistics, 3rd ed., section 7.1; recommended for
    times by T. Hoefler, R. Belli, Scientific Benchmarking of Parallel Computing Systems, SC 2015.) Calls one after
    the other are not quite independent: what disturbs one may disturb the next, and then the interval is too narrow.
    """
    from scipy.stats import quantile_test

    found = quantile_test(list(values), p=percent / 100).confidence_interval(CONFIDENCE)
    return Interval(float(found.low), float(found.high)) if np.isfinite([found.low, found.high]).all() else None


@dataclass(frozen=True)
class WarmUp:
    """How many calls at the beginning are not like those after them.

    ``steady`` is whether those after them are alike; None where there are too few calls to tell.
    """

    calls: int
    steady: bool | None


def warm_up(times: Sequence[float]) -> WarmUp:
    """Where times become steady, by the marginal standard error rule.

    The warm-up ends where the standard error of the mean of all that follows is smallest, looked for in the first half
    of the calls; when it lies at that half's end, they have not become steady. (K. P. White, An effective truncation
    heuristic for bias reduction in simulation output, Simulation 69, 1997; with batches of five, MSER-5, the best of
    44 rules in K. Hoad, S. Robinson, R. Davies, Automating warm-up length estimation, JORS 61, 2010.) From
    :data:`BATCHED` calls on they are taken in batches of :data:`BATCH`, by their medians rather than means, since one
    call that another program disturbed is no warm-up.

    Of fewer than :data:`FEWEST_JUDGED` calls, a third is left out, and nothing said.
    """
    if len(times) < FEWEST_JUDGED:
        return WarmUp(len(times) // 3, None)
    size = BATCH if len(times) >= BATCHED else 1
    whole = len(times) // size * size
    batches = np.median(np.asarray(times[:whole], dtype=float).reshape(-1, size), axis=1)
    half = len(batches) // 2
    # the variance over the number of values: the square of the standard error
    errors = [float(batches[start:].var()) / (len(batches) - start) for start in range(half + 1)]
    start = int(np.argmin(errors))
    return WarmUp(start * size, start < half)


@dataclass(frozen=True)
class Ratio:
    """The median of the ratios of pairs of times, with its confidence interval; None for fewer than 6 pairs."""

    median: float
    interval: Interval | None
    pairs: int


def paired_ratio(first: Sequence[float], second: Sequence[float]) -> Ratio:
    """How many times as long the first takes as the second, where each pair was measured at about the same time.

    The median of the ratios of the pairs, with the interval of :func:`quantile_interval`: what slows down both halves
    of a pair cancels out, as it does not in a ratio of two medians.
    """
    ratios = [one / other for one, other in zip(first, second, strict=True)]
    return Ratio(float(np.median(ratios)), quantile_interval(ratios), len(ratios))
