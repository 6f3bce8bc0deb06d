"""Does the checkpoint become the model, and the model the checkpoint again?"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from proofbook.checks.compare import differing
from proofbook.checks.plain import call, same
from proofbook.checks.registry import Observation, check
from proofbook.checks.reproduction import reproduces
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


@reproduces(loads)
def checkpoint_fills_the_model(whole: Any) -> None:
    """from_pretrained finds in a saved checkpoint what it needs, and nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        whole.save_pretrained(folder)
        _, keys = type(whole).from_pretrained(folder, output_loading_info=True)
    astray = {kind: found for kind, found in keys.items() if kind.endswith("_keys") and found}
    assert not astray, f"observed {astray}, allowed none of them"


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


@reproduces(save_load_round_trip)
def saved_and_loaded_is_the_same(whole: Any, model: nn.Module, inputs: Mapping[str, Any], dtype: torch.dtype) -> None:
    """Parameters, buffers and outputs survive saving and loading, bit for bit."""
    with tempfile.TemporaryDirectory() as folder:
        whole.save_pretrained(folder)
        again = type(whole).from_pretrained(folder, dtype=dtype).eval().to(whole.device)
    same(again.state_dict(), whole.state_dict())
    path = next(name for name, module in whole.named_modules() if module is model)
    same(call(again.get_submodule(path), inputs, dtype), call(model, inputs, dtype))
