"""Does the checkpoint become the model, and the model the checkpoint again?"""

import tempfile
from pathlib import Path

import torch

from proofbook.checks.compare import differing
from proofbook.checks.registry import Observation, check
from proofbook.checks.trial import Trial
from proofbook.subject.checkpoint import load_model


@check
def loads(trial: Trial) -> Observation:
    """from_pretrained fills every parameter from the checkpoint: none missing, unexpected or of another shape."""
    loaded = trial.loaded
    astray = {
        "missing": loaded.missing_keys,
        "unexpected": loaded.unexpected_keys,
        "mismatched": loaded.mismatched_keys,
    }
    return Observation(
        passed=not any(astray.values()),
        observed=", ".join(f"{len(keys)} {kind}" for kind, keys in astray.items()),
        allowed="0 of each",
        detail="; ".join(f"{kind}: {', '.join(map(str, list(keys)[:5]))}" for kind, keys in astray.items() if keys),
    )


@check
def save_load_round_trip(trial: Trial) -> Observation:
    """A model saved and loaded again has the same parameters, buffers and outputs, bit for bit."""
    dtype = getattr(torch, trial.target.dtype)
    with tempfile.TemporaryDirectory(prefix="proofbook-") as folder:
        trial.model.save_pretrained(folder)
        again = load_model(trial.spec, Path(folder), dtype).model.to(trial.session.device)
    before, after = trial.model.state_dict(), again.state_dict()
    changed, moved = differing(before, after), differing(trial.outputs, trial.run_with(again))
    return Observation(
        passed=not changed and not moved,
        observed=f"{len(changed)} of {len(before)} tensors and {len(moved)} of {len(trial.outputs)} outputs differ",
        allowed="0 differ",
        detail=", ".join([*changed[:5], *moved[:5]]),
    )
