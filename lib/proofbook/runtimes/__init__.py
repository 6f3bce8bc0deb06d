"""How a target executes a model."""

from proofbook.runtimes.registry import runtime_names, runtime_of
from proofbook.runtimes.runtime import Fallback, Proof, Refused, Runtime, Session

__all__ = ["Fallback", "Proof", "Refused", "Runtime", "Session", "runtime_names", "runtime_of"]
