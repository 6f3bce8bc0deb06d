"""How a target executes a model."""

from proofbook.catalog import Target
from proofbook.runtimes.runtime import Placement, Runtime, Session

__all__ = ["Placement", "Runtime", "Session", "runtime_of"]


def runtime_of(target: Target) -> Runtime:
    """The runtime that executes a target."""
    from proofbook.runtimes.eager import EagerRuntime

    return {"eager": EagerRuntime()}[target.runtime]
