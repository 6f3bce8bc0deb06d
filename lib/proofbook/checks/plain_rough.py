"""What stands in for its namesakes of ``plain.py`` in the script about an error far beyond any rounding.

Such a script needs no float64 to be held against, looks at the outputs' own tensors alone, and is a third as long.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from proofbook.checks.plain import placed
from proofbook.checks.truth import CALL_SEED


def call(model: nn.Module, inputs: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors that one forward call in a dtype gives, by their names, on the CPU."""
    torch.manual_seed(CALL_SEED)  # for models that draw noise
    with torch.no_grad():
        outputs = model(**placed(model, inputs, dtype))
    return {name: one.cpu() for name, one in outputs.items() if isinstance(one, Tensor)}


def rounding(
    model: nn.Module, inputs: Mapping[str, Any], dtype: torch.dtype
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """How far rounding moves outputs is not asked: the error is far beyond it."""
    return {}, {}


def agree(
    actual: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: Mapping[str, float], *_: Any
) -> None:
    """Assert that outputs, or parts of them, differ by less than a hundredth of their root mean square."""
    for name, wanted in expected.items():
        found = actual[name]
        assert found.shape == wanted.shape, f"{name}: observed {tuple(found.shape)}, allowed {tuple(wanted.shape)}"
        error = (found.double() - wanted.double())[wanted.isfinite()].square().mean().sqrt().item()
        allowed = allowances(name, wanted, tolerance)[0] if wanted.is_floating_point() else 0.0
        assert error <= allowed, f"{name}: observed to differ by {error:.3g}, allowed {allowed:.3g}"


def allowances(name: str, wanted: Tensor, tolerance: Mapping[str, float], *_: Any) -> list[float]:
    """A hundredth of an output's root mean square, or what its precision may come to where that is more; and so many
    times as much as the largest of its numbers may be by chance."""
    usual = wanted[wanted.isfinite()].double().square().mean().sqrt().item()
    size = max(0.01, tolerance["largest"] * tolerance["eps"]) * usual
    return [size, size * math.sqrt(max(1.0, 2 * math.log(max(1, wanted.numel()))))]
