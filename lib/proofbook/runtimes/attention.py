"""By which kernels torch computes scaled dot product attention, and how one of them is asked for."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from proofbook.runtimes.modes import FunctionMode

# those that can be asked for, as torch names its backends; the last takes whatever the others don't
MATH = "math"
KERNELS = ("flash", "efficient", "cudnn", MATH)
# operators behind the function: _scaled_dot_product_flash_attention_for_cpu, _scaled_dot_product_attention_math_for_mps
_KERNEL = re.compile(r"_scaled_dot_product_(?:attention_)?(?P<name>[a-z]+)")


def prefer(kernel: str | None) -> None:
    """Let this process compute attention by one kernel where that takes the inputs, else by products of matrices.

    Without a name torch chooses, as it does by default. The switches are those of all devices.
    """
    switches = torch.backends.cuda
    switches.enable_flash_sdp(kernel in (None, "flash"))
    switches.enable_mem_efficient_sdp(kernel in (None, "efficient"))
    switches.enable_cudnn_sdp(kernel in (None, "cudnn"))
    switches.enable_math_sdp(True)


class AttentionCalls(FunctionMode):
    """Counts the calls of torch's function, and the kernels behind them that an operator of its own shows."""

    def __init__(self) -> None:
        super().__init__()
        self._calls = 0
        self._shown: Counter[str] = Counter()

    def called(self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        self._calls += function is scaled_dot_product_attention
        return function(*args, **kwargs)

    def see(self, operator: Any) -> None:
        """Take note of an operator that ran."""
        if match := _KERNEL.match(operator.overloadpacket.__name__):
            self._shown[match["name"]] += 1

    @property
    def kernels(self) -> dict[str, int]:
        """Calls by kernel: those that no operator stands for came down to products of matrices."""
        products = self._calls - self._shown.total()
        return {**self._shown, **({MATH: self._shown[MATH] + products} if products > 0 else {})}
