"""Is a token's place read right: within the window of a layer, and beyond the length that a model was trained for?"""

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from proofbook.checks.accuracy import near_float64
from proofbook.checks.attention import Call, watched
from proofbook.checks.causality import changed_copies
from proofbook.checks.compare import compare, differing
from proofbook.checks.decoding import Decoder
from proofbook.checks.localise import Execution
from proofbook.checks.plain import agree, call, moved, rounding
from proofbook.checks.registry import NotApplicable, Observation, check
from proofbook.checks.reproduction import reproduces
from proofbook.checks.streams import Stream
from proofbook.checks.trial import Trial
from proofbook.checks.truth import CALL_SEED, computing_in, in_dtype, reference_model
from proofbook.checks.weights import Weights, attended
from proofbook.compat import AttentionInterface
from proofbook.runtimes.outputs import flatten

# tokens beyond the last position
BEYOND = 8
# tokens read at once behind a cache that is longer than a window
CHUNK = 3
# by the names of `layer_types`
_LOCAL, _GLOBAL = "sliding_attention", "full_attention"
# a longer table of positions takes longer to fill than a check may
LONGEST = 1100


@check
def window(trial: Trial) -> Observation:
    """A token reaches as far as the windows of the layers, one behind the other, add up to, and no further."""
    decoder = trial.decoder
    decoder.require_causal()
    reach = _reach(trial, decoder)
    inputs, places = changed_copies(decoder)
    length = decoder.length
    if reach + 1 >= length:
        raise NotApplicable(f"the windows of its layers reach {reach} tokens, all of the prompt's {length}")
    scores = trial.run(inputs)["logits"]
    beyond = torch.arange(length) > torch.tensor(places)[:, None] + reach
    expected = scores[:1].expand_as(scores[1:])
    actual = torch.where(beyond[..., None], scores[1:], expected)

    def executions() -> tuple[Execution, Execution]:
        number = int((actual - expected).abs().flatten(1).amax(1).argmax())
        copy_, text = (Execution(trial.called, inputs, row, beyond[number]) for row in (number + 1, 0))
        return copy_, text

    comparisons = trial.agree({"logits": actual}, {"logits": expected})
    found = Observation.of(comparisons, f"1 beyond {reach} tokens, more within", f"reach {reach}", executions)
    within = [(number, place + reach) for number, place in enumerate(places, 1) if place + reach < length]
    noise, enough = trial.noise.get("logits"), min(1.0, trial.tolerance.signal)
    short = [
        at
        for number, at in within
        if compare("", scores[number, at], scores[0, at], trial.tolerance, noise).ratio < enough
    ]
    found = replace(found, evidence={"prompt": inputs, "places": places, "reach": reach})
    # the influence of one token at the edge of all windows may be slight, but not at every place
    if len(short) < len(within):
        return found
    return replace(found, passed=False, observed=f"no token reaches {reach} tokens")


@reproduces(window)
def tokens_reach_as_far_as_windows(
    model: nn.Module,
    dtype: torch.dtype,
    tolerance: Mapping[str, float],
    prompt: Mapping[str, Any],
    places: list[int],
    reach: int,
) -> None:
    """A text, and copies in each of which one token is another: that changes scores as far as the windows reach."""
    text, *copies = call(model, prompt, dtype)["logits"]
    noise = rounding(model, prompt, dtype)
    for copy_, place in zip(copies, places, strict=True):
        agree({"logits": copy_[place + reach + 1 :]}, {"logits": text[place + reach + 1 :]}, tolerance, noise)
    most = max(
        moved({"logits": copy_[place + reach]}, {"logits": text[place + reach]}, tolerance)
        for copy_, place in zip(copies, places, strict=True)
        if place + reach < len(text)
    )
    assert most >= 1, f"the last token within the windows: observed {most:.3g} of rounding, allowed 1 or more"


@check
def layer_windows(trial: Trial) -> Observation:
    """Each layer attends as far as its own window, or to all that was read: at once, and behind a longer cache."""
    decoder = trial.decoder
    decoder.require_causal()
    kinds, size = _kinds(trial, decoder)
    if decoder.length <= size + CHUNK:
        raise NotApplicable(f"the prompt has {decoder.length} tokens, and a window {size}")
    with _eager(trial) as (decoder, calls):
        parts = [[decoder.length]]
        if decoder.cache and decoder.length - CHUNK - 1 >= decoder.begin:
            parts.append([decoder.length - CHUNK - 1, 1, CHUNK])
        weights = list[Weights]()
        for sizes in parts:
            for start, scores, _ in decoder.steps(sizes):
                weights += attended(calls, start + scores.shape[1], scores.shape[1])
                calls.clear()
    reach = {_LOCAL: size, _GLOBAL: decoder.length}
    spans = {index: reach[kind] for index, kind in enumerate(kinds) if kind in reach}
    judged = [one for one in weights if one.layer in spans]
    if not any(kinds[one.layer] == _LOCAL for one in judged):
        raise NotApplicable("no layer with a window hands out weights of eager attention")
    wrong = [text for one in judged if (text := one.misplaced(spans[one.layer], decoder.begin))]
    return Observation(
        passed=not wrong,
        observed=f"{len(wrong)} of {len(judged)} calls of layers reach further or less far than they should",
        allowed=f"0; layers with a window reach {size} tokens",
        detail="; ".join(wrong[:5]),
    )


@check
def beyond_trained_length(trial: Trial) -> Observation:
    """Beyond the last position that it was made for, a model refuses, or is right; a shorter text then is as before."""
    stream = _tokens(trial)
    last = getattr(
        trial.config.get_text_config(decoder=trial.config.is_encoder_decoder), "max_position_embeddings", None
    )
    if not isinstance(last, int) or last > LONGEST:
        raise NotApplicable(
            "its configuration names no last position" if last is None else f"its last position is {last}"
        )
    length = last + BEYOND
    row = {name: value[:1] for name, value in trial.inputs.items() if isinstance(value, torch.Tensor)}
    members = stream.members(row)
    text = stream.unpadded({name: row[name] for name in members})
    times = math.ceil(length / stream.length(text))
    longer = {name: value.repeat(1, times, *[1] * (value.dim() - 2))[:, :length] for name, value in text.items()}
    inputs = {**row, **longer}
    try:
        expected = _true(trial, inputs)
    except (IndexError, ValueError, RuntimeError) as refusal:
        # on the CPU first: on other devices an index out of range ends the process
        return Observation(True, f"refuses {length} tokens: {type(refusal).__name__}: {str(refusal)[:80]}", "a refusal")
    actual = trial.run(inputs)
    judged = [name for name in ("logits", "last_hidden_state") if name in expected and name in actual]
    if not judged:
        raise NotApplicable("no output has an entry a token")
    comparisons = [
        compare(f"{name} of {length} tokens", actual[name], expected[name], trial.tolerance, trial.noise.get(name))
        for name in judged
    ]
    if not all(one.passed for one in comparisons):  # angles of rotary positions round the more the farther they are
        noise = trial.floor_of(trial.model, inputs).errors
        comparisons = [
            compare(f"{name} of {length} tokens", actual[name], expected[name], trial.tolerance, noise.get(name))
            for name in judged
        ]
    changed = differing(trial.outputs, trial.run())
    found = Observation.of(
        comparisons,
        "1, and the batch afterwards as before",
        executions=lambda: (
            Execution(trial.model, inputs),
            Execution(reference_model(trial.model, torch.float64), inputs),
        ),
    )
    if not changed:
        return replace(found, evidence={"inputs": inputs})
    return Observation(
        False, f"{len(changed)} outputs differ after it", found.allowed, ", ".join(changed[:5]), found.comparisons
    )


reproduces(beyond_trained_length)(near_float64)


def _reach(trial: Trial, decoder: Decoder) -> int:
    """How many tokens on the influence of one ends: all layers have a window, in which a token counts itself."""
    config = trial.config.get_text_config(decoder=True)
    kinds = getattr(config, "layer_types", None) or []
    size = getattr(config, "sliding_window", None)
    if decoder.is_second or not isinstance(size, int) or getattr(config, "use_sliding_window", True) is False:
        raise NotApplicable("its configuration gives no sliding window")
    others = sorted(set(kinds) - {"sliding_attention"})
    if others:
        raise NotApplicable(f"beside layers with a window it has {', '.join(others)}")
    return int(config.num_hidden_layers) * (size - 1)


def _kinds(trial: Trial, decoder: Decoder) -> tuple[list[str], int]:
    """What each layer of the decoder attends to, and the tokens in a window, that of the query among them."""
    config = trial.config.get_text_config(decoder=True)
    kinds, size = getattr(config, "layer_types", None) or [], getattr(config, "sliding_window", None)
    if decoder.is_second or _LOCAL not in kinds or not isinstance(size, int):
        raise NotApplicable("its configuration gives no layer a window of its own")
    if not hasattr(AttentionInterface, "get_interface") or not hasattr(trial.model, "set_attn_implementation"):
        raise NotApplicable("this release has no place where attention layers can be watched")
    return list(kinds), size


@contextmanager
def _eager(trial: Trial) -> Iterator[tuple[Decoder, list[Call]]]:
    """The decoder of a copy of the model with eager attention, whose layers hand out weights; and what they do."""
    model = copy.deepcopy(trial.model)
    model.set_attn_implementation("eager")
    other = copy.copy(trial)
    for kept in ("prepared", "decoder"):
        vars(other).pop(kept, None)
    other.loaded = replace(trial.loaded, model=model)
    decoder = other.decoder
    _ = decoder.again  # found out by a call of its own, which is not to be watched
    with watched() as calls, torch.compiler.set_stance("force_eager"):
        yield decoder, calls


def _tokens(trial: Trial) -> Stream:
    """The stream of tokens whose positions the configuration counts: the decoder's, or the only one."""
    if trial.config.is_encoder_decoder and "decoder_input_ids" in trial.inputs:
        found = Stream("decoder_input_ids", "decoder_attention_mask")
    else:
        found = Stream("input_ids", "attention_mask")
    tokens = trial.inputs.get(found.tokens)
    if tokens is None or tokens.dim() != 2 or trial.encoded.module:
        raise NotApplicable("it reads no text")
    if found.tokens == "input_ids" and set(found.members(trial.inputs)) != set(trial.inputs):
        raise NotApplicable("it reads more than text")
    return found


def _true(trial: Trial, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The outputs in float64, with eager attention, on the CPU."""
    model = reference_model(trial.model, torch.float64)
    with torch.no_grad(), torch.random.fork_rng(devices=[]), computing_in(torch.float64):
        torch.manual_seed(CALL_SEED)
        return flatten(model(**in_dtype(inputs, torch.float64)))
