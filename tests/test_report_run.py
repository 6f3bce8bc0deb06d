"""The report of a real run: executed notebooks, one of each fate, read back through scrapbook and rendered."""

import json
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import papermill
import pytest
from rich.console import Console

from proofbook.batch.plan import make_plan
from proofbook.batch.run import execute_run
from proofbook.catalog import load_catalog
from proofbook.paths import notebooks_dir
from proofbook.report.build import build_report
from proofbook.verdict import Verdict
from synthetic_workbook import write_workbook

FATES = {
    "passes": Verdict.PASS,
    "fails": Verdict.FAIL,
    "blocked": Verdict.BLOCKED,
    "sigkill": Verdict.CRASH,
    "litters": Verdict.ERROR,  # its notebook is cut short afterwards
    "slow1": Verdict.NOT_RUN,
}


class Page(HTMLParser):
    """What the tests ask of a page: its text, the anchors it has, and the addresses it names."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text, self.ids, self.addresses = "", set[str](), list[str]()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.ids.add(value)
            if name in ("href", "src", "xlink:href") and value is not None:
                self.addresses.append(value)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished run, save for one case that was never reached and one notebook that is damaged; and its report."""
    root = tmp_path_factory.mktemp("work book {run}")  # papermill takes braces in a path for parameters
    real = notebooks_dir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYNTHETIC_NOTES", str(root))
        write_workbook(root)
        shutil.copy(real / "summary.ipynb", root / "notebooks")
        patch.setenv("PROOFBOOK_ROOT", str(root))
        plan = make_plan(load_catalog(root / "params"), run="sample", models=list(FATES), targets=["cpu"])
        folder = root / "outputs" / "sample"
        plan.save(folder)
        done = plan.model_copy(update={"cases": tuple(case for case in plan.cases if case.model != "slow1")})
        with (root / "said").open("w") as said:
            execute_run(done, folder, root / "notebooks", 2, Console(file=said))
        damaged = folder / "cases/vision/litters@cpu.ipynb"
        damaged.write_text(damaged.read_text()[:400])
        assert build_report(folder) == folder / "site" / "index.html"
        yield folder


def test_the_summary_names_each_case_with_its_verdict(run: Path) -> None:
    page = Page(run / "site" / "index.html")
    assert "1 of 6 cases passed, 4 fell short, 1 could not run here." in page.text
    assert "The ledger closes: 6 planned = 1 crash + 1 error + 1 fail + 1 not-run + 1 blocked + 1 pass." in page.text
    html = (run / "site" / "index.html").read_text()
    for model, verdict in FATES.items():
        assert f'title="{model}@cpu: ' in html, model
        assert f'<span class="verdict {verdict}"' in html, verdict


def test_the_summary_leads_to_the_coverage_and_back(run: Path) -> None:
    assert "coverage.html" in Page(run / "site/index.html").addresses
    page = Page(run / "site/coverage.html")
    assert "index.html" in page.addresses and "cases/vision/fails@cpu.html" in page.addresses
    assert "1 architecture: 0 pass on cpu." in page.text
    assert "1 architecture: 0 pass on cpu." in (run / "coverage.md").read_text()


def test_every_address_in_the_site_leads_somewhere_inside_it(run: Path) -> None:
    site = run / "site"
    pages = {path: Page(path) for path in site.rglob("*.html")}
    assert len(pages) == 2 + len(FATES) - 1  # all but the case that never ran
    seen = 0
    for path, page in pages.items():
        for address in page.addresses:
            parts = urlsplit(address)
            if parts.scheme == "data":
                continue
            assert not parts.scheme and not parts.netloc, f"{path.name}: {address} leaves the site"
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.is_relative_to(site.resolve()), f"{path.name}: {address} leaves the site"
            assert target.is_file(), f"{path.name}: {address} leads nowhere"
            if parts.fragment:
                assert unquote(parts.fragment) in pages[target].ids, f"{path.name}: {address} has no such anchor"
            seen += 1
    assert seen > 50


def test_the_notebook_and_the_page_link_to_each_case_in_their_own_form(run: Path) -> None:
    notebook = (run / "summary.ipynb").read_text()
    page = Page(run / "site" / "index.html")
    for model, verdict in FATES.items():
        reached = verdict is not Verdict.NOT_RUN
        assert (f'href=\\"cases/vision/{model}@cpu.ipynb\\"' in notebook) is reached
        assert (f"cases/vision/{model}@cpu.html" in page.addresses) is reached


def test_the_executed_summary_names_no_folder_of_this_machine(run: Path) -> None:
    written = (run / "summary.ipynb").read_text()
    assert str(run) not in written
    assert str(run.parent.parent) not in written
    assert json.loads(written)["metadata"]["papermill"]["parameters"] == {"run": "."}


def test_code_is_hidden_in_the_summary_and_shown_in_a_case(run: Path) -> None:
    assert "findings.failures" not in Page(run / "site/index.html").text
    assert "ZeroDivisionError" in Page(run / "site/cases/vision/passes@cpu.html").text  # in its code


def test_the_page_of_a_failed_case_shows_verdict_command_and_traceback(run: Path) -> None:
    path = run / "site/cases/vision/fails@cpu.html"
    page, html = Page(path), path.read_text()
    assert "✘ fail" in page.text
    assert "proofbook debug fails --target cpu --weights tiny --seed 0" in page.text
    assert "AssertionError: the case failed" in page.text
    assert "\x1b" not in html and "ansi-red-fg" in html
    assert "../../index.html" in page.addresses


def test_a_dead_kernel_and_a_damaged_file_cost_their_own_page_only(run: Path) -> None:
    assert "SIGKILL" in Page(run / "site/cases/vision/sigkill@cpu.html").text
    assert "litters@cpu.ipynb can't be read" in Page(run / "site/cases/vision/litters@cpu.html").text


def test_a_second_report_replaces_the_first_and_leaves_nothing_else(run: Path) -> None:
    def files() -> set[str]:
        return {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}

    before = files()
    stale = run / "site" / "cases" / "vision" / "stale@cpu.html"
    stale.write_text("from another time")
    build_report(run)
    assert files() == before


def test_a_summary_that_raises_is_an_error_and_leaves_the_earlier_site(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_workbook(tmp_path / "broken")
    cells = [nbformat.v4.new_code_cell("run = ''", metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell("1/0")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), root / "notebooks" / "summary.ipynb")
    monkeypatch.setenv("PROOFBOOK_ROOT", str(root))
    before = (run / "site" / "index.html").read_text()
    with pytest.raises(papermill.PapermillExecutionError, match="ZeroDivisionError"):
        build_report(run)
    assert (run / "site" / "index.html").read_text() == before


def test_the_summary_runs_by_plain_papermill_from_anywhere(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out.ipynb"
    source = nbformat.read(notebooks_dir() / "summary.ipynb", as_version=4)
    papermill.execute_notebook(source, str(out), parameters={"run": str(run)}, progress_bar=False)
    links = [line.split('"')[1] for line in out.read_text().replace('\\"', '"').split("href=")[1:]]
    cases = [link for link in links if link.endswith("@cpu.ipynb")]
    assert cases
    assert all((tmp_path / unquote(link)).is_file() for link in cases)
