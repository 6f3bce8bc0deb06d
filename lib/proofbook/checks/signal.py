"""Does everything that goes into the model matter to what comes out of it?

A fault in what has no influence is seen by no other check: a mask that is ignored, a bias that is not loaded.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from proofbook.catalog import Weights
from proofbook.catalog.schema import Idle
from proofbook.checks.influence import STEP, Measure, grouped, moved_rows, parameter_influence, without_position
from proofbook.checks.plain import call, moved
from proofbook.checks.registry import NotApplicable, Observation, check
from proofbook.checks.reproduction import reproduces
from proofbook.checks.trial import Trial
from proofbook.checks.truth import reference_model
from proofbook.checks.vary import Fixed, vary
from proofbook.environments import here

# each of two calls may be off by the error allowed: nearer than twice that, nothing has moved but rounding
NOTHING = 2.0


@check(graphs=True)
def inputs_matter(trial: Trial) -> Observation:
    """Changing one position, mask bit or patch of each input moves outputs elsewhere, far beyond the tolerance."""
    only_drawn(trial)
    measure = Measure(trial.outputs, trial.noise, trial.tolerance)
    kept = kept_ids(trial)
    least, fixed, changes = {}, [], {}
    for name, value in trial.inputs.items():
        if not isinstance(value, torch.Tensor):
            continue
        try:
            change = vary(name, trial.inputs, kept)
            outputs = trial.run({**trial.inputs, name: change.value})
        except Fixed as reason:
            fixed.append(f"{name} {reason}")
        except Exception as error:  # each model refuses in its own way what does not fit its other inputs
            fixed.append(f"{name} takes no other value here ({type(error).__name__}: {str(error)[:80]})")
        else:
            changes[name] = change
            least[name] = min(moved_rows(measure, outputs, change, len(trial.rows)))
    if not least:
        raise NotApplicable("; ".join(fixed) or "no input is a tensor")
    dead = [name for name, share in least.items() if share < trial.tolerance.signal]
    judged = _judged({name: least[name] for name in dead}, least, trial.spec.idle)
    return Observation(
        passed=not judged.wrong,
        observed=", ".join(f"{name} {share:.2g}" for name, share in least.items()) + " times the error allowed",
        allowed=f"{trial.tolerance.signal:g} times or more in every row",
        detail="; ".join([*judged.wrong, *judged.known, *fixed]),
        evidence={
            "changed": {name: changes[name].value for name in dead if name in judged.rest},
            "at": {name: dict(changes[name].at) for name in dead if name in judged.rest},
        },
    )


@reproduces(inputs_matter)
def inputs_move_outputs(
    model: nn.Module,
    inputs: Mapping[str, Any],
    dtype: torch.dtype,
    tolerance: Mapping[str, float],
    changed: Mapping[str, torch.Tensor],
    at: Mapping[str, Mapping[int, int | None]],
) -> None:
    """An input changed in one place of a row moves the outputs of that row elsewhere, by more than rounding."""
    before = call(model, inputs, dtype)
    for name, value in changed.items():
        size, length = value.shape[:2]
        after = call(model, {**inputs, name: value}, dtype)
        for row, place in at[name].items():
            was, now = (
                {
                    key: tensor[row] if place is None else without_position(tensor[row], length, place)
                    for key, tensor in outputs.items()
                    if tensor.dim() and len(tensor) == size
                }
                for outputs in (before, after)
            )
            by = moved(now, was, tolerance)
            where = f"row {row}" if place is None else f"row {row}, position {place}"
            assert by > 1, (
                f"{name} changed in {where}: outputs observed to move by {by:.3g} roundings, allowed 1 at least"
            )


@check(floats=True)
def parameters_matter(trial: Trial) -> Observation:
    """A step of half its size in each parameter moves outputs far beyond the tolerance; unused ones are listed."""
    only_drawn(trial)
    if trial.target.dtype != "float32":
        raise NotApplicable("the weights are those of every other target; asked in float32, where steps show best")
    model = reference_model(trial.model, torch.float32)
    part = model.get_submodule(trial.encoded.module)
    measure = Measure(trial.floor.outputs, trial.noise, trial.tolerance)
    found = parameter_influence(model, part, trial.inputs, measure, trial.tolerance.signal)
    # a shift that is the same for all that are compared or centred next: of keys before softmax, before a norm
    cancelled = [name for name, share in found.weak.items() if share < NOTHING and name.endswith("bias")]
    weak = [name for name in found.weak if name not in cancelled]
    judged = _judged({name: found.weak[name] for name in weak}, dict(model.named_parameters()), trial.spec.idle)
    lists = {
        "on no path to an output of this call": found.unused,
        "cancelled by what follows": cancelled,
        "not asked": found.unasked,
    }
    listed = [f"{title}: {', '.join(grouped(names))}" for title, names in lists.items() if names]
    without = len(found.unused) + len(cancelled) + len(weak) - len(judged.rest)
    unasked = f", {len(found.unasked)} not asked" if found.unasked else ""
    return Observation(
        passed=not judged.wrong,
        observed=f"{len(judged.rest)} of {found.total} used and too weak, {without} without influence{unasked}",
        allowed=f"0 that are used and move no output by {trial.tolerance.signal:g} times the error allowed",
        detail="; ".join([*judged.wrong, *judged.known, *listed]),
        evidence={"names": judged.rest[:5]},
    )


@reproduces(parameters_matter)
@torch.no_grad()
def parameters_move_outputs(
    whole: nn.Module,
    model: nn.Module,
    inputs: Mapping[str, Any],
    dtype: torch.dtype,
    tolerance: Mapping[str, float],
    names: list[str],
) -> None:
    """Noise of half its size, added to a parameter, moves outputs by more than rounding."""
    before = call(model, inputs, dtype)
    for name in names:
        parameter = whole.get_parameter(name)
        kept = parameter.clone()
        size = float(kept.square().mean().sqrt()) or 1.0
        parameter.add_(torch.randn(kept.shape, generator=torch.Generator().manual_seed(0)).to(kept), alpha=STEP * size)
        by = moved(call(model, inputs, dtype), before, tolerance)
        parameter.copy_(kept)
        assert by > 1, f"{name} changed: outputs observed to move by {by:.3g} roundings, allowed 1 at least"


@dataclass(frozen=True)
class _Judged:
    """What is wrong, and what the entry knows of, in words."""

    wrong: list[str]
    known: list[str]
    # the names that the entry does not know of
    rest: list[str]


def _judged(dead: Mapping[str, float], all_: Iterable[str], idle: Mapping[str, Idle]) -> _Judged:
    """Hold names without influence against those that the model's entry lists as ``idle``, patterns with reasons."""
    wrong, known, rest = [], [], list(dead)
    all_ = list(all_)
    for pattern, known_of in idle.items():
        if not here(known_of.needs):
            continue
        matching = [name for name in all_ if re.fullmatch(pattern, name)]
        found = [name for name in matching if name in dead]
        if found:
            known.append(f"{', '.join(grouped(found))}: {known_of.reason}")
        elif matching and known_of.shows == "always":
            wrong.append(f"{pattern} has influence, although the entry lists it as idle")
        rest = [name for name in rest if name not in found]
    if rest:
        most = max(dead[name] for name in rest)
        wrong.insert(0, f"without enough influence, {most:.2g} times at most: {', '.join(grouped(rest))}")
    return _Judged(wrong, known, rest)


def only_drawn(trial: Trial) -> None:
    """Raises NotApplicable where the weights were not drawn to carry signal."""
    if trial.weights is not Weights.TINY:
        raise NotApplicable("trained weights are as they are; asked of those that were drawn to carry signal")


def kept_ids(trial: Trial) -> set[int]:
    """Token ids with a meaning of their own: special tokens, and those that the configuration names."""
    tokenizer = getattr(trial.processor, "tokenizer", trial.processor)
    return set(getattr(tokenizer, "all_special_ids", ())) | set(_named_ids(trial.config.to_dict()))


def _named_ids(config: Mapping[str, Any]) -> list[int]:
    found: list[int] = []
    for key, value in config.items():
        if isinstance(value, Mapping):
            found += _named_ids(value)
        elif re.search(r"token_(id|index|ids)$", str(key)):  # id2label has numbers for keys
            found += [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, int)]
    return found
