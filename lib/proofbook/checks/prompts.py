"""Do prompts with no picture, one, or several give what each gives by itself, and is each picture where it belongs?"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import GenerationMixin

from proofbook.checks.against import against_truth
from proofbook.checks.compare import Comparison, compare
from proofbook.checks.composing import Composer, other, shown
from proofbook.checks.generation import observed
from proofbook.checks.localise import Execution
from proofbook.checks.plain import agree, call, eager, moved, rounding
from proofbook.checks.plain_decoding import generated, likeliest_of, texts
from proofbook.checks.reading import first_apart
from proofbook.checks.registry import Executions, NotApplicable, Observation, check
from proofbook.checks.reproduction import reproduces
from proofbook.checks.streams import Stream
from proofbook.checks.trial import Trial
from proofbook.checks.writing import count_of, evidence_of_writing, generate, generating, unlikely
from proofbook.subject.tasks.task import Row

# numbers of pictures of the rows of a batch: all at once, else two at a time
MIXTURES = ((0, 1, 2), (0, 1), (1, 2))
GREEDY = {"do_sample": False, "output_logits": True}


@check(graphs=True)
def text_alone(trial: Trial) -> Observation:
    """Prompts that nothing is seen beside give float64 truth."""
    composer = Composer.of(trial)
    inputs = composer.encode([composer.row(row, 0) for row in range(len(trial.rows))])
    needs = [
        one.name
        for one in inspect.signature(type(trial.model).forward).parameters.values()
        if one.default is one.empty and one.name != "self" and one.kind is one.POSITIONAL_OR_KEYWORD
    ]
    if set(needs) - set(inputs):
        raise NotApplicable(f"{trial.spec.model_class} can't be called without {', '.join(needs)}")
    try:
        trial.run(inputs)
    except ValueError as refusal:
        raise NotApplicable(f"refused: {refusal}") from refusal
    return _right(trial, inputs, "1 in each output")


@check(graphs=True)
def several_pictures(trial: Trial) -> Observation:
    """Prompts with two pictures each give float64 truth, and another answer where the two change places."""
    composer = _of_pictures(trial)
    rows = [composer.row(row, 2) for row in range(len(trial.rows))]
    inputs = composer.encode(rows)
    found = _right(trial, inputs, "1 in each output, another answer when reversed")
    reversed_ = composer.encode([Row(text=row.text, images=row.images[::-1]) for row in rows])
    pairs = zip(composer.scores(inputs), composer.scores(reversed_), strict=True)
    same = [f"row {at}" for at, (one, two) in enumerate(pairs) if not _moved(trial, one, two)]
    return _with(found, [f"the order of the pictures changes nothing in {', '.join(same)}"] if same else [])


@check(graphs=True)
def mixed_batch(trial: Trial) -> Observation:
    """A row gives the same alone and beside rows with more pictures than its own, or with none."""
    composer = Composer.of(trial)
    comparisons, counted, known = list[Comparison](), list[str](), dict[str, Any]()
    apart = list[tuple[Execution, Execution]]()
    for counts, inputs in _mixtures(composer):
        counted.append(", ".join(map(str, counts)))
        rows = [composer.alone(composer.row(row, count)) for row, count in enumerate(counts)]
        if all(one.passed for one in comparisons):  # so that the first that fails is the last that is kept
            same = [((0, row), (1 + row, 0)) for row in range(len(rows))]
            known = {"batches": [inputs, *rows], "same": same, "unlike": []}
        for row, (count, scores) in enumerate(zip(counts, composer.scores(inputs), strict=True)):
            (single,) = composer.scores(rows[row])
            note = f", row {row} of {count} {composer.sees}s"
            comparisons += trial.agree({"logits": scores}, {"logits": single}, note)
            if not comparisons[-1].passed:
                own = Stream("input_ids", "attention_mask").visible(inputs)[row]
                apart.append((Execution(trial.called, inputs, row, own), Execution(trial.called, rows[row])))
    allowed = f"1 in rows of {' and of '.join(counted)} {composer.sees}s"
    seen = Observation.of(comparisons, allowed, executions=(lambda: apart[0]) if apart else None)
    return replace(seen, evidence=known)


@check(graphs=True)
def exchanged_pictures(trial: Trial) -> Observation:
    """Rows in another order give outputs in that order; two rows that exchange what they see change, others don't."""
    composer = Composer.of(trial)
    rows = [composer.row(row, 1) for row in range(len(trial.rows))]
    order = [1, 2, 0]
    batches = [composer.encode(rows), composer.encode([rows[at] for at in order])]
    scores = composer.scores(batches[0])
    comparisons = []
    for was, now in zip(order, composer.scores(batches[1]), strict=True):
        comparisons += trial.agree({"logits": now}, {"logits": scores[was]}, f", row {was} elsewhere")
    first, second, *rest = rows
    exchanged = [
        Row(text=first.text, images=second.images, video=second.video),
        Row(text=second.text, images=first.images, video=first.video),
        *rest,
    ]
    batches.append(composer.encode(exchanged))
    after = composer.scores(batches[2])
    comparisons += trial.agree({"logits": after[2]}, {"logits": scores[2]}, ", row 2, which exchanged nothing")
    still = [f"row {row}" for row in (0, 1) if not _moved(trial, scores[row], after[row])]
    found = Observation.of(comparisons, f"1 in each row, and another answer to another {composer.sees}")
    same = [((1, now), (0, was)) for now, was in enumerate(order)] + [((2, 2), (0, 2))]
    known = {"batches": batches, "same": same, "unlike": [((2, row), (0, row)) for row in (0, 1)]}
    return replace(_with(found, [f"nothing changed in {', '.join(still)}"] if still else []), evidence=known)


@reproduces(mixed_batch, exchanged_pictures)
def prompts_score_by_themselves(
    model: nn.Module,
    dtype: torch.dtype,
    tolerance: Mapping[str, float],
    batches: list[Mapping[str, Any]],
    same: list[tuple[tuple[int, int], tuple[int, int]]],
    unlike: list[tuple[tuple[int, int], tuple[int, int]]],
) -> None:
    """A prompt scores the same in whatever batch and row it stands, and otherwise with another picture."""
    scores = [shown(call(model, batch, dtype)["logits"], batch) for batch in batches]
    noise = rounding(model, batches[0], dtype)
    for (batch, row), (beside, place) in same:
        agree({"logits": scores[batch][row]}, {"logits": scores[beside][place]}, tolerance, noise)
    for (batch, row), (beside, place) in unlike:
        by = moved({"logits": scores[batch][row]}, {"logits": scores[beside][place]}, tolerance)
        assert by > 1, (
            f"row {row} of batch {batch}: scores observed to differ by {by:.3g} roundings, allowed 1 at least"
        )


@check
def picture_places(trial: Trial) -> Observation:
    """Another picture in a row changes its own tokens, from their first half on, and none before these."""
    composer = Composer.of(trial)
    row, starts, stops = _placed(composer)
    before = composer.scores(composer.alone(row))[0]
    comparisons, still = [], []
    evidence: dict[str, Any] = {}
    for which, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        after = composer.scores(composer.alone(other(row, which)))[0]
        own = f"{composer.sees} {which}"
        if start and not (trial.decoder.not_causal or trial.decoder.has_prefix):
            note = f", before {own}"
            comparisons += trial.agree({"logits": after[:start]}, {"logits": before[:start]}, note)
            evidence = evidence or {"prompt": composer.alone(row), "start": start}
        # not the very first: that may be a mark, or one of the codes of a vocabulary, the same for both
        half = slice(start, (start + stop + 1) // 2)
        if not _moved(trial, before[half], after[half]):
            still.append(f"{own} does not change its tokens {half.start} to {half.stop}")
    allowed = f"1 before the tokens of each of {len(starts)} {composer.sees}s, and they change"
    if comparisons:
        return replace(_with(Observation.of(comparisons, allowed), still), evidence=evidence)
    return Observation(not still, f"{len(still)} tokens unchanged", "0", "; ".join(still))


@reproduces(picture_places)
def earlier_tokens_see_no_picture(
    model: nn.Module, prompt: Mapping[str, Any], start: int, dtype: torch.dtype, tolerance: Mapping[str, float]
) -> None:
    """Other pictures change nothing before the first of their tokens."""
    others = {
        name: -value if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in prompt.items()
    }
    before, after = (call(model, given, dtype)["logits"][:, :start] for given in (prompt, others))
    true, floor = (eager(model, prompt, one) for one in (torch.float64, dtype))
    agree({"logits": after}, {"logits": before}, tolerance, (floor, true))


@check
def mixed_generation(trial: Trial) -> Observation:
    """Greedy generation for rows of unlike numbers of pictures writes what a forward call over each row says."""
    composer = Composer.of(trial)
    if not trial.model.can_generate() or type(trial.model).generate is not GenerationMixin.generate:
        raise NotApplicable(f"{trial.spec.model_class} does not generate, or in a way of its own")
    comparisons: list[Comparison] = []
    wrong, kept, apart = list[tuple[int, int]](), dict[str, Any](), list[Executions]()
    for counts, inputs in _mixtures(composer, "left"):
        alone = [composer.alone(composer.row(row, count)) for row, count in enumerate(counts)]
        if not apart:  # the first mixture that fails is the one that is shown
            kept = {**evidence_of_writing(trial, inputs, GREEDY), "alone": alone}
        made = generate(trial, inputs, GREEDY)
        given = torch.stack(made.logits, dim=1).float().cpu()
        tokens = made.sequences[:, -given.shape[1] :].cpu()
        for row, count in enumerate(counts):
            whole = _continued(trial, alone[row], tokens[row : row + 1])
            begin = trial.decoder.stream.length(whole) - tokens.shape[1] - 1
            scores = trial.run(whole)["logits"][0, begin:-1][: count_of(tokens[row], trial)].float()
            found, note = given[row, : len(scores)], f", row {row} of {count} {composer.sees}s"
            comparisons += trial.agree({"logits": found}, {"logits": scores}, note)
            off = unlikely(trial, scores, tokens[row, : len(scores)], 1, comparisons)
            if off or not comparisons[-1].passed:
                at = first_apart(trial, found.split(1), scores.split(1))
                apart.append(partial(_scoring, trial, inputs, row, at, whole, begin + at))
            wrong += [(row, at) for at in off]
    first = apart[0] if apart else None
    seen = observed(comparisons, wrong, "1, and each token the likeliest", "not the likeliest token: ", first)
    return replace(seen, evidence=kept)


def _scoring(
    trial: Trial, prompts: Mapping[str, Any], row: int, token: int, whole: Mapping[str, Any], at: int
) -> tuple[Execution, Execution]:
    """The call by which ``generate`` scores a token it writes, and a forward call over that row, in which it is scored
    at a position."""
    there = torch.arange(trial.decoder.stream.length(whole)) == at
    return generating(trial, prompts, GREEDY, row, token), Execution(trial.called, whole, seen=there)


def _continued(trial: Trial, prompt: Mapping[str, Any], tokens: Tensor) -> dict[str, Any]:
    """The inputs of a forward call, without a cache, over a prompt and tokens behind it."""
    return {**trial.decoder.stream.extended(prompt, tokens), **trial.decoder.caching(False)}


@reproduces(mixed_generation)
@torch.no_grad()
def rows_generate_as_alone(
    model: nn.Module,
    dtype: torch.dtype,
    tolerance: Mapping[str, float],
    prompt: Mapping[str, Any],
    reading: Mapping[str, Any],
    configuration: Mapping[str, Any],
    generation: Mapping[str, Any],
    alone: list[Mapping[str, Any]],
) -> None:
    """Greedy generation for rows of unlike numbers of pictures goes by the scores of a forward call over each row."""
    found = generated(model, prompt, dtype, configuration, generation)
    scores = torch.stack(found.logits, dim=1).cpu()
    new = scores.shape[1]
    for row, own in enumerate(alone):
        sequence = torch.cat([own[reading["tokens"]], found.sequences[row : row + 1, -new:].cpu()], dim=1)
        ((_, text),) = texts(own, sequence, new, reading)
        expected, noise = call(model, text, dtype)["logits"][:, -new:], rounding(model, text, dtype)
        agree({"logits": scores[row : row + 1].to(expected.dtype)}, {"logits": expected}, tolerance, noise)
        likeliest_of(expected, sequence[:, -new:], generation, tolerance, noise)


def _right(trial: Trial, inputs: Mapping[str, Any], allowed: str) -> Observation:
    """Whether the outputs of another batch are right by float64."""
    comparisons, _ = against_truth(trial, trial.called, inputs)
    if not comparisons:
        raise NotApplicable(f"rounding to {trial.target.dtype} decides what becomes of every output")
    return Observation.of(comparisons, allowed)


def _of_pictures(trial: Trial) -> Composer:
    composer = Composer.of(trial)
    if composer.sees == "clip":
        raise NotApplicable("its prompts are about clips, one a row")
    return composer


def _mixtures(
    composer: Composer, side: Literal["left", "right"] = "right"
) -> Iterator[tuple[Sequence[int], dict[str, Any]]]:
    """The batches of unlike numbers of pictures that the processor makes: all numbers in one if it can."""
    refused: NotApplicable | None = None
    made: set[int] = set()
    most = 1 if composer.sees == "clip" else 2
    for counts in MIXTURES:
        if max(counts) > most or set(counts) <= made:
            continue
        try:
            inputs = composer.encode([composer.row(row, count) for row, count in enumerate(counts)], side)
        except NotApplicable as refusal:
            refused = refusal
            continue
        made |= set(counts)
        yield counts, inputs
    if not made:
        raise refused or NotApplicable("its processor mixes no rows")


def _placed(composer: Composer) -> tuple[Row, list[int], list[int]]:
    """A prompt with two pictures if that can be, and where the tokens of each begin and end in its scores.

    The first picture has as many tokens as in a prompt of its own.
    """
    one = composer.row(0, 1)
    alone = composer.alone(one)
    places = composer.placeholders(alone)[0].nonzero().flatten().tolist()
    try:
        two = composer.row(0, 2) if composer.sees == "picture" else one
        both = composer.placeholders(composer.alone(two))[0].nonzero().flatten().tolist()
        second = composer.alone(Row(text=one.text, images=two.images[1:])) if two.images[1:] else alone
    except NotApplicable:
        return one, [places[0]], [places[-1] + 1]
    # some classes give each of several pictures fewer tokens than one by itself
    if len(both) != len(places) + int(composer.placeholders(second).sum()):
        return one, [places[0]], [places[-1] + 1]
    count = len(places)
    return two, [both[0], both[count]], [both[count - 1] + 1, both[-1] + 1]


def _moved(trial: Trial, before: Tensor, after: Tensor) -> bool:
    """Whether scores differ by more than the error allowed."""
    if before.shape != after.shape:
        return True
    return compare("logits", after, before, trial.tolerance, trial.noise.get("logits")).ratio > 1


def _with(found: Observation, wrong: list[str]) -> Observation:
    """An observation with what else is wrong."""
    if not wrong:
        return found
    detail = "; ".join([*wrong, found.detail])
    return Observation(False, found.observed, found.allowed, detail, found.comparisons)
