"""Small pieces of HTML for the summary: what a verdict looks like, tables, and links to cases.

Everything is readable wherever a notebook is: the word of a verdict always stands beside its colour, colours
are inline (JupyterLab strips style sheets from notebooks that it doesn't trust, code hosts strip both), and
each piece has a plain text form.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from proofbook.verdict import Verdict
from proofbook.workbook.html import SIGNS, Html


@dataclass(frozen=True)
class Look:
    """The colours of a verdict: of its word, and of the ground that it stands on."""

    ink: str
    ground: str


# Verdicts that fall short are white on a dark ground, the others dark on a pale one, so that the difference
# that matters survives a grey print and every kind of colour-blindness.
LOOKS: Mapping[Verdict, Look] = {
    Verdict.PASS: Look("#0b4f3c", "#d3efe3"),
    Verdict.FAIL: Look("#ffffff", "#c2371a"),
    Verdict.ERROR: Look("#ffffff", "#97226b"),
    Verdict.TIMEOUT: Look("#ffffff", "#8a5300"),
    Verdict.CRASH: Look("#ffffff", "#2b2b33"),
    Verdict.XPASS: Look("#ffffff", "#5a3fb0"),
    Verdict.NOT_RUN: Look("#4a4a55", "#ffffff"),
    Verdict.BLOCKED: Look("#5f4700", "#fdeebc"),
    Verdict.XFAIL: Look("#42308c", "#e5e0f8"),
    Verdict.SKIP: Look("#4a4a55", "#ececf0"),
}

# In tables of failures: wrong answers first, then what did not come to answer, then what was never asked.
TRIAGE = (
    Verdict.FAIL,
    Verdict.ERROR,
    Verdict.TIMEOUT,
    Verdict.CRASH,
    Verdict.XPASS,
    Verdict.NOT_RUN,
    Verdict.BLOCKED,
    Verdict.XFAIL,
    Verdict.PASS,
    Verdict.SKIP,
)


def label(verdict: Verdict) -> str:
    """The sign and the word: ``✔ pass``."""
    return f"{SIGNS[verdict]} {verdict}"


def chip(verdict: Verdict, title: str = "", count: int | None = None) -> Markup:
    """A verdict as a small coloured label, with a tooltip, and a count before the word where one is given."""
    look = LOOKS[verdict]
    words = label(verdict) if count is None else f"{SIGNS[verdict]} {count} {verdict}"
    edge = ";border:1px solid #8a8a96" if verdict is Verdict.NOT_RUN else ""
    style = f"color:{look.ink};background-color:{look.ground};border-radius:4px;padding:1px 6px{edge}"
    tooltip = Markup(' title="{}"').format(title) if title else ""
    return Markup('<span class="verdict {}" style="{}"{}>{}</span>').format(verdict, style, tooltip, words)


def bar(counts: Mapping[Verdict, int]) -> Markup:
    """The shares of the verdicts as one stacked bar."""
    total = sum(counts.values())
    parts = Markup("").join(
        Markup('<span class="{}" title="{} {}" style="{}"></span>').format(
            verdict,
            count,
            verdict,
            f"display:inline-block;height:12px;width:{100 * count / total:.3f}%;"
            f"background-color:{LOOKS[verdict].ground}",
        )
        for verdict in TRIAGE
        if (count := counts.get(verdict, 0))
    )
    style = "width:100%;min-width:120px;white-space:nowrap;font-size:0;border:1px solid #8a8a96"
    return Markup('<div class="bar" style="{}">{}</div>').format(style, parts)


def table(
    head: Sequence[str | Markup],
    rows: Iterable[Sequence[object]],
    numbers: Collection[int] = (),
    kind: str = "",
) -> Markup:
    """A table; cells are escaped unless they are Markup, None is an empty cell.

    Args:
        head: the names of the columns.
        rows: the cells, row by row.
        numbers: the columns, counted from 0, that are set to the right.
        kind: a class for the style sheet of the site.
    """
    # JupyterLab sets cells to the right unless told otherwise in the cell itself
    kinds = [Markup(' class="number"' if at in numbers else ' style="text-align:left"') for at in range(len(head))]

    def line(cells: Sequence[object], tag: str) -> Markup:
        return Markup("").join(
            Markup("<{0}{1}>{2}</{0}>").format(Markup(tag), kind, "" if cell is None else cell)
            for cell, kind in zip(cells, kinds, strict=True)
        )

    body = Markup("\n").join(Markup("<tr>{}</tr>").format(line(row, "td")) for row in rows)
    return Markup('<table class="{}"><thead><tr>{}</tr></thead>\n<tbody>{}</tbody></table>').format(
        kind, line(head, "th"), body
    )


def fold(title: str, content: Markup, open_: bool = False) -> Markup:
    """Content that is opened by a click on its title; needs no script."""
    return Markup("<details{}><summary>{}</summary>{}</details>").format(
        Markup(" open") if open_ else "", title, content
    )


def empty(words: str) -> Html:
    """What stands where there is nothing to show, in words."""
    return Html(Markup('<p class="empty">{}</p>').format(words), words)


def number(value: float | None, digits: int = 3) -> str:
    """A figure with at most that many significant digits, thousands separated; empty for None."""
    if value is None:
        return ""
    if value == 0 or abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def count_of(many: int, thing: str) -> str:
    """``1 case``, ``2 cases``."""
    return f"{many:,} {thing}{'' if many == 1 else 's'}"


def clip(words: str, length: int = 600) -> Markup:
    """The words, cut after ``length`` characters."""
    return escape(words if len(words) <= length else words[: length - 1].rstrip() + "…")
