"""Are the numbers right?"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from proofbook.checks.conditioning import judged
from proofbook.checks.hidden import without_padding
from proofbook.checks.plain import agree, call, eager, placed
from proofbook.checks.registry import Observation, check
from proofbook.checks.reproduction import reproduces
from proofbook.checks.trial import Trial


@check(graphs=True)
def matches_truth(trial: Trial) -> Observation:
    """Every output lies within a multiple of the noise floor of float64 truth, by RMSE, worst row and worst element."""
    comparisons = trial.compare_to_truth()
    weaker = "" if trial.truth.exact else trial.truth.rule
    seen = judged(trial, comparisons, f"1 in each of {len(comparisons)} outputs", weaker, trial.beside_truth)
    return replace(seen, evidence=trial.through)


@reproduces(matches_truth)
def near_float64_elsewhere(
    model: nn.Module,
    inputs: Mapping[str, Any],
    dtype: torch.dtype,
    tolerance: Mapping[str, float],
    through: Callable[[nn.Module, Mapping[str, Any]], Sequence[torch.Tensor]],
) -> None:
    """Outputs that a runtime computes lie near those of float64 with eager attention, where no mask hides them."""
    made = through(model, placed(model, inputs, dtype))
    outputs = without_padding(dict(zip(call(model, inputs, dtype), made, strict=True)), inputs)
    true = without_padding(eager(model, inputs, torch.float64), inputs)
    floor = without_padding(eager(model, inputs, dtype), inputs)
    agree(outputs, {name: tensor for name, tensor in true.items() if name in outputs}, tolerance, (floor, true))


@reproduces(matches_truth)
def near_float64(
    model: nn.Module, inputs: Mapping[str, Any], dtype: torch.dtype, tolerance: Mapping[str, float]
) -> None:
    """Outputs lie near those of float64 with eager attention, where no mask hides them."""
    outputs = without_padding(call(model, inputs, dtype), inputs)
    true = without_padding(eager(model, inputs, torch.float64), inputs)
    floor = without_padding(eager(model, inputs, dtype), inputs)
    true = {name: tensor for name, tensor in true.items() if name in outputs}
    agree(outputs, true, tolerance, (floor, true))
