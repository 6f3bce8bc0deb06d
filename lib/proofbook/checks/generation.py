"""Does ``generate`` write what the model's own scores say?"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, GenerationMixin

from proofbook.checks.compare import Comparison
from proofbook.checks.decoding import Decoder, mixes_neighbours
from proofbook.checks.plain import agree, allowances, call, rounding
from proofbook.checks.plain_decoding import generated, likeliest_of, texts
from proofbook.checks.registry import NotApplicable, Observation, check, evidence
from proofbook.checks.reproduction import reproduces
from proofbook.checks.streams import rows_of
from proofbook.checks.trial import Trial
from proofbook.checks.truth import CALL_SEED

# tokens that are written behind each prompt
NEW = 4
BEAMS = 3
# how many of the likeliest tokens a sample is drawn from
AMONG = 5


@check
def greedy(trial: Trial) -> Observation:
    """Greedy generation for padded rows writes the likeliest token of a forward call over each row, at each step."""
    written = _written(trial, do_sample=False, num_beams=1, output_logits=True)
    given = torch.stack(written.logits, dim=1).float().cpu()
    scores = written.forward
    comparisons = [
        one
        for row, count in enumerate(written.counts)
        for one in trial.agree({"logits": given[row, :count]}, {"logits": scores[row, :count]}, f", row {row}")
    ]
    wrong = [
        f"row {row}, token {at}"
        for row, count in enumerate(written.counts)
        for at in range(count)
        if not likeliest(scores[row, at], int(written.tokens[row, at]), 1, comparisons)
    ]
    found = observed(comparisons, wrong, "1, and each token the likeliest", "not the likeliest token: ")
    return replace(found, evidence=written.evidence)


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
        likeliest_of(expected, sequences[rows, -new:], 1, tolerance, noise)


@check
def beams(trial: Trial) -> Observation:
    """The score of each beam is the sum of the log probabilities that a forward call over its tokens gives."""
    asked = {"do_sample": False, "num_beams": BEAMS, "num_return_sequences": 2, "length_penalty": 0.0}
    try:
        written = _written(trial, **asked, output_scores=True)
    except ValueError as refusal:
        if re.search("beam.search", str(refusal), re.IGNORECASE):
            raise NotApplicable(f"refused: {refusal}") from refusal
        raise
    chosen = written.forward.log_softmax(-1).gather(-1, written.tokens[..., None])[..., 0]
    counted = torch.arange(chosen.shape[1]) < torch.tensor(written.counts)[:, None]
    expected = (chosen * counted).sum(-1)
    found = written.sequences_scores.float().cpu()
    # each of the tokens' log probabilities is as uncertain as the scores that it is of
    (bound,) = trial.agree({"logits": written.forward}, {"logits": written.forward})
    allowed = bound.allowed.element * 2 * NEW if bound.allowed else 0.0
    apart = (found - expected).abs()
    ordered = bool((found.view(-1, 2)[:, 0] >= found.view(-1, 2)[:, 1]).all())
    return Observation(
        passed=bool((apart <= allowed).all()) and ordered,
        observed=f"{float(apart.max()):.3g} apart at most",
        allowed=f"{allowed:.3g}, the best first",
        detail="" if ordered else "beams are not in the order of their scores",
        evidence=written.evidence,
    )


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
    written = _written(trial, do_sample=True, num_beams=1, top_k=AMONG)
    again = _written(trial, do_sample=True, num_beams=1, top_k=AMONG)
    (bound,) = trial.agree({"logits": written.forward}, {"logits": written.forward})
    wrong = [
        f"row {row}, token {at}"
        for row, count in enumerate(written.counts)
        for at in range(count)
        if not likeliest(written.forward[row, at], int(written.tokens[row, at]), AMONG, [bound])
    ]
    same = torch.equal(written.tokens, again.tokens)
    return Observation(
        passed=same and not wrong,
        observed=f"{'the same' if same else 'other'} tokens again, {len(wrong)} not among the likeliest {AMONG}",
        allowed="the same, 0",
        detail=", ".join(wrong[:5]),
        evidence=written.evidence,
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
        likeliest_of(expected, sequences[rows, -new:], generation["top_k"], tolerance, noise)


@check
def forced_tokens(trial: Trial) -> Observation:
    """A decoder behind an encoder begins with its start token, and writes the first and the last token forced on it."""
    decoder = trial.decoder
    if not decoder.is_second:
        raise NotApplicable("it has no encoder before its decoder")
    plain = _written(trial, do_sample=False, num_beams=1)
    start = plain.start
    wanted = trial.model.generation_config.decoder_start_token_id
    first, last = _two_tokens(trial)
    forced = _written(trial, do_sample=False, num_beams=1, forced_bos_token_id=first, forced_eos_token_id=last)
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


@dataclass(frozen=True)
class _Written:
    """What ``generate`` wrote for a batch, and what a forward call says of it."""

    output: Any
    # what the rows begin with: the prompt, or the decoder's start
    start: Tensor
    # rows × NEW, and how many of them count: up to the one that ends a row
    tokens: Tensor
    counts: list[int]
    # scores for each of them: rows × NEW × vocabulary
    forward: Tensor
    # what a reproduction needs to know
    evidence: Mapping[str, Any]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.output, name)


def _written(trial: Trial, **how: Any) -> _Written:
    decoder = trial.decoder
    decoder.require_causal()
    if hasattr(trial.model, "vocoder"):
        raise NotApplicable("its generate speaks, in a language that its task names")
    if type(trial.model)._sample is not GenerationMixin._sample:
        raise NotApplicable("its class has a loop of its own, which writes codes of sound or spoken frames")
    inputs = _prompts(trial, decoder)
    asked = {name: value for name, value in inputs.items() if not name.startswith("decoder_")}
    known = evidence_of_writing(trial, asked, how)
    with evidence(**known), torch.no_grad(), plain_configuration(trial), torch.random.fork_rng(devices=[]):
        torch.manual_seed(CALL_SEED)
        placed = trial.session.place(asked)
        output = trial.model.generate(**placed, **how, max_new_tokens=NEW, return_dict_in_generate=True)
    sequences = output.sequences.cpu()
    begun = 1 if decoder.is_second else inputs[decoder.stream.tokens].shape[1]
    start, tokens = sequences[:, :begun], sequences[:, begun:]
    prompt = inputs[decoder.stream.tokens]
    own = type(trial.model).generate is not GenerationMixin.generate
    if own and not decoder.is_second and not torch.equal(start[:: len(start) // len(prompt)], prompt):
        raise NotApplicable("its class has a generate of its own, which writes the prompt anew or leaves it out")
    counts = [count_of(row, trial) for row in tokens]
    return _Written(output, start, tokens, counts, _forward(trial, decoder, inputs, start, tokens), known)


def evidence_of_writing(trial: Trial, inputs: Mapping[str, Any], how: Mapping[str, Any]) -> dict[str, Any]:
    """What a reproduction needs to generate from inputs, and to read what was generated.

    No token ends a text in it, so that all rows have as many new ones.
    """
    own = {name: value for name, value in _tokens_named(trial).items() if name != "eos_token_id" and value is not None}
    asked = {name: value for name, value in how.items() if not name.startswith("output_")}
    return {
        "prompt": dict(inputs),
        "reading": trial.decoder.layout(inputs),
        "configuration": own,
        "generation": {**asked, "max_new_tokens": NEW, "eos_token_id": None},
    }


def _prompts(trial: Trial, decoder: Decoder) -> dict[str, Any]:
    """The rows as ``generate`` takes them: padded on the left, but for those of a model to which padding matters.

    With pictures they are as the processor gives them, or the longest row alone where that pads on the right.
    """
    if decoder.is_second:
        return dict(trial.inputs)
    if decoder.has_text_alone:
        last = getattr(trial.config.get_text_config(decoder=True), "max_position_embeddings", None)
        alike = not decoder.reads_mask or bool(mixes_neighbours(trial))
        if alike or (last is not None and decoder.stream.length(trial.inputs) + NEW > last):
            return decoder.prompt
        rows = [decoder.row(row) for row in range(len(trial.rows))]
        return decoder.stream.batch(rows, "left", _pad(trial))
    seen = decoder.stream.visible(trial.inputs)
    return dict(trial.inputs) if bool(seen[:, -1].all()) else decoder.prompt


def _forward(trial: Trial, decoder: Decoder, inputs: Mapping[str, Any], start: Tensor, tokens: Tensor) -> Tensor:
    """The scores of a forward call, without a cache, for each token written: rows × NEW × vocabulary.

    Rows of text are padded on the right, where nothing that a causal model reads lies before it.
    """
    stream, new = decoder.stream, tokens.shape[1]
    times = len(tokens) // len(next(iter(inputs.values())))
    rows = torch.arange(len(tokens)) // times
    if decoder.is_second:
        source = rows_of({n: v for n, v in inputs.items() if not n.startswith("decoder_")}, rows)
        whole = {**source, stream.tokens: torch.cat([start, tokens], dim=1)[:, :-1]}
        return trial.run({**whole, **decoder.caching(False)})["logits"][:, -new:].float()
    if not decoder.has_text_alone:
        if times > 1:
            raise NotApplicable("the pictures of a prompt are read once for several beams")
        whole = stream.extended(inputs, tokens)
        return trial.run({**whole, **decoder.caching(False)})["logits"][:, -new - 1 : -1].float()
    seen = stream.visible(inputs)
    alone = [
        stream.extended(stream.unpadded({n: v[row : row + 1] for n, v in inputs.items()}), tokens[at : at + 1])
        for at, row in enumerate(rows.tolist())
    ]
    batch = stream.batch(alone, "right", _pad(trial))
    scores = trial.run({**batch, **decoder.caching(False)})["logits"].float()
    lengths = seen.sum(-1)[rows]
    at = lengths[:, None] - 1 + torch.arange(new)
    return scores[torch.arange(len(tokens))[:, None], at]


@contextmanager
def plain_configuration(trial: Trial) -> Iterator[None]:
    """Generation by scores alone: no tokens forced or suppressed that the model's own configuration names."""
    own = trial.model.generation_config
    trial.model.generation_config = GenerationConfig(**_tokens_named(trial))
    try:
        yield
    finally:
        trial.model.generation_config = own


def _tokens_named(trial: Trial) -> dict[str, Any]:
    """The tokens that the model's own configuration of generation names, and one for padding if it does not."""
    names = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
    named = {name: getattr(trial.model.generation_config, name, None) for name in names}
    return {**named, "pad_token_id": _pad(trial)} if named["pad_token_id"] is None else named


def _pad(trial: Trial) -> int:
    tokenizer = getattr(trial.processor, "tokenizer", trial.processor)
    found = getattr(tokenizer, "pad_token_id", None)
    return found if found is not None else 0


def count_of(tokens: Tensor, trial: Trial) -> int:
    """How many tokens of a row count: up to the first that ends it."""
    ends = trial.model.generation_config.eos_token_id
    ends = [] if ends is None else ends if isinstance(ends, list) else [ends]
    at = torch.isin(tokens, torch.tensor(ends, dtype=tokens.dtype)).nonzero().flatten()
    return int(at[0]) + 1 if len(at) else len(tokens)


def _two_tokens(trial: Trial) -> tuple[int, int]:
    """Two tokens of the prompt that mean nothing of their own, the second being the end of a text where one is set."""
    from proofbook.checks.signal import kept_ids

    kept = kept_ids(trial)
    plain = [int(one) for one in trial.inputs[trial.decoder.stream.tokens].unique() if int(one) not in kept]
    if len(plain) < 2:
        raise NotApplicable("its inputs hold no two plain tokens")
    return plain[0], plain[1]


def likeliest(scores: Tensor, token: int, among: int, comparisons: list[Comparison]) -> bool:
    """Whether a token is among the likeliest, those that lie within the error allowed of them included."""
    margin = max((one.allowed.element for one in comparisons if one.allowed), default=0.0)
    least = scores.topk(among).values[-1]
    return bool(scores[token] >= least - 2 * margin)


def observed(comparisons: list[Comparison], wrong: list[str], allowed: str, said: str) -> Observation:
    found = Observation.of(comparisons, allowed)
    if not wrong:
        return found
    return Observation(
        False, found.observed, allowed, f"{said}{', '.join(wrong[:5])}; {found.detail}", found.comparisons
    )
