"""torch.compile with inductor: what it leaves to Python or ATen is seen; a fault is named by step and operation."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.bert import modeling_bert

from proofbook.batch.machine import lack, usable_targets
from proofbook.catalog import Target, Weights, load_catalog
from proofbook.checks.localise import first_divergence, walk_graph
from proofbook.checks.registry import Finding, examine, registered
from proofbook.checks.trial import Trial
from proofbook.runtimes import Refused, runtime_of
from proofbook.runtimes.graph import ANOTHER_GRAPH
from proofbook.runtimes.inductor import EAGER, GRAPH_BREAK, NO_CUDA_GRAPH, OTHER_VALUES, InductorSession
from proofbook.runtimes.inductor_kernels import LEFT
from proofbook.runtimes.registry import missing
from proofbook.verdict import Blocked, Verdict

aten = torch.ops.aten


def target(name: str = "inductor-cpu", **options: Any) -> Target:
    return load_catalog().target(name).model_copy(update={"options": options})


def compiled(model: nn.Module, *rows: int, **options: Any) -> InductorSession:
    """A module of four numbers a row, made ready for so many rows."""
    examples = [given(count) for count in rows or (3,)]
    found = runtime_of("inductor").prepare(model.eval(), examples, target(**options))
    assert isinstance(found, InductorSession)
    return found


def given(rows: int = 3) -> dict[str, Tensor]:
    return {"x": torch.linspace(-1, 1, rows * 4).reshape(rows, 4)}


def fallbacks(session: InductorSession, rows: int = 3) -> dict[str, str]:
    return {one.kind: one.detail for one in session.proof(given(rows)).fallbacks}


class Calling(nn.Module):
    """A module of one function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Breaks(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x = x + 1
        if x.sum().item() > 0:  # a break
            x = x * 2
        return x


class Flagged(nn.Module):
    flag = 1

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if self.flag == 1 else x * 3


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"y": self.second(torch.sigmoid(self.first(x)))}


def test_a_module_is_compiled_whole_and_its_kernels_are_counted() -> None:
    model = Linear()
    session = compiled(model)
    assert torch.allclose(session.run(given())["y"], model(**given())["y"], atol=1e-6)
    proof = session.proof(given())
    assert proof.ran == {("ATen on cpu", "float32"): 2, ("inductor on cpu", "float32"): 1}
    assert not proof.fallbacks
    assert set(session.prepare_s) == {"dynamo", "AOTAutograd", "inductor"}
    assert list(session.stages(given())) == ["torch", "dynamo", "AOTAutograd", "inductor"]


def test_a_graph_break_is_seen_with_its_reason_and_place() -> None:
    found = fallbacks(compiled(Breaks()))
    assert "Tensor.item()" in found[GRAPH_BREAK]
    assert "test_inductor.py" in found[GRAPH_BREAK] and "x.sum().item() > 0" in found[GRAPH_BREAK]
    assert "aten::item" in found[EAGER] or "_local_scalar_dense" in found[EAGER]


def test_an_operator_without_code_of_inductor_is_named_and_allowed_by_name() -> None:
    session = compiled(Calling(lambda x: torch.linalg.inv(x[:2, :2] + 5 * torch.eye(2))))
    found = fallbacks(session)
    assert "1 aten.linalg_inv_ex.default" in found[LEFT]
    assert LEFT in target().allows and GRAPH_BREAK not in target().allows


def test_sizes_that_examples_have_are_open_and_others_are_seen_with_their_guard() -> None:
    session = compiled(Calling(torch.cos), 3, 5)
    session.run(given(7))
    assert not fallbacks(session)
    session.run(given(1))
    assert "2 <= x.size()[0]" in fallbacks(session)[ANOTHER_GRAPH]


def test_a_graph_for_another_value_is_seen_with_its_guard() -> None:
    model = Flagged()
    session = compiled(model)
    model.flag = 2
    session.run(given())
    assert "self.flag == 1" in fallbacks(session)[OTHER_VALUES] or "flag" in fallbacks(session)[OTHER_VALUES]


def test_a_frame_that_torch_would_leave_to_eager_after_too_many_graphs_is_refused() -> None:
    model = Flagged()
    session = compiled(model)
    with pytest.raises(Refused, match="more graphs than torch makes of a frame"):
        for model.flag in range(2, 12):
            session.run(given())


def test_cuda_graphs_that_were_asked_for_and_skipped_are_seen_with_the_reason() -> None:
    found = fallbacks(compiled(Calling(torch.tanh), mode="reduce-overhead"))
    assert "skipping cudagraphs due to" in found[NO_CUDA_GRAPH]


def test_a_graph_that_computes_nothing_has_all_its_steps() -> None:
    steps = compiled(Calling(lambda x: x)).stages(given())
    assert len(steps) == 4 and all(torch.equal(one["output"], given()["x"]) for one in steps.values())


def test_all_sizes_are_open_from_the_first_call_where_a_target_says_so() -> None:
    session = compiled(Calling(torch.tan), dynamic=True)
    session.run(given(5))
    assert not fallbacks(session)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mode": "fast"}, "mode is 'fast'; allowed: default"),
        ({"dynamic": 1}, "dynamic is 1; allowed: true, false"),
        ({"fullgraph": True}, "no option 'fullgraph'; known: mode, dynamic"),
    ],
)
def test_options_that_torch_does_not_take_are_refused_by_name(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        compiled(Linear(), **options)


def test_without_a_compiler_the_target_is_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    runtime_of.cache_clear()
    for name in ("inductor", "aotinductor"):
        with pytest.raises(Blocked, match=r"no-such-compiler is not found.*Install g\+\+"):
            runtime_of(name)
        assert "Install g++" in missing(name)


def test_targets_that_take_minutes_run_only_when_they_are_named() -> None:
    catalog = load_catalog()
    assert not lack(catalog.target("inductor-cpu"))
    assert "inductor-cpu" not in usable_targets(catalog) and "cpu" in usable_targets(catalog)


@pytest.mark.parametrize("name", ["inductor-cuda", "inductor-cudagraphs-cuda-fp16", "aotinductor-cuda"])
def test_without_a_gpu_its_targets_are_blocked(name: str) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    asked = load_catalog().target(name)
    with pytest.raises(Blocked, match="cuda"):
        runtime_of(asked.runtime).prepare(Linear(), [given()], asked)


def test_a_wrong_kernel_is_found_at_its_step_and_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor.lowering import lowerings

    monkeypatch.setitem(lowerings, aten.sigmoid.default, lowerings[aten.tanh.default])
    session = compiled(Linear())
    steps = session.stages(given())
    assert torch.allclose(steps["AOTAutograd"]["y"], steps["torch"]["y"], atol=1e-5)
    assert not torch.allclose(steps["inductor"]["y"], steps["torch"]["y"], atol=1e-2)
    found = first_divergence(walk_graph(session.trace(given()), given()), 1e-4)
    assert found is not None and "sigmoid" in found.name


def test_a_wrong_decomposition_is_found_at_its_step(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor.decomposition import select_decomp_table

    monkeypatch.setitem(select_decomp_table(), aten.silu.default, lambda x: x * torch.tanh(x))
    steps = compiled(Calling(nn.functional.silu)).stages(given())
    assert torch.allclose(steps["dynamo"]["output"], steps["torch"]["output"])
    assert not torch.allclose(steps["AOTAutograd"]["output"], steps["torch"]["output"], atol=1e-2)


def test_what_inductor_can_not_lower_is_refused_at_its_step(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor.lowering import lowerings

    def fails(*_: Any) -> Any:
        raise NotImplementedError("not here")

    monkeypatch.setitem(lowerings, aten.sigmoid.default, fails)
    with pytest.raises(Refused) as refusal:
        compiled(Linear())
    assert (refusal.value.stage, refusal.value.cause) == ("inductor", "unsupported operator aten.sigmoid")


@pytest.mark.slow
def test_a_model_passes_and_a_graph_break_planted_in_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    found = asked_of("bert", "prepared", "stages", "ran-on-target", "matches-truth", "deterministic")
    assert {one.verdict for one in found.values()} == {Verdict.PASS}, found

    head = modeling_bert.BertPredictionHeadTransform
    forward = head.forward

    def breaks(self: nn.Module, hidden_states: Tensor) -> Any:
        torch._dynamo.graph_break()
        return forward(self, hidden_states)

    monkeypatch.setattr(head, "forward", breaks)
    broken = asked_of("bert", "ran-on-target", "matches-truth")
    assert broken["ran-on-target"].verdict is Verdict.FAIL
    assert "graph break: Call to `torch._dynamo.graph_break()`" in broken["ran-on-target"].detail
    assert broken["matches-truth"].verdict is Verdict.PASS


def asked_of(model: str, *names: str) -> dict[str, Finding]:
    """What some checks find of a model on inductor-cpu."""
    catalog = load_catalog()
    trial = Trial(catalog.model(model), catalog.target("inductor-cpu"), Weights.TINY, 0, catalog.tolerances)
    return {one.name: examine(one, trial) for one in registered() if one.name in names}
