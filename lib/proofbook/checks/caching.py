"""Does a decoder with a cache give what it gives without one?"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache, EncoderDecoderCache, StaticCache
from transformers.cache_utils import Cache

from proofbook.checks.compare import Comparison
from proofbook.checks.decoding import Decoder
from proofbook.checks.plain import agree, call, placed, rounding
from proofbook.checks.quantised import Watched, quantised_caches
from proofbook.checks.registry import NotApplicable, Observation, check
from proofbook.checks.reproduction import reproduces
from proofbook.checks.streams import rows_of
from proofbook.checks.trial import Trial
from proofbook.compat import DynamicLayer, DynamicSlidingWindowLayer

# tokens that a check of more than one kind of cache reads one by one behind the first part
SINGLE = 2


@check
def cache_token_by_token(trial: Trial) -> Observation:
    """Read one by one with the cache that the class makes, with and without a mask, tokens score as read at once."""
    decoder = _cached(trial)
    comparisons = _compared(trial, decoder, [decoder.begin, *[1] * decoder.length], masked=True)
    few = max(decoder.begin, decoder.length - SINGLE)
    comparisons += _compared(trial, decoder, [few, *[1] * SINGLE], masked=False, note=", no mask")
    seen = Observation.of(comparisons, f"1 at each of {decoder.length} tokens")
    masked = comparisons[0].passed == seen.passed
    first = decoder.begin if masked else few
    return replace(seen, evidence=_evidence(decoder, [first, *[1] * (decoder.length - first)], masked))


@check
def cache_in_chunks(trial: Trial) -> Observation:
    """A prompt read in unequal parts, several tokens at once behind a cache, scores as read at once."""
    decoder = _cached(trial)
    rest = decoder.length - decoder.begin
    if rest < 2:
        raise NotApplicable("too few tokens behind the prompt's picture or sound")
    sizes = [decoder.begin + rest // 4, 2, 1, max(2, rest // 3), decoder.length]
    seen = Observation.of(_compared(trial, decoder, sizes), "1 at each token")
    return replace(seen, evidence=_evidence(decoder, sizes, decoder.has_text_alone))


@reproduces(cache_token_by_token, cache_in_chunks)
@torch.no_grad()
def parts_score_as_the_whole(
    model: nn.Module,
    dtype: torch.dtype,
    tolerance: Mapping[str, float],
    prompt: Mapping[str, Any],
    sizes: list[int],
    cache: str,
    streamed: list[str],
    again: list[str],
    masks: Mapping[str, list[bool]],
    switch: list[str],
) -> None:
    """A prompt read in parts, each behind the cache of those before, scores as read at once."""
    whole = {**prompt, **dict.fromkeys(switch, False)}
    expected, noise = call(model, whole, dtype)["logits"], rounding(model, whole, dtype)
    parts, start, kept = list[torch.Tensor](), 0, None
    for size in sizes:
        stop = min(start + size, expected.shape[1])
        if stop == start:
            break
        names = [name for name in prompt if not start or name in streamed or name in again]
        given = {name: prompt[name][:, start:stop] if name in streamed else prompt[name] for name in names}
        for mask, (first, later) in masks.items():  # of all that was read so far
            given.pop(mask, None)
            if later if start else first:
                given[mask] = prompt[mask][:, :stop]
        more = {**dict.fromkeys(switch, True), **({cache: kept} if start else {})}
        outputs = model(**placed(model, given, dtype), **more)
        parts.append(outputs.logits.cpu())
        start, kept = stop, getattr(outputs, cache)
    agree({"logits": torch.cat(parts, dim=1)}, {"logits": expected}, tolerance, noise)


@check
def cache_kinds(trial: Trial) -> Observation:
    """A cache of each kind that the class supports, passed in by the user, gives the scores of no cache."""
    decoder = _cached(trial)
    kinds = _kinds(trial, decoder)
    sizes = [max(decoder.begin, decoder.length - SINGLE), *[1] * SINGLE]
    comparisons: list[Comparison] = []
    for name, make in kinds.items():
        comparisons += _compared(trial, decoder, sizes, cache=make(), note=f", {name}")
    missing = "" if "offloaded" in kinds else "offloaded: it moves keys and values off a GPU, and there is none"
    return Observation.of(comparisons, f"1 with each of: {', '.join(kinds)}", missing)


@check
def quantised_cache(trial: Trial) -> Observation:
    """A quantised cache keeps each key and value within its bits, also as rows change places; scores follow from it."""
    decoder = _cached(trial)
    if decoder.cache != "past_key_values":
        raise NotApplicable("its state is of a kind of its own")
    kinds, missing = quantised_caches(trial.model)
    comparisons: list[Comparison] = []
    worst = 0.0
    for backend, make in kinds.items():
        found, share = _quantised(trial, decoder, backend, Watched(make()))
        comparisons, worst = comparisons + found, max(worst, share)
    scores = Observation.of(comparisons, f"1 with each of: {', '.join(kinds)}; 1 of the rounding", "; ".join(missing))
    return Observation(
        scores.passed and worst <= 1,
        f"{scores.observed}; {worst:.3g} of the rounding allowed",
        scores.allowed,
        scores.detail,
        scores.comparisons,
    )


def _quantised(trial: Trial, decoder: Decoder, backend: str, watched: Watched) -> tuple[list[Comparison], float]:
    """Scores read with a quantised cache, held against those read with one that holds what it handed back; and the
    largest rounding of that, as a share of what the bits allow."""
    ready = decoder.length - SINGLE
    if ready < decoder.begin:
        raise NotApplicable("too few tokens behind the prompt's picture or sound")
    text = trial.config.get_text_config(decoder=True)
    scores, _ = decoder.step(watched.cache, 0, ready)
    comparisons = trial.agree({"logits": scores}, {"logits": decoder.whole[:, :ready]}, f", {backend}, first part")
    inputs, worst = decoder.reading, 0.0
    for stored, at in enumerate(range(ready, decoder.length), 1):
        if at == decoder.length - 1:  # the last is read by rows in other places
            order = torch.arange(len(decoder.prompt[decoder.stream.tokens])).roll(1)
            watched.reorder(order.to(trial.session.device))
            inputs = rows_of(inputs, order)
        watched.updated.clear()
        scores, _ = decoder.step(watched.cache, at, at + 1, inputs)
        if not watched.kept:
            raise NotApplicable("it keeps keys and values in no layer of the cache that it is given")
        expected, _ = decoder.step(watched.replayed(text, trial.model.dtype), at, at + 1, inputs)
        comparisons += trial.agree({"logits": scores}, {"logits": expected}, f", {backend}, token {at}")
        worst = max([worst, *(one.deviation(backend, stored) for pair in watched.kept.values() for one in pair)])
    return comparisons, worst


@check
def cache_rows(trial: Trial) -> Observation:
    """A cache whose rows change places, as in beam search, goes on as the rows in their new places."""
    decoder = _cached(trial)
    ready = max(decoder.begin, decoder.length - SINGLE)
    *_, (_, _, cache) = decoder.steps([ready])
    if not isinstance(cache, Cache):
        raise NotApplicable("its cache offers no change of rows")
    rows = len(decoder.prompt[decoder.stream.tokens])
    if rows < 2:
        raise NotApplicable("the prompt is one row")
    order = torch.arange(rows).roll(1)
    # the first row twice: what two beams of one row have in common must not be shared between them
    order[0] = order[1]
    cache.reorder_cache(order.to(trial.session.device))
    moved = rows_of(decoder.reading, order)
    scores = []
    for at in range(ready, decoder.length):
        one, cache = decoder.step(cache, at, at + 1, moved)
        scores.append(one)
    actual, expected = torch.cat(scores, dim=1), decoder.whole[order, ready:]
    return Observation.of(trial.agree({"logits": actual}, {"logits": expected}), f"1 in each of {rows} rows")


@check
def use_cache(trial: Trial) -> Observation:
    """use_cache, on or off, changes no score; off returns no cache, on returns one."""
    decoder = _cached(trial)
    if not decoder.caching(True):
        raise NotApplicable("forward takes no use_cache")
    on = trial.run({**decoder.prompt, **decoder.caching(True)})
    off = trial.run({**decoder.prompt, **decoder.caching(False)})
    if not any(name.startswith(decoder.cache) for name in (*on, *trial.outputs)):
        raise NotApplicable("it keeps what it has read within its modules, and returns no cache")
    kept = {word: any(name.startswith(decoder.cache) for name in one) for word, one in (("on", on), ("off", off))}
    wrong = [
        f"use_cache {word} returns {'a' if has else 'no'} cache" for word, has in kept.items() if has != (word == "on")
    ]
    found = Observation.of(
        trial.agree({"logits": on["logits"]}, {"logits": off["logits"]}), "1, and a cache only if on"
    )
    if not wrong:
        return found
    return Observation(False, found.observed, found.allowed, "; ".join(wrong), found.comparisons)


@check
def encoder_outputs_reused(trial: Trial) -> Observation:
    """Given what its encoder makes of an input, a model gives what it gives for the input itself."""
    decoder = trial.decoder
    if not decoder.is_second:
        raise NotApplicable("it has no encoder before its decoder")
    given = trial.run({**decoder.reading, **decoder.caching(False)})
    return Observation.of(trial.agree({"logits": given["logits"]}, {"logits": decoder.whole}), "1")


def _cached(trial: Trial) -> Decoder:
    decoder = trial.decoder
    if not decoder.cache:
        raise NotApplicable(f"{trial.spec.model_class} takes no cache")
    decoder.require_causal()
    return decoder


def _evidence(decoder: Decoder, sizes: list[int], masked: bool) -> dict[str, Any]:
    """What a reproduction needs to read the prompt in parts."""
    prompt, stream = decoder.stream.with_mask(decoder.prompt), decoder.stream
    members = [name for name in stream.members(prompt) if name != stream.mask]
    beside = [name for name in prompt if name not in members and name != stream.mask]
    takes = [decoder.takes_mask(start, masked) for start in (0, 1)]
    if not any(takes):
        del prompt[stream.mask]
    return {
        "prompt": prompt,
        "sizes": sizes,
        "cache": decoder.cache,
        "streamed": members,
        "again": beside if decoder.is_second else [name for name in beside if name in decoder.again],
        "masks": {stream.mask: takes} if any(takes) else {},
        "switch": list(decoder.caching(True)),
    }


def _compared(
    trial: Trial,
    decoder: Decoder,
    sizes: list[int],
    cache: Any = None,
    masked: bool | None = None,
    note: str = "",
) -> list[Comparison]:
    """The scores of the prompt read in parts, held against those of the prompt read at once."""
    parts = [scores for _, scores, _ in decoder.steps(sizes, cache, masked)]
    note = f"{note}, from token {sizes[0]} on in {len(parts) - 1} parts"
    return trial.agree({"logits": torch.cat(parts, dim=1)}, {"logits": decoder.whole}, note)


def _kinds(trial: Trial, decoder: Decoder) -> dict[str, Callable[[], Any]]:
    """By name, what makes an empty cache of each kind that the class supports.

    A cache of fixed size is supported where the class says that it can be compiled with one.
    """
    if decoder.cache != "past_key_values" or not trial.model._supports_default_dynamic_cache():
        raise NotApplicable("its state is of a kind of its own")
    if "config" not in inspect.signature(DynamicCache.__init__).parameters:
        raise NotApplicable("caches of this release know no configuration")
    config = trial.config.get_text_config(decoder=True)

    def of(make: Callable[[], Any]) -> Callable[[], Any]:
        # of what an encoder gave a decoder reads all, whatever windows its own tokens have
        return (lambda: EncoderDecoderCache(make(), DynamicCache())) if decoder.is_second else make

    kinds = {"dynamic": of(lambda: DynamicCache(config=config))}
    # one that knows no configuration keeps everything, also what lies outside a window, and nothing but keys and values
    if all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in DynamicCache(config=config).layers):
        kinds["dynamic without a configuration"] = of(DynamicCache)
    if trial.model._can_compile_fullgraph and not decoder.is_second:
        kinds["static"] = lambda: StaticCache(config=config, max_cache_len=decoder.length + SINGLE)
    if trial.session.device.type == "cuda":
        kinds["offloaded"] = of(lambda: DynamicCache(config=config, offloading=True))
        if "static" in kinds and "offloading" in inspect.signature(StaticCache.__init__).parameters:
            kinds["offloaded static"] = lambda: StaticCache(
                config=config, max_cache_len=decoder.length + SINGLE, offloading=True
            )
    return kinds
