"""What a check declares so that its failures become small scripts: its question once more, in plain torch."""

from collections.abc import Callable
from typing import TypeVar

import torch

from proofbook.catalog import Tolerance

Plain = TypeVar("Plain", bound=Callable[..., None])

_register: dict[str, Callable[..., None]] = {}


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
      extractors and image processors, functions of ours

    It raises an ``AssertionError`` that says what was ``observed`` and what is ``allowed``, in these words.
    """

    def register(function: Plain) -> Plain:
        for check in checks:
            _register[check.__name__.replace("_", "-")] = function
        return function

    return register


def limits(tolerance: Tolerance) -> dict[str, float]:
    """A tolerance as a reproduction takes it."""
    info = torch.finfo(getattr(torch, tolerance.dtype))
    return {
        "multiple": tolerance.multiple,
        "smallest": tolerance.smallest,
        "largest": tolerance.largest,
        "eps": info.eps,
        "mask": info.max / 2,
    }


def reproduction_of(check: str) -> Callable[..., None] | None:
    """The function that reproduces a check, by the check's name; None where it has none."""
    return _register.get(check)
