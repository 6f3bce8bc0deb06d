"""Pictures: photographs, a clip of frames, and a document page with its words. Their origin: ``data/README.md``."""

import math
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Frames = np.ndarray[Any, np.dtype[np.uint8]]
Box = tuple[int, int, int, int]

_PHOTOGRAPHS = ("cat", "astronaut", "coffee")

# an invoice, line by line: what stands at the left margin, and what ends at the right one
_PAGE = (
    ("Riverside Books", ""),
    ("12 Mill Lane, Oxford", ""),
    ("", ""),
    ("INVOICE", "No. 2041"),
    ("Date", "3 March 2026"),
    ("", ""),
    ("2  Atlas of clouds", "38.00"),
    ("1  A history of bells", "24.50"),
    ("5  Pencils", "6.25"),
    ("", ""),
    ("Total", "68.75"),
    ("", ""),
    ("Payable within thirty days.", ""),
    ("Thank you for your order.", ""),
)


@dataclass(frozen=True)
class Document:
    """A page: its picture, and each word with its box (x0, y0, x1, y1) in thousandths of the page's sides."""

    image: Image.Image
    words: tuple[str, ...]
    boxes: tuple[Box, ...]


def photographs() -> list[Image.Image]:
    """Three photographs in RGB, of unlike shapes: landscape (240 × 160), portrait (180 × 256), square (200 × 200)."""
    return [_photograph(name).copy() for name in _PHOTOGRAPHS]


def clip(frames: int = 16, start: int = 0) -> Frames:
    """A moving picture: a window of 96 × 128 pixels that pans over a photograph, down and to the right.

    Args:
        frames: how many frames; each is 4 pixels on from the one before, and turns around at the border.
        start: which photograph, counted from 0; clips of different photographs are of unlike content.

    Returns:
        frames × 96 × 128 × 3, uint8.
    """
    height, width, step = 96, 128, 4
    scene = np.asarray(photographs()[start % len(_PHOTOGRAPHS)])
    tops = _to_and_fro(frames, step, scene.shape[0] - height)
    lefts = _to_and_fro(frames, step, scene.shape[1] - width)
    return np.stack([scene[y : y + height, x : x + width] for y, x in zip(tops, lefts, strict=True)])


@cache
def document() -> Document:
    """An invoice, 400 × 520 pixels, drawn here; so its words and their boxes are exact."""
    page = Image.new("RGB", (400, 520), "white")
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(size=15)
    margin, leading = 30, 34
    words: list[str] = []
    boxes: list[Box] = []
    for number, (left, right) in enumerate(_PAGE):
        starts = (margin, page.width - margin - draw.textlength(right, font=font))
        for text, x in zip((left, right), starts, strict=True):
            for word in text.split():
                at = (x, margin + leading * number)
                draw.text(at, word, fill="black", font=font)
                words.append(word)
                boxes.append(_thousandths(draw.textbbox(at, word, font=font), page.size))
                x += draw.textlength(word + " ", font=font)
    return Document(page, tuple(words), tuple(boxes))


def _thousandths(box: tuple[float, float, float, float], size: tuple[int, int]) -> Box:
    """A box in pixels as one in thousandths of the page's sides, rounded outwards."""
    (x0, y0, x1, y1), (width, height) = box, size
    return (
        math.floor(1000 * x0 / width),
        math.floor(1000 * y0 / height),
        math.ceil(1000 * x1 / width),
        math.ceil(1000 * y1 / height),
    )


def _to_and_fro(count: int, step: int, span: int) -> list[int]:
    """``count`` positions ``step`` apart that run from 0 to at most ``span`` and back."""
    return [span - abs(span - (step * i) % (2 * span)) if span else 0 for i in range(count)]


@cache
def _photograph(name: str) -> Image.Image:
    path = resources.files(__package__) / "data" / f"{name}.jpg"
    with path.open("rb") as stream, Image.open(stream) as picture:
        return picture.convert("RGB")
