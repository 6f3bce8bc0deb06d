"""Does the checkpoint become the model, and the model the checkpoint again?"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from proofbook.checks.compare import differing
from proofbook.checks.plain import call, same
from proofbook.checks.registry import NotApplicable, Observation, check, evidence
from proofbook.checks.reproduction import reproduces
from proofbook.checks.trial import Trial
from proofbook.subject.checkpoint import Loaded, load_model

# the files that a checkpoint is split into, about
SHARDS = 3


@check(graphs=True)
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


@check(floats=True)
def save_load_round_trip(trial: Trial) -> Observation:
    """A model saved and loaded again has the same parameters, buffers, ties and outputs, bit for bit."""
    with tempfile.TemporaryDirectory(prefix="proofbook-") as folder:
        trial.model.save_pretrained(folder)
        loaded = load_model(trial.spec, Path(folder), getattr(torch, trial.target.dtype))
    again = loaded.model.to(trial.session.device)
    moved = differing(trial.outputs, trial.run_with(again))
    return _same(trial.model, loaded, f" and {len(moved)} of {len(trial.outputs)} outputs", moved)


@check(floats=True)
def sharded_files(trial: Trial) -> Observation:
    """Saved in several files, and loaded in the dtype that they say, it is the same model, bit for bit."""
    sizes = [one.numel() * one.element_size() for one in trial.model.state_dict().values()]
    largest = max(1, sum(sizes) // SHARDS)
    with tempfile.TemporaryDirectory(prefix="proofbook-") as folder, evidence(largest=largest):
        trial.model.save_pretrained(folder, max_shard_size=largest)
        files = len(list(Path(folder).glob("*.safetensors")))
        loaded = load_model(trial.spec, Path(folder), "auto")
    if files < 2 and len(sizes) > 1:
        return Observation(False, "1 file", f"about {SHARDS}", evidence={"largest": largest})
    return replace(_same(trial.model, loaded, f", from {files} files"), evidence={"largest": largest})


@reproduces(sharded_files)
def several_files_are_the_same(whole: Any, largest: int) -> None:
    """Parameters and buffers survive saving in several files and loading in the dtype that these say, bit for bit."""
    with tempfile.TemporaryDirectory() as folder:
        whole.save_pretrained(folder, max_shard_size=largest)
        files = len(list(Path(folder).glob("*.safetensors")))
        again = type(whole).from_pretrained(folder, dtype="auto").to(whole.device)
    assert files > 1, f"observed {files} file, allowed several of {largest} bytes"
    same(again.state_dict(), whole.state_dict())


@check(floats=True)
def tied_weights(trial: Trial) -> Observation:
    """Parameters that the class ties are one and the same: a step in one is a step in the other."""
    pairs: dict[str, str] = getattr(trial.model, "all_tied_weights_keys", {})
    if not pairs:
        raise NotApplicable("this configuration ties no parameters")
    parameters = dict(trial.model.named_parameters(remove_duplicate=False))
    parameters.update(trial.model.named_buffers(remove_duplicate=False))
    apart = [
        f"{one} and {other}"
        for one, other in pairs.items()
        if parameters[one].data_ptr() != parameters[other].data_ptr()
    ]
    return Observation(not apart, f"{len(apart)} of {len(pairs)} pairs apart", "0", ", ".join(apart[:5]))


@reproduces(tied_weights)
def tied_parameters_are_one(whole: Any) -> None:
    """Parameters that the class ties have the same memory."""
    tensors = {
        **dict(whole.named_buffers(remove_duplicate=False)),
        **dict(whole.named_parameters(remove_duplicate=False)),
    }
    for one, other in whole.all_tied_weights_keys.items():
        apart = tensors[one].data_ptr() != tensors[other].data_ptr()
        assert not apart, f"{one} and {other}: observed two tensors, allowed one"


def _same(model: PreTrainedModel, loaded: Loaded, more: str, moved: Sequence[str] = ()) -> Observation:
    """Hold a model that was saved and loaded again against what it was."""
    before, after = model.state_dict(), loaded.model.state_dict()
    changed = differing(
        before, {name: one.to(before[name].device) if name in before else one for name, one in after.items()}
    )
    astray = [*loaded.missing_keys, *loaded.unexpected_keys, *loaded.mismatched_keys]
    untied = sorted(_ties(model) ^ _ties(loaded.model))
    return Observation(
        passed=not (changed or moved or astray or untied),
        observed=f"{len(changed)} of {len(before)} tensors differ{more}; {len(astray)} astray, {len(untied)} untied",
        allowed="0 of each",
        detail=", ".join([*changed[:5], *moved[:5], *astray[:5], *untied[:5]]),
    )


def _ties(model: PreTrainedModel) -> set[str]:
    """The names of parameters that share their memory, each group as one text."""
    groups: dict[int, list[str]] = {}
    for name, one in model.named_parameters(remove_duplicate=False):
        if one.numel():
            groups.setdefault(one.data_ptr(), []).append(name)
    return {" = ".join(sorted(names)) for names in groups.values() if len(names) > 1}


@reproduces(save_load_round_trip)
def saved_and_loaded_is_the_same(whole: Any, model: nn.Module, inputs: Mapping[str, Any], dtype: torch.dtype) -> None:
    """Parameters, buffers and outputs survive saving and loading, bit for bit."""
    with tempfile.TemporaryDirectory() as folder:
        whole.save_pretrained(folder)
        again = type(whole).from_pretrained(folder, dtype=dtype).eval().to(whole.device)
    same(again.state_dict(), whole.state_dict())
    path = next(name for name, module in whole.named_modules() if module is model)
    same(call(again.get_submodule(path), inputs, dtype), call(model, inputs, dtype))
