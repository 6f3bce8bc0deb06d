"""Other executions than that of the batch, each held against a truth of its own."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from proofbook.checks.compare import Comparison, Errors, compare_all, errors_between
from proofbook.checks.hidden import without_padding
from proofbook.checks.trial import Trial
from proofbook.checks.truth import floor_outputs, truth_of


def against_truth(
    trial: Trial,
    module: nn.Module,
    inputs: Mapping[str, Any],
    note: str = "",
    known: Mapping[str, Errors] | None = None,
) -> tuple[list[Comparison], dict[str, Tensor]]:
    """Call a module with these inputs on the target, and hold its outputs against float64 and their own noise floor.

    Args:
        known: the noise floor of a like execution, by name: of both floors the larger holds.

    Returns:
        The comparisons, their names followed by ``note``, and the outputs on the target.
    """
    true, floor = truth_of(module, inputs).outputs, floor_outputs(module, inputs, getattr(torch, trial.target.dtype))
    outputs = trial.run_module(module, inputs)
    true = {name: tensor for name, tensor in true.items() if name in outputs or "attention" not in name}
    seen, true, floor = (without_padding(one, inputs) for one in (outputs, true, floor))
    noise = errors_between(floor, true, trial.tolerance)
    for name, other in (known or {}).items():
        if name in noise and other.element > noise[name].element:
            noise[name] = other
    comparisons = compare_all(seen, true, trial.tolerance, noise)
    return [replace(one, name=f"{one.name}{note}") for one in comparisons], outputs
