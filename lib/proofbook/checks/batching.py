"""Does a row's answer depend on the company it keeps?"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from proofbook.checks.compare import Comparison, differing
from proofbook.checks.conditioning import judged
from proofbook.checks.hidden import without_padding
from proofbook.checks.localise import Execution
from proofbook.checks.plain import agree, call, eager
from proofbook.checks.registry import NotApplicable, Observation, check, evidence
from proofbook.checks.reproduction import reproduces
from proofbook.checks.streams import copies, slice_row, sliceable
from proofbook.checks.trial import Trial
from proofbook.runtimes.exporting import tensors_of


@check(graphs=True)
def batch_matches_single(trial: Trial) -> Observation:
    """Each row alone gives what it gives in the batch, the padding of the batch kept."""
    size = len(trial.rows)
    if not sliceable(trial.inputs, size) and not _stacked(trial):
        raise NotApplicable("the inputs of several rows are packed into one tensor, so a row can't be cut out of them")
    rows = [slice_row(trial.inputs, row, size) for row in range(size)]
    with evidence(rows=size):
        comparisons = {row: compare_row(trial, row, size, one, trial.run(one)) for row, one in enumerate(rows)}
    every = [one for several in comparisons.values() for one in several]
    if not every:
        raise NotApplicable("no output has one entry a row")
    if not all(one.passed for one in every) and trial.spec.noise and _draws_for_each(trial, rows[0], size):
        raise NotApplicable("a forward call draws noise, and how much of it comes before a row depends on the batch")
    worst = max(comparisons, key=lambda row: max((one.ratio for one in comparisons[row]), default=0.0))

    def executions() -> tuple[Execution, Execution]:
        called = trial.called
        return Execution(called, rows[worst]), Execution(called, trial.inputs, worst)

    seen = judged(trial, every, f"1 in each of {size} rows", executions=executions)
    return replace(seen, evidence={"rows": size})


def _draws_for_each(trial: Trial, row: Mapping[str, Any], size: int) -> bool:
    """Whether the rows of a batch, all of them the same, differ in what they give: each draws noise of its own."""
    outputs = {n: one for n, one in trial.run(copies(row, size)).items() if one.dim() and len(one) == size}
    return any(
        not all(one.passed for one in trial.agree({name: one[at]}, {name: one[0]}))
        for name, one in outputs.items()
        for at in range(1, size)
    )


def _stacked(trial: Trial) -> bool:
    """Whether the inputs of the batch are those of its rows one behind the other, as each is encoded alone."""
    size = len(trial.rows)
    if not all(one.dim() for one in trial.inputs.values() if isinstance(one, torch.Tensor)):
        return False
    cut = (tensors_of(slice_row(trial.inputs, row, size)) for row in range(size))
    return not any(
        differing(one, tensors_of(trial.encode([row]).inputs)) for one, row in zip(cut, trial.rows, strict=True)
    )


@reproduces(batch_matches_single)
def row_alone_is_row_of_batch(
    model: nn.Module, inputs: Mapping[str, Any], dtype: torch.dtype, tolerance: Mapping[str, float], rows: int
) -> None:
    """Each row alone gives what it gives in the batch."""
    batch = call(model, inputs, dtype)
    whole = eager(model, inputs, dtype), eager(model, inputs, torch.float64)
    for row in range(rows):
        single = slice_row(inputs, row, rows)
        alone = call(model, single, dtype)
        part = {
            name: tensor[row : row + 1]
            for name, tensor in batch.items()
            if tensor.dim() and name in alone and alone[name].shape == tensor[row : row + 1].shape
        }
        own = eager(model, single, dtype), eager(model, single, torch.float64)
        agree({name: alone[name] for name in part}, part, tolerance, whole, own)


def compare_row(
    trial: Trial, row: int, size: int, inputs: Mapping[str, Any], single: Mapping[str, torch.Tensor]
) -> list[Comparison]:
    """Hold a row's outputs alone, of these inputs, against its part of the batch's, where they have one entry a row."""
    comparisons = []
    for name, together in trial.outputs.items():
        alone = single.get(name)
        if name.endswith("loss"):
            continue  # a mean over the batch
        if alone is None or not together.dim() or together.shape[0] != size or alone.shape[0] != 1:
            continue
        part = _row_of(together, row, size, alone)
        if part is not None:
            seen, expected = (without_padding({name: one}, inputs)[name][0] for one in (alone, part[None]))
            comparisons += trial.agree({name: seen}, {name: expected}, f", row {row}", inputs)
    return comparisons


def _row_of(tensor: torch.Tensor, row: int, size: int, alone: torch.Tensor) -> torch.Tensor | None:
    """Row ``row`` of a batch's output; a square of rows × rows (similarities) gives its diagonal entry."""
    part = tensor[row]
    if part.shape != alone.shape[1:] and part.dim() and part.shape[0] == size and alone.shape[1] == 1:
        part = part[row : row + 1]
    return part if part.shape == alone.shape[1:] else None
