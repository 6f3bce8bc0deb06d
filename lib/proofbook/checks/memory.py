"""Does a model keep anything from one call to the next?"""

import gc
import weakref
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from proofbook.checks.registry import Observation, check
from proofbook.checks.trial import Trial
from proofbook.runtimes.modes import OperatorMode

# calls before the count, in which caches that have a size of their own are filled, and calls counted
WARM, COUNTED = 1, 3


@check(graphs=True)
def memory_does_not_grow(trial: Trial) -> Observation:
    """No call leaves more tensors behind than the one before: nothing is kept without end."""
    placed = trial.session.place(trial.inputs)
    for _ in range(WARM):
        trial.session.call(placed)
    with _Alive() as alive:
        held: list[int] = []
        for _ in range(COUNTED):
            trial.session.call(placed)
            if held and alive.bytes() > held[-1]:
                gc.collect()  # cycles of references are let go of in time
            held.append(alive.bytes())
    growth = [after - before for before, after in pairwise(held)]
    return Observation(
        passed=min(growth) <= 0,
        observed=f"{max(growth):,} bytes more after another call",
        allowed="0",
        detail="" if min(growth) <= 0 else f"kept: {', '.join(alive.makers())}",
    )


class _Alive(OperatorMode):
    """Keeps an eye on every tensor that an operator returns, without keeping it alive."""

    def __init__(self) -> None:
        super().__init__()
        self._made: list[tuple[weakref.ref[torch.Tensor], str]] = []

    def called(self, operator: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        result = operator(*args, **kwargs)
        self._made += [
            (weakref.ref(leaf), str(operator)) for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)
        ]
        return result

    def bytes(self) -> int:
        """The size of what is still alive; what several tensors share counts once."""
        storages = {one.untyped_storage() for one, _ in self._living()}
        return sum({each.data_ptr(): each.nbytes() for each in storages}.values())

    def makers(self) -> list[str]:
        """The operators that made what is still alive, with its shapes."""
        return [f"{maker} {tuple(one.shape)}" for one, maker in self._living()][:5]

    def _living(self) -> list[tuple[torch.Tensor, str]]:
        self._made = [(made, maker) for made, maker in self._made if made() is not None]
        return [(one, maker) for made, maker in self._made if (one := made()) is not None]
