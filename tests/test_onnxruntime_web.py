"""ONNX Runtime in a browser: tensors as they were, what ran where, faults found, and nothing left of the browser."""

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import nn

from proofbook.catalog import load_catalog
from proofbook.checks.localise import first_divergence, walk_graph
from proofbook.checks.registry import examine, registered
from proofbook.runtimes import runtime_of
from proofbook.runtimes.browser import CHROMIUM, Browser, BrowserFailed
from proofbook.runtimes.devices import detect
from proofbook.runtimes.onnxruntime_web import SOFTWARE, OnnxRuntimeWeb
from proofbook.runtimes.page import PACKAGE, Page
from proofbook.runtimes.registry import missing
from proofbook.verdict import Blocked, Verdict
from proofbook.workbook.case import Case

onnx = pytest.importorskip("onnx")
LACK = missing("onnxruntime-web")
here = pytest.mark.skipif(bool(LACK), reason=LACK)
WASM, WEBGPU = "onnxruntime-web-wasm", "onnxruntime-web-webgpu"


@pytest.fixture
def webgpu() -> None:
    """Skips where no adapter is offered, be it a software's."""
    found = detect("webgpu")
    if not found.available:
        pytest.skip(f"webgpu: {found.detail}")


@pytest.fixture
def layers() -> Iterator[Any]:
    """A small model in the browser."""
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 2))
    session = runtime_of("onnxruntime-web").prepare(model, [GIVEN], load_catalog().target(WASM))
    yield session
    session.release()


GIVEN = {"input": torch.randn(5, 4)}


def page_of(session: Any) -> Page:
    page: Page = session._graphs[0][1]._page
    return page


def browsers() -> list[int]:
    """The browsers below this process, and all that they have started."""
    below = psutil.Process().children(recursive=True)
    return [one.pid for one in below if "--user-data-dir" in " ".join(one.cmdline()) or "chrom" in one.name()]


def gone(processes: list[int]) -> bool:
    """Whether they all end within seconds."""
    deadline = time.monotonic() + 10
    while (left := any(map(_runs, processes))) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not left


def _runs(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@here
def test_tensors_of_every_dtype_and_shape_come_back_as_they_went(tmp_path: Path) -> None:
    dtypes = ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
    given = {name: (torch.randn(2, 3) * 5).to(getattr(torch, name)) for name in dtypes}
    given |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3), "turned": torch.randn(3, 2).T}
    values, nodes = {}, []
    for name, tensor in given.items():
        kind = onnx.helper.np_dtype_to_tensor_dtype(tensor.numpy().dtype)
        values[name] = [onnx.helper.make_tensor_value_info(each, kind, tensor.shape) for each in (name, f"{name}!")]
        nodes.append(onnx.helper.make_node("Identity", [name], [f"{name}!"]))
    inputs, outputs = zip(*values.values(), strict=True)
    graph = onnx.helper.make_graph(nodes, "same", inputs, outputs)
    path = tmp_path / "same.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10), path)
    page = Page.borrowed()
    try:
        made = page.run(page.open(path, {"name": "wasm"}, {}), given, [f"{name}!" for name in given])
    finally:
        page.give_back()
    for name, tensor in given.items():
        assert made[f"{name}!"].dtype is tensor.dtype, name
        assert torch.equal(made[f"{name}!"], tensor), name


@here
@pytest.mark.slow
def test_a_model_passes_by_webassembly_and_is_proven_to_run_there() -> None:
    case = Case("bert", WASM, checks="prepared,stages,ran-on-target,matches-truth,batch-matches-single")
    for family in ("conversion", "forward", "accuracy", "batching"):
        case.check(family)
    assert {name: one.verdict for name, one in case.findings.items()} == dict.fromkeys(
        ("prepared", "stages", "ran-on-target", "matches-truth", "batch-matches-single"), Verdict.PASS
    )
    assert "nodes on wasm in float32, no fallback" in str(case.findings["ran-on-target"].observed)
    assert case.case_record().versions["onnxruntime-web"]
    case.session.release()
    assert not browsers()


@here
@pytest.mark.slow
@pytest.mark.usefixtures("webgpu")
def test_a_model_passes_by_webgpu_and_a_software_adapter_is_told() -> None:
    case = Case("vit", WEBGPU, checks="prepared,stages,ran-on-target,matches-truth")
    for family in ("conversion", "forward", "accuracy"):
        case.check(family)
    assert {one.verdict for one in case.findings.values()} == {Verdict.PASS}
    proof = case.session.proof(case.inputs)
    there = Counter[str]()
    for (where, _), count in proof.ran.items():
        there[where] += count
    assert there["webgpu"] > there["wasm"]
    told = [one.detail for one in proof.fallbacks if one.kind == SOFTWARE]
    assert bool(told) == detect("webgpu").detail.startswith("software")
    case.session.release()


@here
@pytest.mark.slow
@pytest.mark.usefixtures("webgpu")
@pytest.mark.parametrize("fault", ["one node", "all of it"])
def test_what_webgpu_leaves_to_webassembly_fails_the_case(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("vit", WEBGPU)
    if fault == "one node":
        options = {"forceCpuNodeNames": ["node_linear_12"]}
        case.target = case.target.model_copy(update={"options": options})
    else:
        opens = Page.open
        monkeypatch.setattr(Page, "open", lambda page, path, _, options: opens(page, path, {"name": "wasm"}, options))
    found = examine(next(one for one in registered() if one.name == "ran-on-target"), case)
    case.session.release()
    assert found.verdict is Verdict.FAIL
    assert "float32 nodes on wasm" in found.detail


@here
def test_a_node_that_is_changed_on_its_way_to_the_browser_is_found_by_its_name(layers: Any) -> None:
    graph = layers._graphs[0][1]
    written = onnx.load(graph._path)
    next(node for node in written.graph.node if node.op_type == "Sigmoid").op_type = "Tanh"
    onnx.save(written, graph._path)
    trace = layers.trace(GIVEN)
    found = first_divergence(walk_graph(trace, GIVEN), 1e-4)
    assert found is not None and found.name == "3 sigmoid"


@here
@pytest.mark.slow
def test_what_the_browser_alone_gets_wrong_is_its_stage() -> None:
    case = Case("bert", WASM, checks="stages")
    graph: Any = case.session._graphs[0][1]  # type: ignore[attr-defined]
    written = onnx.load(graph._path)
    name = "model.bert.encoder.layer.1.intermediate.dense.bias"
    held = next(one for one in written.graph.initializer if one.name == name)
    held.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(held) * 1.5, name))
    changed = graph._path.with_name("changed.onnx")
    onnx.save(written, changed)
    graph._session = graph._open(changed)
    case.check("conversion")
    assert case.findings["stages"].verdict is Verdict.FAIL
    assert "logits, onnxruntime-web" in str(case.findings["stages"].observed)
    case.session.release()


@here
@pytest.mark.parametrize(
    ("which", "said"), [("browser", "the browser ended by signal SIGKILL"), ("renderer", "page of the browser crashed")]
)
def test_a_browser_or_page_that_is_killed_is_told_and_nothing_is_left(layers: Any, which: str, said: str) -> None:
    browser, started = page_of(layers).browser._process, browsers()
    renderers = [one for one in browser.children(recursive=True) if "--type=renderer" in one.cmdline()]
    for process in [browser] if which == "browser" else renderers:
        process.kill()
    with pytest.raises(BrowserFailed, match=said):
        layers.run(GIVEN)
    again = runtime_of("onnxruntime-web").prepare(nn.Linear(4, 2), [GIVEN], load_catalog().target(WASM))
    assert again.run(GIVEN)["output"].shape == (5, 2)
    again.release()
    layers.release()
    assert gone(started)
    assert not browsers()


@here
def test_a_browser_ends_with_the_process_that_started_it() -> None:
    code = (
        "import psutil, sys; from proofbook.runtimes.browser import Browser\n"
        "kept = Browser('about:blank')\n"
        "print(*[one.pid for one in psutil.Process().children(recursive=True)], flush=True)\n"
        "sys.stdin.read()"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    started = [int(one) for one in owner.stdout.readline().split()]
    assert started
    owner.kill()
    owner.wait()
    assert gone(started)


@here
def test_an_address_that_nobody_serves_is_told() -> None:
    with pytest.raises(BrowserFailed, match="does not load"):
        Browser("http://127.0.0.1:9/")
    assert not browsers()


def test_without_its_package_the_target_is_blocked_with_the_command_that_gets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CHROMIUM, sys.executable)
    monkeypatch.setenv(PACKAGE, str(tmp_path))
    with pytest.raises(Blocked, match=r"npm install .*onnxruntime-web@") as blocked:
        OnnxRuntimeWeb()
    assert blocked.value.name == "onnxruntime-web"


def test_without_a_browser_the_target_is_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CHROMIUM, "/nowhere/chromium")
    with pytest.raises(Blocked, match="apt-get install chromium") as blocked:
        OnnxRuntimeWeb()
    assert blocked.value.name == "chromium"
