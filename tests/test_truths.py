"""Truth is kept by the content of all that it is of; a damaged file, or a disk that is full, costs only time."""

import copy
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from proofbook import cache
from proofbook.cache import TRUTH, Store
from proofbook.checks.truths import Truths, fingerprint
from proofbook.paths import cache_dir
from proofbook.workbook.case import Case


class Small(nn.Module):
    """A linear map that counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, 4)
        self.register_buffer("shift", torch.zeros(4), persistent=False)

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> dict[str, torch.Tensor]:
        CALLS.append(1)
        return {"z": self.linear(x) * scale + self.shift, "a": torch.arange(3)}


CALLS: list[int] = []
X = {"x": torch.ones(2, 4)}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PROOFBOOK_CACHE", str(tmp_path / "cache"))
    CALLS.clear()
    return tmp_path / "cache"


def files() -> list[Path]:
    return [path for path in cache_dir().rglob("*") if path.is_file()]


def test_the_same_weights_and_inputs_have_their_truth_computed_once() -> None:
    first, again = (Truths().truth_of(Small(), X) for _ in range(2))
    assert len(CALLS) == 1
    assert (first.kept, again.exact, first.rule) == ("", True, again.rule)
    assert again.kept
    assert list(again.outputs) == list(first.outputs) == ["z", "a"]
    for name, tensor in first.outputs.items():
        assert torch.equal(again.outputs[name], tensor)
        assert again.outputs[name].dtype is tensor.dtype
    assert len(files()) == 1


def _weight(model: nn.Module) -> None:
    model.get_parameter("linear.weight").data[0, 0] += 1e-7


def _buffer(model: nn.Module) -> None:
    model.get_buffer("shift")[0] = 1.0


def _half(model: nn.Module) -> None:
    model.to(torch.bfloat16)


@pytest.mark.parametrize("change", [_weight, _buffer, _half])
def test_other_weights_are_another_truth(change: Callable[[nn.Module], None]) -> None:
    model, other = Small(), Small()
    change(other)
    assert fingerprint(model, X) == fingerprint(copy.deepcopy(model), X) != fingerprint(other, X)


@pytest.mark.parametrize(
    "inputs",
    [{"x": torch.ones(2, 4) * 2}, {"x": torch.ones(4, 2)}, {"x": torch.ones(2, 4).double()}, {**X, "scale": 2.0}],
)
def test_other_inputs_are_another_truth(inputs: dict[str, torch.Tensor]) -> None:
    assert fingerprint(Small(), inputs) != fingerprint(Small(), X)


def test_an_input_that_no_text_tells_is_never_kept() -> None:
    assert fingerprint(Small(), {**X, "scale": object()}) is None


def test_truth_that_is_not_float64_is_not_kept() -> None:
    class OnlyFloat32(Small):
        def forward(self, x: torch.Tensor, scale: float = 1.0) -> dict[str, torch.Tensor]:
            if x.dtype is torch.float64:
                raise RuntimeError("not implemented for 'Double'")
            return super().forward(x, scale)

    assert not Truths().truth_of(OnlyFloat32(), X).exact
    assert files() == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_as_one_that_is_not_there(data: st.DataObject) -> None:
    expected = Truths().truth_of(Small(), X)
    (path,) = files()
    whole = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del whole[data.draw(st.integers(0, len(whole) - 1)) :]
    else:
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(whole)
    found = Truths().truth_of(Small(), X)
    assert torch.equal(found.outputs["z"], expected.outputs["z"])
    assert Truths().truth_of(Small(), X).kept


def test_a_cache_that_cannot_be_written_costs_no_case(elsewhere: Path) -> None:
    elsewhere.write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="truth can't be kept"):
        found = Truths().truth_of(Small(), X)
    assert found.exact


def test_the_least_recently_used_goes_first() -> None:
    store = Store(TRUTH, limit=16 * 250)  # two of a hundred in each sixteenth
    for key in ("aa", "ab"):
        store.put(key, bytes(100))
    _older(store.find("ab"))
    store.put("ac", bytes(100))
    assert [store.find(key) is not None for key in ("aa", "ab", "ac")] == [True, False, True]
    store.put("ad", bytes(1000))
    assert store.find("ad") is None


def _older(path: Path | None) -> None:
    assert path is not None
    os.utime(path, (0, 0))


def test_many_may_write_at_a_time() -> None:
    store = Store(TRUTH, limit=16 * 3000)

    def write(_: int) -> None:
        for number in range(50):
            store.put(f"a{number % 7}", bytes(500))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert sum(path.stat().st_size for path in files()) <= 3000
    assert all(path.read_bytes() == bytes(500) for path in files())


def test_clearing_removes_what_is_kept_and_nothing_else(elsewhere: Path) -> None:
    Truths().truth_of(Small(), X)
    (elsewhere / "mine.txt").write_text("mine")
    assert cache.held()[TRUTH][0] == 1
    assert cache.clear() > 0
    assert [path.name for path in files()] == ["mine.txt"]
    assert cache.clear() == 0


def test_targets_of_one_dtype_share_the_truth_of_a_run_and_the_notebook_says_so() -> None:
    first, again, by_hand = (Case("bert", run=run) for run in ("one", "two", ""))
    for case in (first, again, by_hand):
        case.check("accuracy")
    assert not first.truth.kept
    assert again.truth.kept
    assert "from the cache, computed 20" in repr(again.show_verdict())
    assert "from the cache" not in repr(first.show_verdict())
    assert by_hand.truths is None
    assert [case.findings["matches-truth"].observed for case in (again, by_hand)] == [
        first.findings["matches-truth"].observed
    ] * 2
    half = Case("bert", "cpu-bf16", run="three")
    assert not half.truth.kept  # its weights are rounded, and so are another's
