"""What a check declares so that its failures become small scripts: its question once more, in plain torch."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from proofbook.catalog import Tolerance
from proofbook.checks.compare import lowest_mask

Plain = TypeVar("Plain", bound=Callable[..., None])

_register: dict[str, list[Callable[..., None]]] = {}
# what every question may ask for; evidence of the same name stands in its place
GIVEN = ("model", "whole", "inputs", "dtype", "tolerance")


def reproduces(*checks: Callable[..., object]) -> Callable[[Plain], Plain]:
    """Register a function that asks the question of checks again, without proofbook.

    Its source goes into a script, with that of the functions of ours that it calls, so that it may need no more than
    torch and transformers bring (``checks/plain.py`` has ``call``, ``eager``, ``agree``, ``same``). Its parameters are
    given by their names:

    - ``model``: the module whose forward is called, in the target's dtype, on its device, in evaluation mode
    - ``whole``: the model that it is a part of, most often the same
    - ``inputs``: the arguments of the forward call, floating ones in float32
    - ``dtype``: that of the target
    - ``tolerance``: a mapping of floats: ``multiple``, ``smallest``, ``largest``, ``eps``, ``mask``
    - every other: what the check put into the ``evidence`` of its :class:`~proofbook.checks.registry.Observation`, or
      kept for the case that it raises (:func:`~proofbook.checks.registry.evidence`): plain values and tensors, feature
      extractors and image processors, functions of ours. Evidence named ``inputs``, ``dtype`` or ``tolerance`` stands
      in the place of those

    A check that fails in several ways may have a question for each: the first counts for which there is evidence.

    It raises an ``AssertionError`` that says what was ``observed`` and what is ``allowed``, in these words.
    """

    def register(function: Plain) -> Plain:
        for check in checks:
            _register.setdefault(check.__name__.replace("_", "-"), []).append(function)
        return function

    return register


def limits(tolerance: Tolerance) -> dict[str, float]:
    """A tolerance as a reproduction takes it."""
    return {
        "multiple": tolerance.multiple,
        "smallest": tolerance.smallest,
        "largest": tolerance.largest,
        "eps": tolerance.eps,
        "mask": lowest_mask(tolerance),
    }


def reproduction_of(check: str, evidence: Mapping[str, Any] | None = None) -> Callable[..., None] | None:
    """The function that reproduces a check, by the check's name; None where it has none.

    Args:
        evidence: of several functions, the first counts that needs nothing else; else the first.
    """
    questions = _register.get(check, [])
    known = {*GIVEN, *(evidence or {})}
    suited = (each for each in questions if known.issuperset(inspect.signature(each).parameters))
    return next(suited, questions[0] if questions else None)
