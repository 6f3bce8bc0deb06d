"""What torch's exporter to ONNX stops at is written as what means the same."""

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from proofbook.catalog import load_catalog
from proofbook.runtimes import runtime_of

pytest.importorskip("onnxruntime")


class Attends(nn.Module):
    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        heads = x.view(*x.shape[:2], 4, 8).transpose(1, 2)
        return scaled_dot_product_attention(heads, heads, heads, bias).transpose(1, 2).reshape(*x.shape[:2], -1)


class Asserts(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch._check_tensor_all(x > -1e6)
        return x * 2


class Inverts(nn.Module):
    def forward(self, mask: torch.Tensor) -> torch.Tensor:
        return 1.0 - mask


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (Attends(), {"x": torch.randn(3, 5, 32), "bias": torch.randn(3, 4, 5, 5)}),
        (Asserts(), {"x": torch.randn(3)}),
        (Inverts(), {"mask": torch.tensor([0, 1, 1])}),
    ],
    ids=lambda one: type(one).__name__,
)
def test_what_the_exporter_stops_at_is_written_otherwise(model: nn.Module, inputs: dict[str, torch.Tensor]) -> None:
    session = runtime_of("onnxruntime").prepare(model, [inputs], load_catalog().target("onnxruntime-cpu"))
    torch.testing.assert_close(session.run(inputs)["output"], model(**inputs))
