"""What ``generate`` writes behind prompts, and what a forward call over the same text says of it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, GenerationMixin

from proofbook.checks.compare import Comparison
from proofbook.checks.decoding import Decoder, mixes_neighbours
from proofbook.checks.localise import Execution
from proofbook.checks.registry import NotApplicable, evidence
from proofbook.checks.streams import rows_of, sliceable
from proofbook.checks.trial import Trial
from proofbook.checks.truth import CALL_SEED

# tokens that are written behind each prompt
NEW = 4


@dataclass(frozen=True)
class Written:
    """What ``generate`` wrote for a batch, and what a forward call says of it."""

    trial: Trial
    # what generate was given, and how it was asked to write
    prompts: Mapping[str, Any]
    how: Mapping[str, Any]
    output: Any
    # what the rows begin with: the prompt, or the decoder's start
    start: Tensor
    # rows × NEW, and how many of them count: up to the one that ends a row
    tokens: Tensor
    counts: list[int]
    # the inputs of a forward call over all of it, and at which of its positions each token is scored: rows × NEW
    whole: Mapping[str, Any]
    positions: Tensor
    # its scores for each of them: rows × NEW × vocabulary
    forward: Tensor

    @property
    def evidence(self) -> dict[str, Any]:
        """What a reproduction needs to know."""
        return evidence_of_writing(self.trial, self.prompts, self.how)

    @property
    def calls_forward(self) -> bool:
        """Whether tokens are scored by calls of the model itself; a ``generate`` of the class's own may call a part."""
        return type(self.trial.model).generate is GenerationMixin.generate

    def unlikely(self, among: int, bounds: list[Comparison]) -> list[tuple[int, int]]:
        """The tokens written, each by its row and place, that are not among the likeliest of the forward call."""
        return [
            (row, at)
            for row, count in enumerate(self.counts)
            for at in unlikely(self.trial, self.forward[row, :count], self.tokens[row, :count], among, bounds)
        ]

    def executions(self, row: int, token: int, beam: int | None = None) -> tuple[Execution, Execution]:
        """The call by which ``generate`` scored a token it wrote, and the forward call over the row.

        Args:
            beam: which row of that call it was, where beams change places.
        """
        length = self.trial.decoder.stream.length(self.whole)
        there = torch.arange(length) == self.positions[row, token]
        actual = generating(self.trial, self.prompts, self.how, row if beam is None else beam, token)
        return actual, Execution(self.trial.called, self.whole, row, there)


def written(trial: Trial, **how: Any) -> Written:
    """What ``generate`` writes behind the prompts of the batch, asked for ``how``.

    Raises:
        NotApplicable: the class writes something else than the continuation of a text.
    """
    decoder = trial.decoder
    decoder.require_causal()
    if hasattr(trial.model, "vocoder"):
        raise NotApplicable("its generate speaks, in a language that its task names")
    if type(trial.model)._sample is not GenerationMixin._sample:
        raise NotApplicable("its class has a loop of its own, which writes codes of sound or spoken frames")
    inputs = _prompts(trial, decoder)
    asked = {name: value for name, value in inputs.items() if not name.startswith("decoder_")}
    output = generate(trial, asked, how)
    sequences = output.sequences.cpu()
    prompt = inputs[decoder.stream.tokens]
    begun = 1 if decoder.is_second else prompt.shape[1]
    start, tokens = sequences[:, :begun], sequences[:, begun:]
    own = type(trial.model).generate is not GenerationMixin.generate
    if own and not decoder.is_second and not torch.equal(start[:: len(start) // len(prompt)], prompt):
        raise NotApplicable("its class has a generate of its own, which writes the prompt anew or leaves it out")
    counts = [count_of(row, trial) for row in tokens]
    whole, positions = _whole(decoder, inputs, start, tokens)
    scores = trial.run(whole)["logits"].float()[torch.arange(len(tokens))[:, None], positions]
    return Written(trial, asked, how, output, start, tokens, counts, whole, positions, scores)


def generate(trial: Trial, inputs: Mapping[str, Any], how: Mapping[str, Any]) -> Any:
    """What the class's ``generate`` returns, by scores alone and from the seed of all calls."""
    known = evidence_of_writing(trial, inputs, how)
    with evidence(**known), torch.no_grad(), _plain_configuration(trial), torch.random.fork_rng(devices=[]):
        torch.manual_seed(CALL_SEED)
        placed, asked = trial.session.place(inputs), {**how, **_suppressed(trial)}
        return trial.model.generate(**placed, **asked, max_new_tokens=NEW, return_dict_in_generate=True)


def _suppressed(trial: Trial) -> dict[str, list[int]]:
    """The tokens that a trained model never writes: those of pictures, for which there would be none to read."""
    never = trial.decoder.placeholders
    return {"suppress_tokens": sorted(never)} if never else {}


class _Reached(Exception):
    """The call that was looked for is about to be made."""


def generating(trial: Trial, inputs: Mapping[str, Any], how: Mapping[str, Any], row: int, token: int) -> Execution:
    """The call by which ``generate`` scores a token behind a row of these inputs: what it reads there, the last
    position of it looked at."""

    def given() -> dict[str, Any]:
        calls: list[dict[str, Any]] = []

        def reach(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            calls.append(kwargs)
            if len(calls) > token:
                raise _Reached

        handle = trial.model.register_forward_pre_hook(reach, with_kwargs=True)
        try:
            generate(trial, inputs, how)
        except _Reached:
            return calls[-1]
        finally:
            handle.remove()
        raise LookupError(f"generate makes {len(calls)} calls, and none for token {token}")

    read = {name: one for name, one in given().items() if isinstance(one, Tensor)}
    stream = trial.decoder.stream
    length = stream.length(read)
    return Execution(trial.model, read, row, torch.arange(length) == length - 1, before=given)


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
        "generation": {**asked, **_suppressed(trial), "max_new_tokens": NEW, "eos_token_id": None},
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
    return decoder.suffixed(trial.inputs) if bool(seen[:, -1].all()) else decoder.prompt


def _whole(decoder: Decoder, inputs: Mapping[str, Any], start: Tensor, tokens: Tensor) -> tuple[dict[str, Any], Tensor]:
    """The inputs of a forward call, without a cache, over all that was written, and the positions in it at which each
    token is scored: rows × NEW.

    Rows of text are padded on the right, where nothing that a causal model reads lies before it.
    """
    stream, new = decoder.stream, torch.arange(tokens.shape[1])
    times = len(tokens) // len(next(iter(inputs.values())))
    rows = torch.arange(len(tokens)) // times
    if decoder.is_second:
        source = rows_of({n: v for n, v in inputs.items() if not n.startswith("decoder_")}, rows)
        whole = {**source, stream.tokens: torch.cat([start, tokens], dim=1)[:, :-1]}
        return {**whole, **decoder.caching(False)}, new.expand(tokens.shape)
    if not decoder.has_text_alone:
        if times > 1 and not sliceable(inputs, len(tokens) // times):
            raise NotApplicable(
                "the pictures of several prompts are packed into one tensor, and read once for several beams"
            )
        whole = stream.extended(rows_of(inputs, rows) if times > 1 else inputs, tokens)
        return {**whole, **decoder.caching(False)}, (start.shape[1] - 1 + new).expand(tokens.shape)
    alone = [
        stream.extended(stream.unpadded({n: v[row : row + 1] for n, v in inputs.items()}), tokens[at : at + 1])
        for at, row in enumerate(rows.tolist())
    ]
    batch = stream.batch(alone, "right", _pad(decoder.trial))
    lengths = stream.visible(inputs).sum(-1)[rows]
    return {**batch, **decoder.caching(False)}, lengths[:, None] - 1 + new


@contextmanager
def _plain_configuration(trial: Trial) -> Iterator[None]:
    """Generation by scores alone: no tokens forced or suppressed because the model's own configuration says so."""
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


def unlikely(trial: Trial, scores: Tensor, tokens: Tensor, among: int, bounds: list[Comparison]) -> list[int]:
    """Which of a row's tokens are not among the likeliest, those that lie within the error allowed of them included.

    Args:
        scores: tokens × vocabulary; those that stand for pictures don't count.
        tokens: the ones written.
    """
    margin = max((one.allowed.element for one in bounds if one.allowed), default=0.0)
    never = torch.tensor(sorted(trial.decoder.placeholders), dtype=torch.long)
    scores = scores.index_fill(-1, never, -torch.inf)
    least = scores.topk(among).values[:, -1] - 2 * margin
    return [int(at) for at in (scores.gather(-1, tokens[:, None])[:, 0] < least).nonzero()]
