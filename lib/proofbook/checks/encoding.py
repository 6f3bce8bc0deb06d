"""Does an encoder read the order of its tokens, and keep texts apart that share a row?"""

import inspect
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from proofbook.checks.compare import Comparison
from proofbook.checks.influence import Measure, arranged
from proofbook.checks.localise import Execution
from proofbook.checks.padded_text import require_separate
from proofbook.checks.registry import NotApplicable, Observation, check
from proofbook.checks.signal import kept_ids, only_drawn
from proofbook.checks.streams import Stream, slice_row
from proofbook.checks.trial import Trial

# inputs that have an entry a token, and mean the same wherever it stands
_PLAIN = ("token_type_ids",)


@check(graphs=True)
def order_of_tokens(trial: Trial) -> Observation:
    """Two tokens of a row exchanged change the outputs by more than their order: positions are read."""
    only_drawn(trial)
    ids = trial.inputs.get("input_ids")
    if not isinstance(ids, Tensor) or ids.dim() != 2:
        raise NotApplicable("it reads no tokens")
    exchanged = _exchanged(trial, ids)
    whole = {name: arranged(one) for name, one in trial.outputs.items()}
    outputs = {name: arranged(one) for name, one in trial.run({**trial.inputs, "input_ids": exchanged}).items()}
    measure = Measure(whole, trial.noise, trial.tolerance)
    rows = [row for row in range(len(ids)) if not torch.equal(exchanged[row], ids[row])]
    if not rows:
        raise NotApplicable("no row has two plain tokens that differ")

    def part(row: int) -> Any:
        return lambda output: output[row] if output.dim() and len(output) == len(ids) else output

    least = min(measure.moved(outputs, part(row)) for row in rows)
    return Observation(
        passed=least >= trial.tolerance.signal,
        observed=f"outputs, sorted in each row, moved by {least:.2g} times the error allowed",
        allowed=f"{trial.tolerance.signal:g} times or more in every row",
    )


def _exchanged(trial: Trial, ids: Tensor) -> Tensor:
    """Each row with the first of its plain tokens and the next that differs from it in each other's place."""
    kept = torch.tensor(sorted(kept_ids(trial)), dtype=ids.dtype)
    mask = trial.inputs.get("attention_mask")
    seen = (
        mask.bool() if isinstance(mask, Tensor) and mask.shape == ids.shape else torch.ones_like(ids, dtype=torch.bool)
    )
    exchanged = ids.clone()
    for row, usable in enumerate(seen & ~torch.isin(ids, kept)):
        places = usable.nonzero().flatten()
        others = [int(place) for place in places if ids[row, place] != ids[row, places[0]]]
        if others:
            pair = [int(places[0]), others[0]]
            exchanged[row, pair] = ids[row, pair[::-1]]
    return exchanged


@check
def packed_rows(trial: Trial) -> Observation:
    """Rows in one sequence, kept apart by a mask of tokens × tokens and by positions, give what each gives alone."""
    require_separate(trial)
    # the library's own maker of masks, which hands one of four dimensions on as it is
    makes = hasattr(sys.modules[type(trial.model).__module__], "create_bidirectional_mask")
    if not makes or trial.model.can_generate():
        raise NotApplicable("its code makes masks of its own, which may take none of tokens × tokens")
    if {"position_ids", "attention_mask"} - inspect.signature(trial.called.forward).parameters.keys():
        raise NotApplicable("it takes no positions beside a mask")
    if not {"input_ids", "attention_mask"} <= trial.inputs.keys() <= {"input_ids", "attention_mask", *_PLAIN}:
        raise NotApplicable("it reads more than tokens")
    if len(set(getattr(trial.config, "layer_types", None) or ())) > 1:
        raise NotApplicable("its layers see unlike windows, which one mask for all of them would open")
    stream = Stream("input_ids", "attention_mask")
    rows = [stream.unpadded(slice_row(trial.inputs, row)) for row in range(len(trial.rows))]
    starts = [_numbered(trial, row) for row in rows]
    alone = [trial.run(row) for row in rows]
    lengths = [stream.length(row) for row in rows]
    blocks = torch.block_diag(*(torch.ones(length, length) for length in lengths)) > 0
    if getattr(trial.config, "is_decoder", False):
        blocks = blocks.tril()
    mask = torch.zeros(blocks.shape).masked_fill(~blocks, torch.finfo(getattr(torch, trial.target.dtype)).min)
    packed = {name: torch.cat([row[name] for row in rows], dim=1) for name in rows[0]}
    packed |= {"attention_mask": mask[None, None], "position_ids": torch.cat(starts, dim=1)}
    try:
        together = trial.run(packed)
    except RuntimeError as error:  # what reads the mask beside its attention
        raise NotApplicable(f"it takes no mask of tokens × tokens: {error}") from error
    comparisons, apart = list[Comparison](), list[tuple[int, Tensor]]()
    for row, (outputs, length) in enumerate(zip(alone, lengths, strict=True)):
        own = torch.repeat_interleave(torch.tensor(lengths)) == row
        for name, one in outputs.items():
            if one.dim() > 1 and one.shape[:2] == (1, length) and name in together:
                comparisons += trial.agree({name: together[name][:, own]}, {name: one}, f", row {row}")
                apart += [(row, own)] * (not comparisons[-1].passed)
    if not comparisons:
        raise NotApplicable("no output has an entry a token")

    def executions() -> tuple[Execution, Execution]:
        row, own = apart[0]
        return Execution(trial.called, packed, seen=own), Execution(trial.called, rows[row])

    return Observation.of(comparisons, f"1 in each of {len(rows)} rows", executions=executions if apart else None)


def _numbered(trial: Trial, row: Mapping[str, Any]) -> Tensor:
    """The positions that the model itself gives a row without padding: from 0, or from behind that of padding."""
    length, padding = row["input_ids"].shape[1], getattr(trial.config, "pad_token_id", None)
    expected = trial.run(row)
    for first in (0, (padding or 0) + 1):
        positions = torch.arange(first, first + length)[None]
        if all(one.passed for one in trial.agree(trial.run({**row, "position_ids": positions}), expected)):
            return positions
    raise NotApplicable("its positions are counted from neither 0 nor the padding token")
