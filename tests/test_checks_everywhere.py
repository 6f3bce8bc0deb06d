"""The checks that apply to every model pass on right ones, and each fails on a fault injected for it."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaMLP

from proofbook.checks.registry import Finding, examine
from proofbook.checks.trial import Trial
from proofbook.verdict import Verdict
from test_checks import CHECKS, bake_length, changed, head_of, trial_of

FAMILIES = {"calling", "attention", "precision", "gradients", "memory"}


def finding(name: str, trial: Trial) -> Finding:
    found = examine(CHECKS[name], trial)
    assert found.verdict is not Verdict.ERROR, found.traceback
    return found


def wrapped(trial: Trial, change: Callable[..., Any]) -> None:
    """Let the model's forward be called through a function of it and its arguments."""
    usual = type(trial.model).forward
    model = trial.model
    # a class of its own, so that copies of the model are changed as well and other models are not
    model.__class__ = type(type(model).__name__, (type(model),), {"forward": _with_signature(usual, change)})


def _with_signature(usual: Callable[..., Any], change: Callable[..., Any]) -> Callable[..., Any]:
    from functools import wraps

    @wraps(usual)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return change(lambda *a, **k: usual(self, *a, **k), *args, **kwargs)

    return forward


@pytest.mark.parametrize("model", ["llama", "vit"])
def test_right_models_pass(model: str) -> None:
    trial = trial_of(model)
    for name, check in CHECKS.items():
        if check.family in FAMILIES:
            assert finding(name, trial).verdict in (Verdict.PASS, Verdict.SKIP), name


def test_tuple_outputs_find_a_wrong_order() -> None:
    trial = trial_of("t5")

    def swap(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        return tuple(reversed(output)) if isinstance(output, tuple) else output

    wrapped(trial, swap)
    assert finding("tuple-outputs", trial).verdict is Verdict.FAIL


def test_argument_order_finds_a_mask_taken_for_something_else() -> None:
    trial = trial_of("bert")

    def second_is_ignored(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return forward(*args[:1], **kwargs)

    wrapped(trial, second_is_ignored)
    assert finding("argument-order", trial).verdict is Verdict.FAIL


def test_optional_inputs_find_a_default_mask_that_hides_something() -> None:
    trial = trial_of("bert")

    def hides(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("attention_mask") is None:
            kwargs["attention_mask"] = torch.ones_like(kwargs["input_ids"]).index_fill(1, torch.tensor([2]), 0)
        return forward(*args, **kwargs)

    wrapped(trial, hides)
    found = finding("optional-inputs", trial)
    assert found.verdict is Verdict.FAIL
    assert "no attention_mask" in found.detail


def test_cache_switch_finds_outputs_that_depend_on_it() -> None:
    trial = trial_of("llama")

    def scaled(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        if kwargs.get("use_cache") is False:
            output.logits = output.logits * 1.01
        return output

    wrapped(trial, scaled)
    assert finding("cache-switch", trial).verdict is Verdict.FAIL


def test_embeddings_for_ids_find_a_scale_that_only_ids_get() -> None:
    trial = trial_of("llama")

    def halved(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("inputs_embeds") is not None:
            kwargs["inputs_embeds"] = kwargs["inputs_embeds"] + 0.5
        return forward(*args, **kwargs)

    wrapped(trial, halved)
    assert finding("embeddings-for-ids", trial).verdict is Verdict.FAIL


def test_deterministic_finds_what_train_mode_leaves_behind() -> None:
    trial = trial_of("vit")
    usual = trial.model.train

    def train(mode: bool = True) -> nn.Module:
        usual(mode)
        trial.model.vit.layers[0].training = True if mode else trial.model.vit.layers[0].training
        if mode:
            with torch.no_grad():
                trial.model.classifier.bias += 1
        return trial.model

    trial.outputs  # noqa: B018 - before the fault
    trial.model.train = train
    found = finding("deterministic", trial)
    assert found.verdict is Verdict.FAIL
    assert "0 of 1 outputs differ at once, 1 after" in str(found.observed)


def test_attention_finds_an_implementation_that_is_ignored() -> None:
    trial = trial_of("llama")
    layer = trial.model.model.layers[1].self_attn
    layer.config = copy.deepcopy(layer.config)  # what is chosen later does not arrive
    found = finding("attention-implementations", trial)
    assert found.verdict is Verdict.FAIL
    assert "eager was asked for, LlamaAttention took sdpa (1 times)" in found.detail


def test_attention_finds_a_mask_that_one_implementation_drops(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    usual = ALL_ATTENTION_FUNCTIONS["flex_attention"]

    def unmasked(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **more: Any) -> Any:
        return usual(module, query, key, value, None, **more)

    monkeypatch.setitem(type(ALL_ATTENTION_FUNCTIONS)._global_mapping, "flex_attention", unmasked)
    found = finding("attention-implementations", trial_of("llama"))
    assert found.verdict is Verdict.FAIL
    assert "flex_attention: " in found.detail


def test_attention_leaves_out_what_rounding_decides() -> None:
    trial = trial_of("llama")
    changed(head_of(trial), lambda scores: scores + (scores * 1e7).floor() % 2)  # the last bit decides
    found = finding("attention-implementations", trial)
    assert found.verdict is Verdict.PASS
    assert "rounding to float32 decides, in float64 arithmetic as well, what becomes of logits" in found.detail


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_half_precision_finds_a_scale_that_only_it_gets(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = trial_of("bert")
    usual = type(trial)._called

    def called(self: Trial, model: nn.Module) -> nn.Module:
        head = model.get_output_embeddings()  # type: ignore[operator]
        if self.target.dtype == name and not head._forward_hooks:
            changed(head, lambda output: output * 1.5 if output.dtype is getattr(torch, name) else output)
        return usual(self, model)

    monkeypatch.setattr(type(trial), "_called", called)
    assert finding(name, trial).verdict is Verdict.FAIL


def test_gradients_find_a_nan_and_one_that_is_cut_off_on_the_target() -> None:
    for fault in (lambda output: output.detach(), lambda output: output * (output / output.detach().sum() * 0 + 1)):
        trial = trial_of("llama")
        trial.true_gradients  # noqa: B018 - of the right model
        changed(trial.model.model.layers[0].mlp, fault)
        if fault(torch.ones(2, requires_grad=True)).requires_grad:
            changed(trial.model.model.norm, lambda output: output.sqrt().square().nan_to_num(0.0))
        assert finding("gradients", trial).verdict is Verdict.FAIL


class Inexact(torch.autograd.Function):
    """Gives back what it gets; its gradient is a twentieth too large in float32, as an inexact kernel's is."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * (1.05 if gradient.dtype is torch.float32 else 1)


def test_gradients_find_what_the_floor_is_wrong_about_as_well() -> None:
    trial = trial_of("llama")
    changed(trial.model.model.layers[0].mlp, Inexact.apply)
    assert finding("gradients", trial).verdict is Verdict.FAIL


def test_gradients_at_a_kink_that_rounding_decides_are_left_out_and_told() -> None:
    trial = trial_of("llama")
    # what is left of rounding has either sign, and so has the slope of its absolute value
    changed(trial.model.model.layers[0].mlp, lambda one: one + (one * 0.1 * 10 - one.detach()).abs())
    found = finding("gradients", trial)
    assert found.verdict is Verdict.PASS
    assert "at a kink" in found.detail


def test_a_difference_finds_a_gradient_that_is_cut_off_in_the_model_itself() -> None:
    trial = trial_of("llama")
    changed(trial.model.model.layers[0].mlp, lambda output: output.detach())
    assert finding("gradients-by-difference", trial).verdict is Verdict.FAIL


def test_checkpointing_finds_a_layer_that_computes_otherwise_when_it_is_called_again() -> None:
    trial = trial_of("llama")
    calls = iter(range(10**6))
    trial.outputs, trial.truth  # noqa: B018 - before the fault
    attention = trial.model.model.layers[0].self_attn.o_proj
    changed(attention, lambda output: output * (1 + 0.01 * next(calls)))
    assert finding("gradient-checkpointing", trial).verdict is Verdict.FAIL


def test_checkpointing_that_never_happens_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = trial_of("llama")
    for name in ("gradient_checkpointing_enable", "activation_checkpointing_enable"):
        monkeypatch.setattr(type(trial.model), name, lambda self: None, raising=False)
    found = finding("gradient-checkpointing", trial)
    assert found.verdict is Verdict.FAIL
    assert found.observed == "nothing was checkpointed"


def test_memory_finds_what_a_layer_keeps() -> None:
    trial = trial_of("vit")
    kept: list[Tensor] = []
    trial.model.classifier.register_forward_hook(lambda _module, _args, output: kept.append(output))
    found = finding("memory-does-not-grow", trial)
    assert found.verdict is Verdict.FAIL
    assert "addmm" in found.detail


def test_tied_weights_find_a_tie_that_is_lost() -> None:
    trial = trial_of("bert")
    assert finding("tied-weights", trial).verdict is Verdict.PASS
    head = head_of(trial)
    head.weight = nn.Parameter(head.weight.detach().clone())
    assert finding("tied-weights", trial).verdict is Verdict.FAIL


def test_sharded_files_find_a_tensor_that_changes_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = trial_of("llama")
    assert finding("sharded-files", trial).verdict is Verdict.PASS
    save = trial.model.save_pretrained

    def lossy(folder: str, **options: Any) -> None:
        save(folder, **options)
        from pathlib import Path

        file = sorted(Path(folder).glob("*.safetensors"))[-1]
        tensors = {name: one.half().float() for name, one in load_file(file).items()}
        save_file(tensors, file, {"format": "pt"})

    monkeypatch.setattr(trial.model, "save_pretrained", lossy)
    assert finding("sharded-files", trial).verdict is Verdict.FAIL


def test_an_exported_graph_with_other_numbers_fails() -> None:
    trial = trial_of("vit")
    assert finding("exported-graph", trial).verdict is Verdict.PASS
    changed(
        trial.model.classifier,
        lambda output: output * 1.01 if torch.compiler.is_exporting() else output,
    )
    assert finding("exported-graph", trial).verdict is Verdict.FAIL


def test_a_graph_that_keeps_a_size_of_its_example_is_found_at_another(monkeypatch: pytest.MonkeyPatch) -> None:
    bake_length(monkeypatch)
    trial = trial_of("llama")
    assert trial.outputs
    found = finding("exported-graph", trial)
    assert found.verdict is Verdict.FAIL
    sizes = {one.name.partition(", ")[2] for one in found.comparisons if not one.passed}
    assert sizes == {"a row alone", "a row and tokens more"}


def test_a_graph_that_refuses_other_sizes_is_not_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = LlamaMLP.forward
    monkeypatch.setattr(LlamaMLP, "forward", lambda self, x: forward(self, x) * float(x.shape[1]) / 16)
    found = finding("exported-graph", trial_of("llama"))
    assert found.verdict is Verdict.PASS
    assert "refuses a row alone; refuses a row and tokens more" in found.detail


def test_gradients_are_asked_in_float32() -> None:
    assert finding("gradients", trial_of("vit", "cpu-bf16")).verdict is Verdict.SKIP
