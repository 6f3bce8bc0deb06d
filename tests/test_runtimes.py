"""A target's device is proven by use, every output is seen, and the originals of inputs stay."""

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from transformers import DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast

from proofbook.catalog import load_catalog
from proofbook.runtimes import runtime_of
from proofbook.runtimes.attention import prefer
from proofbook.runtimes.devices import DEVICES, detect, require_device
from proofbook.runtimes.outputs import flatten
from proofbook.verdict import Blocked


def test_the_cpu_computes_and_every_other_device_says_why_it_does_not() -> None:
    assert detect("cpu").available
    for name in DEVICES:
        device = detect(name)
        assert device.detail
        if not device.available:
            with pytest.raises(Blocked, match=name):
                require_device(name)


def test_devices_and_runtimes_are_printed_as_json() -> None:
    printed = subprocess.run([sys.executable, "-m", "proofbook.runtimes"], capture_output=True, text=True, check=True)
    found = json.loads(printed.stdout)
    assert set(found["devices"]) == set(DEVICES)
    assert found["runtimes"]["eager"] == ""


def test_a_runtime_that_nobody_brings_is_blocked_with_those_that_there_are() -> None:
    with pytest.raises(Blocked, match=r"onnxruntme.*eager.*Did you mean onnxruntime"):
        runtime_of("onnxruntme")


def test_every_tensor_of_an_output_has_its_path() -> None:
    cache = DynamicCache()
    cache.update(torch.ones(1, 2, 3, 4), torch.zeros(1, 2, 3, 4), 0)
    output = CausalLMOutputWithPast(
        logits=torch.ones(1, 3), past_key_values=cache, hidden_states=(torch.ones(1), torch.ones(2))
    )
    found = flatten(output)
    assert {"logits", "hidden_states.0", "hidden_states.1"} < set(found)
    assert [tuple(found[f"past_key_values.layers.0.{part}"].shape) for part in ("keys", "values")] == [(1, 2, 3, 4)] * 2


def test_inputs_are_placed_in_the_targets_dtype_and_the_originals_stay() -> None:
    target = load_catalog().target("cpu-bf16")
    session = runtime_of("eager").prepare(nn.Linear(4, 4).to(torch.bfloat16), [], target)
    inputs = {"input": torch.ones(2, 4)}
    placed = session.place(inputs)
    assert placed["input"].dtype is torch.bfloat16
    assert inputs["input"].dtype is torch.float32
    assert session.run(inputs)["output"].dtype is torch.bfloat16


def test_what_ran_where_is_counted_by_dtype() -> None:
    class Mixed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.to(torch.bfloat16).float() + 1

    target = load_catalog().target("cpu")
    proof = runtime_of("eager").prepare(Mixed(), [], target).proof({"x": torch.ones(8)})
    assert proof.ran == {("cpu", "bfloat16"): 8, ("cpu", "float32"): 16}
    assert proof.where == "cpu"
    assert not proof.fallbacks


class Attending(nn.Module):
    """Attention whose values are narrower than its keys, if so asked: a kernel takes one width alone."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(x, x, x[..., : self.width])


@pytest.fixture
def kernels_by_torch() -> Iterator[None]:
    yield
    prefer(None)


@pytest.mark.usefixtures("kernels_by_torch")
@pytest.mark.parametrize(
    ("options", "width", "kernels", "fallbacks"),
    [
        ({}, 16, {"flash": 1}, []),
        ({"attention": "math"}, 16, {"math": 1}, []),
        ({"attention": "flash"}, 16, {"flash": 1}, []),
        ({"attention": "flash"}, 8, {"math": 1}, ["attention by math"]),
    ],
)
def test_the_kernel_of_attention_is_seen_and_another_than_asked_for_is_a_fallback(
    options: dict[str, str], width: int, kernels: dict[str, int], fallbacks: list[str]
) -> None:
    target = load_catalog().target("cpu").model_copy(update={"options": options})
    proof = runtime_of("eager").prepare(Attending(width), [], target).proof({"x": torch.ones(1, 2, 4, 16)})
    assert proof.kernels == {f"attention by {name}": count for name, count in kernels.items()}
    assert [one.kind for one in proof.fallbacks] == fallbacks


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"atention": "math"}, "target cpu: eager has no option 'atention'; known: attention"),
        ({"attention": "fast"}, "option attention is 'fast'; allowed: flash, efficient, cudnn, math"),
    ],
)
def test_an_option_that_a_runtime_does_not_know_is_named(options: dict[str, str], said: str) -> None:
    target = load_catalog().target("cpu").model_copy(update={"options": options})
    with pytest.raises(ValueError, match=said):
        runtime_of("eager").prepare(nn.Linear(4, 4), [], target)
