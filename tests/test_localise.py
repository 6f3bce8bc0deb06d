"""An error is traced to the module that adds it."""

import torch
from torch import nn

from proofbook.checks.localise import first_divergence, steepest, walk


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


def test_the_module_with_the_fault_is_named_and_not_those_behind_it() -> None:
    model = network()
    model[2].act = WrongActivation()
    steps = walk(model, {"input": torch.randn(3, 8)}, torch.float32)
    found = first_divergence(steps, floor=1e-5)
    assert found is not None
    assert found.module == "2.act"
    assert steepest(steps, floor=1e-5) == found
    assert next(step for step in steps if step.module == "3.inner").inputs > 1e-3


def test_a_right_model_diverges_nowhere() -> None:
    steps = walk(network(), {"input": torch.randn(3, 8)}, torch.float32)
    assert [step.module for step in steps][:3] == ["0.inner", "0.act", "0"]
    assert first_divergence(steps, floor=1e-5) is None


def test_no_hook_stays_behind() -> None:
    model = network()
    walk(model, {"input": torch.randn(3, 8)}, torch.float32)
    assert not any(module._forward_hooks for module in model.modules())
