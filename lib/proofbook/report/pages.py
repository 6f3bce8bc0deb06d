"""Notebooks as pages of HTML: nbconvert's basic template inside a page of ours, math as MathML, no script needed."""

import re
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert as mathml
from nbconvert import TemplateExporter
from nbconvert.filters.highlight import Highlight2HTML
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from pygments.formatters import HtmlFormatter  # type: ignore[import-untyped]
from traitlets.config import Config

TEMPLATES = Path(__file__).parent / "templates"
# media types that carry data for programs, and nothing to look at
_DATA_ONLY = re.compile(r"application/(scrapbook|papermill)\.")


class PageExporter(TemplateExporter):  # type: ignore[misc]
    """Puts a notebook into the template as it is.

    Not an HTMLExporter, which parses and writes each page once more to look for pictures without words: that takes as
    long as all the rest. And without preprocessors: to copy and validate the notebook for each of them, and to make the
    style sheet that its template asks for and ours does not use, takes as long again.
    """

    def _preprocess(self, nb: NotebookNode, resources: Any) -> tuple[NotebookNode, Any]:
        return nb, resources


def exporter(code: bool) -> PageExporter:
    """An exporter for pages with or without their code cells; it can be used for any number of notebooks."""
    return PageExporter(
        config=Config(),
        template_name="proofbook",
        template_file="index.html.j2",
        extra_template_basedirs=[str(TEMPLATES)],
        exclude_input=not code,
        exclude_input_prompt=not code,
        exclude_output_prompt=True,
        filters={"markdown2html": _markdown, "highlight_code": _highlighted},
    )


def page(through: PageExporter, notebook: NotebookNode, about: dict[str, Any]) -> str:
    """The page of one notebook; ``about`` is what ``templates/proofbook/index.html.j2`` calls ``page``."""
    html, _ = through.from_notebook_node(_without_data(notebook), {"page": about})
    return str(html)


def style_sheet() -> str:
    """The style sheet that all pages share: the template's own, and the colours of code, light and dark."""
    own = (TEMPLATES / "proofbook" / "style.css").read_text(encoding="utf-8")
    light, dark = (
        HtmlFormatter(style=style, nobackground=True).get_style_defs(".highlight")
        for style in ("default", "github-dark")
    )
    return f"{own}\n{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n"


def _without_data(notebook: NotebookNode) -> NotebookNode:
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [
                output
                for output in cell.outputs
                if not output.get("data") or not all(_DATA_ONLY.match(kind) for kind in output.data)
            ]
    return notebook


# The notebooks of a category share their prose and most of their code: each piece is rendered once.
_once = lru_cache(maxsize=4096)


@_once
def _markdown(source: str) -> str:
    return str(MarkdownWithMath(renderer=_MathRenderer(escape=False)).render(source))


@_once
def _python(source: str) -> str:
    return str(Highlight2HTML(pygments_lexer="ipython3")(source))


def _highlighted(source: str, metadata: Any = None) -> str:
    return _python(source)


class _MathRenderer(IPythonRenderer):  # type: ignore[misc]
    """Writes formulas as MathML, which browsers show by themselves; one that can't be read stays as TeX."""

    def inline_math(self, body: str) -> str:
        return _formula(body, "inline")

    def block_math(self, body: str) -> str:
        return _formula(body, "block")


def _formula(tex: str, display: str) -> str:
    try:
        return mathml(tex, display=display)
    except Exception:  # latex2mathml's errors have no common base of their own
        return f"<code>{escape(tex)}</code>"
