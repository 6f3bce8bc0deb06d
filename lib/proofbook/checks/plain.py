"""Plain torch in which reproductions ask a question again: their scripts take these functions over as they stand.

Nothing here may need more than torch and transformers bring.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from proofbook.checks.compare import rms
from proofbook.checks.truth import CALL_SEED, computing_in, eager_copy
from proofbook.runtimes.outputs import flatten


def call(model: nn.Module, inputs: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Tensor]:
    """Every tensor that one forward call in a dtype gives, by its name, on the CPU."""
    torch.manual_seed(CALL_SEED)  # for models that draw noise
    with torch.no_grad():
        return {name: one.cpu() for name, one in flatten(model(**placed(model, inputs, dtype))).items()}


def placed(model: nn.Module, inputs: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Copies of inputs on the model's device, the floating ones in a dtype."""
    device = next(model.parameters()).device

    def place(tensor: Tensor) -> Tensor:
        return tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype, copy=True)

    return dict(tree_map_only(Tensor, place, dict(inputs)))


def eager(model: nn.Module, inputs: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Tensor]:
    """The same with eager attention on the CPU; in float64 it is the truth."""
    with computing_in(dtype):
        return call(eager_copy(model, dtype), inputs, dtype)


def draw_widely(model: nn.Module) -> None:
    """Draw weights wider than the library does, so that attention is not uniform and heads say more than rounding."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and parameter.dim() > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)


def rounding(
    model: nn.Module, inputs: Mapping[str, Any], dtype: torch.dtype
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What lies between these is noise: the outputs in a dtype, and in float64, with eager attention on the CPU."""
    return eager(model, inputs, dtype), eager(model, inputs, torch.float64)


def agree(
    actual: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    tolerance: Mapping[str, float],
    *references: tuple[Mapping[str, Tensor], Mapping[str, Tensor]],
) -> None:
    """Assert that outputs, or parts of them, differ by no more than rounding does.

    Args:
        references: whole outputs of one execution or of both, in the dtype and in float64 with eager attention on the
            CPU; what lies between them is noise, of which the larger counts.
    """
    for name, wanted in expected.items():
        found = actual[name]
        assert found.shape == wanted.shape, f"{name}: observed {tuple(found.shape)}, allowed {tuple(wanted.shape)}"
        if not wanted.is_floating_point():
            wrong = int((found != wanted).sum())
            assert not wrong, f"{name}: observed {wrong} values that differ, allowed 0"
            continue
        finite = ordinary(wanted, tolerance)
        broken = int((~found.isfinite() & finite).sum())
        assert not broken, f"{name}: observed {broken} values that are NaN or infinite, allowed 0"
        error = torch.where(finite, found.double() - wanted.double(), 0.0)
        bounds = allowances(name, wanted, tolerance, *references)
        for norm, observed, allowed in zip(("RMSE", "worst row", "worst element"), norms(error), bounds, strict=True):
            assert observed <= allowed, f"{name}, {norm}: observed {observed:.3g}, allowed {allowed:.3g}"


def allowances(
    name: str,
    wanted: Tensor,
    tolerance: Mapping[str, float],
    *references: tuple[Mapping[str, Tensor], Mapping[str, Tensor]],
) -> list[float]:
    """How far from an output, or a part of it, another may lie: by RMSE, in the worst row, in the worst element.

    Args:
        references: as for :func:`agree`.
    """
    own, scale = [0.0, 0.0, 0.0], rms(wanted[ordinary(wanted, tolerance)])
    for floor, true in references:
        if name in floor and name in true and floor[name].shape == true[name].shape:
            kept = ordinary(true[name], tolerance)
            noise = norms(torch.where(kept, floor[name].double() - true[name], 0.0))
            own = [max(pair) for pair in zip(own, noise, strict=True)]
            scale = max(scale, rms(true[name][kept]))
    bounds, width = list[float](), wanted.shape[-1] if wanted.dim() else 1
    for least, count in zip(own, (1, wanted.numel() // max(1, width), wanted.numel()), strict=True):
        unit = tolerance["eps"] * scale * math.sqrt(max(1.0, 2 * math.log(max(1, count))))
        # the scale of few numbers may be too small by chance
        low, high = tolerance["smallest"] * unit, tolerance["largest"] * unit * 1000 ** (1 / max(1, wanted.numel()))
        bounds.append(min(max(tolerance["multiple"] * least, low), high))
    return bounds


def ordinary(tensor: Tensor, tolerance: Mapping[str, float]) -> Tensor:
    """Which values are finite, and not those of masks: the lowest finite value of a dtype."""
    return tensor.isfinite() & (tensor.abs() < tolerance["mask"])


def norms(error: Tensor) -> tuple[float, float, float]:
    """RMSE, that of the worst row (a vector along the last dimension), and the worst element."""
    if not error.numel():
        return 0.0, 0.0, 0.0
    rows = error.reshape(-1, error.shape[-1]) if error.dim() else error.reshape(1, 1)
    squares = rows.square()
    return float(squares.mean().sqrt()), float(squares.mean(-1).max().sqrt()), float(rows.abs().max())


def before_changes(found: Tensor, places: list[int]) -> tuple[Tensor, Tensor]:
    """What copies give before the place that is changed in each, and what the row unchanged gives there.

    Args:
        found: the row unchanged, then its copies: rows × length × width.
        places: of each copy, which of its length is changed.
    """
    expected = found[:1].expand_as(found[1:])
    before = torch.arange(found.shape[1]) < torch.tensor(places)[:, None]
    return torch.where(before[..., None], found[1:], expected), expected


def same(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Assert that tensors are the same bit for bit; NaN equals NaN."""
    for name, wanted in expected.items():
        found = actual.get(name)
        assert found is not None, f"{name}: observed none, allowed {tuple(wanted.shape)}"
        assert found.shape == wanted.shape, f"{name}: observed {tuple(found.shape)}, allowed {tuple(wanted.shape)}"
        assert found.dtype == wanted.dtype, f"{name}: observed {found.dtype}, allowed {wanted.dtype}"
        differ = int(((found != wanted) & ~((found != found) & (wanted != wanted))).sum())
        assert not differ, f"{name}: observed {differ} of {wanted.numel()} values that differ, allowed 0"


def moved(after: Mapping[str, Tensor], before: Mapping[str, Tensor], tolerance: Mapping[str, float]) -> float:
    """How far outputs moved, as a multiple of their rounding; infinite where their shapes did."""
    most = 0.0
    for name, was in before.items():
        now = after.get(name)
        if now is None or now.shape != was.shape:
            return math.inf
        finite = was.isfinite() & now.isfinite() & (was.double().abs() < tolerance["mask"])
        old, new = was[finite].double(), now[finite].double()
        if old.numel():
            unit = tolerance["smallest"] * tolerance["eps"] * float(old.square().mean().sqrt())
            change = float((new - old).abs().max())
            most = max(most, change / unit if unit else (math.inf if change else 0.0))
    return most
