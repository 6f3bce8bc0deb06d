"""Does a decoder with a cache give what it gives without one?"""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, StaticCache
from transformers.cache_utils import Cache

from proofbook.checks.compare import Comparison
from proofbook.checks.decoding import Decoder
from proofbook.checks.localise import Execution
from proofbook.checks.plain import agree, call, rounding
from proofbook.checks.plain_decoding import empty_cache, read_in_parts, read_part
from proofbook.checks.quantised import Watched, quantised, quantised_backends, quantised_or_refused
from proofbook.checks.reading import SINGLE, evidence_of_reading, first_apart, observed, read
from proofbook.checks.registry import NotApplicable, Observation, check, evidence
from proofbook.checks.reproduction import reproduces
from proofbook.checks.streams import in_order, joined, rows_of
from proofbook.checks.trial import Trial
from proofbook.compat import DynamicLayer, DynamicSlidingWindowLayer


@check
def cache_token_by_token(trial: Trial) -> Observation:
    """Read one by one with the cache that the class makes, with and without a mask, tokens score as read at once."""
    decoder = _cached(trial)
    every = [decoder.begin, *[1] * decoder.length]
    few = [max(decoder.begin, decoder.length - SINGLE), *[1] * SINGLE]
    readings = [read(trial, decoder, every, masked=True), read(trial, decoder, few, masked=False, note=", no mask")]
    return observed(readings, f"1 at each of {decoder.length} tokens")


@check
def cache_in_chunks(trial: Trial) -> Observation:
    """A prompt read in unequal parts, several tokens at once behind a cache, scores as read at once."""
    decoder = _cached(trial)
    rest = decoder.length - decoder.begin
    if rest < 2:
        raise NotApplicable("too few tokens behind the prompt's picture or sound")
    sizes = [decoder.begin + rest // 4, 2, 1, max(2, rest // 3), decoder.length]
    return observed([read(trial, decoder, sizes)], "1 at each token")


@reproduces(cache_token_by_token, cache_in_chunks)
@torch.no_grad()
def parts_score_as_the_whole(
    model: nn.Module,
    dtype: torch.dtype,
    tolerance: Mapping[str, float],
    prompt: Mapping[str, Any],
    sizes: list[int],
    reading: Mapping[str, Any],
) -> None:
    """A prompt read in parts, each behind the cache of those before, scores as read at once."""
    found = read_in_parts(model, prompt, sizes, dtype, reading)
    whole = {**prompt, **dict.fromkeys(reading["switch"], False)}
    expected = call(model, whole, dtype)["logits"]
    agree({"logits": found}, {"logits": expected}, tolerance, rounding(model, whole, dtype))


@check
def cache_kinds(trial: Trial) -> Observation:
    """A cache of each kind that the class supports, passed in by the user, gives the scores of no cache."""
    decoder = _cached(trial)
    kinds = _kinds(trial, decoder)
    sizes = [max(decoder.begin, decoder.length - SINGLE), *[1] * SINGLE]
    readings = [read(trial, decoder, sizes, kind=kind, note=f", {kind}") for kind in kinds]
    missing = "" if "offloaded" in kinds else "offloaded: it moves keys and values off a GPU, and there is none"
    return observed(readings, f"1 with each of: {', '.join(kinds)}", missing)


@reproduces(cache_kinds)
@torch.no_grad()
def passed_cache_scores_as_none(
    model: nn.Module,
    dtype: torch.dtype,
    tolerance: Mapping[str, float],
    prompt: Mapping[str, Any],
    sizes: list[int],
    reading: Mapping[str, Any],
    kind: str,
    room: int,
    second: bool,
) -> None:
    """A prompt read in parts, the first with an empty cache that is passed in, scores as read at once without one."""
    cache = empty_cache(kind, model, room, second)
    found = read_in_parts(model, prompt, sizes, dtype, reading, cache)
    whole = {**prompt, **dict.fromkeys(reading["switch"], False)}
    expected = call(model, whole, dtype)["logits"]
    agree({"logits": found}, {"logits": expected}, tolerance, rounding(model, whole, dtype))


@check
def quantised_cache(trial: Trial) -> Observation:
    """A quantised cache keeps each key and value within its bits, also as rows change places; scores follow from it."""
    decoder = _cached(trial)
    if decoder.cache != "past_key_values":
        raise NotApplicable("its state is of a kind of its own")
    backends, missing = quantised_backends(trial.model)
    comparisons: list[Comparison] = []
    worst, shown, apart = 0.0, "", list[tuple[Execution, Execution]]()
    for backend in backends:
        found, share, parting = _quantised(trial, decoder, backend)
        comparisons, worst, apart = comparisons + found, max(worst, share), apart + parting
        if worst > 1 or not all(one.passed for one in found):
            shown = shown or backend
    allowed = f"1 with each of: {', '.join(backends)}; 1 of the rounding"
    executions = (lambda: apart[0]) if apart else None
    scores = Observation.of(comparisons, allowed, "; ".join(missing), executions=executions)
    return Observation(
        scores.passed and worst <= 1,
        f"{scores.observed}; {worst:.3g} of the rounding allowed",
        scores.allowed,
        scores.detail,
        scores.comparisons,
        executions=scores.executions,
        evidence=_evidence_of(decoder, shown or backends[0]),
    )


def _quantised(
    trial: Trial, decoder: Decoder, backend: str
) -> tuple[list[Comparison], float, list[tuple[Execution, Execution]]]:
    """Scores read with a quantised cache, held against those read with one that holds what it handed back; the
    largest rounding of that, as a share of what the bits allow; and the calls whose scores part."""
    text = trial.config.get_text_config(decoder=True)
    comparisons, apart, worst = list[Comparison](), list[tuple[Execution, Execution]](), 0.0
    for stored, (start, stop, watched, inputs) in enumerate(_quantised_parts(decoder, backend)):
        with evidence(**_evidence_of(decoder, backend)):
            scores, _ = decoder.step(watched.cache, start, stop, inputs)
        expected, note = decoder.whole[:, :stop], "first part"
        if start:
            if not watched.kept:
                raise NotApplicable("it keeps keys and values in no layer of the cache that it is given")
            replayed = watched.replayed(text, trial.model.dtype)
            (expected, _), note = decoder.step(replayed, start, stop, inputs), f"token {start}"
            worst = max([worst, *(one.deviation(backend, stored) for pair in watched.kept.values() for one in pair)])
        comparisons += trial.agree({"logits": scores}, {"logits": expected}, f", {backend}, {note}")
        if not comparisons[-1].passed:
            apart.append(_quantised_apart(decoder, backend, start, stop))
    return comparisons, worst, apart


def _quantised_parts(decoder: Decoder, backend: str) -> Iterator[tuple[int, int, Watched, Mapping[str, Any]]]:
    """Where each part of the prompt begins and ends, with the quantised cache of those before, which whoever asks reads
    it with, and the prompts that it is of: all tokens but some, then these one by one, the last by rows in other
    places."""
    ready, end = decoder.length - SINGLE, decoder.length
    if ready < decoder.begin:
        raise NotApplicable("too few tokens behind the prompt's picture or sound")
    watched = Watched(quantised_or_refused(backend, decoder.trial.config.get_text_config(decoder=True)))
    inputs = decoder.reading
    for start, stop in pairwise([0, *range(ready, end + 1)]):
        if stop == end:
            order = torch.arange(len(decoder.prompt[decoder.stream.tokens])).roll(1)
            watched.reorder(order.to(decoder.trial.session.device))
            inputs = rows_of(inputs, order)
        watched.updated.clear()
        yield start, stop, watched, inputs


def _quantised_before(decoder: Decoder, backend: str, at: int) -> tuple[Watched, Mapping[str, Any]]:
    """The quantised cache of the tokens before one, and the prompts that it goes on with."""
    for start, stop, watched, inputs in _quantised_parts(decoder, backend):
        if start == at:
            return watched, inputs
        decoder.step(watched.cache, start, stop, inputs)
    raise LookupError(f"no part of the prompt begins at token {at}")


def _quantised_apart(decoder: Decoder, backend: str, start: int, stop: int) -> tuple[Execution, Execution]:
    """The call that reads a part behind a quantised cache, and behind a plain one of what that hands out; the first
    part, and the same tokens at once."""
    inputs = _quantised_before(decoder, backend, start)[1]
    actual = decoder.behind(lambda: _quantised_before(decoder, backend, start)[0].cache, start, stop, inputs)
    if not start:
        return actual, decoder.at_once(start, stop)

    def replayed() -> Any:
        watched, _ = _quantised_before(decoder, backend, start)
        decoder.step(watched.cache, start, stop, inputs)
        return watched.replayed(decoder.trial.config.get_text_config(decoder=True), decoder.trial.model.dtype)

    return actual, decoder.behind(replayed, start, stop, inputs)


def _evidence_of(decoder: Decoder, backend: str) -> dict[str, Any]:
    return {**evidence_of_reading(decoder, []), "backend": backend, "ready": decoder.length - SINGLE}


@reproduces(quantised_cache)
@torch.no_grad()
def scores_follow_from_what_a_quantised_cache_keeps(
    model: Any,
    dtype: torch.dtype,
    tolerance: Mapping[str, float],
    prompt: Mapping[str, Any],
    reading: Mapping[str, Any],
    backend: str,
    ready: int,
) -> None:
    """A quantised cache keeps each key and value within its bits, also as rows change places; scores follow from it."""
    whole = {**prompt, **dict.fromkeys(reading["switch"], False)}
    true, noise = call(model, whole, dtype)["logits"], rounding(model, whole, dtype)
    config, length = model.config.get_text_config(decoder=True), true.shape[1]
    watched = Watched(quantised(backend, config))
    first = read_part(model, prompt, 0, ready, dtype, reading, watched.cache).logits.cpu()
    pairs, share = [(first, true[:, :ready])], 0.0
    for stored, at in enumerate(range(ready, length), 1):
        if at == length - 1:  # the last is read by rows in other places
            order = torch.arange(len(true)).roll(1)
            watched.reorder(order.to(model.device))
            prompt = rows_of(prompt, order)
        watched.updated.clear()
        found = read_part(model, prompt, at, at + 1, dtype, reading, watched.cache).logits.cpu()
        plain = watched.replayed(config, dtype)  # which holds what the quantised one handed back
        expected = read_part(model, prompt, at, at + 1, dtype, reading, plain).logits.cpu()
        pairs.append((found, expected))
        share = max([share, *(one.deviation(backend, stored) for pair in watched.kept.values() for one in pair)])
    for found, expected in pairs:
        agree({"logits": found}, {"logits": expected}, tolerance, noise)
    assert share <= 1, f"keys and values: observed {share:.3g} of the rounding that its bits allow, allowed 1"


@check
def cache_rows(trial: Trial) -> Observation:
    """A cache whose rows change places, as in beam search, goes on as the rows in their new places."""
    decoder = _cached(trial)
    ready = max(decoder.begin, decoder.length - SINGLE)
    inputs, whole = _rows(decoder)
    _, cache = decoder.step(None, 0, ready, inputs)
    if not isinstance(cache, Cache):
        raise NotApplicable("its cache offers no change of rows")
    rows = len(inputs[decoder.stream.tokens])
    if rows < 2:
        raise NotApplicable("the prompt is one row")
    order = torch.arange(rows).roll(1)
    # the first row twice: what two beams of one row have in common must not be shared between them
    order[0] = order[1]
    # a script makes what an encoder gives itself
    given = None if decoder.is_second else inputs
    known = {**evidence_of_reading(decoder, [ready], inputs=given), "ready": ready, "order": order}
    with evidence(**known):
        cache.reorder_cache(order.to(trial.session.device))
        moved = in_order(inputs, order)
        scores = []
        for at in range(ready, decoder.length):
            one, cache = decoder.step(cache, at, at + 1, moved)
            scores.append(one)
    actual, expected = torch.cat(scores, dim=1), whole[order, ready:]

    def executions() -> tuple[Execution, Execution]:
        at = ready + first_apart(trial, scores, expected.split(1, dim=1))

        def kept() -> Any:
            _, cache = decoder.step(None, 0, ready, inputs)
            cache.reorder_cache(order.to(trial.session.device))
            for before in range(ready, at):
                _, cache = decoder.step(cache, before, before + 1, moved)
            return cache

        return decoder.behind(kept, at, at + 1, moved), decoder.at_once(at, at + 1, moved)

    comparisons = trial.agree({"logits": actual}, {"logits": expected})
    found = Observation.of(comparisons, f"1 in each of {rows} rows", executions=executions)
    return replace(found, evidence=known)


@reproduces(cache_rows)
@torch.no_grad()
def rows_of_a_cache_change_places(
    model: nn.Module,
    dtype: torch.dtype,
    tolerance: Mapping[str, float],
    prompt: Mapping[str, Any],
    reading: Mapping[str, Any],
    ready: int,
    order: Tensor,
) -> None:
    """A cache whose rows change places, as in beam search, goes on as the rows in their new places."""
    whole = {**prompt, **dict.fromkeys(reading["switch"], False)}
    expected = call(model, whole, dtype)["logits"]
    kept = getattr(read_part(model, prompt, 0, ready, dtype, reading), reading["cache"])
    kept.reorder_cache(order.to(next(model.parameters()).device))
    moved, parts = in_order(prompt, order), []
    for at in range(ready, expected.shape[1]):
        outputs = read_part(model, moved, at, at + 1, dtype, reading, kept)
        parts.append(outputs.logits.cpu())
        kept = getattr(outputs, reading["cache"])
    found = torch.cat(parts, dim=1)
    agree({"logits": found}, {"logits": expected[order, ready:]}, tolerance, rounding(model, whole, dtype))


@check
def encoder_outputs_reused(trial: Trial) -> Observation:
    """Given what its encoder makes of an input, a model gives what it gives for the input itself."""
    decoder = trial.decoder
    if not decoder.is_second:
        raise NotApplicable("it has no encoder before its decoder")
    reading = {**decoder.reading, **decoder.caching(False)}
    return Observation.of(
        trial.agree({"logits": trial.run(reading)["logits"]}, {"logits": decoder.whole}),
        "1",
        executions=lambda: (
            Execution(trial.called, reading),
            Execution(trial.called, {**decoder.prompt, **decoder.caching(False)}),
        ),
    )


def _rows(decoder: Decoder) -> tuple[Mapping[str, Any], Tensor]:
    """The prompt and its scores, read at once; beside a prompt of one row another, its last tokens turned round."""
    prompt, name, begin = decoder.reading, decoder.stream.tokens, decoder.begin
    if decoder.has_text_alone or len(prompt[name]) > 1:
        return prompt, decoder.whole
    turned = torch.cat([prompt[name][:, :begin], prompt[name][:, begin:].flip(1)], dim=1)
    both = joined([prompt, {**prompt, name: turned}])
    return both, decoder.trial.run({**both, **decoder.caching(False)})["logits"]


def _cached(trial: Trial) -> Decoder:
    decoder = trial.decoder
    if not decoder.cache:
        raise NotApplicable(f"{trial.spec.model_class} takes no cache")
    decoder.require_causal()
    return decoder


def _kinds(trial: Trial, decoder: Decoder) -> list[str]:
    """The kinds of caches that the class supports.

    A cache of fixed size is supported where the class says that it can be compiled with one.
    """
    if decoder.cache != "past_key_values" or not trial.model._supports_default_dynamic_cache():
        raise NotApplicable("its state is of a kind of its own")
    if "config" not in inspect.signature(DynamicCache.__init__).parameters:
        raise NotApplicable("caches of this release know no configuration")
    config = trial.config.get_text_config(decoder=True)
    kinds = ["dynamic"]
    # one that knows no configuration keeps everything, also what lies outside a window, and nothing but keys and values
    if all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in DynamicCache(config=config).layers):
        kinds.append("dynamic without a configuration")
    static = trial.model._can_compile_fullgraph and not decoder.is_second
    if static:
        kinds.append("static")
    if trial.session.device.type == "cuda":
        kinds.append("offloaded")
        if static and "offloading" in inspect.signature(StaticCache.__init__).parameters:
            kinds.append("offloaded static")
    return kinds
