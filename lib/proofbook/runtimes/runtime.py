"""What a runtime does for the rest of proofbook, which knows no runtime by name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import nn

from proofbook.catalog import Target
from proofbook.runtimes.quantised import Quantised

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Fallback:
    """Something that did not run as the target promises: of a kind that a target may allow by name, and what."""

    kind: str
    detail: str


@dataclass(frozen=True)
class Proof:
    """What ran where in one call.

    ``ran`` counts by (where, dtype), in ``unit``: elements computed by a device, nodes run by an execution provider,
    kernels launched. ``where`` is the place of them that the target promises. ``kernels`` counts those that a reader
    looks for by name, where a runtime tells them: of attention, of products with weights in integers.
    """

    ran: Mapping[tuple[str, str], int]
    unit: str
    where: str
    fallbacks: tuple[Fallback, ...] = ()
    kernels: Mapping[str, int] = field(default_factory=dict)


class Refused(Exception):
    """A runtime does not take a model.

    Args:
        stage: the step that refused: ``torch.export``, ``onnx``, ``openvino``.
        cause: a short name that groups like refusals: ``unsupported operator aten::bincount``.
        detail: what the step said, its first line.
    """

    def __init__(self, stage: str, cause: str, detail: str) -> None:
        super().__init__(f"{stage}: {cause}: {detail}" if detail != cause else f"{stage}: {cause}")
        self.stage = stage
        self.cause = cause
        self.detail = detail


@dataclass(frozen=True)
class Operation:
    """One operation of a graph: its name, what it computes, the module it stems from, and what it reads."""

    name: str
    kind: str
    module: str
    reads: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trace:
    """The values of operations in one call on the target and in torch, by name, and the operations in their order."""

    operations: Sequence[Operation]
    seen: Tensors
    expected: Tensors


class Session(Protocol):
    """A model made ready on a target."""

    device: torch.device
    # seconds that making it ready took, by step: "export", "convert", "compile"; empty where nothing is made
    prepare_s: Mapping[str, float]

    def place(self, inputs: Mapping[str, Any]) -> Any:
        """Inputs as this session takes them: on its device, floating point in its dtype. The originals stay."""

    def call(self, placed: Any) -> Any:
        """One forward call with placed inputs, not waiting for the device; what the model returned."""

    def run(self, inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """One forward call: every output tensor by its path, on the CPU."""

    def proof(self, inputs: Mapping[str, Any]) -> Proof:
        """One forward call watched: what ran where."""

    def stages(self, inputs: Mapping[str, Any]) -> Mapping[str, Tensors]:
        """The outputs of each step on the model's way here, in their order, the torch module's own first."""

    def held(self) -> Mapping[str, Quantised]:
        """The weights of linear layers that are held in integers, by the paths of the layers."""

    def trace(self, inputs: Mapping[str, Any]) -> Trace | None:
        """Values within the graph beside torch's own; None where the runtime shows none."""

    def synchronize(self) -> None:
        """Wait for the device."""

    def release(self) -> None:
        """Let go of what was made: files, processes, memory."""


class Runtime(Protocol):
    """A way of executing models.

    It may have a function ``plain(model, inputs)``, which gives the outputs in their order as its users' own lines
    would (``runtimes/plain.py``), with imports of its packages inside: it goes into the scripts that show a fault.

    Where it uses more than packages of Python, ``releases`` has what that is, by name, and the constructor raises
    Blocked where it is missing.
    """

    # what must be installed, as requirements: "onnxruntime>=1.20"
    needs: ClassVar[tuple[str, ...]]
    # whether it calls the module of torch itself, so that what is asked of the module is asked of the target
    runs_module: ClassVar[bool]

    def quantise(self, model: nn.Module, target: Target) -> None:
        """Put integers in the place of the weights of a module's linear layers, where the target says so and it is the
        module that runs; what is in integers already stays."""

    def prepare(self, model: nn.Module, examples: Sequence[Mapping[str, Any]], target: Target) -> Session:
        """Make a model ready.

        Args:
            model: the module, in the target's dtype.
            examples: inputs of its forward call, the batch first; sizes in which others differ from it stay open.
            target: device, dtype and options.

        Raises:
            Blocked: this machine can't.
            Refused: the runtime does not take this model.
        """
