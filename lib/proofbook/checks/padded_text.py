"""Rows of text padded into one batch, and each of them alone.

On which side a batch may be padded follows from what the library says: the tokenizer's own side; the left for decoders
that generate, which then are given positions, as ``generate`` gives them; either for positions that are relative or
counted from the tokens themselves.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from proofbook.checks.decoding import mixes_neighbours, parameters
from proofbook.checks.registry import NotApplicable
from proofbook.checks.streams import Side, Stream, slice_row, sliceable
from proofbook.checks.trial import Trial
from proofbook.runtimes.outputs import is_cache

_POSITIONS = re.compile(r"(^|.*\.)(wpe|positions?_emb\w*|embed_positions?|positional_emb\w*|pos_emb\w*|pos_encoder)")


def require_separate(trial: Trial) -> None:
    """Raise :class:`NotApplicable` for an architecture in which what stands beside a row matters by design."""
    if getattr(trial.config, "attention_type", None) == "block_sparse":
        raise NotApplicable("which blocks of tokens see each other depends on the length of the batch")
    if trial.subject.options.get("padding") == "max_length":
        raise NotApplicable("its texts are all padded to one length, as it was trained")
    if mixed := mixes_neighbours(trial):
        raise NotApplicable(mixed)


@dataclass(frozen=True)
class PaddedText:
    """The rows of a trial, each alone, by the stream of tokens that is padded."""

    trial: Trial

    @cached_property
    def stream(self) -> Stream:
        inputs, takes = self.trial.inputs, parameters(self.trial)
        tokens = inputs.get("input_ids")
        if tokens is None or tokens.dim() != 2 or tokens.is_floating_point() or self.trial.encoded.module:
            raise NotApplicable("it reads no text")
        if "attention_mask" not in takes:
            raise NotApplicable(f"{self.trial.spec.model_class} takes no mask")
        given = inputs.get("attention_mask")
        if given is not None and given.shape != tokens.shape:
            raise NotApplicable("its mask is not one of the tokens")
        written, both = (inputs.get(f"decoder_{name}") for name in ("input_ids", "attention_mask"))
        if both is not None and written is not None and both.shape[1] == tokens.shape[1] + written.shape[1]:
            raise NotApplicable("what it writes into has a mask that goes on from that of its text")
        return Stream("input_ids", "attention_mask")

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """Each row without its padding, as a batch of one."""
        trial, stream = self.trial, self.stream
        count = len(trial.rows)
        if sliceable(trial.inputs, count):
            return [stream.unpadded(slice_row(trial.inputs, row)) for row in range(count)]
        return [stream.unpadded(trial.task.encode(trial.subject, [row]).inputs) for row in trial.rows]

    @cached_property
    def alone(self) -> list[dict[str, Tensor]]:
        """The outputs of each row by itself."""
        self.require_separate()
        return [self.trial.run(row) for row in self.rows]

    @property
    def own_side(self) -> Side:
        """The tokenizer's."""
        tokenizer = getattr(self.trial.processor, "tokenizer", self.trial.processor)
        return "left" if getattr(tokenizer, "padding_side", "right") == "left" else "right"

    @cached_property
    def sides(self) -> list[Side]:
        """Where the model may be padded."""
        trial = self.trial
        decodes = _decodes(trial) and not trial.config.is_encoder_decoder and not trial.decoder.not_causal
        found = {self.own_side}
        if decodes:
            found |= {"right"} if trial.decoder.has_text_alone else set()
            found |= {"left"} if self.reads_mask else set()
            found -= set() if self.reads_mask else {"left"}
        elif self._counts_from_tokens:
            found |= {"left", "right"}
        return sorted(found)

    @property
    def reads_mask(self) -> bool:
        return self.stream.mask not in self.trial.spec.idle

    def require_separate(self) -> None:
        """Raise :class:`NotApplicable` for an architecture in which padding beside a token matters by design."""
        require_separate(self.trial)

    def require_mask(self) -> None:
        """Raise :class:`NotApplicable` for a class that takes a mask and does not read it."""
        if not self.reads_mask:
            raise NotApplicable(self.trial.spec.idle[self.stream.mask])

    @property
    def _counts_from_tokens(self) -> bool:
        """Whether no position is counted from the beginning of the row, padding included."""
        modules = dict(self.trial.model.named_modules())
        if any(hasattr(module, "create_position_ids_from_input_ids") for module in modules.values()):
            return True
        return not any(_POSITIONS.fullmatch(name) and isinstance(module, nn.Module) for name, module in modules.items())

    def padded(self, side: Side) -> dict[str, Any]:
        """All rows as one batch; a decoder of text that is padded on the left gets positions as from ``generate``."""
        trial = self.trial
        members = self.stream.members(self.rows[0])
        for name, value in self.rows[0].items():
            if is_dataclass(value):
                raise NotApplicable(f"{name} holds tensors of its own, which no batch of several lengths holds")
            sizes = {row[name].shape[1:] for row in self.rows if isinstance(row[name], Tensor)}
            if isinstance(value, Tensor) and name not in members and len(sizes) > 1:
                raise NotApplicable(f"{name} of each row alone has a size of its own, and no batch holds them")
        batch = self.stream.batch(self.rows, side, self._fill)
        if side == "left" and "position_ids" in parameters(trial) and _decodes(trial) and trial.decoder.has_text_alone:
            mask = batch[self.stream.mask]
            batch["position_ids"] = (mask.cumsum(-1) - 1).clamp_min(0)
        return batch

    @property
    def _fill(self) -> int:
        tokenizer = getattr(self.trial.processor, "tokenizer", self.trial.processor)
        found = getattr(tokenizer, "pad_token_id", None)
        return found if found is not None else 0

    def judged(self, outputs: Mapping[str, Tensor], rows: int) -> list[str]:
        """The floating outputs with an entry a row, but for what a cache holds."""
        return [
            name
            for name, one in outputs.items()
            if one.is_floating_point() and one.dim() and one.shape[0] == rows and not is_cache(name)
        ]


def _decodes(trial: Trial) -> bool:
    try:
        return bool(trial.decoder)
    except NotApplicable:
        return False
