"""What a runtime does for the rest of proofbook, which knows no runtime by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from proofbook.catalog import Target


@dataclass(frozen=True)
class Placement:
    """What ran where in one call: elements computed by (device type, dtype)."""

    elements: Mapping[tuple[str, str], int]

    def on(self, device: str) -> int:
        """The number of elements computed on a device."""
        return sum(count for (where, _), count in self.elements.items() if where == device)


class Session(Protocol):
    """A model made ready on a target."""

    device: torch.device

    def place(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Inputs as this session takes them: on its device, floating point in its dtype. The originals stay."""

    def call(self, placed: Mapping[str, Any]) -> Any:
        """One forward call with placed inputs, not waiting for the device; what the model returned."""

    def run(self, inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """One forward call: every output tensor by its path, on the CPU."""

    def placement(self, inputs: Mapping[str, Any]) -> Placement:
        """One forward call watched: what ran where."""

    def synchronize(self) -> None:
        """Wait for the device."""


class Runtime(Protocol):
    """A way of executing models."""

    def prepare(self, model: nn.Module, target: Target) -> Session:
        """Make a model ready. Raises :class:`~proofbook.verdict.Blocked` where this machine can't."""
