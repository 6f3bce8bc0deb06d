"""How a target executes a model."""

from proofbook.catalog import Target
from proofbook.runtimes.registry import runtime_names, runtime_of
from proofbook.runtimes.runtime import Fallback, Proof, Refused, Runtime, Session

__all__ = ["Fallback", "Proof", "Refused", "Runtime", "Session", "Target", "runtime_names", "runtime_of"]
