"""A hardware vendor's package: installed beside proofbook, its runtime is used, judged and shown as ours are."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from proofbook.batch.ledger import read_ledger
from proofbook.paths import workbook_root

PACKAGE = Path(__file__).parent / "vendor"
PROOFBOOK = (sys.executable, "-c", "from proofbook.cli import main; main()")


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a machine that has the package, and a workbook with targets for it."""
    folder = tmp_path_factory.mktemp("vendor")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder / "site", PACKAGE]
    subprocess.run(command, check=True, capture_output=True)
    book = folder / "book"
    for part in ("notebooks", "params"):
        shutil.copytree(workbook_root() / part, book / part)
        targets = book / "params" / "targets.yaml"
    known = yaml.safe_load(targets.read_text())
    numpy = {"device": "cpu", "runtime": "numpy", "dtype": "float32", "description": "NumPy as an accelerator"}
    fallback = {**numpy, "options": {"host": ["gelu"]}}
    known["targets"] |= {"numpy": numpy, "numpy-fallback": fallback}
    targets.write_text(yaml.safe_dump(known))
    path = os.pathsep.join([str(folder / "site"), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "PROOFBOOK_ROOT": str(book)}


@pytest.mark.slow
def test_a_vendors_runtime_runs_is_refused_by_name_and_caught_falling_back(
    vendor: dict[str, str], tmp_path: Path
) -> None:
    told = subprocess.run(
        [sys.executable, "-m", "proofbook.runtimes"], env=vendor, capture_output=True, text=True, check=True
    )
    assert json.loads(told.stdout)["runtimes"]["numpy"] == ""
    run = tmp_path / "run"
    command = [*PROOFBOOK, "run", "--model", "bert,vit", "--target", "numpy,numpy-fallback"]
    ran = subprocess.run([*command, "--out", run], env=vendor, capture_output=True, text=True)
    results = read_ledger(run).results
    cases = {(one.case.model, one.case.target): one.case for one in results}
    checks = {(one.case.model, one.case.target, asked.check): asked for one in results for asked in one.checks}
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert cases["bert", "numpy"].verdict == "pass"
    assert checks["bert", "numpy-fallback", "ran-on-target"].verdict == "fail"
    assert "gelu" in checks["bert", "numpy-fallback", "ran-on-target"].detail
    assert checks["vit", "numpy", "prepared"].observed == "unsupported operator aten.conv2d"
