"""A prompt read in parts behind a cache, held against the same prompt read at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from proofbook.checks.compare import Comparison
from proofbook.checks.decoding import Decoder
from proofbook.checks.localise import Execution
from proofbook.checks.plain_decoding import empty_cache
from proofbook.checks.registry import Observation, evidence
from proofbook.checks.trial import Trial

# tokens that are read one by one behind the first part, where not all are
SINGLE = 2


@dataclass(frozen=True)
class Reading:
    """The prompt read in parts, its scores held against those of the prompt read at once."""

    decoder: Decoder
    # of the tokens in each part
    sizes: list[int]
    # of the cache that is passed in; without one the class makes its own
    kind: str
    masked: bool | None
    parts: list[Tensor]
    comparisons: list[Comparison]

    @property
    def passed(self) -> bool:
        return all(one.passed for one in self.comparisons)

    def executions(self) -> tuple[Execution, Execution]:
        """The first part whose scores are off, behind those before it, and the same tokens of the prompt at once."""
        decoder, starts = self.decoder, [0, *accumulate(part.shape[1] for part in self.parts)]
        spans = list(pairwise(starts))
        at = first_apart(decoder.trial, self.parts, [decoder.whole[:, start:stop] for start, stop in spans])

        def cache() -> Any:
            empty = _empty(decoder, self.kind)
            return [empty, *(kept for _, _, kept in decoder.steps(self.sizes[:at], empty, self.masked))][-1]

        return decoder.behind(cache, *spans[at], masked=self.masked), decoder.at_once(*spans[at])


def read(
    trial: Trial, decoder: Decoder, sizes: list[int], kind: str = "", masked: bool | None = None, note: str = ""
) -> Reading:
    """The prompt read in parts of these sizes, and held against itself read at once."""
    with evidence(**evidence_of_reading(decoder, sizes, masked, kind)):
        parts = [scores for _, scores, _ in decoder.steps(sizes, _empty(decoder, kind), masked)]
    note = f"{note}, from token {sizes[0]} on in {len(parts) - 1} parts"
    comparisons = trial.agree({"logits": torch.cat(parts, dim=1)}, {"logits": decoder.whole}, note)
    return Reading(decoder, sizes, kind, masked, parts, comparisons)


def observed(readings: list[Reading], allowed: str, note: str = "") -> Observation:
    """What several readings amount to; the first that is off is the one that is shown."""
    shown = next((one for one in readings if not one.passed), readings[0])
    every = [one for reading in readings for one in reading.comparisons]
    known = evidence_of_reading(shown.decoder, shown.sizes, shown.masked, shown.kind)
    return replace(Observation.of(every, allowed, note, shown.executions), evidence=known)


def _empty(decoder: Decoder, kind: str) -> Any:
    """An empty cache of a kind with room for the prompt; None of none, with which the class makes its own."""
    return empty_cache(kind, decoder.trial.model, decoder.length + SINGLE, decoder.is_second) if kind else None


def first_apart(trial: Trial, found: Sequence[Tensor], expected: Sequence[Tensor]) -> int:
    """Which of several scores is the first that is off; the last where each by itself is within its bounds."""
    pairs = zip(found, expected, strict=True)
    off = [not trial.agree({"logits": one}, {"logits": true})[0].passed for one, true in pairs]
    return off.index(True) if any(off) else len(off) - 1


def evidence_of_reading(
    decoder: Decoder,
    sizes: list[int],
    masked: bool | None = None,
    kind: str = "",
    inputs: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What a reproduction needs to read the prompt, or other inputs of its layout, in parts of these sizes."""
    stream = decoder.stream
    prompt = stream.with_mask(decoder.prompt if inputs is None else inputs)
    takes = [decoder.takes_mask(start, decoder.has_text_alone if masked is None else masked) for start in (0, 1)]
    if not any(takes):
        del prompt[stream.mask]
    beside = [name for name in prompt if name not in stream.members(prompt)]
    reading = {
        **decoder.layout(prompt),
        "again": beside if decoder.is_second else [name for name in beside if name in decoder.again],
        "masked": takes,
        "cache": decoder.cache,
    }
    cache = {"kind": kind, "room": decoder.length + SINGLE, "second": decoder.is_second}
    return {"prompt": prompt, "sizes": sizes, "reading": reading, **cache}
