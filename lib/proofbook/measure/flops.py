"""How many floating-point operations a call takes, and how many of them a device can do."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from math import inf
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from proofbook.measure.clock import Clock, clock_for
from proofbook.runtimes.devices import synchronize

# the sides of the square matrices, from the smallest on
_SIDES = (256, 512, 1024, 2048, 4096, 8192)
# products that are timed as one, how often, and the most milliseconds for them
_PRODUCTS, _TIMES, _LONGEST = 4, 3, 60.0


def count_flops(module: nn.Module, inputs: Mapping[str, Any]) -> int:
    """The floating-point operations of one call, by torch's own counter: two for each multiplication and addition.

    It counts products of matrices, convolutions and attention (masked scores included), and nothing that works element
    by element. Inputs lie where the module does.
    """
    # the one kernel of attention that torch's counter does not know
    on_cpu = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}
    with torch.no_grad(), _frozen(module), FlopCounterMode(display=False, custom_mapping=on_cpu) as counter:
        module(**inputs)
    return int(counter.get_total_flops())


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """The floating-point operations a second that this process reaches on a device: the best of square products of
    matrices in that dtype, with the threads that torch has now and the precision that it allows itself.

    Measured once a process, dtype and number of threads, in some hundredths of a second.
    """
    return _peak(device, dtype, torch.get_num_threads())


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """No parameter asks for gradients: torch's counter stumbles over views of such that a model makes of them."""
    asking = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in asking:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


def _attention(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    """For the counter, which gives shapes."""
    return int(sdpa_flop_count(query, key, value))


@cache
def _peak(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    best = 0.0
    clock: Clock | None = None
    for side in _SIDES:
        matrix = torch.rand(side, side, device=device).to(dtype)

        def products(matrix: torch.Tensor = matrix) -> None:
            for _ in range(_PRODUCTS):
                torch.mm(matrix, matrix)

        products()
        clock = clock or clock_for(device, lambda: synchronize(device), products)
        least = min((clock.ms(products) for _ in range(_TIMES)), default=inf)
        best = max(best, _PRODUCTS * 2 * side**3 / (least / 1000))
        if 8 * least > _LONGEST:  # that of twice the side
            break
    return best
