"""ExecuTorch: what XNNPACK computes of a model and what it does not, and where a wrong value comes from."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from proofbook.catalog import Weights, load_catalog
from proofbook.checks.localise import first_divergence, walk_graph
from proofbook.checks.registry import examine, registered
from proofbook.checks.trial import Trial
from proofbook.runtimes import Refused, executorch, runtime_of
from proofbook.runtimes.graph import ANOTHER_GRAPH
from proofbook.verdict import Verdict

pytest.importorskip("executorch.runtime")
TARGET = "executorch-xnnpack"
GIVEN = {"input": torch.randn(3, 4)}


def prepared(model: nn.Module, *examples: dict[str, torch.Tensor]) -> Any:
    return runtime_of("executorch").prepare(model, examples or [GIVEN], load_catalog().target(TARGET))


def layers() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 2)).eval()


def test_what_xnnpack_takes_and_what_it_leaves_are_counted_by_name() -> None:
    model = layers()
    session = prepared(model)
    torch.testing.assert_close(session.run(GIVEN)["output"], model(GIVEN["input"]))
    proof = session.proof(GIVEN)
    assert sum(count for (where, _), count in proof.ran.items() if where == "XNNPACK") == 4
    assert [(one.kind, one.detail) for one in proof.fallbacks] == [("portable kernels", "1 aten::native_layer_norm")]


def test_outputs_keep_their_names_and_dtypes() -> None:
    class Several(nn.Module):
        def forward(self, x: torch.Tensor, ids: torch.Tensor, unread: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"twice": x * 2, "given": x, "where": x > 0.5, "whole": x.long() + ids, "flat": x.T.reshape(-1)}

    given = {"x": torch.randn(4, 3), "ids": torch.arange(3), "unread": torch.ones(2, dtype=torch.bool)}
    found = prepared(Several(), given).run(given)
    for path, expected in Several()(**given).items():
        assert found[path].dtype is expected.dtype
        assert torch.equal(found[path], expected), path


def test_attention_whose_output_is_viewed_is_lowered() -> None:
    class Attends(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            heads = x.view(*x.shape[:2], 4, 8).transpose(1, 2)
            return scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).reshape(*x.shape[:2], -1)

    x = torch.randn(3, 5, 32)
    torch.testing.assert_close(prepared(Attends(), {"x": x}).run({"x": x})["output"], Attends()(x))


def test_users_own_lines_give_the_same() -> None:
    model = layers()
    (found,) = runtime_of("executorch").plain(model, GIVEN)  # type: ignore[attr-defined]
    torch.testing.assert_close(found, model(GIVEN["input"]))


def test_sizes_stay_open_as_far_as_memory_was_planned_and_beyond_there_is_another_graph() -> None:
    model = layers()
    session = prepared(model, GIVEN, {"input": torch.randn(1, 4)})
    for rows in (3, 1, 12):
        x = torch.randn(rows, 4)
        torch.testing.assert_close(session.run({"input": x})["output"], model(x))
    assert ANOTHER_GRAPH not in [one.kind for one in session.proof(GIVEN).fallbacks]
    session.run({"input": torch.randn(13, 4)})
    assert ANOTHER_GRAPH in [one.kind for one in session.proof(GIVEN).fallbacks]


@pytest.mark.parametrize(
    ("compute", "operator"),
    [(lambda x: torch.linalg.qr(x).R, "aten.linalg_qr"), (lambda x: x.sort().values, "aten::sort")],
    ids=["not lowered", "no kernel"],
)
def test_an_operator_without_a_kernel_is_refused_by_its_name(compute: Any, operator: str) -> None:
    class Computes(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return compute(x)

    with pytest.raises(Refused) as refusal:
        prepared(Computes(), {"x": torch.randn(4, 4)})
    assert refusal.value.cause == f"unsupported operator {operator}"


def test_a_wrong_operation_is_found_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bias of a layer is changed in the program on its way to the runtime: that layer is the first to be wrong."""
    from executorch.runtime import Runtime

    model = layers()
    session = prepared(model)
    bias, loads = model[2].bias.detach().numpy(), Runtime.load_program
    held, wrong = bias.tobytes(), (bias * 1.5).tobytes()
    monkeypatch.setattr(Runtime, "load_program", lambda self, program: loads(self, program.replace(held, wrong)))
    trace = session.trace(GIVEN)
    assert trace is not None
    found = first_divergence(walk_graph(trace, {}), 1e-4)
    assert found is not None and found.name.startswith("2 linear")


@pytest.mark.slow
def test_a_model_passes_and_fails_when_nothing_of_it_is_delegated(monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = load_catalog()
    trial = Trial(catalog.model("vit"), catalog.target(TARGET), Weights.TINY, 0, catalog.tolerances)
    checks = {one.name: one for one in registered()}
    for name in ("prepared", "stages", "ran-on-target", "matches-truth", "batch-matches-single"):
        assert examine(checks[name], trial).verdict is Verdict.PASS, name
    assert "aten::native_layer_norm" in examine(checks["ran-on-target"], trial).detail

    monkeypatch.setattr(executorch, "Method", partial(executorch.Method, delegate=False))
    alone = Trial(catalog.model("vit"), catalog.target(TARGET), Weights.TINY, 0, catalog.tolerances)
    found = examine(checks["ran-on-target"], alone)
    assert found.verdict is Verdict.FAIL
    assert "0 of" in str(found.observed)
