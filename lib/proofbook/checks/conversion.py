"""Does the target's runtime take the model, and does each step on the way there keep its numbers?"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from proofbook.checks.accuracy import near_float64_elsewhere
from proofbook.checks.decoding import Decoder
from proofbook.checks.hidden import without_padding
from proofbook.checks.plain import call, placed
from proofbook.checks.registry import NotApplicable, Observation, check, evidence
from proofbook.checks.reproduction import reproduces
from proofbook.checks.stepping import Step, cache_in_torch, part_of, tensors_in
from proofbook.checks.trial import Trial
from proofbook.checks.truth import truth_of
from proofbook.runtimes import Refused
from proofbook.runtimes.graph import ANOTHER_GRAPH

# tokens that are written behind a cache
NEW = 4


@check(graphs=True)
def prepared(trial: Trial) -> Observation:
    """The target's runtime takes the model; where it does not, the step that refused and the cause are named."""
    _converted(trial)
    if isinstance(trial.prepared, Refused):
        with evidence(**trial.through):
            raise trial.prepared
    steps = [f"{step} {seconds:.2g} s" for step, seconds in trial.session.prepare_s.items()]
    return Observation(True, "ready: " + ", ".join(steps), "no step refuses")


@reproduces(prepared)
def it_is_taken(
    model: nn.Module,
    inputs: Mapping[str, Any],
    dtype: torch.dtype,
    through: Callable[[nn.Module, Mapping[str, Any]], Sequence[torch.Tensor]],
) -> None:
    """A runtime takes a model that torch itself runs."""
    call(model, inputs, dtype)
    try:
        through(model, placed(model, inputs, dtype))
    except Exception as error:
        cause = error.__cause__ or error
        said = f"{type(cause).__name__}: {str(cause).strip().partition(chr(10))[0]}"
        raise AssertionError(f"observed {said}, allowed outputs") from error


@check(graphs=True)
def stages(trial: Trial) -> Observation:
    """Each step on the way to the target gives the numbers of the step before it."""
    _converted(trial)
    drawn = set(trial.draws_noise)  # which each step draws for itself
    steps = [
        (stage, {name: one for name, one in outputs.items() if name not in drawn})
        for stage, outputs in trial.session.stages(trial.inputs).items()
    ]
    if not steps[-1][1]:
        raise NotApplicable("all that it gives depends on noise that a call draws")
    if trial.target.weight_dtype:  # the last step rounds weights: its numbers are for `matches-truth` to judge
        steps.pop()
    comparisons = []
    for (_, before), (name, after) in pairwise(steps):
        actual, expected = (without_padding(one, trial.inputs) for one in (after, before))
        comparisons += trial.agree(actual, expected, f", {name}")
    allowed = f"1 in each output of {len(steps) - 1} steps: " + ", ".join(n for n, _ in steps)
    return replace(Observation.of(comparisons, allowed), evidence=trial.through)


reproduces(stages)(near_float64_elsewhere)


@check(graphs=True)
def decodes_with_cache(trial: Trial) -> Observation:
    """Converted as a first call and a step behind a cache of open length, it writes tokens that score as truth says."""
    _converted(trial)
    decoder = trial.decoder
    decoder.require_causal()
    if not decoder.has_text_alone:
        raise NotApplicable("what it reads beside the tokens is read in the first call alone")
    if decoder.cache != "past_key_values":
        raise NotApplicable("its state is of a kind of its own")
    ready = decoder.length - 2
    whole, scores, another = _written(trial, decoder, ready)
    if another:
        return Observation(False, "a graph for each length of the cache", "one for all", another)
    whole = {**whole, **decoder.caching(False)}
    expected = truth_of(trial.standing, whole).outputs["logits"][:, :-1]
    comparisons = trial.agree({"logits": scores}, {"logits": expected}, inputs=whole)
    return Observation.of(comparisons, f"1 at each of {ready} tokens read and {NEW} written")


def _written(trial: Trial, decoder: Decoder, ready: int) -> tuple[dict[str, Any], torch.Tensor, str]:
    """A text of so many tokens with further ones, the likeliest each; the scores of all but the last; and why there is
    a graph for each length, empty where one is for all."""
    stream, prompt = decoder.stream, decoder.reading
    layout = cache_in_torch(decoder, prompt, ready)
    behind = [
        {
            "given": part_of(decoder, prompt, stop, stop + 1),
            "cache": tensors_in(cache_in_torch(decoder, prompt, stop)),
        }
        for stop in (ready, ready + 1)
    ]
    firsts = [{"given": part_of(decoder, prompt, 0, stop), "cache": {}} for stop in (ready, ready + 1)]
    first = trial.runtime.prepare(Step(decoder), firsts, trial.target)
    step = trial.runtime.prepare(Step(decoder, layout), behind, trial.target)
    try:
        cache = first.run(firsts[0])
        text = stream.cut(stream.with_mask(prompt), 0, ready)
        scores = [cache.pop("logits")]
        for at in range(ready, ready + NEW):
            text = stream.extended(text, scores[-1][:, -1:].argmax(-1))
            given = {"given": part_of(decoder, text, at, at + 1), "cache": cache}
            before = sum(step.prepare_s.values())
            made = step.run(given)
            grows = sum(step.prepare_s.values()) > before
            scores.append(made.pop("logits"))
            cache = {**cache, **made}
        # one more for how a cache lies in memory is none for its length: the last token tells
        found = [one.detail for one in step.proof(given).fallbacks if one.kind == ANOTHER_GRAPH and grows]
        text = stream.extended(text, scores[-1][:, -1:].argmax(-1))
        return text, torch.cat(scores, dim=1), "".join(found)
    finally:
        first.release()
        step.release()


def _converted(trial: Trial) -> None:
    """Raises NotApplicable where there are no steps."""
    if trial.runtime.runs_module:
        raise NotApplicable(f"{trial.target.runtime} runs the module of torch itself")
