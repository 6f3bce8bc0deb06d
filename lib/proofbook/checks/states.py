"""Does a decoder that reads no tokens, but frames of sound or values of a series, read from left to right?

It is asked by itself, of the states that the model hands it in a call of the batch: what stands before it may draw
noise, or make states of more than one moment.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from proofbook.checks.compare import Comparison, Errors, compare, compare_all
from proofbook.checks.plain import agree, before_changes, call, placed, rounding
from proofbook.checks.registry import NotApplicable, Observation, check
from proofbook.checks.reproduction import reproduces
from proofbook.checks.trial import Trial

# arguments that hold states: rows × length × width
_STATES = ("inputs_embeds", "hidden_states")
_CACHE = "past_key_values"
# what a decoder's stack of layers gives
OUTPUT = "last_hidden_state"
# states that are changed, each in a copy of its own, at most
CHANGES = 8


@dataclass(frozen=True)
class Stack:
    """The layers of a decoder, and what they are called with for the batch."""

    trial: Trial
    path: str
    # the argument that holds the states
    states: str
    # all that is given, the cache aside
    given: dict[str, Any]

    @classmethod
    def of(cls, trial: Trial) -> "Stack":
        """The decoder of a trial.

        Raises:
            NotApplicable: it reads tokens, or is not second to an encoder, or keeps no cache.
        """
        if not getattr(trial.config, "is_encoder_decoder", False):
            raise NotApplicable("it has no decoder that is second to an encoder")
        if "decoder_input_ids" in inspect.signature(trial.called.forward).parameters:
            raise NotApplicable("its decoder reads tokens")
        found = _first_call(trial)
        if found is None:
            raise NotApplicable("its decoder keeps no cache: it writes all at once")
        path, given = found
        states = next(name for name in _STATES if isinstance(given.get(name), Tensor))
        return cls(trial, path, states, {**given, "use_cache": False})

    @cached_property
    def module(self) -> nn.Module:
        return self.trial.called.get_submodule(self.path)

    @property
    def dtype(self) -> torch.dtype:
        """That of the target."""
        return getattr(torch, self.trial.target.dtype)  # type: ignore[no-any-return]

    @property
    def length(self) -> int:
        """How many states a row has."""
        return int(self.given[self.states].shape[1])

    @cached_property
    def noise(self) -> Mapping[str, Errors]:
        """The noise floor of what the layers give for the batch."""
        return self.trial.floor_of(self.module, self.given).errors

    def agree(self, actual: Tensor, expected: Tensor) -> list[Comparison]:
        """Two executions that should give the same held against each other."""
        return compare_all({OUTPUT: actual}, {OUTPUT: expected}, self.trial.tolerance.of_two, self.noise)

    @property
    def evidence(self) -> dict[str, Any]:
        """What a reproduction needs to call the layers as the checks do."""
        path = ".".join(filter(None, [self.trial.encoded.module, self.path]))
        return {"path": path, "states": self.states, "given": self.given}


def _first_call(trial: Trial) -> tuple[str, dict[str, Any]] | None:
    """The first module that reads states and takes a cache, the outermost of several: its path, and copies on the CPU
    of what it is given beside the cache."""
    found: list[tuple[str, dict[str, Any]]] = []
    handles = []
    for path, module in trial.called.named_modules():
        signature = inspect.signature(module.forward)
        if not path or not {_CACHE, "use_cache"} <= signature.parameters.keys():
            continue

        def keep(_: Any, args: Any, kwargs: Any, path: str = path, signature: inspect.Signature = signature) -> None:
            given = signature.bind(*args, **kwargs).arguments
            given.update(given.pop("kwargs", {}))
            if not found and any(isinstance(given.get(name), Tensor) for name in _STATES):
                given = {name: value for name, value in given.items() if name != _CACHE and value is not None}
                found.append((path, tree_map_only(Tensor, lambda one: one.detach().to("cpu", copy=True), given)))

        handles.append(module.register_forward_pre_hook(keep, with_kwargs=True))
    try:
        trial.run()
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


@check
def causal_states(trial: Trial) -> Observation:
    """A state changed, in a decoder that reads no tokens, moves nothing before it, and something from there on."""
    stack = Stack.of(trial)
    changed, places = changed_states(stack.given, stack.states)
    found = call(stack.module, changed, stack.dtype)[OUTPUT]
    comparisons = stack.agree(*before_changes(found, places))
    idle = [
        place
        for number, place in enumerate(places, 1)
        if compare(OUTPUT, found[number, place:], found[0, place:], trial.tolerance, stack.noise.get(OUTPUT)).passed
    ]
    note = f"states without influence: {', '.join(map(str, idle))}" if idle else ""
    seen = Observation.of(comparisons, f"1 before each of {len(places)} states, more from there on", note)
    return replace(seen, passed=seen.passed and not idle, evidence=stack.evidence)


@reproduces(causal_states)
def a_state_moves_nothing_before_it(
    whole: Any,
    dtype: torch.dtype,
    tolerance: Mapping[str, float],
    path: str,
    states: str,
    given: Mapping[str, Any],
) -> None:
    """A state changed moves nothing before it: the first row is as the model makes it, each other has one changed."""
    layers = whole.get_submodule(path)
    changed, places = changed_states(given, states)
    found = call(layers, changed, dtype)[OUTPUT]
    kept, expected = before_changes(found, places)
    agree({OUTPUT: kept}, {OUTPUT: expected}, tolerance, rounding(layers, changed, dtype))


def changed_states(given: Mapping[str, Any], states: str) -> tuple[dict[str, Any], list[int]]:
    """The first row, then copies of it with one state turned round in each; and which one.

    Args:
        states: the argument that holds them, rows × length × width; every other tensor has one entry a row.
    """
    rows, length = given[states].shape[:2]
    places = sorted({round(float(at)) for at in torch.linspace(0, length - 1, CHANGES)})
    changed = {
        name: one[:1].repeat(len(places) + 1, *[1] * (one.dim() - 1))
        if isinstance(one, Tensor) and one.dim() and len(one) == rows
        else one
        for name, one in given.items()
    }
    for number, place in enumerate(places, 1):
        changed[states][number, place] *= -1
    return changed, places


@check
def cached_states(trial: Trial) -> Observation:
    """In parts, each behind the cache of those before, a decoder that reads no tokens gives what it gives at once."""
    stack = Stack.of(trial)
    found = states_in_parts(stack.module, stack.given, stack.states, stack.dtype)
    comparisons = stack.agree(found, call(stack.module, stack.given, stack.dtype)[OUTPUT])
    return replace(Observation.of(comparisons, f"1 at each of {stack.length} states"), evidence=stack.evidence)


@reproduces(cached_states)
def states_in_parts_are_those_at_once(
    whole: Any,
    dtype: torch.dtype,
    tolerance: Mapping[str, float],
    path: str,
    states: str,
    given: Mapping[str, Any],
) -> None:
    """States read in parts, each behind the cache of those before, give what they give at once."""
    layers = whole.get_submodule(path)
    found, expected = states_in_parts(layers, given, states, dtype), call(layers, given, dtype)[OUTPUT]
    agree({OUTPUT: found}, {OUTPUT: expected}, tolerance, rounding(layers, given, dtype))


@torch.no_grad()
def states_in_parts(layers: nn.Module, given: Mapping[str, Any], states: str, dtype: torch.dtype) -> Tensor:
    """What layers give for states that are read in parts: the first half, two by themselves, the rest.

    Args:
        given: all that they are called with beside the cache.
        states: the argument that holds the states, rows × length × width.
    """
    length, kept, parts = given[states].shape[1], None, list[Tensor]()
    half = length // 2
    for start, stop in pairwise(sorted({0, half, half + 1, half + 2, length})):
        part = {**placed(layers, given, dtype), "use_cache": True, "past_key_values": kept}
        part[states] = part[states][:, start:stop]
        if "attention_mask" in part:  # of all that was read so far
            part["attention_mask"] = part["attention_mask"][:, :stop]
        outputs = layers(**part)
        parts.append(outputs.last_hidden_state.cpu())
        kept = outputs.past_key_values
    return torch.cat(parts, dim=1)
