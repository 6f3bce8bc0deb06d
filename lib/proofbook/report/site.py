"""The run as a static site: the summary, the coverage, a page for each executed notebook; all links relative."""

import re
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nbformat
from markupsafe import Markup
from nbformat import NotebookNode

from proofbook.report.collect import Results
from proofbook.report.coverage import EXPLANATION, coverage_page
from proofbook.report.markup import chip, clip
from proofbook.report.overview import REUSED, origin
from proofbook.report.pages import PageExporter, exporter, page, style_sheet
from proofbook.workbook.html import SIGNS
from proofbook.workbook.records import CaseRecord

COVERAGE = "coverage.html"
_HEADING = re.compile(r"^## (.+)$", re.MULTILINE)
_CASE_LINK = re.compile(r'(href="cases/[^"#?]+)\.ipynb"')


def build_site(results: Results, summary: Callable[[], NotebookNode]) -> Path:
    """Write ``site/`` into the run's folder, replacing an earlier one only when the new one is whole.

    Args:
        results: the run.
        summary: gives its executed summary, or raises; asked last.

    Returns:
        the path of ``site/index.html``.
    """
    site = results.folder / "site"
    with tempfile.TemporaryDirectory(prefix=".site-", dir=results.folder) as beside:
        new, old = Path(beside, "new"), Path(beside, "old")
        new.mkdir()
        _write(new / "style.css", style_sheet())
        _write(new / COVERAGE, _coverage_page(results))
        through = exporter(code=True)
        for case in results.cases:
            if results.link(case) is not None:
                _write(new / page_path(case), _case_page(through, results, case))
                _copy_reproduction(results, case, new)
        _write(new / "index.html", _summary_page(results, summary()))
        if site.exists():
            site.rename(old)
        shutil.move(new, site)
    return site / "index.html"


def _copy_reproduction(results: Results, case: CaseRecord, site: Path) -> None:
    """The script of a case, and the tensors that it reads, beside the case's page."""
    if results.reproduced(case):
        script = Path(case.notebook).with_name(case.reproduction)
        for path in (script, script.with_suffix(".safetensors")):
            if (results.folder / path).is_file():
                shutil.copyfile(results.folder / path, site / path)


def page_path(case: CaseRecord) -> str:
    """Where a case's page lies in the site."""
    return case.notebook.removesuffix(".ipynb") + ".html"


def _write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8", errors="replace")


def _summary_page(results: Results, summary: NotebookNode) -> str:
    prose = "\n".join(cell.source for cell in summary.cells if cell.cell_type == "markdown")
    about = _about(results, "summary", f"{results.name} · proofbook", root="")
    # nbconvert makes a heading's anchor of its words
    about["links"] = [(title, f"#{title.replace(' ', '-')}") for title in _HEADING.findall(prose)]
    about["links"].append(("Coverage by architecture", COVERAGE))
    return _CASE_LINK.sub(r'\1.html"', page(exporter(code=False), summary, about))


def _coverage_page(results: Results) -> str:
    shown = nbformat.v4.new_output("display_data", {"text/html": coverage_page(results).html})
    prose = nbformat.v4.new_markdown_cell(f"# Coverage by architecture\n\n{EXPLANATION}")
    about = _about(results, "coverage", f"coverage · {results.name} · proofbook", root="")
    about["home"] = "← summary"
    cells = [prose, nbformat.v4.new_code_cell(outputs=[shown])]
    return _CASE_LINK.sub(r'\1.html"', page(exporter(code=False), nbformat.v4.new_notebook(cells=cells), about))


def _case_page(through: PageExporter, results: Results, case: CaseRecord) -> str:
    """The page of an executed notebook, or, where that is damaged, one that says so."""
    path, about = results.folder / case.notebook, _about_case(results, case)
    try:
        # not validated, which would take as long as the page
        notebook = nbformat.convert(nbformat.reader.reads(path.read_text(encoding="utf-8")), 4)
        return page(through, notebook, about)
    except Exception as error:  # nbformat, JSON, the template and the file system each raise their own
        said = f"# {path.name} can't be read\n\n`{type(error).__name__}`: {str(error)[:500]}"
        return page(through, nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(said)]), about)


def _about(results: Results, kind: str, title: str, root: str) -> dict[str, Any]:
    return {
        "kind": kind,
        "title": title,
        "root": root,
        "home": "proofbook",
        "run": results.name,
        "links": [],
        "banner": "",
        "foot": f"proofbook {_version()}, run {results.name}",
    }


@cache
def _version() -> str:
    return version("proofbook")


def _about_case(results: Results, case: CaseRecord) -> dict[str, Any]:
    root = "../" * case.notebook.count("/")
    about = _about(results, "case", f"{case.case}: {case.verdict}", root)
    about["home"] = "← summary"
    about["links"] = [
        (f"{other.target} {SIGNS[other.verdict]}", f"{root}{page_path(other)}")
        for other in results.rows[results.row(case)].values()
        if other is not case and results.link(other) is not None
    ]
    reused = Markup("<p>{} {}</p>").format(REUSED, origin(case)) if case.reused else ""
    about["banner"] = Markup('<div class="banner">{} <strong>{}</strong> {}{}<pre><code>{}</code></pre></div>').format(
        chip(case.verdict), case.case, clip(case.reason), reused, case.rerun
    )
    return about
