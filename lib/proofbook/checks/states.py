"""Does a decoder that reads no tokens, but frames of sound or values of a series, read from left to right?

It is asked by itself, of the states that the model hands it in a call of the batch: what stands before it may draw
noise, or make states of more than one moment.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from proofbook.checks.causality import parting
from proofbook.checks.compare import Comparison, Errors, compare, compare_all
from proofbook.checks.localise import Execution
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
    seen = Observation.of(
        comparisons,
        f"1 before each of {len(places)} states, more from there on",
        note,
        executions=lambda: parting(stack.module, changed, found, places),
    )
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
    expected = call(stack.module, stack.given, stack.dtype)[OUTPUT]
    seen = Observation.of(
        stack.agree(found, expected),
        f"1 at each of {stack.length} states",
        executions=lambda: _first_part_apart(stack, found, expected),
    )
    return replace(seen, evidence=stack.evidence)


def _first_part_apart(stack: Stack, found: Tensor, expected: Tensor) -> tuple[Execution, Execution]:
    """The first part that is off, behind the cache of those before it, and the same states read at once."""
    reads = parts(stack.given, stack.states)
    spans = list(pairwise([0, *accumulate(one[stack.states].shape[1] for one in reads)]))
    off = [not all(one.passed for one in stack.agree(found[:, a:b], expected[:, a:b])) for a, b in spans]
    at = off.index(True) if any(off) else len(off) - 1
    there = torch.arange(stack.length)
    seen = (there >= spans[at][0]) & (there < spans[at][1])

    def before() -> dict[str, Any]:
        return {_CACHE: [None, *(kept for _, kept in in_parts(stack.module, reads[:at], stack.dtype))][-1]}

    return Execution(stack.module, reads[at], before=before), Execution(stack.module, stack.given, seen=seen)


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


def states_in_parts(layers: nn.Module, given: Mapping[str, Any], states: str, dtype: torch.dtype) -> Tensor:
    """What layers give for states that are read in parts, each behind the cache of those before."""
    return torch.cat([found for found, _ in in_parts(layers, parts(given, states), dtype)], dim=1)


def parts(given: Mapping[str, Any], states: str) -> list[dict[str, Any]]:
    """What each of several calls reads beside the cache: the first half of the states, two by themselves, the rest.

    Args:
        given: all that the layers are called with beside the cache.
        states: the argument that holds the states, rows × length × width.
    """
    length, found = given[states].shape[1], []
    half = length // 2
    for start, stop in pairwise(sorted({0, half, half + 1, half + 2, length})):
        part = {**given, "use_cache": True, states: given[states][:, start:stop]}
        if "attention_mask" in part:  # of all that was read so far
            part["attention_mask"] = part["attention_mask"][:, :stop]
        found.append(part)
    return found


@torch.no_grad()
def in_parts(layers: nn.Module, reads: Sequence[Mapping[str, Any]], dtype: torch.dtype) -> Iterator[tuple[Tensor, Any]]:
    """The states that layers give for each part, behind the cache of those before, on the CPU; and the cache."""
    kept = None
    for part in reads:
        outputs = layers(**placed(layers, part, dtype), past_key_values=kept)
        kept = outputs.past_key_values
        yield outputs.last_hidden_state.cpu(), kept
