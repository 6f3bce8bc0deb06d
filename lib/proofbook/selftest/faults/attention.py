"""Faults of attention: its masks, its scale, its heads, its precision."""

import copy
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from proofbook.checks.registry import NotApplicable
from proofbook.checks.trial import Trial
from proofbook.selftest.planting import called, having, intercepted, padded_mask, replaced_in_code, spoiled
from proofbook.selftest.register import Reach, fault

_CAUSAL = ("create_causal_mask", "create_sliding_window_causal_mask", "create_chunked_causal_mask")
_MASKS = (*_CAUSAL, "create_bidirectional_mask", "create_bidirectional_sliding_window_mask")


def _generates(trial: Trial) -> None:
    if not trial.model.can_generate():
        raise NotApplicable("the class does not generate")


@fault(Reach.LIBRARY)
def causal_mask_dropped(trial: Trial) -> Iterator[None]:
    """Every position attends to all others, later ones too."""
    _generates(trial)

    def make(create: Any) -> Any:
        def bidirectional(*args: Any, **kwargs: Any) -> Any:
            return create(*args, **{**kwargs, "or_mask_function": lambda batch, head, query, key: key >= 0})

        return bidirectional

    with replaced_in_code(trial, _CAUSAL, make):
        yield


@fault(Reach.LIBRARY)
def causal_flag_ignored_by_sdpa(trial: Trial) -> Iterator[None]:
    """Attention through sdpa sees later positions where no mask is handed to it; eager attention is right."""
    _generates(trial)
    if getattr(trial.config, "_attn_implementation", "") != "sdpa":
        raise NotApplicable("attention does not go through sdpa")
    right, reached = ALL_ATTENTION_FUNCTIONS["sdpa"], [False]

    def wrong(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any) -> Any:
        causal = kwargs.get("is_causal")
        hides = getattr(module, "is_causal", True) if causal is None else causal
        reached[0] |= mask is None and query.shape[2] > 1 and bool(hides)
        return right(module, query, key, value, mask, **{**kwargs, "is_causal": False})

    ALL_ATTENTION_FUNCTIONS["sdpa"] = wrong
    try:
        yield
        if not reached[0]:
            raise NotApplicable("in no call of the battery does transformers' sdpa hide positions without a mask")
    finally:
        ALL_ATTENTION_FUNCTIONS["sdpa"] = right


@fault(Reach.LIBRARY)
def padding_attended(trial: Trial) -> Iterator[None]:
    """The attention mask is lost on its way, so that padded positions are attended to."""
    padded_mask(trial)

    def make(create: Any) -> Any:
        def unmasked(*args: Any, **kwargs: Any) -> Any:
            return create(*args, **{**kwargs, "attention_mask": None})

        return unmasked

    with replaced_in_code(trial, _MASKS, make):
        yield


@fault(Reach.LIBRARY)
def mask_bit_ignored(trial: Trial) -> Iterator[None]:
    """One padded position next to the text is attended to."""
    padded_mask(trial)

    def make(create: Any) -> Any:
        def leaking(*args: Any, **kwargs: Any) -> Any:
            mask = kwargs.get("attention_mask")
            if isinstance(mask, Tensor) and mask.dim() == 2 and not bool(mask.all()):
                mask = kwargs["attention_mask"] = mask.clone()
                row = int((~mask.bool()).any(1).nonzero()[0])
                hidden = (mask[row] == 0).nonzero().flatten()
                mask[row, hidden[-1] if mask[row, -1] else hidden[0]] = 1
            return create(*args, **kwargs)

        return leaking

    with replaced_in_code(trial, _MASKS, make):
        yield


@fault(Reach.LIBRARY)
def cross_attention_unmasked(trial: Trial) -> Iterator[None]:
    """The decoder attends to the padding of what the encoder read."""
    padded_mask(trial)
    if not trial.config.is_encoder_decoder:
        raise NotApplicable("has no cross-attention to an encoder")

    def make(create: Any) -> Any:
        def unmasked(*args: Any, **kwargs: Any) -> Any:
            crossing = kwargs.get("encoder_hidden_states") is not None
            return create(*args, **({**kwargs, "attention_mask": None} if crossing else kwargs))

        return unmasked

    with replaced_in_code(trial, ("create_bidirectional_mask",), make):
        yield


@fault(Reach.TARGET)
def window_off_by_one(trial: Trial) -> Iterator[None]:
    """A sliding window reaches one position further."""
    text = trial.config.get_text_config(decoder=True)
    window = getattr(text, "sliding_window", None)
    ids = trial.inputs.get("input_ids")
    if not isinstance(window, int) or ids is None or not 0 < window < ids.shape[1]:
        raise NotApplicable("has no window shorter than the input")

    def make(create: Any) -> Any:
        def wider(*args: Any, **kwargs: Any) -> Any:
            config = copy.copy(kwargs.pop("config") if "config" in kwargs else args[0])
            config.sliding_window = window + 1
            return create(config, *args[1:] if args else (), **kwargs)

        return wider

    with replaced_in_code(trial, ("create_sliding_window_causal_mask",), make):
        yield


@fault(Reach.TARGET)
def attention_scale_wrong(trial: Trial) -> Iterator[None]:
    """The products of queries and keys are half as large as they should be, in one layer."""
    scaled = [
        (name, attribute, module)
        for name, module in called(trial, nn.Module)
        for attribute in ("scaling", "scale")
        if isinstance(getattr(module, attribute, None), float) and "Attention" in type(module).__name__
    ]
    if not scaled:
        raise NotApplicable("no attention keeps its scale in an attribute")
    name, attribute, module = scaled[len(scaled) // 2]
    with spoiled(trial, [name], partial(having, {attribute: getattr(module, attribute) / 2})):
        yield


@fault(Reach.TARGET)
def head_order_swapped(trial: Trial) -> Iterator[None]:
    """The heads of one layer's queries come in another order than those of its keys."""
    names = re.compile(r"(^|\.)(q_proj|query|q|q_lin|wq|query_proj)$")
    heads = next(
        (
            number
            for config in (trial.config, trial.config.get_text_config())
            for name in ("num_attention_heads", "n_head", "num_heads", "encoder_attention_heads", "n_heads")
            if isinstance(number := getattr(config, name, None), int) and number > 1
        ),
        None,
    )
    queries = [module for name, module in called(trial, nn.Linear) if names.search(name)]
    if heads is None or not queries or queries[-1].out_features % heads:  # type: ignore[operator]
        raise NotApplicable("has no layer of several heads with a projection of its queries")
    weight = queries[len(queries) // 2].weight
    assert isinstance(weight, Tensor)
    right = weight.detach().clone()
    with torch.no_grad():
        weight.copy_(right.roll(len(right) // heads, 0))
    try:
        yield
    finally:
        with torch.no_grad():
            weight.copy_(right)


@fault(Reach.TARGET)
def softmax_in_low_precision(trial: Trial) -> Iterator[None]:
    """Attention weights are computed in bfloat16 and cast back."""
    functions = [nn.functional.softmax, torch.softmax, Tensor.softmax, nn.functional.scaled_dot_product_attention]

    def rough(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if function is nn.functional.scaled_dot_product_attention:
            query, dtype = args[0], args[0].dtype
            lower = [one.bfloat16() if _like(one, query) else one for one in args]
            named = {name: one.bfloat16() if _like(one, query) else one for name, one in kwargs.items()}
            return function(*lower, **named).to(dtype)
        kwargs.pop("dtype", None)
        return function(args[0].bfloat16(), *args[1:], **kwargs).to(args[0].dtype)

    with intercepted(trial, functions, rough):
        yield


def _like(value: Any, query: Tensor) -> bool:
    return isinstance(value, Tensor) and value.dtype is query.dtype
