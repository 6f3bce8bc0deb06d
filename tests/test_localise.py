"""An error is traced to the module that adds it."""

import copy
from functools import wraps
from typing import Any

import pytest
import torch
from torch import nn
from transformers.cache_utils import QuantizedCache
from transformers.models.llama.modeling_llama import LlamaAttention

from proofbook.checks.localise import Execution, Step, first_divergence, operators, steepest, walk
from proofbook.checks.registry import registered
from proofbook.selftest.register import faults
from proofbook.workbook.case import Case

CHECKS = {check.name: check for check in registered()}
FAULTS = {fault.name: fault for fault in faults()}


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)
        self.act = nn.GELU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.act(self.inner(x))


class WrongActivation(nn.Module):
    """Right in float64, as truth is had, and wrong in float32, as a faulty kernel would be."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.gelu(x) * (1.0 if x.dtype is torch.float64 else 1.05)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(Block() for _ in range(4)))


def beside_truth(model: nn.Module) -> tuple[Execution, Execution]:
    inputs = {"input": torch.randn(3, 8, generator=torch.Generator().manual_seed(0))}
    return Execution(model, inputs), Execution(copy.deepcopy(model).double(), inputs)


def test_the_module_with_the_fault_is_named_and_not_those_behind_it() -> None:
    model = network()
    model[2].act = WrongActivation()
    steps = walk(*beside_truth(model))
    found = first_divergence(steps, floor=1e-5)
    assert found is not None
    assert found.name == "2.act"
    assert steepest(steps, floor=1e-5) == found
    assert next(step for step in steps if step.name == "3.inner").inputs > 1e-3


def test_the_operator_with_the_fault_is_named() -> None:
    model = network()
    model[2].act = WrongActivation()
    executions = beside_truth(model)
    narrowed = operators(*executions, Step("2", "Block", 0, 0))
    assert [step.name for step in narrowed] == ["addmm", "gelu", "mul", "add"]
    found = first_divergence(narrowed, floor=1e-5)
    assert found is not None
    assert found.name == "mul"


class Fused(nn.Module):
    """Other operators in float32 than in float64, as a kernel has; both right, or the one in float32 wrong."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.factor = factor

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if input.dtype is torch.float64:
            return (input.exp() + 1).log() * self.weight
        return nn.functional.softplus(input) * self.factor * self.weight


@pytest.mark.parametrize(("factor", "diverges"), [(1.0, False), (1.01, True)])
def test_other_operators_are_one_step(factor: float, diverges: bool) -> None:
    steps = operators(*beside_truth(Fused(factor)), Step("", "Fused", 0, 0))
    found = first_divergence(steps, floor=1e-5)
    assert (found is not None) == diverges
    assert any(" / " in step.name for step in steps)


def test_a_row_alone_is_held_against_its_part_of_the_batch() -> None:
    model = network()
    model[1].act = Leaking()
    inputs = {"input": torch.randn(3, 8)}
    single = Execution(model, {"input": inputs["input"][1:2]})
    found = first_divergence(walk(single, Execution(model, inputs, row=1)), floor=1e-5)
    assert found is not None
    assert found.name == "1.act"


class Leaking(nn.Module):
    """Every row gets some of the first."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0.1 * x[:1]


def test_a_right_model_diverges_nowhere() -> None:
    steps = walk(*beside_truth(network()))
    assert [step.name for step in steps][:3] == ["0.inner", "0.act", "0"]
    assert first_divergence(steps, floor=1e-5) is None


def test_no_hook_stays_behind() -> None:
    model = network()
    walk(*beside_truth(model))
    operators(*beside_truth(model), Step("0", "Block", 0, 0))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


class Mixing(nn.Module):
    """Every token gets some of all that stand in its row."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0.1 * x.mean(1, keepdim=True)


def test_tokens_that_are_looked_at_are_held_against_those_of_another_length() -> None:
    model = network()
    model[1].act = Mixing()
    seen = torch.tensor([False, True, True, False, True])
    batch = torch.randn(3, 5, 8)
    alone = Execution(model, {"input": batch[1:2, seen]})
    found = first_divergence(walk(Execution(model, {"input": batch}, 1, seen), alone), floor=1e-5)
    assert found is not None and found.name == "1.act"


@pytest.mark.parametrize("name", ["causal", "padding-changes-nothing", "masked-content"])
def test_a_layer_that_mixes_its_tokens_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    attend = LlamaAttention.forward

    @wraps(attend)
    def mixing(self: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        found, *more = attend(self, hidden_states, *args, **kwargs)
        return (found + self.layer_idx * 0.1 * hidden_states.mean(1, keepdim=True), *more)

    monkeypatch.setattr(LlamaAttention, "forward", mixing)
    seen = CHECKS[name].function(Case("llama"))
    assert not seen.passed and seen.executions is not None
    found = first_divergence(walk(*seen.executions()), floor=1e-5)
    assert found is not None and found.name == "model.layers.1.self_attn"


@pytest.mark.parametrize("behind", [False, True])
def test_a_layer_that_reads_a_quantised_cache_otherwise_is_named(behind: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    attend = LlamaAttention.forward

    @wraps(attend)
    def scaled(self: Any, hidden_states: torch.Tensor, *args: Any, past_key_values: Any = None, **kwargs: Any) -> Any:
        wrong = isinstance(past_key_values, QuantizedCache) and (hidden_states.shape[1] == 1) is behind
        found, *more = attend(self, hidden_states, *args, past_key_values=past_key_values, **kwargs)
        return (found * (1 + self.layer_idx * wrong), *more)

    monkeypatch.setattr(LlamaAttention, "forward", scaled)
    seen = CHECKS["quantised-cache"].function(Case("llama"))
    assert not seen.passed and seen.executions is not None
    found = first_divergence(walk(*seen.executions()), floor=1e-5)
    assert found is not None and found.name == "model.layers.1.self_attn"


READINGS = ("cache-token-by-token", "cache-in-chunks", "cache-kinds", "cache-rows", "padded-decoding")


@pytest.mark.parametrize(
    ("fault", "module", "check"),
    [
        *(("cache-slot-wrong", "model.layers.0.self_attn", check) for check in READINGS),
        *(("cache-shared-between-rows", "model.layers.0.self_attn", check) for check in READINGS),
        # planted where a single token is read
        *(("rope-offset-wrong", "model.rotary_emb", check) for check in READINGS if check != "cache-in-chunks"),
    ],
)
def test_a_fault_behind_a_cache_is_traced_to_its_module(fault: str, module: str, check: str) -> None:
    case = Case("llama")
    with FAULTS[fault].plant(case):
        seen = CHECKS[check].function(case)
        assert not seen.passed and seen.executions is not None
        steps = walk(*seen.executions())
    found = first_divergence(steps, floor=1e-5)
    assert found is not None and found.name == module


@pytest.mark.parametrize(
    ("model", "fault", "check", "module"),
    [
        ("gpt2", "cache-slot-wrong", "cache-token-by-token", "transformer.h.0.attn"),
        ("bart", "cache-slot-wrong", "cache-in-chunks", "model.decoder.layers.0.self_attn"),
        ("bart", "mask-bit-ignored", "cross-attention-mask", "model.decoder.layers.0.encoder_attn"),
        ("llava", "rope-offset-wrong", "cache-token-by-token", "model.language_model.rotary_emb"),
        # by the call in which `generate` scored the token
        ("llama", "rope-offset-wrong", "greedy", "model.rotary_emb"),
        ("gpt2", "cache-slot-wrong", "greedy", "transformer.h.0.attn"),
        ("gpt2", "cache-slot-wrong", "sampling", "transformer.h.0.attn"),
        ("bart", "cache-slot-wrong", "greedy", "model.decoder.layers.0.self_attn"),
        ("llama", "cache-slot-wrong", "beams", "model.layers.0.self_attn"),
        ("bart", "cache-slot-wrong", "beams", "model.decoder.layers.0.self_attn"),
        # frames of sound, by the layers that read them
        ("speecht5", "causal-mask-dropped", "causal-states", "layers.0.self_attn"),
        ("speecht5", "cache-slot-wrong", "cached-states", "layers.0.self_attn"),
        ("llava", "cache-slot-wrong", "mixed-generation", "model.language_model.layers.0.self_attn"),
    ],
)
def test_other_layouts_are_traced_as_well(model: str, fault: str, check: str, module: str) -> None:
    case = Case(model)
    with FAULTS[fault].plant(case):
        seen = CHECKS[check].function(case)
        assert not seen.passed and seen.executions is not None
        found = first_divergence(walk(*seen.executions()), floor=1e-5)
    assert found is not None and found.name == module


def test_a_right_decoder_diverges_nowhere_behind_its_cache() -> None:
    decoder = Case("llama").decoder
    cut = decoder.length - 1
    executions = decoder.behind(lambda: decoder.step(None, 0, cut)[1], cut, cut + 1), decoder.at_once(cut, cut + 1)
    steps = walk(*executions)
    assert {"model.layers.0.self_attn", "lm_head"} <= {step.name for step in steps}
    assert max(step.outputs for step in steps) > 0  # another kernel, other roundings
    assert first_divergence(steps, floor=1e-5) is None


class Counting(nn.Module):
    """Numbers tokens, the first of them with one too many where there are few, and then looks them up."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 8)

    def forward(self, input: torch.Tensor) -> Any:
        return self.table(torch.arange(3) + (input.shape[1] < 8))


def test_a_module_that_is_given_other_positions_is_not_the_one_to_blame() -> None:
    model = Counting()
    executions = (Execution(model, {"input": torch.zeros(1, width)}) for width in (7, 8))
    found = first_divergence(walk(*executions), floor=1e-5)
    assert found is not None and found.name == ""
