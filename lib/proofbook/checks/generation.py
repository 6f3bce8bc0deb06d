"""Does ``generate`` write what the model's own scores say?"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from proofbook.checks.compare import Comparison
from proofbook.checks.localise import Execution
from proofbook.checks.plain import agree, allowances, call, rounding
from proofbook.checks.plain_decoding import generated, likeliest_of, texts
from proofbook.checks.reading import first_apart
from proofbook.checks.registry import Executions, NotApplicable, Observation, check
from proofbook.checks.reproduction import reproduces
from proofbook.checks.trial import Trial
from proofbook.checks.writing import NEW, Written, written

BEAMS = 3
# how many of the likeliest tokens a sample is drawn from
AMONG = 5


@check
def greedy(trial: Trial) -> Observation:
    """Greedy generation for padded rows writes the likeliest token of a forward call over each row, at each step."""
    found = written(trial, do_sample=False, num_beams=1, output_logits=True)
    given, scores = torch.stack(found.output.logits, dim=1).float().cpu(), found.forward
    comparisons = [
        one
        for row, count in enumerate(found.counts)
        for one in trial.agree({"logits": given[row, :count]}, {"logits": scores[row, :count]}, f", row {row}")
    ]
    wrong = found.unlikely(1, comparisons)

    def executions() -> tuple[Execution, Execution]:
        row = next((row for row, one in enumerate(comparisons) if not one.passed), wrong[0][0] if wrong else 0)
        return found.executions(row, first_apart(trial, given[row].split(1), scores[row].split(1)))

    made = executions if found.calls_forward else None
    seen = observed(comparisons, wrong, "1, and each token the likeliest", "not the likeliest token: ", made)
    return replace(seen, evidence=found.evidence)


@reproduces(greedy)
@torch.no_grad()
def generate_writes_by_its_scores(
    model: nn.Module,
    dtype: torch.dtype,
    tolerance: Mapping[str, float],
    prompt: Mapping[str, Any],
    reading: Mapping[str, Any],
    configuration: Mapping[str, Any],
    generation: Mapping[str, Any],
) -> None:
    """Each token that generate writes is the likeliest of a forward call over the same text, and scored as there."""
    found = generated(model, prompt, dtype, configuration, generation)
    scores, sequences = torch.stack(found.logits, dim=1).cpu(), found.sequences.cpu()
    new = scores.shape[1]
    for rows, text in texts(prompt, sequences, new, reading):
        expected, noise = call(model, text, dtype)["logits"][:, -new:], rounding(model, text, dtype)
        agree({"logits": scores[rows].to(expected.dtype)}, {"logits": expected}, tolerance, noise)
        likeliest_of(expected, sequences[rows, -new:], generation, tolerance, noise)


@check
def beams(trial: Trial) -> Observation:
    """The score of each beam is the sum of the log probabilities that a forward call over its tokens gives."""
    asked = {"do_sample": False, "num_beams": BEAMS, "num_return_sequences": 2, "length_penalty": 0.0}
    try:
        found = written(trial, **asked, output_scores=True)
    except ValueError as refusal:
        if re.search("beam.search", str(refusal), re.IGNORECASE):
            raise NotApplicable(f"refused: {refusal}") from refusal
        raise
    chosen = found.forward.log_softmax(-1).gather(-1, found.tokens[..., None])[..., 0]
    counted = torch.arange(chosen.shape[1]) < torch.tensor(found.counts)[:, None]
    expected = (chosen * counted).sum(-1)
    scores = found.output.sequences_scores.float().cpu()
    # each of the tokens' log probabilities is as uncertain as the scores that it is of
    (bound,) = trial.agree({"logits": found.forward}, {"logits": found.forward})
    allowed = bound.allowed.element * 2 * NEW if bound.allowed else 0.0
    apart = (scores - expected).abs()

    def executions() -> tuple[Execution, Execution]:
        steps, beams = _of_each_token(trial, found)
        off = torch.where(counted, (steps - chosen).abs(), 0.0)
        row, token = divmod(int(off.argmax()), off.shape[1])
        return found.executions(row, token, beam=int(beams[row, token]))

    ordered = bool((scores.view(-1, 2)[:, 0] >= scores.view(-1, 2)[:, 1]).all())
    return Observation(
        passed=bool((apart <= allowed).all()) and ordered,
        observed=f"{float(apart.max()):.3g} apart at most",
        allowed=f"{allowed:.3g}, the best first",
        detail="" if ordered else "beams are not in the order of their scores",
        executions=executions if found.calls_forward else None,
        evidence=found.evidence,
    )


def _of_each_token(trial: Trial, found: Written) -> tuple[Tensor, Tensor]:
    """The log probability by which a search over beams took each token that it wrote, and the beam that it was read in:
    rows × NEW each."""
    output = found.output
    steps = trial.model.compute_transition_scores(output.sequences, output.scores, output.beam_indices)
    return steps.float().cpu(), output.beam_indices.cpu()


@reproduces(beams)
@torch.no_grad()
def beams_are_scored_by_their_tokens(
    model: nn.Module,
    dtype: torch.dtype,
    tolerance: Mapping[str, float],
    prompt: Mapping[str, Any],
    reading: Mapping[str, Any],
    configuration: Mapping[str, Any],
    generation: Mapping[str, Any],
) -> None:
    """The score of each beam is the sum of the log probabilities that a forward call over its tokens gives."""
    found = generated(model, prompt, dtype, configuration, generation)
    scores, sequences, new = found.sequences_scores.cpu(), found.sequences.cpu(), generation["max_new_tokens"]
    for rows, text in texts(prompt, sequences, new, reading):
        expected, noise = call(model, text, dtype)["logits"][:, -new:].float(), rounding(model, text, dtype)
        chosen = expected.log_softmax(-1).gather(-1, sequences[rows, -new:, None])[..., 0]
        # each of the tokens' log probabilities is as uncertain as the scores that it is of
        allowed = allowances("logits", expected, tolerance, noise)[-1] * 2 * new
        apart = float((scores[rows] - chosen.sum(-1)).abs().max())
        assert apart <= allowed, f"rows {rows}: observed scores {apart:.3g} apart, allowed {allowed:.3g}"
    best, next_best = scores.view(-1, 2).unbind(-1)
    assert bool((best >= next_best).all()), "observed beams in another order than that of their scores, allowed none"


@check
def sampling(trial: Trial) -> Observation:
    """Sampled tokens are among the likeliest that a forward call allows, and the same again from the same seed."""
    found, again = (written(trial, do_sample=True, num_beams=1, top_k=AMONG) for _ in range(2))
    wrong = found.unlikely(AMONG, trial.agree({"logits": found.forward}, {"logits": found.forward}))
    same = torch.equal(found.tokens, again.tokens)
    return Observation(
        passed=same and not wrong,
        observed=f"{'the same' if same else 'other'} tokens again, {len(wrong)} not among the likeliest {AMONG}",
        allowed="the same, 0",
        detail=named(wrong),
        executions=(lambda: found.executions(*wrong[0])) if wrong and found.calls_forward else None,
        evidence=found.evidence,
    )


@reproduces(sampling)
@torch.no_grad()
def samples_are_likely_and_come_again(
    model: nn.Module,
    dtype: torch.dtype,
    tolerance: Mapping[str, float],
    prompt: Mapping[str, Any],
    reading: Mapping[str, Any],
    configuration: Mapping[str, Any],
    generation: Mapping[str, Any],
) -> None:
    """Sampled tokens are among the likeliest that a forward call allows, and the same again from the same seed."""
    sequences, again = (generated(model, prompt, dtype, configuration, generation).sequences.cpu() for _ in range(2))
    assert torch.equal(sequences, again), "observed other tokens from the same seed, allowed none"
    new = generation["max_new_tokens"]
    for rows, text in texts(prompt, sequences, new, reading):
        expected, noise = call(model, text, dtype)["logits"][:, -new:], rounding(model, text, dtype)
        likeliest_of(expected, sequences[rows, -new:], generation, tolerance, noise)


@check
def forced_tokens(trial: Trial) -> Observation:
    """A decoder behind an encoder begins with its start token, and writes the first and the last token forced on it."""
    decoder = trial.decoder
    if not decoder.is_second:
        raise NotApplicable("it has no encoder before its decoder")
    start = written(trial, do_sample=False, num_beams=1).start
    wanted = trial.model.generation_config.decoder_start_token_id
    first, last = _two_tokens(trial)
    forced = written(trial, do_sample=False, num_beams=1, forced_bos_token_id=first, forced_eos_token_id=last)
    sought = {
        "start": (start[:, 0], wanted),
        "first": (forced.tokens[:, 0], first),
        "last": (forced.tokens[:, -1], last),
    }
    wrong = [
        f"{name} is {row.tolist()}, not {token}"
        for name, (row, token) in sought.items()
        if not bool((row == token).all())
    ]
    return Observation(not wrong, f"{3 - len(wrong)} of 3 as asked", "3", "; ".join(wrong))


def _two_tokens(trial: Trial) -> tuple[int, int]:
    """Two tokens of the prompt that mean nothing of their own, the second being the end of a text where one is set."""
    from proofbook.checks.signal import kept_ids

    kept = kept_ids(trial)
    plain = [int(one) for one in trial.inputs[trial.decoder.stream.tokens].unique() if int(one) not in kept]
    if len(plain) < 2:
        raise NotApplicable("its inputs hold no two plain tokens")
    return plain[0], plain[1]


def observed(
    comparisons: list[Comparison],
    wrong: list[tuple[int, int]],
    allowed: str,
    said: str,
    executions: Executions | None = None,
) -> Observation:
    """What comparisons of scores and tokens that are wrong, each by its row and place, amount to."""
    found = Observation.of(comparisons, allowed, executions=executions)
    return replace(found, passed=False, detail=f"{said}{named(wrong)}; {found.detail}") if wrong else found


def named(tokens: list[tuple[int, int]]) -> str:
    """The first of several tokens, each by its row and place."""
    return ", ".join(f"row {row}, token {at}" for row, at in tokens[:5])
