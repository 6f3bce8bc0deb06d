"""Do the implementations of attention agree, and is the one that was asked for the one that ran?"""

import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import is_flash_attn_2_available

from proofbook.checks.compare import Comparison
from proofbook.checks.conditioning import judged
from proofbook.checks.hidden import without_padding
from proofbook.checks.plain import agree, call, eager, placed
from proofbook.checks.registry import NotApplicable, Observation, check
from proofbook.checks.reproduction import reproduces
from proofbook.checks.trial import Trial
from proofbook.checks.truth import copied
from proofbook.compat import AttentionInterface
from proofbook.runtimes.modes import FunctionMode
from proofbook.verdict import Blocked

# the flag by which a class claims an implementation; eager needs none
_CLAIMS = {
    "sdpa": "_supports_sdpa",
    "flex_attention": "_supports_flex_attn",
    "flash_attention_2": "_supports_flash_attn",
}


@check
def attention_implementations(trial: Trial) -> Observation:
    """Eager, and each of sdpa, flex and flash that the class claims and this machine runs, is used and right."""
    if not hasattr(AttentionInterface, "get_interface"):
        raise NotApplicable("this release has no place where layers ask for their implementation of attention")
    asked = ["eager", *(name for name in _CLAIMS if _claims(trial.model, name) and _runs_here(name, trial))]
    if len(asked) == 1:
        raise NotApplicable("the class claims no implementation of attention but its own")
    other = copied(trial.model)
    comparisons: list[Comparison] = []
    failed: list[str] = []
    refused: list[str] = []
    known: dict[str, Any] = {}
    seen = 0
    for name in asked:
        try:
            chosen = _choosing(trial, other, name)
            # flex attention as torch computes it without compiling, which takes many seconds
            with (
                watched() as calls,
                _Kernels() as kernels,
                torch.compiler.set_stance("force_eager"),
                warnings.catch_warnings(action="ignore"),  # which torch warns of
            ):
                outputs = trial.run_with(chosen)
        except Blocked:
            raise
        except Exception as error:  # the library's own refusal in words, or whatever a wrong combination raises
            what = f"{type(error).__name__}: {str(error).partition('. ')[0]}"
            said = isinstance(error, ValueError | NotImplementedError | ImportError) and name.partition("_")[0] in what
            (refused if said else failed).append(f"{name} was asked for and raises {what}")
            known = known if said else {"raising": name}
            continue
        found = trial.compare_to_truth(outputs, f", {name}")
        comparisons += found
        others = _others(chosen, name, calls, kernels.count)
        failed += [f"{name} was asked for, {other}" for other in others]
        seen += len(calls) + kernels.count
        if others:
            known = known or {"asked": name, "astray": _astray(chosen, name, calls)}
        elif not all(one.passed for one in found):
            known = known or {"wrong": name}
    if not (seen or failed):
        raise NotApplicable("; ".join(refused) or "no layer of the class computes attention")
    # a layer that took another implementation is a fault, whatever becomes of the outputs
    result = Observation.of(comparisons, "1") if failed else judged(trial, comparisons, "1")
    return Observation(
        passed=result.passed and not failed,
        observed=f"{result.observed}; {len(failed)} failed of {', '.join(asked)}",
        allowed="1; 0 failed",
        detail="; ".join([*failed[:5], *([result.detail] * bool(result.detail)), *refused]),
        comparisons=result.comparisons,
        evidence=known or {"wrong": asked[-1]},
    )


@reproduces(attention_implementations)
def it_runs(model: nn.Module, whole: Any, inputs: Mapping[str, Any], dtype: torch.dtype, raising: str) -> None:
    """A model runs with an implementation of attention that its class claims to support, as it does without."""
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):  # compiling flex attention takes many seconds
        model(**placed(model, inputs, dtype))
        try:
            attending_by(raising, model, whole)(**placed(model, inputs, dtype))
        except Exception as error:
            said = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            raise AssertionError(f"{raising}: observed {said}, allowed no exception") from error


@reproduces(attention_implementations)
def it_is_chosen(whole: Any, asked: str, astray: list[str]) -> None:
    """The implementation of attention that was asked for is that of every layer."""
    chosen = choose_attention(whole, asked)
    for name in astray:
        found = chosen.get_submodule(name).config._attn_implementation
        assert found == asked, f"the implementation of {name}: observed {found}, allowed {asked}"


@reproduces(attention_implementations)
def it_is_right(
    model: nn.Module,
    whole: Any,
    inputs: Mapping[str, Any],
    dtype: torch.dtype,
    tolerance: Mapping[str, float],
    wrong: str,
) -> None:
    """With an implementation of attention that the class claims, outputs lie near those of eager float64."""
    true, floor = (without_padding(eager(model, inputs, one), inputs) for one in (torch.float64, dtype))
    with torch.compiler.set_stance("force_eager"):  # compiling flex attention takes many seconds
        outputs = without_padding(call(attending_by(wrong, model, whole), inputs, dtype), inputs)
    agree(outputs, {name: one for name, one in true.items() if name in outputs}, tolerance, (floor, true))


def attending_by(implementation: str, model: nn.Module, whole: Any) -> nn.Module:
    """A model, a part of the whole, with an implementation of attention."""
    path = next(name for name, module in whole.named_modules() if module is model)
    part: nn.Module = choose_attention(whole, implementation).get_submodule(path)
    return part


def choose_attention(whole: Any, implementation: str) -> Any:
    """The model with an implementation of attention, or another one where it can't be changed any more."""
    if whole.config._attn_implementation == implementation:
        return whole
    if whole._can_set_attn_implementation():
        whole.set_attn_implementation(implementation)
        return whole
    with tempfile.TemporaryDirectory() as folder:
        whole.save_pretrained(folder)
        again = type(whole).from_pretrained(folder, dtype=whole.dtype, attn_implementation=implementation)
    return again.eval().to(whole.device)


@dataclass(frozen=True)
class Call:
    """One call of an implementation of attention."""

    name: str
    layer: nn.Module
    # what is added to the scores, batch × 1 × queries × keys; other implementations than eager have masks of their own
    mask: Any
    # as a rule outputs and weights, the latter of eager alone
    found: Any


class _Kernels(FunctionMode):
    """Counts the calls of torch's attention kernel, by which code that does not go through the interface is seen."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def called(self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        self.count += function is torch.nn.functional.scaled_dot_product_attention
        return function(*args, **kwargs)


@contextmanager
def watched() -> Iterator[list[Call]]:
    """Which implementation each call of an attention layer takes from the library's interface, and what with."""
    calls: list[Call] = []
    usual = AttentionInterface.get_interface

    def get(interface: Any, name: str, default: Callable[..., Any]) -> Callable[..., Any]:
        function = usual(interface, name, default)

        def call(layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
            found = function(layer, *args, **kwargs)
            mask = kwargs.get("attention_mask", args[3] if len(args) > 3 else None)
            calls.append(Call("eager" if function is default else name, layer, mask, found))
            return found

        return call

    AttentionInterface.get_interface = get
    try:
        yield calls
    finally:
        AttentionInterface.get_interface = usual


def _others(model: nn.Module, asked: str, calls: Sequence[Call], kernels: int) -> list[str]:
    """In words, what computes attention by another implementation than the one asked for, although it claims that."""
    owners = _owners(model)
    claiming = {id(layer) for layer, owner in owners.items() if _claims(owner, asked)}
    parts = {id(part.config): part for part in owners.values() if _claims(part, asked)}
    configured = Counter(
        f"the configuration of {type(part).__name__} says {part.config._attn_implementation}"
        for part in parts.values()
        if part.config._attn_implementation != asked
    )
    used = Counter(
        f"{type(one.layer).__name__} took {one.name}"
        for one in calls
        if one.name != asked and id(one.layer) in claiming
    )
    if asked == "sdpa" and calls and not kernels and not any(one.name != "sdpa" for one in calls):
        used["torch's kernel was not called"] += 1
    return [f"{text} ({count} times)" for text, count in (configured + used).items()]


def _astray(model: nn.Module, asked: str, calls: Sequence[Call]) -> list[str]:
    """The paths of the layers that took another implementation, and of the models that are configured for another."""
    took = {one.layer for one in calls if one.name != asked}
    owners = _owners(model)
    return [
        name
        for name, module in model.named_modules()
        if (module in took or owners.get(module) is module)
        and _claims(owners[module], asked)
        and getattr(getattr(module, "config", None), "_attn_implementation", asked) != asked
    ]


def _owners(model: nn.Module) -> dict[nn.Module, PreTrainedModel]:
    """The innermost model of the library around each module."""
    owners: dict[nn.Module, PreTrainedModel] = {}
    for module in model.modules():  # parts come after what they are parts of
        if isinstance(module, PreTrainedModel):
            owners.update(dict.fromkeys(module.modules(), module))
    return owners


def _claims(model: PreTrainedModel, name: str) -> bool:
    return name == "eager" or bool(getattr(model, _CLAIMS[name], False))


def _runs_here(name: str, trial: Trial) -> bool:
    """Flash attention comes in a package of its own, for half precisions on GPUs."""
    half = trial.target.dtype in ("float16", "bfloat16")
    return name != "flash_attention_2" or (half and trial.session.device.type == "cuda" and is_flash_attn_2_available())


def _choosing(trial: Trial, copied: Any, name: str) -> Any:
    """A model with that implementation: the trial's own, else its copy changed where its code lets one choose at any
    time, else one loaded with it."""
    if name == trial.config._attn_implementation:
        return trial.model
    if not copied._can_set_attn_implementation():
        return trial.reload(attention=name)
    copied.set_attn_implementation(name)
    return copied
