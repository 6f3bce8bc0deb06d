"""How a trial's model decodes: its tokens, its cache, what one step is, and whether it reads from left to right."""

import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import GenerationMixin
from transformers.modeling_outputs import BaseModelOutput

from proofbook.checks.localise import Execution
from proofbook.checks.registry import NotApplicable
from proofbook.checks.streams import Stream, along, slice_row, sliceable

if TYPE_CHECKING:
    from proofbook.checks.trial import Trial

# the arguments, and outputs, by which classes hand on what they have read
_CACHES = ("past_key_values", "cache_params", "state")
# tokens of a prompt: enough to leave windows of tiny models behind, in each row
MOST = 24
# a prompt of fewer has nothing to take apart
LEAST = 6
# tokens behind a prompt's picture or sound where no placeholder says where that ends
TAIL = 4
# by the name of a setting: what mixes neighbouring tokens whatever the mask says, as the architecture was published
_MIXED = {
    "conv_kernel_size": "a convolution over the tokens",
    "trigram_input": "an embedding made of three neighbouring tokens",
    "downsampling_rate": "tokens merged with their neighbours",
    "pooling_type": "tokens pooled with their neighbours",
    "compress_rates": "keys and values that stand for blocks of neighbouring tokens",
    "num_hashes": "attention within chunks of tokens that are sorted by their hashes",
    "num_landmarks": "landmarks that are means of segments of the batch's length",
}
_PLACEHOLDER = re.compile(r"(image|img|video|vision|visual|audio|speech|media).*token|context_token")


@dataclass(frozen=True)
class Decoder:
    """How a model decodes, by the arguments of its class."""

    trial: "Trial"
    stream: Stream
    # the argument, and the output, that carries the cache; empty where the class has none
    cache: str

    @classmethod
    def of(cls, trial: "Trial") -> "Decoder":
        """The decoder of a trial.

        Raises:
            NotApplicable: its outputs are not scores of the next token, one for each token of its input.
        """
        name = "decoder_input_ids" if "decoder_input_ids" in trial.inputs else "input_ids"
        tokens = trial.inputs.get(name)
        if tokens is None or tokens.is_floating_point() or tokens.dim() != 2:
            raise NotApplicable(f"{trial.spec.model_class} reads no tokens, one after the other")
        if trial.encoded.module:
            raise NotApplicable(f"its task calls a part of {trial.spec.model_class}")
        if not hasattr(trial.model, "can_generate") or not trial.model.can_generate():
            raise NotApplicable(f"{trial.spec.model_class} does not generate")
        if not isinstance(trial.model, GenerationMixin):
            raise NotApplicable(f"{trial.spec.model_class} generates in a way of its own, not token by token")
        logits = trial.outputs.get("logits")
        if logits is None or logits.dim() != 3 or logits.shape[:2] != tokens.shape:
            raise NotApplicable(f"{trial.spec.model_class} has no scores for each token of its input")
        if int(tokens.max()) >= logits.shape[-1]:
            raise NotApplicable(f"the scores of {trial.spec.model_class} are not of the tokens that it reads")
        takes = parameters(trial)
        cache = next((one for one in _CACHES if one in takes), "")
        return cls(trial, Stream(name, name.replace("input_ids", "attention_mask")), cache)

    @property
    def is_second(self) -> bool:
        """Whether it is the decoder behind an encoder."""
        return self.stream.tokens == "decoder_input_ids"

    @cached_property
    def not_causal(self) -> str:
        """Why a token may change what stands before it; empty where it may not."""
        config = self.trial.config
        text = config.get_text_config(decoder=True)
        both = getattr(text, "use_bidirectional_attention", None)
        if both in (True, "all") and not self.has_prefix:
            return "its configuration lets tokens of the prompt attend to each other on both sides"
        if getattr(text, "causal", None) is False:
            return "its configuration says that it is not causal"
        if getattr(text, "attn_type", None) == "bi":
            return "its attention is bidirectional: it is trained on permuted orders of the tokens"
        if getattr(text, "num_hashes", None):
            return "which tokens attend to each other depends on the hashes of all of them"
        causal = any(getattr(module, "is_causal", False) is True for module in self.trial.model.modules())
        # before 5 every configuration has it, whether the model's code asks or not
        asks = "is_decoder" in inspect.getsource(sys.modules[type(self.trial.model).__module__])
        if not self.is_second and asks and getattr(text, "is_decoder", None) is False and not causal:
            return "its configuration makes it no decoder"
        return ""

    def require_causal(self) -> None:
        """Raise :class:`NotApplicable` for a model that is not causal."""
        if self.not_causal:
            raise NotApplicable(self.not_causal)

    @property
    def reads_mask(self) -> bool:
        """Whether ``forward`` takes the mask of the tokens and reads it."""
        name = self.stream.mask
        return name in parameters(self.trial) and name not in self.trial.spec.idle

    @cached_property
    def has_text_alone(self) -> bool:
        """Whether the decoder's tokens, and what has an entry for each, are all that it reads; an encoder's inputs
        aside."""
        inputs = self.trial.inputs
        return self.is_second or set(self.stream.members(inputs)) == set(inputs) - {"use_cache"}

    @cached_property
    def prompt(self) -> dict[str, Any]:
        """Rows of one length, nothing padded, with all that the model reads beside them.

        The beginnings of all rows; of a model that reads pictures or sound beside the text, its longest row alone.
        """
        inputs, stream = self.trial.inputs, self.stream
        seen = stream.visible(inputs).sum(-1)
        if not self.has_text_alone:
            return self.row(int(seen.argmax()))
        length = min(int(seen.min()), MOST)
        if length < LEAST:
            raise NotApplicable(f"the shortest of its rows has {length} tokens")
        first = stream.visible(inputs).int().argmax(-1)
        at = first[:, None] + torch.arange(length)
        members = stream.members(inputs)
        rows = torch.arange(len(at))[:, None]
        return {
            name: value.movedim(along(name), 1)[rows, at].movedim(1, along(name)) if name in members else value
            for name, value in inputs.items()
        }

    def row(self, row: int) -> dict[str, Any]:
        """One row of the batch alone, its tokens without padding, as a batch of one."""
        trial = self.trial
        if sliceable(trial.inputs, len(trial.rows)):
            return self.suffixed(self.stream.unpadded(slice_row(trial.inputs, row)))
        return self.suffixed(self.stream.unpadded(trial.task.encode(trial.subject, [trial.rows[row]]).inputs))

    def suffixed(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs, the text behind pictures a suffix of them where the class reads a prefix on both sides and what
        is of type 1 from left to right."""
        if not self.has_prefix:
            return dict(inputs)
        marked = torch.isin(inputs[self.stream.tokens], torch.tensor(sorted(self.placeholders)))
        behind = marked.flip(-1).cumsum(-1).flip(-1) == 0
        return {**inputs, "token_type_ids": behind.to(inputs["token_type_ids"])}

    @cached_property
    def has_prefix(self) -> bool:
        """Whether pictures, and what is written of type 0, attend to each other on both sides."""
        text = self.trial.config.get_text_config(decoder=True)
        return getattr(text, "use_bidirectional_attention", None) is True and "token_type_ids" in self.trial.inputs

    @cached_property
    def begin(self) -> int:
        """How many tokens of the prompt at least are read in one: pictures or sound stand among them."""
        if self.has_text_alone:
            return 1
        tokens: Tensor = self.prompt[self.stream.tokens][0]
        marked = torch.isin(tokens, torch.tensor(sorted(self.placeholders), dtype=tokens.dtype))
        for name in ("mm_token_type_ids", "image_embeds_position_mask"):
            if name in self.prompt:
                marked |= self.prompt[name][0] > 0
        at = marked.nonzero().flatten()
        return int(at[-1]) + 1 if len(at) else max(1, len(tokens) - TAIL)

    @cached_property
    def placeholders(self) -> set[int]:
        """The tokens that stand for pictures or sound."""
        config, tokenizer = self.trial.config, getattr(self.trial.processor, "tokenizer", None)
        named = [value for key, value in config.to_dict().items() if _PLACEHOLDER.search(key)]
        found = {one for value in named for one in (value if isinstance(value, list) else [value]) if type(one) is int}
        extra = (getattr(each, "image_token_id", None) for each in (self.trial.processor, tokenizer))
        return found | {one for one in extra if isinstance(one, int)}

    @cached_property
    def length(self) -> int:
        """The tokens of a row of the prompt."""
        return self.stream.length(self.prompt)

    @cached_property
    def whole(self) -> Tensor:
        """The scores of the prompt, read at once and without a cache: batch × length × vocabulary."""
        return self.trial.run({**self.prompt, **self.caching(False)})["logits"]

    def layout(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """What is what among inputs, as ``plain_decoding.py`` takes it."""
        stream = self.stream
        members = stream.members(inputs) if stream.tokens in inputs else []
        return {
            "tokens": stream.tokens,
            "mask": stream.mask,
            "streamed": {name: along(name) for name in members},
            "apart": self.has_text_alone,
            "switch": list(self.caching(True)),
        }

    def caching(self, on: bool) -> dict[str, Any]:
        """The argument that turns the cache on or off, where the class takes it."""
        return {"use_cache": on} if self.cache and "use_cache" in parameters(self.trial) else {}

    @cached_property
    def reading(self) -> dict[str, Any]:
        """The prompt as every call may take it: of an encoder its outputs instead of what it reads."""
        if not self.is_second:
            return self.prompt
        members = self.stream.members(self.prompt)
        own = {name: value for name, value in self.prompt.items() if name in members or "mask" in name}
        return {**own, "encoder_outputs": self.encoded}

    @cached_property
    def again(self) -> dict[str, Any]:
        """What every call takes anew beside the tokens: of an encoder its outputs, and pictures without which the
        class refuses to be called."""
        members = self.stream.members(self.reading)
        beside = {name: value for name, value in self.reading.items() if name not in members}
        if self.has_text_alone:
            return beside
        tokens = self.stream.cut(self.prompt, self.length - 1, self.length)
        try:
            self.trial.session.call(self.trial.session.place({name: tokens[name] for name in members}))
        except ValueError:
            return beside
        return {}

    @cached_property
    def encoded(self) -> Any:
        """What the encoder by itself makes of the prompt's other half; within the model, where that adds pictures to
        what the encoder reads."""
        encoder = self.trial.model.get_encoder()
        takes = inspect.signature(type(encoder).forward).parameters
        if "input_ids" in self.prompt and "pixel_values" in self.prompt and "pixel_values" not in takes:
            with torch.no_grad():
                outputs = self.trial.session.call(self.trial.session.place(self.prompt))
            return BaseModelOutput(last_hidden_state=outputs.encoder_last_hidden_state)
        source = {name: value for name, value in self.prompt.items() if name in takes and "decoder" not in name}
        with torch.no_grad():
            return encoder(**self.trial.session.place(source), return_dict=True)

    def step(
        self,
        cache: Any,
        start: int,
        stop: int,
        inputs: Mapping[str, Any] | None = None,
        masked: bool | None = None,
    ) -> tuple[Tensor, Any]:
        """Read tokens ``start`` to before ``stop`` as users do: with the cache of what lies before, and its mask grown.

        Positions are left to the model; pictures and sound are read in the first call only.

        Args:
            cache: as the step before returned it, or None, with which the class makes its own; a cache of another
                kind for the first.
            inputs: others of the layout of :attr:`reading`.
            masked: whether the mask is given behind the first call, where the class takes one; by default beside
                text alone, since behind pictures classes count positions in ways of their own from what they get.

        Returns:
            The scores, batch × (stop - start) × vocabulary, and the cache; None where the class returned none.
        """
        session = self.trial.session
        placed = session.place(self.part(start, stop, inputs, masked))
        outputs = session.call({**placed, self.cache: cache} if cache is not None else placed)
        return outputs.logits.detach().cpu(), getattr(outputs, self.cache, None)

    def part(
        self, start: int, stop: int, inputs: Mapping[str, Any] | None = None, masked: bool | None = None
    ) -> dict[str, Any]:
        """What :meth:`step` is given beside the cache."""
        stream = self.stream
        whole = stream.with_mask(self.reading if inputs is None else inputs)
        members = stream.members(whole)
        given = stream.cut(whole, start, stop)
        if start:
            given = {name: given[name] for name in given if name in members or name in self.again}
        given = {**given, stream.mask: whole[stream.mask][:, :stop], **self.caching(True)}
        if not self.takes_mask(start, self.has_text_alone if masked is None else masked):
            del given[stream.mask]
        return given

    def behind(
        self,
        cache: Callable[[], Any],
        start: int,
        stop: int,
        inputs: Mapping[str, Any] | None = None,
        masked: bool | None = None,
        row: int | None = None,
    ) -> Execution:
        """The call that :meth:`step` makes, to be looked at; ``cache`` makes the calls before it, and gives theirs."""

        def before() -> dict[str, Any]:
            kept = cache()
            return {} if kept is None else {self.cache: kept}

        return Execution(self.trial.called, self.part(start, stop, inputs, masked), row, before=before)

    def at_once(self, start: int, stop: int, inputs: Mapping[str, Any] | None = None) -> Execution:
        """The call that reads the prompt, or other inputs of its layout, at once: tokens ``start`` to before ``stop``
        of it."""
        inputs = self.reading if inputs is None else inputs
        at = torch.arange(self.stream.length(inputs))
        seen = (at >= start) & (at < stop)
        return Execution(self.trial.called, {**inputs, **self.caching(False)}, seen=seen)

    def takes_mask(self, start: int, masked: bool) -> bool:
        """Whether a step from token ``start`` on is given a mask.

        A mask is that of all tokens read so far; a state that is not made of tokens goes on without one."""
        if self.stream.mask not in parameters(self.trial):
            return False
        return masked and self.cache == "past_key_values" if start else masked or not self.has_text_alone

    def steps(
        self, sizes: Iterator[int] | list[int], cache: Any = None, masked: bool | None = None
    ) -> Iterator[tuple[int, Tensor, Any]]:
        """Read the prompt in parts of these sizes, one after the other: where each begins, its scores, the cache.

        Raises:
            NotApplicable: the class takes no cache, or returns none.
        """
        if not self.cache:
            raise NotApplicable(f"{self.trial.spec.model_class} takes no cache")
        start = 0
        for size in sizes:
            stop = min(start + size, self.length)
            if stop == start:
                return
            try:
                scores, cache = self.step(cache, start, stop, masked=masked)
            except (AssertionError, NotImplementedError) as refusal:
                if start and size > 1:
                    raise NotApplicable(f"refused: {refusal}") from refusal
                raise
            if cache is None:
                raise NotApplicable(f"{self.trial.spec.model_class} returns no cache")
            yield start, scores, cache
            start = stop


def parameters(trial: "Trial") -> frozenset[str]:
    """The names of the arguments that ``forward`` declares."""
    return frozenset(inspect.signature(type(trial.model).forward).parameters)


def mixes_neighbours(trial: "Trial") -> str:
    """What of the architecture lets padding beside a token matter, in words; empty where nothing does."""
    found = ((name, reason) for name, reason in _MIXED.items() if getattr(trial.config, name, None))
    return next((f"the architecture has {reason} ({name}), and no mask there" for name, reason in found), "")
