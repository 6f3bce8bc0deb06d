"""What a precision can't decide: outputs that its rounding moves further than any bound, however they are computed."""

from collections.abc import Collection, Sequence

import torch

from proofbook.checks.compare import Comparison
from proofbook.checks.hidden import without_padding
from proofbook.checks.registry import NotApplicable, Observation
from proofbook.checks.trial import Trial
from proofbook.checks.truth import reference_model, run_reference

# how often weights are rounded another way
DRAWS = 3


def judged(trial: Trial, comparisons: Sequence[Comparison], allowed: str, note: str = "") -> Observation:
    """What comparisons with truth amount to, those left out that the trial's precision does not determine.

    Raises:
        NotApplicable: it determines none.
    """
    failed = {one.name for one in comparisons if not one.passed}
    loose = undetermined(trial, failed) if failed and trial.truth.exact else set[str]()
    kept = [one for one in comparisons if one.name not in loose]
    names = ", ".join(sorted(loose))
    why = f"rounding to {trial.target.dtype} decides, in float64 arithmetic as well, what becomes of {names}"
    if not kept:
        raise NotApplicable(why)
    return Observation.of(kept, allowed, "; ".join([note] * bool(note) + [why] * bool(loose)), trial.beside_truth)


def undetermined(trial: Trial, names: Collection[str]) -> set[str]:
    """Those outputs that float64 truth itself moves beyond the error allowed when each weight is changed by as much as
    rounding to the trial's dtype changes it: a choice lies within it, of a code, an expert or a mask."""
    found: set[str] = set()
    eps = torch.finfo(getattr(torch, trial.target.dtype)).eps
    # as the model is now: what is wrong with it, if anything, moves nothing by itself
    plain = run_reference(reference_model(trial.called, torch.float64), trial.inputs, torch.float64)
    true = without_padding({name: one for name, one in plain.items() if name in names}, trial.inputs)
    for draw in range(DRAWS):
        model = reference_model(trial.called, torch.float64)
        generator = torch.Generator().manual_seed(draw)
        with torch.no_grad():
            for one in model.parameters():
                if one.is_floating_point():
                    # the unit in the last place is an eps of the value at most
                    one.mul_(1 + eps * (torch.rand(one.shape, generator=generator, dtype=one.dtype) - 0.5))
        moved = without_padding(run_reference(model, trial.inputs, torch.float64), trial.inputs)
        comparisons = trial.agree({name: moved[name] for name in true}, true)
        found |= {one.name for one in comparisons if not one.passed}
    return found
