"""Statistics as training leaves them, of what really comes in: those of batch norms, and the entries of codebooks.

A norm whose statistics are not those of its input changes the scale of everything behind it. Where gates halve what
goes through, as in squeeze-and-excitation, a few blocks leave of the input less than of the biases, and a fault in what
is read there shows nowhere. A codebook whose entries lie away from its input gives every moment the same few codes,
and so hides what was read as well.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

# the least variance of a channel, as a share of the mean of all: a rectifier may leave one without any
LEAST = 0.01


def has_statistics(model: nn.Module) -> bool:
    """Whether a model has norms with running statistics, or codebooks that training fills with means."""
    return any(_is_norm(module) or _is_codebook(module) for module in model.modules())


def _is_norm(module: nn.Module) -> bool:
    return isinstance(getattr(module, "running_var", None), Tensor)


def _is_codebook(module: nn.Module) -> bool:
    return hasattr(module, "quantize") and next(_entries(module), None) is not None


def _entries(codebook: nn.Module) -> Iterator[Tensor]:
    """The buffers of means: entries × width. Entries that gradients train are parameters."""
    return (buffer for buffer in codebook.buffers(recurse=False) if buffer.dim() == 2)


@torch.no_grad()
def settle_statistics(model: nn.Module, called: nn.Module, inputs: Mapping[str, Any]) -> None:
    """Move and scale the statistics of every module to those of its input in one call, the earlier modules first.

    They were drawn about 0 and 1 (:mod:`proofbook.subject.draw`), and keep that spread around what comes in.

    Args:
        model: in evaluation mode.
        called: the module of it whose forward takes the inputs.
        inputs: those of the batch.
    """
    undo = [
        *(_before_call(norm, _settle_norm) for norm in filter(_is_norm, model.modules())),
        *(_before_quantize(codebook, _settle_codebook) for codebook in filter(_is_codebook, model.modules())),
    ]
    try:
        called(**inputs)
    finally:
        for each in undo:
            each()


def _before_call(module: nn.Module, settle: Callable[[nn.Module, Tensor], None]) -> Callable[[], None]:
    """Settle a module by the input of its first call; what is returned takes the hook away."""

    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        handle.remove()
        settle(module, args[0])

    handle = module.register_forward_pre_hook(hook)
    return handle.remove


def _before_quantize(codebook: Any, settle: Callable[[nn.Module, Tensor], None]) -> Callable[[], None]:
    """The same for a codebook, whose ``forward`` nobody calls; what is returned gives its method back."""

    def quantize(states: Tensor) -> Any:
        if "quantize" in vars(codebook):
            del codebook.quantize
            settle(codebook, states)
        return codebook.quantize(states)

    codebook.quantize = quantize
    return lambda: vars(codebook).pop("quantize", None)


def _settle_norm(norm: nn.Module, states: Tensor) -> None:
    dims = [dim for dim in range(states.dim()) if dim != 1]
    variance, mean = torch.var_mean(states, dims, correction=0)
    variance = variance.clamp(min=LEAST * float(variance.mean()))
    norm.get_buffer("running_mean").mul_(variance.sqrt()).add_(mean)
    norm.get_buffer("running_var").mul_(variance)


def _settle_codebook(codebook: nn.Module, states: Tensor) -> None:
    """As a norm; ``states`` are any number × width."""
    spread, mean = torch.std_mean(states, 0)
    for entries in _entries(codebook):
        entries.mul_(spread).add_(mean)
