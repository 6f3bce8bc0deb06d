"""How fast a model writes: the first token, each one after it, and all of them."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import GenerationMixin, StoppingCriteria, StoppingCriteriaList

from proofbook.measure.latency import uncollected
from proofbook.measure.statistics import Interval, quantile_interval

# generations behind the first one
MOST = 30


class NoGeneration(Exception):
    """The model wrote nothing that could be timed; the message says why."""


@dataclass(frozen=True)
class Generation:
    """The times of generations, each of a whole batch.

    ``whole_ms`` are those of ``generate`` from beginning to end, ``first_token_ms`` up to the first token of every row,
    prompt and encoder included, ``token_ms`` from one token to the next. The last two are empty where a class writes in
    a loop of its own, and then there are no ``tokens``.
    """

    rows: int
    # written in each row by one generation
    tokens: int
    whole_ms: tuple[float, ...]
    first_token_ms: tuple[float, ...] = ()
    token_ms: tuple[float, ...] = ()

    @property
    def first_token(self) -> tuple[float, Interval | None] | None:
        """The median time to the first token in milliseconds, with its confidence interval."""
        return _median(self.first_token_ms)

    @property
    def token(self) -> tuple[float, Interval | None] | None:
        """The median time from one token to the next in milliseconds, with its confidence interval."""
        return _median(self.token_ms)

    @property
    def whole_s(self) -> float:
        """The median time of a generation in seconds."""
        return float(np.median(self.whole_ms)) / 1000

    @property
    def tokens_per_s(self) -> float | None:
        """The tokens of all rows a second, over whole generations: prompt and first token are in that time."""
        return self.rows * self.tokens / self.whole_s if self.tokens else None


def time_generation(
    model: nn.Module, answer: Callable[[], object], synchronize: Callable[[], None], rows: int, budget_s: float
) -> Generation:
    """Time what a model writes while something asks it to.

    The first time warms up and is left out, unless it alone takes longer than the budget.

    Every row gets as many tokens as is asked for: one that would end earlier is made to go on, where the class
    generates by the library's own ``generate``. Elsewhere a row that has ended is padded, and the padding counted.

    Args:
        model: whose ``generate``, or that of parts of it, is watched.
        answer: asks it: calls ``generate`` with a batch of ``rows``, and may do more beside, which is not timed.
        synchronize: waits for the device.
        budget_s: stop after that many seconds.

    Raises:
        NoGeneration: ``generate`` was not called.
    """
    watch = _Watch(synchronize)
    with ExitStack() as stack:
        for part in model.modules():
            if hasattr(part, "generate"):
                stack.enter_context(_watched(part, watch))
        answer()
        if not watch.generations:
            raise NoGeneration(f"the answers of {type(model).__name__} are not generated")
        (first,) = watch.generations
        deadline = perf_counter() + budget_s
        if first.ended - first.began < budget_s:
            watch.generations.clear()
        with uncollected():
            while not watch.generations or (perf_counter() < deadline and len(watch.generations) < MOST):
                answer()
    return _generation(watch.generations, rows)


@dataclass
class _Written:
    """One call of ``generate``: when it began and ended, and when each token of each loop in it was there."""

    began: float
    loops: list[list[float]] = field(default_factory=list)
    ended: float = 0.0


class _Watch:
    """The calls of ``generate`` so far; those within one are parts of it."""

    def __init__(self, synchronize: Callable[[], None]) -> None:
        self.synchronize = synchronize
        self.generations: list[_Written] = []
        self.depth = 0
        # whether the tokens of a call that goes on are noted: those of calls within it are steps to them
        self.stamping = False

    def now(self) -> float:
        self.synchronize()
        return perf_counter()


class _Stamp(StoppingCriteria):  # type: ignore[misc]
    """Asked after each token whether to stop; notes the time, and never stops."""

    def __init__(self, watch: _Watch) -> None:
        self.watch = watch
        self.times: list[float] = []
        watch.generations[-1].loops.append(self.times)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        self.times.append(self.watch.now())
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


@contextmanager
def _watched(part: Any, watch: _Watch) -> Iterator[None]:
    """Let a module's ``generate`` leave its times, and those of its tokens where it takes criteria to stop by."""
    plain = part.generate
    stamps = "stopping_criteria" in inspect.signature(plain).parameters
    own = type(part).generate is not GenerationMixin.generate

    @wraps(plain)
    def generate(*args: Any, **kwargs: Any) -> Any:
        outermost, stamping = not watch.depth, watch.stamping
        if outermost:
            watch.generations.append(_Written(watch.now()))
        if stamps and not stamping:
            kwargs["stopping_criteria"] = StoppingCriteriaList(
                [*(kwargs.get("stopping_criteria") or ()), _Stamp(watch)]
            )
            watch.stamping = True
        if not own and "max_new_tokens" in kwargs:
            kwargs["min_new_tokens"] = kwargs["max_new_tokens"]
        watch.depth += 1
        try:
            return plain(*args, **kwargs)
        finally:
            watch.depth -= 1
            watch.stamping = stamping
            if outermost:
                watch.generations[-1].ended = watch.now()

    part.generate = generate
    try:
        yield
    finally:
        del part.generate


def _generation(found: Sequence[_Written], rows: int) -> Generation:
    loops = [[times for times in one.loops if times] for one in found]
    firsts = [min(times[0] for times in each) - one.began for one, each in zip(found, loops, strict=True) if each]
    gaps = [gap for each in loops for times in each for gap in np.diff(times)]
    return Generation(
        rows,
        max((sum(map(len, each)) for each in loops), default=0),
        tuple(1000 * (one.ended - one.began) for one in found),
        tuple(1000 * first for first in firsts),
        tuple(1000 * float(gap) for gap in gaps),
    )


def _median(times: Sequence[float]) -> tuple[float, Interval | None] | None:
    return (float(np.median(times)), quantile_interval(times)) if times else None
