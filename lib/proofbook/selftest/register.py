"""The register of faults: each a context in which real models are wrong in one realistic way."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module

from proofbook.checks.trial import Trial

# each is a module of `faults/`
FAMILIES = ("attention", "caches", "inputs", "processing", "weights", "numbers")


class Reach(StrEnum):
    """What a fault spoils."""

    LIBRARY = "library"  # the model's code: every execution has it, truth too
    TARGET = "target"  # the target's execution alone: truth is right


@dataclass(frozen=True)
class Fault:
    """One way of being wrong, and how it is planted."""

    name: str
    family: str
    reach: Reach
    description: str
    # raises NotApplicable for a model that has no such part
    plant: Callable[[Trial], AbstractContextManager[None]]


_register: dict[str, Fault] = {}

Planting = Callable[[Trial], Iterator[None]]


def fault(reach: Reach) -> Callable[[Planting], Planting]:
    """Register a fault: a generator that plants it, yields while it is there, and takes it away again.

    It is named by its function and described by the first line of its docstring. A fault of the library must reach
    every copy of the model that a check may make; one of the target is planted after truth was computed.
    """

    def register(function: Planting) -> Planting:
        name = function.__name__.replace("_", "-")
        description = (function.__doc__ or "").strip().partition("\n")[0]
        if not description or name in _register:
            raise ValueError(f"fault {name}: registered twice, or without a docstring to describe it")
        family = function.__module__.rpartition(".")[2]
        _register[name] = Fault(name, family, reach, description, contextmanager(function))
        return function

    return register


def faults() -> list[Fault]:
    """All faults, by family."""
    for family in FAMILIES:
        import_module(f"proofbook.selftest.faults.{family}")
    return sorted(_register.values(), key=lambda one: FAMILIES.index(one.family))
