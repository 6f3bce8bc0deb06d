"""How far outputs lie from what they should be, and whether that is near enough."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch

from proofbook.catalog import Tolerance


@dataclass(frozen=True)
class Errors:
    """The distance between two tensors in three norms, in the tensors' own unit.

    ``row`` is the largest RMSE of a row, a row being a vector along the last dimension; ``at`` is the index
    of the worst element; ``scale`` is the RMS of the tensor that the other is held against.
    """

    rmse: float
    row: float
    element: float
    at: tuple[int, ...]
    scale: float = 0.0


@dataclass(frozen=True)
class Comparison:
    """One output tensor held against another."""

    name: str
    shape: tuple[int, ...]
    passed: bool
    # empty when passed; else which rule was broken, in words
    broken: str
    errors: Errors | None = None
    allowed: Errors | None = None
    scale: float | None = None
    # the output's path, where the name says more
    output: str = ""

    @property
    def ratio(self) -> float:
        """The worst error as a share of what is allowed: above 1 fails, infinite where shape or kind differ."""
        if self.errors is None or self.allowed is None:
            return 0.0 if self.passed else math.inf
        pairs = zip(_three(self.errors), _three(self.allowed), strict=True)
        return max(error / allowed if allowed else (math.inf if error else 0.0) for error, allowed in pairs)


def compare(
    name: str,
    actual: torch.Tensor,
    expected: torch.Tensor,
    tolerance: Tolerance,
    floor: Errors | None = None,
    moved: Errors | None = None,
) -> Comparison:
    """Hold one output against its truth.

    Integers, booleans and infinities must be equal; a NaN or an infinity where truth is finite fails; finite
    values may differ by the tolerance's formula (:class:`~proofbook.catalog.Tolerance`).

    Args:
        name: the path of the output.
        actual: the tensor judged.
        expected: its truth, of the same shape.
        tolerance: for the dtype in which ``actual`` was computed.
        floor: how far that output of the reference execution in that dtype lies from truth (:func:`errors_between`);
            without it only rounding is allowed. Where ``expected`` is a part of an output, its floor is that of the
            whole: what is added up to a small value rounds as what is added up to a large one.
        moved: how far that output moves in float64 when weights and values change by rounding.
    """
    shape = tuple(actual.shape)
    if shape != tuple(expected.shape):
        return Comparison(name, shape, False, f"shape {shape}, should be {tuple(expected.shape)}")
    if not expected.is_floating_point():
        wrong = int((actual != expected).sum())
        return Comparison(name, shape, not wrong, f"{wrong} of {actual.numel()} values differ" if wrong else "")
    actual, expected = _standard(actual, tolerance), _standard(expected, tolerance)
    broken = _unlike(actual, expected)
    if broken:
        return Comparison(name, shape, False, broken)
    finite = torch.isfinite(expected)
    errors = _errors(actual, expected, finite)
    allowed = _allowed(tolerance, expected, errors.scale, floor, moved)
    over = [
        f"{norm} {error:.3g} > {bound:.3g}"
        for norm, error, bound in zip(
            ("RMSE", "worst row", "worst element"), _three(errors), _three(allowed), strict=True
        )
        if not error <= bound
    ]
    return Comparison(name, shape, not over, "; ".join(over), errors, allowed, errors.scale)


def compare_all(
    actual: Mapping[str, torch.Tensor],
    expected: Mapping[str, torch.Tensor],
    tolerance: Tolerance,
    floor: Mapping[str, Errors] | None = None,
    moved: Mapping[str, Errors] | None = None,
) -> list[Comparison]:
    """Hold every output against what it should be; an output that only one side has fails."""
    comparisons = []
    for name in [*expected, *(name for name in actual if name not in expected)]:
        if name not in actual or name not in expected:
            tensor = expected[name] if name in expected else actual[name]
            side = "missing" if name in expected else "not expected"
            comparisons.append(Comparison(name, tuple(tensor.shape), False, side))
        else:
            noise, conditioning = (one.get(name) if one else None for one in (floor, moved))
            comparisons.append(compare(name, actual[name], expected[name], tolerance, noise, conditioning))
    return comparisons


def errors_between(
    actual: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], tolerance: Tolerance
) -> dict[str, Errors]:
    """How far floating outputs lie from what they should be, by name, where both sides have one of that shape."""
    found = {}
    for name, tensor in expected.items():
        other = actual.get(name)
        if other is not None and other.shape == tensor.shape and tensor.is_floating_point():
            true = _standard(tensor, tolerance)
            found[name] = _errors(_standard(other, tolerance), true, torch.isfinite(true))
    return found


def largest_errors(several: Iterable[Mapping[str, Errors]]) -> dict[str, Errors]:
    """For each name the largest of each norm."""
    found: dict[str, Errors] = {}
    for errors in several:
        for name, one in errors.items():
            other = found.setdefault(name, one)
            worst = max(one, other, key=lambda each: each.element)
            found[name] = replace(worst, rmse=max(one.rmse, other.rmse), row=max(one.row, other.row))
    return found


def differing(expected: Mapping[str, torch.Tensor], actual: Mapping[str, torch.Tensor]) -> list[str]:
    """The names whose tensors are not the same bits on both sides; NaN equals NaN."""
    return [name for name in {**expected, **actual} if not _same(expected.get(name), actual.get(name))]


def _same(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    if a is None or b is None or a.shape != b.shape or a.dtype != b.dtype:
        return False
    return bool(((a == b) | ((a != a) & (b != b))).all())


def _standard(tensor: torch.Tensor, tolerance: Tolerance) -> torch.Tensor:
    """In float64 on the CPU, with the fill value of masks (the lowest finite value of a dtype) as an infinity."""
    wide = tensor.to("cpu", torch.float64)
    if not tensor.is_floating_point():
        return wide
    # the narrower of both sides decides: truth in float64 masks with the lowest float64
    return torch.where(wide.abs() >= lowest_mask(tolerance), wide.sign() * math.inf, wide)


def lowest_mask(tolerance: Tolerance) -> float:
    """The magnitude from which a value is one that masks; that of float32 where torch has no such dtype."""
    kind = getattr(torch, tolerance.dtype, torch.float32)
    return torch.finfo(kind if kind.is_floating_point else torch.float32).max / 2


def _unlike(actual: torch.Tensor, expected: torch.Tensor) -> str:
    """What differs in kind: NaN or infinity on one side only."""
    for kind, test in (("NaN", torch.isnan), ("infinite", torch.isinf)):
        wrong = int((test(actual) & ~test(expected)).sum())
        if wrong:
            return f"{wrong} of {actual.numel()} values are {kind} where truth is not"
    if not torch.equal(actual.isfinite(), expected.isfinite()):
        return "finite where truth is not"
    infinite = expected.isinf()
    if not torch.equal(actual[infinite], expected[infinite]):
        return "infinities of the wrong sign"
    return ""


def _errors(actual: torch.Tensor, expected: torch.Tensor, finite: torch.Tensor) -> Errors:
    difference = torch.where(finite, (actual - expected).abs(), 0.0)
    difference = torch.nan_to_num(difference, nan=math.inf)
    if difference.numel() == 0:
        return Errors(0.0, 0.0, 0.0, at=())
    rows = difference.reshape(-1, difference.shape[-1]) if difference.dim() else difference.reshape(1, 1)
    worst = int(difference.argmax())
    at = tuple(int(i) for i in torch.unravel_index(torch.tensor(worst), difference.shape))
    return Errors(
        rmse=rms(difference),
        row=float(rows.square().mean(dim=-1).sqrt().max()),
        element=float(difference.max()),
        at=at,
        scale=rms(expected[finite]),
    )


def _allowed(
    tolerance: Tolerance, truth: torch.Tensor, own: float, floor: Errors | None, moved: Errors | None
) -> Errors:
    scale = max(own, floor.scale) if floor else own
    rows = truth.numel() // max(1, truth.shape[-1] if truth.dim() else 1)

    def bound(error: float, by_rounding: float, draws: int) -> float:
        unit = tolerance.eps * scale * _expected_maximum(draws)
        low, high = tolerance.smallest * unit, tolerance.largest * unit * _scale_by_chance(truth.numel())
        # what rounding moves further still it decides: see `conditioning.py`
        cap = max(high, tolerance.multiple * by_rounding) if by_rounding <= high else high
        return min(max(tolerance.multiple * error, low), cap)

    none = (0.0, 0.0, 0.0)
    floors, rounded = (_three(one) if one else none for one in (floor, moved))
    rmse, row, element = map(bound, floors, rounded, (1, rows, truth.numel()))
    return Errors(rmse, row, element, at=())


def _expected_maximum(draws: int) -> float:
    """About how many standard deviations the largest of so many normal errors lies out: sqrt(2 ln n), one at least."""
    return math.sqrt(2 * math.log(draws)) if draws > 1 else 1.0


def _scale_by_chance(count: int) -> float:
    """By how much the root mean square of so many numbers may be too small by chance, once in a thousand times.

    It lies below a small share x of what it is on average about as often as ``x**count``: by the volume near the origin
    of so many dimensions. One logit may come out near zero; a thousand do not.
    """
    return float(1000 ** (1 / max(1, count)))


def _three(errors: Errors) -> tuple[float, float, float]:
    return errors.rmse, errors.row, errors.element


def rms(values: torch.Tensor) -> float:
    """The root mean square, taken in float64; 0 where there is no value."""
    return float(values.double().square().mean().sqrt()) if values.numel() else 0.0
