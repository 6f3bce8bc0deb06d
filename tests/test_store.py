"""Runs copied to a URL as they grow, and fetched from there: by file systems of fsspec, and a server like S3."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from proofbook.batch import store as stores
from proofbook.batch.ledger import CASES_FILE, CHECKS_FILE, SWEEPS_FILE
from proofbook.batch.plan import make_plan
from proofbook.batch.run import BadFolder
from proofbook.batch.store import Store, StoreFailed, open_run
from proofbook.catalog import load_catalog
from proofbook.verdict import Verdict
from report_run import write_notebook
from synthetic_workbook import write_workbook

Call = Callable[..., tuple[int, str]]
RUN = ("run", "--target", "cpu", "--jobs", 1, "--cold")
NAMES = {"plan.json", "events.jsonl", CASES_FILE, CHECKS_FILE, SWEEPS_FILE}


@pytest.fixture
def workbook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = write_workbook(tmp_path / "workbook")
    monkeypatch.setenv("PROOFBOOK_ROOT", str(root))
    monkeypatch.setenv("SYNTHETIC_NOTES", str(root))
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a planned run of two cases, of which one has its notebook."""
    plan = make_plan(load_catalog(), run="run", models=["vit", "bert"], targets=["cpu"])
    made = tmp_path / "outputs" / "run"
    plan.save(made)
    write_notebook(made / plan.cases[0].notebook, plan.cases[0], Verdict.PASS)
    return made


def files(folder: Path) -> dict[str, bytes]:
    """All that others are to see of a run's folder."""
    paths = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.slow
def test_a_run_goes_to_its_url_and_another_machine_continues_it(
    workbook: Path, tmp_path: Path, proofbook: Call
) -> None:
    there = tmp_path / "bucket" / "nightly"
    url = f"file://{there}"
    status, said = proofbook(*RUN, "--model", "passes,fails", "--no-report", "--out", url)
    here = workbook / "outputs" / "nightly"
    assert (status, f"copied to {url}" in said) == (1, True)
    assert files(there) == files(here)
    assert {*files(there)} > NAMES
    # nothing is lost of what one machine had done when it was gone
    (there / "cases/vision/fails@cpu.ipynb").unlink()
    shutil.rmtree(workbook / "outputs")
    status, said = proofbook("run", "--resume", url, "--no-report", "--cold")
    assert (status, "1 of 2 cases to execute" in said) == (1, True)
    assert "ledger: 2 planned = 1 fail + 1 pass" in said
    assert files(there) == files(here)
    status, said = proofbook("compare", url, here)
    assert status == 0, said
    assert [path.name for path in (workbook / "outputs").iterdir()] == ["nightly"], "fetched into the same folder"
    status, said = proofbook(*RUN, "--model", "passes", "--out", url)
    assert (status, "holds a run already" in said) == (2, True)
    status, said = proofbook("status", url)
    assert (status, "only of a run on this machine" in said) == (2, True)


@pytest.mark.slow
def test_a_url_that_is_gone_costs_the_copy_and_nothing_of_the_run(
    workbook: Path, tmp_path: Path, proofbook: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "bucket" / "run"
    put = Store._put

    def gone(self: Store, folder: Path, names: list[str]) -> None:
        """The network goes once the plan is there."""
        if names != ["plan.json"] and not (tmp_path / "mended").exists():
            shutil.rmtree(there.parent, ignore_errors=True)
            there.parent.write_text("not a folder any more")
        put(self, folder, names)

    monkeypatch.setattr(Store, "_put", gone)
    status, said = proofbook(*RUN, "--model", "passes,litters", "--no-report", "--out", f"file://{there}")
    here = workbook / "outputs" / "run"
    assert status == 3
    assert "ledger: 2 planned = 2 pass" in said
    assert f"file://{there} can't be written" in said and f"proofbook report {here}" in said
    assert "Traceback" not in said
    assert "the run goes on in" in said, "it is said when it happens"
    there.parent.unlink()
    (tmp_path / "mended").touch()
    status, said = proofbook("run", "--resume", here, "--no-report")
    assert (status, files(there)) == (0, files(here))


def test_a_url_that_can_not_be_written_is_told_before_anything_is_executed(
    workbook: Path, tmp_path: Path, proofbook: Call
) -> None:
    (tmp_path / "file").write_text("no folder")
    url = f"file://{tmp_path}/file/run"
    status, said = proofbook(*RUN, "--model", "passes", "--out", url)
    assert (status, f"{url} can't be" in said, "Traceback" in said) == (3, True, False)
    assert not list((workbook / "outputs").rglob("*.ipynb"))
    for url, says in {"nothing://there": "Protocol not known", "memory://no/run": "it has no plan.json"}.items():
        status, said = proofbook("report", url)
        assert (status, says in said, "Traceback" in said) == (2, True, False), said


def test_only_what_differs_is_copied_again_and_the_urls_notebooks_win(folder: Path, tmp_path: Path) -> None:
    url = "memory://bucket/only-what-differs"
    store = Store(url)
    store.begin(folder)
    store.complete(folder)
    (notebook,) = folder.glob("cases/*/*.ipynb")
    name = f"bucket/only-what-differs/{notebook.relative_to(folder).as_posix()}"
    files_there = store._files
    assert files_there.cat_file(name) == notebook.read_bytes()
    files_there.pipe_file(name, b"{}")
    here = open_run(url, folder.parent)
    assert here == folder, "it is known which folder goes to this URL"
    assert notebook.read_bytes() == b"{}"
    elsewhere = open_run(url, tmp_path / "elsewhere")
    assert files(elsewhere).keys() == files(folder).keys()
    notebook.write_bytes(b"[]")  # as long as what is there: notebooks are compared by their sizes
    store.complete(folder)
    assert files_there.cat_file(name) == b"{}"


def test_names_that_lead_out_of_the_folder_are_refused(folder: Path, tmp_path: Path) -> None:
    store = Store("memory://bucket/strange")
    store.begin(folder)
    store._files.pipe_file("bucket/strange/cases/../../../evil", b"x")
    with pytest.raises(StoreFailed, match="no part of a run"):
        open_run(store.url, tmp_path / "elsewhere")


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(BadFolder, match=r'pip install -c constraints.txt -e "\.\[s3\]"'):
        Store("s3://bucket/run")


def test_a_url_that_comes_back_gets_what_it_missed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(load_catalog(), run="run", models=["vit", "bert"], targets=["cpu"])
    store = Store("memory://bucket/comes-back")
    store.begin(folder)
    name = f"bucket/comes-back/{plan.cases[0].notebook}"
    monkeypatch.setattr(store._files, "put", lambda *_: (_ for _ in ()).throw(ConnectionError("no route")))
    assert store.add(folder, plan.cases[0]) == ""
    store.settle()
    monkeypatch.undo()
    monkeypatch.setattr(stores, "PAUSE", 0.0)
    store._again_at = 0.0
    said = store.add(folder, plan.cases[1])
    assert "memory://bucket/comes-back can't be written: ConnectionError: no route. It is tried again" in said
    store.settle()
    assert store._files.exists(name)
    assert store.add(folder, plan.cases[1]) == "", "it is said once"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server of S3's kind on this machine, with one bucket; its address."""
    if find_spec("moto") is None or find_spec("s3fs") is None:
        pytest.skip('moto and s3fs are not installed: pip install "moto[server]" s3fs')
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    for name, value in {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().makedirs("bucket", exist_ok=True)
    yield address
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.mark.slow
def test_a_run_goes_to_s3_and_comes_back(s3: str, workbook: Path, proofbook: Call) -> None:
    import s3fs

    url = "s3://bucket/runs/nightly"
    status, said = proofbook(*RUN, "--model", "passes,fails", "--no-report", "--out", url)
    here = workbook / "outputs" / "nightly"
    assert (status, f"copied to {url}" in said) == (1, True), said
    there = s3fs.S3FileSystem().find("bucket/runs/nightly")
    assert {path.removeprefix("bucket/runs/nightly/") for path in there} == files(here).keys()
    before = files(here)
    shutil.rmtree(workbook / "outputs")
    status, said = proofbook("run", "--resume", url, "--no-report")
    assert (status, "0 of 2 cases to execute" in said) == (1, True), said
    assert {name: data for name, data in files(here).items() if name.startswith("cases/")} == {
        name: data for name, data in before.items() if name.startswith("cases/")
    }


@pytest.mark.slow
def test_s3_says_in_words_what_is_wrong(s3: str, workbook: Path) -> None:
    command = [sys.executable, "-c", "from proofbook.cli import main; main()"]
    command += [*map(str, RUN), "--model", "passes", "--out"]

    def said(url: str, **environment: str) -> str:
        known = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        aws = {"AWS_ENDPOINT_URL": s3, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"} | environment
        given = {name: value for name, value in {**known, **aws}.items() if value}
        ended = subprocess.run([*command, url], capture_output=True, text=True, env=given)
        assert ended.returncode == 3
        assert "Traceback" not in ended.stderr
        return ended.stderr

    assert "s3://nobody/run can't be written: FileNotFoundError: The specified bucket does not exist" in said(
        "s3://nobody/run"
    )
    assert "s3://bucket/run can't be read: EndpointConnectionError" in said(
        "s3://bucket/run", AWS_ENDPOINT_URL="http://127.0.0.1:9"
    )
    nobody = said(
        "s3://bucket/run", AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="", AWS_EC2_METADATA_DISABLED="true", HOME="/"
    )
    assert "s3://bucket/run can't be read: NoCredentialsError: Unable to locate credentials" in nobody
    assert not list((workbook / "outputs").rglob("*.ipynb"))
