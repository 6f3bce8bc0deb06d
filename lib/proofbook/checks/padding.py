"""Does a row's answer depend on the padding beside it?"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from proofbook.checks.compare import Comparison
from proofbook.checks.localise import Execution
from proofbook.checks.padded_text import PaddedText
from proofbook.checks.plain import agree, call, moved, placed, rounding
from proofbook.checks.plain_decoding import read_in_parts, unpadded
from proofbook.checks.reading import evidence_of_reading
from proofbook.checks.registry import NotApplicable, Observation, check, evidence
from proofbook.checks.reproduction import reproduces
from proofbook.checks.signal import kept_ids
from proofbook.checks.streams import rows_of, slice_row, sliceable
from proofbook.checks.trial import Trial
from proofbook.runtimes.outputs import is_cache

# tokens that are decoded behind padded prompts
DECODED = 3
# bits of a mask that are taken away one by one
BITS = 16


@check(graphs=True)
def padding_changes_nothing(trial: Trial) -> Observation:
    """Each row, padded beside longer ones on each side that the model supports, gives what it gives alone, unpadded."""
    text = PaddedText(trial)
    comparisons: list[Comparison] = []
    batches, apart = [], list[tuple[Execution, Execution]]()
    for side in text.sides:
        batch = text.padded(side)
        batches.append(batch)
        together = trial.run(batch)
        for row, alone in enumerate(text.alone):
            seen = text.stream.visible(batch)[row]
            note = f", row {row}, padded on the {side}"
            # what heads read at the first token or the last has its place by the tokenizer's side
            found = _row_compared(trial, together, alone, row, seen, note, pooled=side == text.own_side)
            comparisons += found
            if not all(one.passed for one in found):
                apart.append((Execution(trial.called, batch, row, seen), Execution(trial.called, text.rows[row])))
    if not comparisons:
        raise NotApplicable("no output has an entry a row")
    seen_all = Observation.of(
        comparisons,
        f"1 in each of {len(text.alone)} rows, padded on the {' and the '.join(text.sides)}",
        executions=(lambda: apart[0]) if apart else None,
    )
    pooled = [side == text.own_side for side in text.sides]
    known = {"batches": batches, "rows": text.rows, "mask": text.stream.mask, "pooled": pooled}
    return replace(seen_all, evidence=known)


@reproduces(padding_changes_nothing)
def padded_rows_are_rows_alone(
    model: nn.Module,
    dtype: torch.dtype,
    tolerance: Mapping[str, float],
    batches: list[Mapping[str, Any]],
    rows: list[Mapping[str, Any]],
    mask: str,
    pooled: list[bool],
) -> None:
    """Each row gives in a padded batch, its padding left out, what it gives alone."""
    for batch, whole in zip(batches, pooled, strict=True):
        together, noise = call(model, batch, dtype), rounding(model, batch, dtype)
        for row, single in enumerate(rows):
            alone = call(model, single, dtype)
            for name, part in parts_of_row(together, alone, row, batch[mask][row].bool(), whole).items():
                agree({name: part}, {name: alone[name][0]}, tolerance, noise)


@check(graphs=True)
def masked_content(trial: Trial) -> Observation:
    """What stands under a mask bit of 0, each bit by itself, changes nothing elsewhere."""
    text = PaddedText(trial)
    text.require_mask()
    text.require_separate()
    stream, row = text.stream, min(text.rows, key=text.stream.length)
    tokens = row[stream.tokens][0]
    places, others = _plain(trial, tokens)
    if not sliceable(row, 1) or len(places) < 2:
        raise NotApplicable("the inputs of a row can't be repeated, or it has no plain tokens")
    numbers = torch.arange(len(places))
    batch = rows_of(stream.with_mask(row), torch.zeros_like(numbers))
    batch[stream.mask][numbers, places] = 0
    changed = batch[stream.tokens].clone()
    changed[numbers, places] = others
    other = {**batch, stream.tokens: changed}
    with evidence(inputs=batch):
        before, after = trial.run(batch), trial.run(other)
    comparisons, judged, moved = [], dict[str, bool](), torch.zeros(len(places))
    names = text.judged(before, len(places))
    second = trial.config.is_encoder_decoder
    # similarities of every row to every other are as many as the tokens by chance
    of_states = [n for n in names if before[n].dim() > 2 or len(places) != len(tokens)]
    by_token = [
        n for n in of_states if before[n].shape[1:2] == tokens.shape and (not second or n.startswith("encoder_"))
    ]
    # what is pooled may be the state of the first token or of the last, whatever the mask says
    inner = (places > 0) & (places < len(tokens) - 1)
    # beside states of tokens, what is pooled from them says nothing more, and may say where a token stood
    # beside a decoder's scores, the encoder's states of pictures and tokens: which is whose is not written in them
    seconds = [n for n in names if n in by_token or not n.startswith("encoder_")]
    for name in seconds if second else by_token or [n for n in names if before[n].dim() == 2]:
        expected, actual = (one[name] if name in by_token else one[name][inner] for one in (before, after))
        if name in by_token:
            expected, actual = expected.clone(), actual.clone()
            expected[numbers, places] = actual[numbers, places] = 0
            moved = moved.maximum((actual - expected).abs().flatten(1).amax(1).float())
        comparisons += trial.agree({name: actual}, {name: expected})
        judged[name] = name in by_token
    if not comparisons:
        raise NotApplicable("no output has an entry a row")
    kept = {"single": stream.with_mask(row), "tokens": stream.tokens, "mask": stream.mask, "judged": judged}
    worst = int(moved.argmax())
    elsewhere = torch.arange(len(tokens)) != places[worst]
    seen = Observation.of(
        comparisons,
        f"1 under each of {len(places)} bits",
        executions=lambda: (
            Execution(trial.called, other, worst, elsewhere),
            Execution(trial.called, batch, worst, elsewhere),
        ),
    )
    return replace(seen, evidence={**kept, "places": places, "others": others})


@reproduces(masked_content)
def what_is_masked_changes_nothing(
    model: nn.Module,
    dtype: torch.dtype,
    tolerance: Mapping[str, float],
    single: Mapping[str, Any],
    tokens: str,
    mask: str,
    places: Tensor,
    others: Tensor,
    judged: Mapping[str, bool],
) -> None:
    """What stands under a mask bit of 0, another bit in each row of a batch, changes nothing elsewhere."""
    rows = torch.arange(len(places))
    batch = rows_of(single, torch.zeros_like(rows))
    batch[mask][rows, places] = 0
    changed = batch[tokens].clone()
    changed[rows, places] = others
    before, after = (call(model, {**batch, tokens: ids}, dtype) for ids in (batch[tokens], changed))
    noise = rounding(model, batch, dtype)
    for name, has_entry_a_token in judged.items():
        # what is pooled may be the state of the first token or of the last
        elsewhere = (places > 0) & (places < batch[tokens].shape[1] - 1)
        if has_entry_a_token:
            elsewhere = torch.ones(batch[tokens].shape, dtype=torch.bool)
            elsewhere[rows, places] = False
        agree({name: after[name][elsewhere]}, {name: before[name][elsewhere]}, tolerance, noise)


@check
def cross_attention_mask(trial: Trial) -> Observation:
    """What the encoder gives under a mask bit of 0 changes no score of the decoder; under a bit of 1 it does."""
    decoder = trial.decoder
    if not decoder.is_second:
        raise NotApplicable("it has no encoder before its decoder")
    reading = decoder.reading
    states, mask = decoder.encoded.last_hidden_state, reading.get("attention_mask")
    if mask is None or mask.shape != states.shape[:2]:
        raise NotApplicable("no mask has an entry for each state of the encoder")
    hidden = mask.clone()
    hidden[:, ::3] = 0
    reading = {**reading, "attention_mask": hidden}
    noise = torch.randn(states.shape, generator=torch.Generator().manual_seed(0)).to(states) * states.std()
    moved = [
        {**reading, "encoder_outputs": type(decoder.encoded)(last_hidden_state=states + noise * bits[..., None])}
        for bits in (hidden == 0, hidden != 0)
    ]
    expected = {"logits": trial.run(reading)["logits"]}
    unseen, seen = (trial.agree({"logits": trial.run(given)["logits"]}, expected)[0] for given in moved)
    found = Observation.of(
        [unseen],
        "1 under bits of 0, more under bits of 1",
        # of the encoder's states those that the first row sees
        executions=lambda: (
            Execution(trial.called, moved[0], 0, hidden[0].bool()),
            Execution(trial.called, reading, 0, hidden[0].bool()),
        ),
    )
    found = replace(found, evidence={"prompt": decoder.prompt, "again": [*reading], "hidden": hidden})
    if seen.ratio >= min(1.0, trial.tolerance.signal):
        return found
    return replace(found, passed=False, observed=f"{seen.ratio:.3g} of the error allowed under bits of 1")


@reproduces(cross_attention_mask)
@torch.no_grad()
def masked_states_change_no_score(
    model: nn.Module,
    dtype: torch.dtype,
    tolerance: Mapping[str, float],
    prompt: Mapping[str, Any],
    again: list[str],
    hidden: Tensor,
) -> None:
    """What the encoder gives under a mask bit of 0 changes no score of the decoder; under a bit of 1 it does."""
    states = model(**placed(model, prompt, dtype)).encoder_last_hidden_state.cpu()
    noise = torch.randn(states.shape, generator=torch.Generator().manual_seed(0)) * states.std()
    reading = {**{name: prompt[name] for name in again if name in prompt}, "attention_mask": hidden}

    def scores(given: Tensor) -> dict[str, Tensor]:
        outputs = BaseModelOutput(**placed(model, {"last_hidden_state": given}, dtype))
        return {"logits": model(**placed(model, reading, dtype), encoder_outputs=outputs).logits.cpu()}

    before = scores(states)
    unseen, seen = (scores(states + noise * bits[..., None]) for bits in (hidden == 0, hidden != 0))
    agree(unseen, before, tolerance, rounding(model, prompt, dtype))
    change = moved(seen, before, tolerance)
    assert change >= 1, f"under bits of 1: observed a change of {change:.3g} of rounding, allowed 1 or more"


@check
def padded_decoding(trial: Trial) -> Observation:
    """Prompts of several lengths, padded on the left, go on with the cache as each of them alone."""
    decoder, text = trial.decoder, PaddedText(trial)
    decoder.require_causal()
    if decoder.is_second or not decoder.has_text_alone:
        raise NotApplicable("asked of decoders that read text alone")
    if not decoder.cache:
        raise NotApplicable(f"{trial.spec.model_class} takes no cache")
    text.require_mask()
    batch = text.padded("left")
    length, cache = text.stream.length(batch), None
    comparisons, apart = list[Comparison](), list[tuple[int, int]]()
    known = evidence_of_reading(decoder, [length - DECODED, *[1] * DECODED], inputs=batch)
    starts = [0, *range(length - DECODED, length)]
    for start, stop in zip(starts, [*starts[1:], length], strict=True):
        with evidence(**known):
            scores, cache = decoder.step(cache, start, stop, batch)
        if cache is None:
            raise NotApplicable(f"{trial.spec.model_class} returns no cache")
        for row, alone in enumerate(text.alone):
            expected = alone["logits"][0, -(length - start) :][: stop - start] if start else None
            if expected is not None:
                comparisons += trial.agree({"logits": scores[row]}, {"logits": expected}, f", row {row}, token {start}")
                apart += [(row, start)] * (not comparisons[-1].passed)

    def executions() -> tuple[Execution, Execution]:
        row, at = apart[0]

        def cache() -> Any:
            kept = None
            for start, stop in pairwise([one for one in starts if one <= at]):
                _, kept = decoder.step(kept, start, stop, batch)
            return kept

        own = at - length + text.stream.length(text.rows[row])
        return decoder.behind(cache, at, at + 1, batch, row=row), decoder.at_once(own, own + 1, text.rows[row])

    allowed = f"1 in each row at {DECODED} tokens"
    seen = Observation.of(comparisons, allowed, executions=executions if apart else None)
    return replace(seen, evidence=known)


@reproduces(padded_decoding)
@torch.no_grad()
def padded_rows_go_on_as_alone(
    model: nn.Module,
    dtype: torch.dtype,
    tolerance: Mapping[str, float],
    prompt: Mapping[str, Any],
    reading: Mapping[str, Any],
    sizes: list[int],
) -> None:
    """Prompts of several lengths, padded on the left, go on with the cache as each of them alone."""
    scores, new = read_in_parts(model, prompt, sizes, dtype, reading), len(sizes) - 1
    for row in range(len(scores)):
        alone = unpadded(slice_row(prompt, row), reading)
        expected = call(model, alone, dtype)["logits"][:, -new:]
        agree({"logits": scores[row : row + 1, -new:]}, {"logits": expected}, tolerance, rounding(model, alone, dtype))


def _plain(trial: Trial, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The places of a row's tokens that have no meaning of their own to the model, and another such token for each."""
    kept = torch.tensor(sorted(kept_ids(trial)), dtype=tokens.dtype)
    places = (~torch.isin(tokens, kept)).nonzero().flatten()
    places = places[torch.linspace(0, len(places) - 1, min(BITS, len(places))).round().long()]
    kinds = tokens[places].unique()
    others = kinds[(torch.searchsorted(kinds, tokens[places]) + 1) % len(kinds)]
    return places, others


def _row_compared(
    trial: Trial,
    together: Mapping[str, Tensor],
    alone: Mapping[str, Tensor],
    row: int,
    seen: Tensor,
    note: str,
    pooled: bool,
) -> list[Comparison]:
    """A row's outputs in a padded batch, its padding left out, held against those of the row alone; where ``pooled``,
    also those without an entry a token."""
    comparisons = []
    for name, part in parts_of_row(together, alone, row, seen, pooled).items():
        comparisons += trial.agree({name: part}, {name: alone[name][0]}, note)
    return comparisons


def parts_of_row(
    together: Mapping[str, Tensor], alone: Mapping[str, Tensor], row: int, seen: Tensor, pooled: bool
) -> dict[str, Tensor]:
    """Of the outputs of a padded batch, what a row gives, in the shape that it has alone: where a dimension counts
    tokens, those that are ``seen``. Where ``pooled``, also outputs without an entry a token."""
    found = {}
    for name, expected in alone.items():
        actual = together.get(name)
        if actual is None or is_cache(name) or not expected.is_floating_point() or expected.dim() < 2:
            continue
        if expected.shape[0] != 1 or actual.shape[0] <= row:
            continue
        part, of_tokens = actual[row], False
        for dim, size in enumerate(part.shape):
            if size == len(seen) and expected.shape[dim + 1] == int(seen.sum()):
                part, of_tokens = part.index_select(dim, seen.nonzero().flatten()), True
        if part.shape == expected.shape[1:] and (of_tokens or pooled):
            found[name] = part
    return found
