"""Does a decoder read from left to right?"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from proofbook.checks.compare import Comparison, compare
from proofbook.checks.decoding import Decoder
from proofbook.checks.localise import Execution
from proofbook.checks.plain import agree, before_changes, call, rounding
from proofbook.checks.registry import NotApplicable, Observation, check
from proofbook.checks.reproduction import reproduces
from proofbook.checks.streams import copies, rows_of
from proofbook.checks.trial import Trial
from proofbook.checks.truth import copied

# tokens that are changed in one prompt, at most
CHANGES = 24
# fewer where much is read beside them: so many numbers in all copies, but no fewer copies than these
BESIDE, LEAST = 150_000, 5


@check(graphs=True)
def causal(trial: Trial) -> Observation:
    """A token changed moves no score before it, and moves one from there on, in eager and in sdpa attention."""
    decoder = trial.decoder
    decoder.require_causal()
    inputs, places = changed_copies(decoder)
    comparisons: list[Comparison] = []
    without, apart = [], list[tuple[Execution, Execution]]()
    for implementation, model in _implementations(trial):
        outputs = trial.run_with(model, inputs) if trial.runtime.runs_module else trial.run(inputs)
        scores = outputs["logits"]
        compared = _before(trial, scores, places, implementation)
        comparisons += compared
        if not all(one.passed for one in compared):
            apart.append(parting(model, inputs, scores, places))
        without += [f"{place} in {implementation}" for place in _idle(trial, scores, places)]
    note = f"tokens without influence: {', '.join(without[:5])}" if without else ""
    allowed = f"1 before each of {len(places)} tokens, more from there on"
    found = Observation.of(comparisons, allowed, note, executions=(lambda: apart[0]) if apart else None)
    failed = [one.name for one in comparisons if not one.passed]
    names = [name for name in ("eager", "sdpa") if any(one.endswith(name) for one in failed)]
    found = replace(found, evidence={**plain_copies(decoder, inputs), "places": places, "implementations": names})
    return found if not without else Observation(False, found.observed, found.allowed, found.detail, found.comparisons)


@reproduces(causal)
def a_token_moves_nothing_before_it(
    whole: Any,
    dtype: torch.dtype,
    tolerance: Mapping[str, float],
    changed: Mapping[str, Any],
    places: list[int],
    implementations: list[str],
) -> None:
    """A token changed moves no score before it: the first row is the text, each other has one token changed."""
    noise = rounding(whole, changed, dtype)
    for name in implementations:
        whole.set_attn_implementation(name)
        scores = call(whole, changed, dtype)["logits"]
        kept, expected = before_changes(scores, places)
        agree({"logits": kept}, {"logits": expected}, tolerance, noise)


def plain_copies(decoder: Decoder, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The copies for a reproduction: with what an encoder reads, instead of its outputs."""
    if "encoder_outputs" not in inputs:
        return {"changed": dict(inputs)}
    missing = {name: value for name, value in decoder.prompt.items() if name not in inputs}
    rows = torch.zeros(len(inputs[decoder.stream.tokens]), dtype=torch.long)
    given = {name: value for name, value in inputs.items() if name != "encoder_outputs"}
    return {"changed": {**given, **rows_of(missing, rows)}}


def changed_copies(decoder: Decoder, most: int = CHANGES) -> tuple[dict[str, Tensor], list[int]]:
    """The first row of the prompt, then copies of it with one token changed in each; and which one.

    Every token changes, or as many as ``most``, evenly spread and the last among them; those among which pictures or
    sound stand do not.
    """
    stream, prompt = decoder.stream, decoder.reading
    tokens = prompt[stream.tokens][0]
    first = decoder.begin if decoder.begin > 1 else 0
    others = [int(token) for token in tokens[first:].unique()]
    if len(others) < 2:
        raise NotApplicable("the prompt has one token, again and again")
    # what lies beside the tokens is read again with each copy
    beside = sum(one.numel() for one in tree_leaves(prompt) if isinstance(one, Tensor) and one.is_floating_point())
    each = beside // len(prompt[stream.tokens])
    count = min(most, max(LEAST, BESIDE // max(1, each)), len(tokens) - first)
    places = sorted({round(float(at)) for at in torch.linspace(first, len(tokens) - 1, count)})
    rows = len(places) + 1
    same = torch.zeros(rows, dtype=torch.long)
    batch = rows_of(prompt, same) if decoder.has_text_alone else copies(prompt, rows)
    changed = batch[stream.tokens].clone()
    for number, place in enumerate(places, 1):
        index = others.index(int(tokens[place]))
        changed[number, place] = others[(index + 1) % len(others)]
    return {**batch, stream.tokens: changed}, places


def _implementations(trial: Trial) -> Iterator[tuple[str, torch.nn.Module]]:
    """The model with each implementation of attention that its class has; in a graph there is one."""
    if not trial.runtime.runs_module:
        yield trial.target.runtime, trial.model
        return
    for name in ("eager", "sdpa"):
        try:
            if hasattr(trial.model, "set_attn_implementation"):
                model = copied(trial.model)
                model.set_attn_implementation(name)
            else:  # before 4.53 only a model that is loaded can be given one
                model = trial.reload(attention=name)
        except ValueError:  # the class says that it does not support it
            continue
        yield name, model


def _before(trial: Trial, scores: Tensor, places: list[int], implementation: str) -> list[Comparison]:
    """Each copy's scores before its changed token, held against those of the row unchanged."""
    actual, expected = before_changes(scores, places)
    return trial.agree({"logits": actual}, {"logits": expected}, f" before the token, {implementation}")


def _earlier(scores: Tensor, places: list[int]) -> Tensor:
    """Which tokens stand before the one changed: booleans, copies × length."""
    return torch.arange(scores.shape[1]) < torch.tensor(places)[:, None]


def parting(
    model: torch.nn.Module, inputs: Mapping[str, Any], scores: Tensor, places: list[int]
) -> tuple[Execution, Execution]:
    """The copy whose scores before its changed token moved the most, up to there, and the row unchanged."""
    before = _earlier(scores, places)
    moved = torch.where(before[..., None], (scores[1:] - scores[:1]).abs(), 0.0).flatten(1).amax(1)
    number = int(moved.argmax())
    return Execution(model, inputs, number + 1, before[number]), Execution(model, inputs, 0, before[number])


def _idle(trial: Trial, scores: Tensor, places: list[int]) -> list[int]:
    """The places whose change moves no score from there on beyond the error allowed."""
    noise, tolerance = trial.noise.get("logits"), trial.tolerance
    enough = min(1.0, tolerance.signal)
    return [
        place
        for number, place in enumerate(places, 1)
        if compare("logits", scores[number, place:], scores[0, place:], tolerance, noise).ratio < enough
    ]
