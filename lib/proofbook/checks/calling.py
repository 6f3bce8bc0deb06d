"""Does it give the same however it is called? With arguments left out or given, in any order, as ids or embeddings."""

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin

from proofbook.checks.compare import Comparison
from proofbook.checks.localise import Execution
from proofbook.checks.plain import agree, call, placed, rounding
from proofbook.checks.registry import NotApplicable, Observation, check, evidence
from proofbook.checks.reproduction import reproduces
from proofbook.checks.streams import CODES
from proofbook.checks.trial import Trial
from proofbook.runtimes.outputs import flatten, is_cache

# what an optional argument means when it is left out, by the end of its name
_ABSENT = {"attention_mask": 1, "pixel_mask": 1, "padding_mask": 1, "token_type_ids": 0}
# the mask that belongs to ids, where a processor makes none
_MASKS = {"input_ids": "attention_mask", "decoder_input_ids": "decoder_attention_mask"}
_EMBEDDED = {"input_ids": "inputs_embeds", "decoder_input_ids": "decoder_inputs_embeds"}


@check
def tuple_outputs(trial: Trial) -> Observation:
    """return_dict=False gives the same outputs in the same order, as a tuple."""
    inputs = {**trial.inputs, "return_dict": False}
    try:
        kind = type(trial.session.call(trial.session.place(inputs)))
    except TypeError as error:
        if "unexpected keyword argument 'return_dict'" in str(error):
            raise NotApplicable("forward takes no return_dict") from error
        raise
    found = trial.run(inputs)
    if not issubclass(kind, tuple) or len(found) != len(trial.outputs):
        usual, known = f"a tuple of {len(trial.outputs)} tensors", {"arguments": {"return_dict": False}}
        seen = f"{kind.__name__} of {len(found)} tensors"
        return Observation(False, seen, usual, ", ".join(trial.outputs), evidence=known)
    named = dict(zip(trial.outputs, found.values(), strict=True))
    return Observation.of(trial.agree(named, trial.outputs), f"1 in each of {len(named)} outputs")


@reproduces(tuple_outputs)
def tuple_has_every_output(
    model: nn.Module, inputs: Mapping[str, Any], dtype: torch.dtype, arguments: Mapping[str, bool]
) -> None:
    """As a tuple, outputs are as many as by their names."""
    names = list(call(model, inputs, dtype))
    with torch.no_grad():
        outputs = model(**placed(model, inputs, dtype), **arguments)
    found = f"a {type(outputs).__name__} of {len(flatten(outputs))}"
    allowed = f"a tuple of {len(names)}"
    assert found == allowed, f"observed {found}, allowed {allowed}: {', '.join(names)}"


@reproduces(tuple_outputs)
def tuple_gives_the_same(
    model: nn.Module, inputs: Mapping[str, Any], dtype: torch.dtype, tolerance: Mapping[str, float]
) -> None:
    """As a tuple, outputs are those by their names, in the same order."""
    expected, found = call(model, inputs, dtype), call(model, {**inputs, "return_dict": False}, dtype)
    agree(dict(zip(expected, found.values(), strict=True)), expected, tolerance, rounding(model, inputs, dtype))


@check
def argument_order(trial: Trial) -> Observation:
    """Inputs by keyword in the opposite order, and the leading ones by position, give the same outputs."""
    comparisons = []
    if len(trial.inputs) > 1:
        reordered = trial.run(dict(reversed(trial.inputs.items())))
        comparisons += trial.agree(reordered, trial.outputs, ", in the opposite order")
    if leading := _leading(trial):
        placed = trial.run_module(ByPosition(trial.called, leading))
        comparisons += trial.agree(placed, trial.outputs, f", {', '.join(leading)} by position")
    if not comparisons:
        raise NotApplicable("the one input is not the first that forward takes")
    seen = Observation.of(comparisons, f"1 in each of {len(trial.outputs)} outputs")
    return replace(seen, evidence={"leading": leading})


@reproduces(argument_order)
def order_changes_nothing(
    model: nn.Module,
    inputs: Mapping[str, Any],
    dtype: torch.dtype,
    tolerance: Mapping[str, float],
    leading: list[str],
) -> None:
    """Arguments by keyword in the opposite order, and the leading ones by position, give the same."""
    expected, noise = call(model, inputs, dtype), rounding(model, inputs, dtype)
    agree(call(model, dict(reversed(list(inputs.items()))), dtype), expected, tolerance, noise)
    agree(call(ByPosition(model, leading), inputs, dtype), expected, tolerance, noise)


@check
def optional_inputs(trial: Trial) -> Observation:
    """For one row alone, masks of ones, segments of zeros and positions in order may be given or left out."""
    inputs = _row_alone(trial)
    ways = {**_left_out(trial, inputs), **_given(trial, inputs)}
    if not ways:
        raise NotApplicable("no argument of this call has the value that it has by default")
    usual = trial.run(inputs)
    comparisons = []
    for way, changed in ways.items():
        with evidence(inputs=changed):
            found = trial.run(changed)
        # a mask that some hand on to their callers, or the lengths that it tells, are there if one was given
        expected = {
            name: one for name, one in usual.items() if name in found or not name.endswith(("_mask", "_lengths"))
        }
        comparisons += trial.agree(found, expected, f", {way}")
    failed = [one.name for one in comparisons if not one.passed]
    wrong = [given for way, given in ways.items() if any(name.endswith(f", {way}") for name in failed)]
    seen = Observation.of(
        comparisons,
        f"1 with {', '.join(ways)}",
        executions=(lambda: (Execution(trial.called, wrong[0]), Execution(trial.called, inputs))) if wrong else None,
    )
    return replace(seen, evidence={"usual": inputs, "ways": ways})


@check
def cache_switch(trial: Trial) -> Observation:
    """use_cache on and off give the same outputs, and a cache where it is on alone."""
    if "use_cache" not in inspect.signature(trial.called.forward).parameters:
        raise NotApplicable("forward takes no use_cache")
    with_cache, without = (trial.run({**trial.inputs, "use_cache": switch}) for switch in (True, False))
    kept = [name for name in without if is_cache(name)]
    if kept:
        return Observation(False, f"{len(kept)} tensors of a cache without use_cache", "0", ", ".join(kept[:5]))
    if any(map(is_cache, trial.outputs)) and not any(map(is_cache, with_cache)):
        return Observation(False, "no cache with use_cache", "one, as without the argument")
    expected = {name: one for name, one in with_cache.items() if not is_cache(name)}
    usual, other = ({**trial.inputs, "use_cache": switch} for switch in (True, False))
    seen = Observation.of(
        trial.agree(without, expected),
        f"1 in each of {len(expected)} outputs",
        executions=lambda: (Execution(trial.called, other), Execution(trial.called, usual)),
    )
    return replace(seen, evidence={"usual": usual, "ways": {"without a cache": other}})


@reproduces(optional_inputs, cache_switch)
def other_ways_give_the_same(
    model: nn.Module,
    dtype: torch.dtype,
    tolerance: Mapping[str, float],
    usual: Mapping[str, Any],
    ways: Mapping[str, Mapping[str, Any]],
) -> None:
    """A call gives the same with its optional arguments given, and left out."""
    expected, noise = call(model, usual, dtype), rounding(model, usual, dtype)
    for given in ways.values():
        found = call(model, given, dtype)
        agree(found, {name: one for name, one in expected.items() if name in found}, tolerance, noise)


@check
def embeddings_for_ids(trial: Trial) -> Observation:
    """What the embedding layer makes of the ids, given in their place, gives the same outputs."""
    parameters = inspect.signature(trial.called.forward).parameters
    taken = {
        ids: embeds
        for ids, embeds in _EMBEDDED.items()
        if ids in trial.inputs and embeds in parameters and parameters[ids].default is None
    }
    if not taken:
        raise NotApplicable("forward takes no embeddings in place of the ids of this call")
    inputs = _row_alone(trial)
    usual = trial.run(inputs)
    comparisons, apart = list[Comparison](), list[dict[str, Any]]()
    for ids, embeds in taken.items():
        others = {name: value for name, value in inputs.items() if name != ids}
        embedded = _embedded(trial, ids, inputs)
        try:
            given = {**others, embeds: embedded}
            with evidence(inputs=given):
                found = trial.run(given)
        except (TypeError, ValueError, NotImplementedError) as error:
            # the library itself says what it does not support
            if ids in str(error) or re.search(embeds.replace("inputs", "inputs?"), str(error)):
                raise NotApplicable(str(error)) from error
            raise
        comparisons += trial.agree(found, usual, f", {embeds}")
        apart += [given] * (not all(one.passed for one in comparisons))
    seen = Observation.of(
        comparisons,
        f"1 with {', '.join(taken.values())}",
        executions=(lambda: (Execution(trial.called, apart[0]), Execution(trial.called, inputs))) if apart else None,
    )
    return replace(seen, evidence={"inputs": inputs, "taken": taken})


@reproduces(embeddings_for_ids)
def embeddings_stand_for_ids(
    model: Any,
    inputs: Mapping[str, Any],
    dtype: torch.dtype,
    tolerance: Mapping[str, float],
    taken: Mapping[str, str],
) -> None:
    """What the embedding layer makes of the ids, given in their place, gives the same."""
    expected, noise = call(model, inputs, dtype), rounding(model, inputs, dtype)
    for ids, embeds in taken.items():
        layer = embedding_of(model, ids)
        embedded = layer(inputs[ids].to(layer.weight.device)).detach()
        others = {name: value for name, value in inputs.items() if name != ids}
        agree(call(model, {**others, embeds: embedded}, dtype), expected, tolerance, noise)


def embedding_of(model: Any, ids: str) -> Any:
    """The layer that a class names as that which embeds ids; in an encoder-decoder each side may have one of its own.

    Raises:
        NotImplementedError: it names none.
    """
    second = ids.startswith("decoder")
    sides = [model.get_decoder() if second else model.get_encoder()] if model.config.is_encoder_decoder else []
    for part in [*sides, *([] if second else [model])]:
        try:
            return part.get_input_embeddings()
        except (NotImplementedError, AttributeError):  # a side may be a plain module
            continue
    raise NotImplementedError(f"the class names no embedding layer for {ids}")


class ByPosition(nn.Module):
    """A model whose leading arguments are handed over by position."""

    def __init__(self, model: nn.Module, leading: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.leading = leading

    def forward(self, **inputs: Any) -> Any:
        first = [inputs.pop(name) for name in self.leading]
        return self.model(*first, **inputs)


def _leading(trial: Trial) -> list[str]:
    """The inputs that forward takes first, in its order, up to the first that this call does not give."""
    leading: list[str] = []
    for name in inspect.signature(trial.called.forward).parameters:
        if name not in trial.inputs:
            break
        leading.append(name)
    return leading


def _row_alone(trial: Trial) -> dict[str, Any]:
    """The first row as the processor encodes it alone, so that nothing of it is padding for the sake of others."""
    return trial.task.encode(trial.subject, trial.rows[:1]).inputs


def _left_out(trial: Trial, inputs: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The arguments without each optional one that has the value it has by default."""
    parameters = inspect.signature(trial.called.forward).parameters
    ways = {}
    for name, value in inputs.items():
        default = next((absent for end, absent in _ABSENT.items() if name.endswith(end)), None)
        optional = name in parameters and parameters[name].default is None
        if optional and default is not None and isinstance(value, Tensor) and bool((value == default).all()):
            ways[f"no {name}"] = {other: one for other, one in inputs.items() if other != name}
    return ways


def _given(trial: Trial, inputs: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The arguments with a mask of ones for ids that have none, and with the positions that generation gives."""
    parameters = inspect.signature(trial.called.forward).parameters
    ways = {}
    for ids, mask in _MASKS.items():
        if ids in inputs and mask in parameters and mask not in inputs:
            ways[f"{mask} of ones"] = {**inputs, mask: torch.ones_like(inputs[ids])}
    decodes = "input_ids" in inputs and not trial.config.is_encoder_decoder and trial.model.can_generate()
    # a generate of its own may hand over other arguments; before 5 none makes them in a step that can be asked
    asks = getattr(type(trial.model), "generate", None) is GenerationMixin.generate
    asks = asks and hasattr(GenerationMixin, "_prepare_position_ids_for_generation")
    if decodes and asks and "position_ids" in parameters and "position_ids" not in inputs:
        usual = trial.model._prepare_position_ids_for_generation(inputs["input_ids"], dict(inputs))
        begun = trial.model.prepare_inputs_for_generation(**inputs, position_ids=usual, is_first_iteration=True)
        if begun.get("position_ids") is not None:
            ways["positions as generate gives them"] = {**inputs, "position_ids": begun["position_ids"]}
    return ways


def _embedded(trial: Trial, name: str, inputs: Mapping[str, Any]) -> Tensor:
    """What the layer that the class names as its embeddings makes of ids."""
    ids: Tensor = inputs[name]
    try:
        layer = embedding_of(trial.called, name)
    except NotImplementedError as error:
        raise NotApplicable(str(error)) from error
    # of several layers, or of codes that belong to a token, the class sums what each gives
    summed = getattr(layer, "weight", None) is None or any(one.endswith(CODES) for one in inputs)
    embedded = layer(ids.to(trial.session.device)) if not summed else None
    if not isinstance(embedded, Tensor):
        raise NotApplicable(f"there is more to the embeddings of {name} than one layer gives")
    return embedded.detach()
