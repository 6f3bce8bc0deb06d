"""Truth is computed in float64 throughout, even where a model's code names float32."""

from itertools import islice

import pytest
import torch
from torch import nn

from proofbook.checks.truth import Float64, floor_outputs, rounded_truths, truth_of


class Norm(nn.Module):
    """A norm in the manner of many models: it raises half precision to float32, and lowers float64 by that."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        wide = x.to(torch.float32)
        scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True))
        return {"y": torch.softmax(scaled, dim=-1, dtype=torch.float32).to(x.dtype) + x.float().to(x.dtype)}


def test_float32_in_the_code_means_float64_in_truth() -> None:
    x = torch.randn(5, 16, dtype=torch.float64)
    by_hand = torch.softmax(x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True)), -1) + x
    lowered = Norm()(x)["y"]
    with Float64():
        raised = Norm()(x)["y"]
    assert (raised - by_hand).abs().max() < 1e-14
    assert (lowered - by_hand).abs().max() > 1e-9


def test_truth_says_how_it_was_had() -> None:
    x = torch.randn(2, 4)
    truth = truth_of(Norm(), {"x": x})
    assert truth.exact
    assert "float64" in truth.rule
    assert truth.outputs["y"].dtype is torch.float64


def test_where_float64_cannot_be_had_the_weaker_rule_is_named() -> None:
    class OnlyFloat32(nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            if x.dtype is torch.float64:
                raise RuntimeError("not implemented for 'Double'")
            return {"y": x}

    truth = truth_of(OnlyFloat32(), {"x": torch.ones(1)})
    assert not truth.exact
    assert "float32" in truth.rule
    assert "not implemented for 'Double'" in truth.rule


class Keeping(nn.Module):
    """Works out a table of its parameter once, and keeps it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self._table: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        if self._table is None:
            self._table = self.weight.detach() * 2
        return {"y": torch.dot(x, self._table)[None]}


def test_what_a_module_keeps_beside_its_parameters_goes_to_float64_with_them() -> None:
    model, inputs = Keeping(), {"x": torch.ones(3)}
    model(**inputs)
    assert truth_of(model, inputs).exact


def test_neither_the_model_nor_its_inputs_are_changed() -> None:
    linear = nn.Linear(4, 4)
    weight, x = linear.weight.detach().clone(), torch.randn(2, 4)
    kept = x.clone()
    truth_of(linear, {"input": x})
    floor_outputs(linear, {"input": x}, torch.bfloat16)
    assert linear.weight.dtype is torch.float32
    assert torch.equal(linear.weight, weight)
    assert torch.equal(x, kept)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_noise_is_that_of_the_model_in_its_own_dtype(dtype: torch.dtype) -> None:
    class Noisy(nn.Linear):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"y": super().forward(x) + torch.randn_like(x) + torch.randn(4).to(x.dtype)}

    noisy, x = Noisy(4, 4).to(dtype), torch.zeros(2, 4)
    true, own = truth_of(noisy, {"x": x}).outputs["y"], floor_outputs(noisy, {"x": x}, dtype)["y"]
    assert (true - own).abs().max() < 20 * torch.finfo(dtype).eps


def test_rounding_moves_what_is_amplified_further_than_what_is_not() -> None:
    class Amplifies(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 16)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            y = self.layer(x)
            return {"plain": y, "amplified": 1e4 * (y - y.mean())}

    model, inputs = Amplifies(), {"x": torch.randn(3, 16)}
    exact = truth_of(model, inputs).outputs
    rounded = list(islice(rounded_truths(model, inputs, torch.float32), 3))
    for moved in rounded:
        away = {name: float((moved[name] - exact[name]).abs().max()) for name in exact}
        assert 0 < away["plain"] < 1e-5
        assert away["amplified"] > 100 * away["plain"]
    assert not torch.equal(rounded[0]["plain"], rounded[1]["plain"])
    further = next(rounded_truths(model, inputs, torch.float32, first=2))
    assert torch.equal(further["plain"], rounded[2]["plain"])


def test_a_loss_of_nearly_nothing_rounds_as_the_sum_that_is_subtracted() -> None:
    class Sure(nn.Linear):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": -super().forward(x).log_softmax(-1)[0, 0]}

    sure, inputs = Sure(8, 4), {"x": torch.ones(1, 8)}
    with torch.no_grad():
        sure.weight.zero_()
        sure.bias.copy_(torch.tensor([12.0, 0.0, 0.0, 0.0]))
    loss = truth_of(sure, inputs).outputs["loss"]
    moved = [abs(float(one["loss"] - loss)) for one in islice(rounded_truths(sure, inputs, torch.float32), 4)]
    assert loss < 1e-4
    assert 1e-7 < max(moved) < 1e-6
