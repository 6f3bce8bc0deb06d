"""A failing case becomes a script that fails by itself, without proofbook; one that does not fail is not offered."""

import json
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import BambaConfig

from proofbook.batch.plan import plan_case
from proofbook.catalog import Weights
from proofbook.checks.registry import Check, Finding, registered
from proofbook.checks.reproduction import reproduction_of
from proofbook.reproduce import NoReproduction, reproduce
from proofbook.reproduce.bundle import Bundle, NotPlain
from proofbook.reproduce.host import Host
from proofbook.reproduce.reproduction import _execute, _shows, _subject
from proofbook.reproduce.script import _json, write_script
from proofbook.reproduce.values import NotWritable, Writer
from proofbook.verdict import Verdict
from proofbook.workbook.case import Case
from proofbook.workbook.html import badge

CHECKS = {check.name: check for check in registered()}
# those of today that can be asked of any model without evidence
ASKED = ("matches-truth", "deterministic", "finite", "batch-matches-single", "save-load-round-trip", "loads")


def failed(check: Check, **more: Any) -> Finding:
    return Finding(check, Verdict.FAIL, 0.1, observed="1", allowed="0", **more)


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Host() as one:
        yield one


@pytest.mark.parametrize(("model", "exact"), [("llama", False), ("detr", True)])
def test_the_script_of_a_sound_model_comes_to_its_end(model: str, exact: bool, tmp_path: Path) -> None:
    case = Case(model)
    assert case.outputs
    for name in ASKED:
        question = reproduction_of(name)
        assert question is not None, name
        known = {"rows": len(case.rows)} if name == "batch-matches-single" else {}
        script = write_script(_subject(case), question, known, "about", name, exact)
        assert "import proofbook" not in script.text and "from proofbook" not in script.text
        if script.tensors:
            from safetensors.torch import save_file

            save_file(dict(script.tensors), tmp_path / f"{name}.safetensors")
        path = tmp_path / f"{name}.py"
        path.write_text(script.text, encoding="utf-8")
        runpy.run_path(str(path))


@pytest.mark.slow
def test_a_known_fault_of_the_library_becomes_a_script_that_asserts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    case = Case("mra", checks="inputs-matter")
    case.check("loading")
    case.check("signal")
    assert case.verdict is Verdict.XFAIL
    shown = repr(case.show_reproduction())
    assert "AssertionError: input_ids changed in row 0" in shown
    assert case.case_record().reproduction == "mra@cpu.repro.py"
    text = (tmp_path / "mra@cpu.repro.py").read_text()
    assert "MraForMaskedLM(MraConfig.from_dict(CONFIG))" in text and "proofbook" not in text


@pytest.mark.slow
def test_an_exception_becomes_a_script_that_raises_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    case = Case("clvp", "cpu-bf16", checks="deterministic")
    case.check("loading")
    case.check("forward")
    assert case.verdict is Verdict.ERROR
    assert "RuntimeError: mat1 and mat2 must have the same dtype" in repr(case.show_reproduction())
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ("assert False, 'x: observed 2, allowed 1'", True),
        ("pass", False),
        ("assert False, 'of the library itself'", False),
        ("import no_such_module", False),
    ],
)
def test_only_what_fails_as_the_check_did_is_offered(body: str, shown: bool, host: Host, tmp_path: Path) -> None:
    script = tmp_path / "a@cpu.repro.py"
    script.write_text(body)
    assert _shows(_execute(host, script), failed(CHECKS["deterministic"])) is shown


def test_a_script_ends_at_its_limit_and_finds_nothing_of_another(host: Host, tmp_path: Path) -> None:
    endless, changing, asking = (tmp_path / f"{name}.py" for name in ("endless", "changing", "asking"))
    endless.write_text("while True: pass")
    changing.write_text("import sys, torch; torch.mine = 1")
    asking.write_text("import sys, torch; assert not hasattr(torch, 'mine') and 'proofbook' not in sys.modules")
    with pytest.raises(TimeoutError, match=r"ran for 0\.5 s"):
        host.run(endless, 0.5)
    assert host.run(changing, 60) == host.run(asking, 60) == ""


def test_an_exception_must_be_the_same(host: Host, tmp_path: Path) -> None:
    script = tmp_path / "a.py"
    script.write_text("raise ValueError('3 of [1.5e+00, 2] at 0x7f00')")
    said = _execute(host, script)

    def alike(ended: str) -> bool:
        return _shows(said, failed(CHECKS["finite"], traceback=f"Traceback…\n  File\n{ended}"))

    assert alike("ValueError: 5 of [ 1e-7, -2, 3.0] at 0x1f")
    assert not alike("KeyError: 5 of [1, 2] at 0x1f") and not alike("ValueError: 5 of [] at 0x1f")


def test_a_check_without_a_question_of_its_own_has_no_reproduction() -> None:
    case = Case("bert")
    with pytest.raises(NoReproduction, match="timed-outputs: the check declares no reproduction"):
        reproduce(case, [failed(CHECKS["timed-outputs"])], "bert")
    case.weights = Weights.HUB
    with pytest.raises(NoReproduction, match="real"):
        reproduce(case, [failed(CHECKS["deterministic"])], "bert")


def test_nothing_is_written_for_a_case_that_passed() -> None:
    assert repr(Case("bert").show_reproduction()) == "Nothing failed."


@pytest.mark.slow
def test_what_a_notebook_leaves_comes_to_lie_beside_it(tmp_path: Path) -> None:
    """Executed by the batch: a notebook that leaves a script where it works."""
    import nbformat
    from nbformat.v4 import new_code_cell, new_notebook

    from proofbook.batch.local import execute_case
    from proofbook.catalog import load_catalog

    case = plan_case(load_catalog().model("bert"), "cpu", Weights.TINY, 0)
    cells = [
        new_code_cell("model = target = weights = run = ''; seed = 0", metadata={"tags": ["parameters"]}),
        new_code_cell("import pathlib; pathlib.Path('bert@cpu.repro.py').write_text('assert False')"),
        new_code_cell("raise AssertionError"),
    ]
    (tmp_path / "notebooks").mkdir()
    nbformat.write(new_notebook(cells=cells), tmp_path / "notebooks" / f"{case.category}.ipynb")
    beside = tmp_path / "run" / Path(case.notebook).parent
    beside.mkdir(parents=True)
    (beside / "bert@cpu.repro.safetensors").write_text("of an earlier execution")
    execute_case(case, "run", tmp_path / "run", tmp_path / "notebooks")
    assert sorted(path.name for path in beside.iterdir()) == ["bert@cpu.ipynb", "bert@cpu.repro.py"]


leaves = st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False) | st.text(max_size=8)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(values)
def test_plain_values_are_read_as_they_were(value: Any) -> None:
    assert eval(Writer(exact=False).source(value, "value")) == value


@given(
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool]),
    st.lists(st.integers(0, 9), min_size=0, max_size=3),
    st.booleans(),
)
def test_tensors_are_read_as_they_were(dtype: torch.dtype, shape: list[int], constant: bool) -> None:
    value = (torch.zeros(shape) + 1 if constant else torch.randn(shape) * 3).abs().to(dtype)
    writer = Writer(exact=True)
    source = writer.source(value, "value")
    read = eval(source, {"torch": torch, "TENSORS": writer.tensors})
    assert read.dtype == value.dtype and read.shape == value.shape and torch.equal(read, value)


def test_a_configuration_with_an_infinite_number_is_read_as_it_was() -> None:
    config = BambaConfig(time_step_limit=(0.5, float("inf")), num_hidden_layers=2)
    again = BambaConfig.from_dict(json.loads(_json(config)))
    assert tuple(again.time_step_limit) == (0.5, float("inf"))


def test_what_repeats_is_drawn_once_and_what_stands_in_two_batches_not_at_all() -> None:
    picture = torch.randn(2, 3, 16)
    writer = Writer(exact=False)
    source = writer.source({"pixels": torch.cat([picture] * 3).half()}, "batch")
    drawn = eval(source, {"torch": torch})["pixels"]
    assert drawn.shape == (6, 3, 16) and drawn.dtype is torch.float16
    assert torch.equal(drawn[2:], drawn[:4]) and not torch.equal(drawn[0], drawn[1])
    with pytest.raises(NotWritable, match="more than one batch"):
        writer.source({"pixels": picture}, "other")


def test_what_no_script_can_hold_is_refused() -> None:
    with pytest.raises(NotWritable, match="value is a object"):
        Writer(exact=True).source(object(), "value")
    with pytest.raises(NotPlain, match="lost is no constant of proofbook"):
        Bundle().take("lost", {"a": 1}, sys.modules[badge.__module__])
