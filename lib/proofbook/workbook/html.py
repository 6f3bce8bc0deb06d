"""A few elements of HTML that code hosts, nbviewer and JupyterLab all show: tables, notes, pictures, sound."""

import base64
import html
import io
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

from proofbook.verdict import Verdict

# Okabe and Ito's palette, told apart by every kind of colour vision; each with a marker of its own as well
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# a sign beside each word, so that no verdict is told by colour alone
SIGNS = {
    Verdict.PASS: "✔",
    Verdict.FAIL: "✘",
    Verdict.ERROR: "⚠",
    Verdict.TIMEOUT: "⏱",
    Verdict.CRASH: "☠",
    Verdict.SKIP: "–",
    Verdict.BLOCKED: "⊘",
    Verdict.XFAIL: "↓",
    Verdict.XPASS: "↑",
    Verdict.NOT_RUN: "○",
}
# from the Okabe-Ito palette, which the colour-blind can tell apart
_COLOURS = {Verdict.PASS: "#007a5e", Verdict.SKIP: "#6b6b6b", Verdict.BLOCKED: "#8a6d00", Verdict.XFAIL: "#8a6d00"}


class Html:
    """HTML and the same in plain text, as Jupyter displays them."""

    def __init__(self, html: str, text: str = "") -> None:
        self.html = html
        self.text = text

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text or self.html

    def __add__(self, other: "Html") -> "Html":
        return Html(self.html + other.html, "\n\n".join(part for part in (self.text, other.text) if part))


def escape(value: object) -> str:
    """A value as text that is safe inside HTML."""
    return html.escape(str(value))


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> Html:
    """A table; cells that are :class:`Html` stay as they are, others are escaped."""
    rows = [list(row) for row in rows]
    head = "".join(f'<th style="text-align:left">{escape(name)}</th>' for name in header)
    body = "".join(
        "<tr>" + "".join(f'<td style="text-align:left;vertical-align:top">{_cell(cell)}</td>' for cell in row) + "</tr>"
        for row in rows
    )
    lines = [" | ".join(header)] if any(header) else []
    lines += [" | ".join(cell.text if isinstance(cell, Html) else str(cell) for cell in row) for row in rows]
    return Html(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>", "\n".join(lines))


def facts(pairs: Iterable[tuple[str, object]]) -> Html:
    """A table of two columns without a header: a name, and what there is to know of it."""
    return table(("", ""), [(Html(f"<b>{escape(name)}</b>", name), value) for name, value in pairs])


def badge(verdict: Verdict) -> Html:
    """A verdict, by sign, word and colour."""
    colour = _COLOURS.get(verdict, "#b0341e")
    text = f"{SIGNS[verdict]} {verdict}"
    return Html(f'<b style="color:{colour};white-space:nowrap">{escape(text)}</b>', text)


def code(text: str) -> Html:
    """Text in a fixed-width face, on one line."""
    return Html(f"<code>{escape(text)}</code>", text)


def block(text: str) -> Html:
    """Lines in a fixed-width face: a traceback, a module tree."""
    return Html(f"<pre>{escape(text)}</pre>", text)


def folded(title: str, inner: Html) -> Html:
    """Something long, behind a line to click on."""
    return Html(f"<details><summary>{escape(title)}</summary>{inner.html}</details>", f"{title}\n{inner.text}")


def picture(image: "Image", side: int = 160) -> Html:
    """An image, at most ``side`` pixels wide and high."""
    small = image.convert("RGB")
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return _embedded("image/jpeg", buffer.getvalue(), f"picture, {image.width}×{image.height}")


def figure(drawing: "Figure") -> Html:
    """A matplotlib figure as PNG."""
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png", dpi=80, bbox_inches="tight")
    return _embedded("image/png", buffer.getvalue(), "figure")


def waveform(samples: "np.ndarray[Any, Any]") -> Html:
    """The outline of a sound: its lowest and highest sample in each of 240 columns."""
    from PIL import Image, ImageDraw

    mono = np.asarray(samples, dtype=np.float32).reshape(-1)
    loudest = float(np.abs(mono).max()) or 1.0
    image = Image.new("RGB", (240, 48), "white")
    pen = ImageDraw.Draw(image)
    for column, part in enumerate(np.array_split(mono / loudest, 240)):
        if part.size:
            pen.line((column, 24 - 23 * float(part.max()), column, 24 - 23 * float(part.min())), fill="#0072b2")
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return _embedded("image/png", buffer.getvalue(), "waveform")


def player(samples: "np.ndarray[Any, Any]", rate: int) -> Html:
    """A sound with a player: mono samples, resampled to 8 kHz to keep the notebook small."""
    import wave
    from math import gcd

    from scipy.signal import resample_poly

    mono = np.asarray(samples, dtype=np.float32).reshape(-1)
    common = gcd(8000, int(rate))
    heard = resample_poly(mono, 8000 // common, int(rate) // common)
    loudest = float(np.abs(heard).max()) or 1.0
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes((heard / loudest * 32000).astype("<i2").tobytes())
    data = base64.b64encode(buffer.getvalue()).decode()
    seconds = len(mono) / rate
    return Html(f'<audio controls src="data:audio/wav;base64,{data}"></audio>', f"sound, {seconds:.2f} s")


def _embedded(media: str, data: bytes, text: str) -> Html:
    return Html(f'<img alt="{text}" src="data:{media};base64,{base64.b64encode(data).decode()}">', f"[{text}]")


def _cell(cell: object) -> str:
    return cell.html if isinstance(cell, Html) else _LONG.sub(_breakable, escape(cell))


# words, as addresses are, that would widen a column beyond the page
_LONG = re.compile(r"\S{40,}")


def _breakable(word: re.Match[str]) -> str:
    """The word with places where it may be broken: behind its slashes, dots and underscores."""
    return re.sub(r"(?<=[/._])(?=\w)", "<wbr>", word[0])
