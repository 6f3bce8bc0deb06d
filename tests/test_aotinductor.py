"""AOTInductor: a package serves open sizes and keeps its outputs' names; a fault is named by its step and operation."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from proofbook.catalog import Weights, load_catalog
from proofbook.checks.localise import first_divergence, walk_graph
from proofbook.checks.registry import examine, registered
from proofbook.checks.trial import Trial
from proofbook.runtimes import Refused, runtime_of
from proofbook.verdict import Verdict

aten = torch.ops.aten


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, unread: Tensor | None = None) -> dict[str, Tensor]:
        return {"y": self.second(torch.sigmoid(self.first(x))), "given": x}


def given(rows: int = 3) -> dict[str, Tensor]:
    return {"x": torch.linspace(-1, 1, rows * 4).reshape(rows, 4), "unread": torch.ones(2)}


def packaged(model: nn.Module) -> Any:
    return runtime_of("aotinductor").prepare(
        model.eval(), [given(), given(1)], load_catalog().target("aotinductor-cpu")
    )


def test_a_package_serves_open_sizes_and_its_kernels_are_counted() -> None:
    model = Linear()
    session = packaged(model)
    for rows in (3, 1, 6):
        made = session.run(given(rows))
        assert torch.allclose(made["y"], model(**given(rows))["y"], atol=1e-6)
        assert torch.equal(made["given"], given(rows)["x"])
    proof = session.proof(given())
    assert proof.ran["ATen on cpu", "float32"] == 2
    assert any(where == "inductor on cpu" for where, _ in proof.ran)
    assert not proof.fallbacks
    assert list(session.stages(given())) == ["torch", "torch.export", "decomposed", "aotinductor"]


def test_a_wrong_kernel_is_found_at_its_step_and_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor.lowering import lowerings

    monkeypatch.setitem(lowerings, aten.sigmoid.default, lowerings[aten.tanh.default])
    session = packaged(Linear())
    steps = session.stages(given())
    assert torch.allclose(steps["decomposed"]["y"], steps["torch"]["y"], atol=1e-5)
    assert not torch.allclose(steps["aotinductor"]["y"], steps["torch"]["y"], atol=1e-2)
    found = first_divergence(walk_graph(session.trace(given()), given()), 1e-4)
    assert found is not None and "sigmoid" in found.name


def test_what_inductor_can_not_lower_is_refused_by_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor.lowering import lowerings

    def fails(*_: Any) -> Any:
        raise NotImplementedError("not here")

    monkeypatch.setitem(lowerings, aten.sigmoid.default, fails)
    with pytest.raises(Refused) as refusal:
        packaged(Linear())
    assert (refusal.value.stage, refusal.value.cause) == ("aotinductor", "unsupported operator aten.sigmoid")


@pytest.mark.slow
def test_a_model_passes_and_is_proven_to_run() -> None:
    catalog = load_catalog()
    trial = Trial(catalog.model("vit"), catalog.target("aotinductor-cpu"), Weights.TINY, 0, catalog.tolerances)
    asked = ("prepared", "stages", "ran-on-target", "matches-truth", "batch-matches-single")
    found = {one.name: examine(one, trial) for one in registered() if one.name in asked}
    assert {name: one.verdict for name, one in found.items()} == dict.fromkeys(asked, Verdict.PASS), found
    assert "kernels on inductor on cpu in float32, no fallback" in str(found["ran-on-target"].observed)
