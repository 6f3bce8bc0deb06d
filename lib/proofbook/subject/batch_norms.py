"""Statistics of batch norms, as training leaves them: those of what really comes in.

A norm whose statistics are not those of its input changes the scale of everything behind it. Where gates halve what
goes through, as in squeeze-and-excitation, a few blocks leave of the input less than of the biases, and a fault in what
is read there shows nowhere.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

# the least variance of a channel, as a share of the mean of all: a rectifier may leave one without any
LEAST = 0.01


def has_statistics(model: nn.Module) -> bool:
    """Whether a model has norms with running statistics."""
    return any(map(_is_norm, model.modules()))


def _is_norm(module: nn.Module) -> bool:
    return isinstance(getattr(module, "running_var", None), Tensor)


@torch.no_grad()
def settle_statistics(model: nn.Module, called: nn.Module, inputs: Mapping[str, Any]) -> None:
    """Move and scale the statistics of every batch norm to those of its input in one call, the earlier norms first.

    They were drawn about 0 and 1 (:mod:`proofbook.subject.draw`), and keep that spread around what comes in.

    Args:
        model: in evaluation mode.
        called: the module of it whose forward takes the inputs.
        inputs: those of the batch.
    """
    norms = filter(_is_norm, model.modules())
    settled = set[nn.Module]()

    def settle(norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        if norm in settled:
            return
        settled.add(norm)
        dims = [dim for dim in range(args[0].dim()) if dim != 1]
        variance, mean = torch.var_mean(args[0], dims, correction=0)
        variance = variance.clamp(min=LEAST * float(variance.mean()))
        norm.get_buffer("running_mean").mul_(variance.sqrt()).add_(mean)
        norm.get_buffer("running_var").mul_(variance)

    handles = [norm.register_forward_pre_hook(settle) for norm in norms]
    try:
        called(**inputs)
    finally:
        for handle in handles:
            handle.remove()
