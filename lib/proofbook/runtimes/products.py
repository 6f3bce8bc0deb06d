"""Products of float32 in TF32: whether a device may compute them so, and what it then reads of the factors."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from proofbook.runtimes.modes import OperatorMode

Product = Literal["tf32"]
# of the mantissa: what NVIDIA's tensor cores read of a factor, whose sums stay in float32
BITS = 10
_ATEN = torch.ops.aten
# operators that multiply, and which of their arguments are factors
_FACTORS: dict[Callable[..., Any], tuple[int, int]] = {
    _ATEN.mm: (0, 1),
    _ATEN.bmm: (0, 1),
    _ATEN.addmm: (1, 2),
    _ATEN.baddbmm: (1, 2),
    _ATEN.convolution: (0, 1),
}


def compute_products(dtype: Product | None) -> None:
    """Let GPUs multiply matrices and convolve in TF32 in this process, or in float32 alone.

    Torch's own default is either: TF32 for convolutions, float32 for matrices.
    """
    torch.set_float32_matmul_precision("high" if dtype else "highest")
    torch.backends.cudnn.allow_tf32 = dtype is not None


def reading_tf32(model: nn.Module) -> nn.Module:
    """A copy of a model in whose calls products read of their factors what TF32 keeps, in whatever dtype it is."""
    mode, other = _Tf32(), copy.deepcopy(model)

    def enter(*_: Any) -> None:
        mode.__enter__()  # type: ignore[no-untyped-call]

    def leave(*_: Any) -> None:
        mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    other.register_forward_pre_hook(enter)
    other.register_forward_hook(leave, always_call=True)
    return other


class _Tf32(OperatorMode):
    def called(self, operator: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        factors = _FACTORS.get(operator.overloadpacket, ())
        return operator(*(tf32(one) if at in factors else one for at, one in enumerate(args)), **kwargs)


def tf32(values: Tensor) -> Tensor:
    """Values cut off behind the tenth bit of their mantissa; the exponent is that of float32."""
    if not values.is_floating_point():
        return values
    mantissa, exponent = torch.frexp(values)  # of at least a half, which is the first of the bits
    scale = 2.0 ** (BITS + 1)
    return torch.ldexp((mantissa * scale).trunc() / scale, exponent)
