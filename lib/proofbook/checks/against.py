"""Other executions than that of the batch, each held against a truth of its own."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from proofbook.checks.compare import Comparison, Errors, compare_all, largest_errors
from proofbook.checks.conditioning import undetermined
from proofbook.checks.hidden import without_padding
from proofbook.checks.trial import Trial
from proofbook.checks.truth import truth_of


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
        The comparisons, their names followed by ``note``, and the outputs on the target. What rounding alone moves
        beyond any error allowed, in float64 arithmetic as well, says nothing of an execution and is left out.
    """
    outputs = trial.run_module(module, inputs)
    module = trial.standing if module is trial.called else module
    truth = truth_of(module, inputs)
    floor = trial.floor_of(module, inputs, truth)
    true = {name: tensor for name, tensor in truth.outputs.items() if name in outputs or "attention" not in name}
    seen, true = (without_padding(one, inputs) for one in (outputs, true))
    noise = dict(floor.errors)
    for name, other in (known or {}).items():
        if name in noise and other.element > noise[name].element:
            noise[name] = other
    comparisons = compare_all(seen, true, trial.tolerance, noise)
    if truth.exact and any(not one.passed and math.isfinite(one.ratio) for one in comparisons):
        # the floor of one rounding may be small by luck
        noise = largest_errors([noise, floor.wider])
        comparisons = compare_all(seen, true, trial.tolerance, noise, floor.moved)
        loose = undetermined(floor, {one.name for one in comparisons if not one.passed}, trial.tolerance)
        comparisons = [one for one in comparisons if one.name not in loose]
    return [replace(one, name=f"{one.name}{note}") for one in comparisons], outputs
