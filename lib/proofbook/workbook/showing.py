"""How the parts of a case look in a notebook: raw rows, tensors, answers, findings."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from proofbook.checks.registry import Finding
from proofbook.checks.truth import Truth
from proofbook.subject.tasks.task import Row
from proofbook.workbook.html import (
    Html,
    badge,
    block,
    code,
    escape,
    facts,
    folded,
    picture,
    player,
    table,
    waveform,
)


def show_rows(rows: Sequence[Row]) -> Html:
    """The raw input, as a person would look at it: text, pictures, sound, pages with their boxes."""
    return table(("row", "raw input"), [(index, _row(row)) for index, row in enumerate(rows)])


def show_tensors(tensors: Mapping[str, Any]) -> Html:
    """Tensors by name: shape, dtype, range, and the first values."""
    lines = []
    for name, value in tensors.items():
        if isinstance(value, torch.Tensor):
            lines.append((code(name), "×".join(map(str, value.shape)), _dtype(value), _range(value), _first(value)))
        else:
            lines.append((code(name), "", type(value).__name__, "", str(value)[:60]))
    return table(("tensor", "shape", "dtype", "range", "first values"), lines)


def show_answers(rows: Sequence[Row], answers: Sequence[Any], rate: int | None) -> Html:
    """Each row's answer. Arrays of one dimension are sounds where there is a sampling rate, of two pictures."""
    return table(("row", "answer"), [(index, _answer(answer, rate)) for index, answer in enumerate(answers)])


def show_findings(findings: Iterable[Finding]) -> Html:
    """What each check found, with the outputs it compared."""
    findings = list(findings)
    lines = [
        (
            badge(one.verdict),
            Html(f"<b>{escape(one.check.name)}</b><br>{escape(one.check.description)}", one.check.name),
            one.observed or "",
            one.allowed or "",
            one.detail,
            f"{one.seconds:.2f}\u00a0s",
        )
        for one in findings
    ]
    shown = table(("verdict", "check", "observed", "allowed", "detail", "time"), lines)
    for one in findings:
        if one.comparisons:
            shown += folded(f"{one.check.name}: {len(one.comparisons)} outputs compared", _comparisons(one))
        if one.traceback:
            shown += folded(f"{one.check.name}: traceback", block(one.traceback))
    return shown


def truth_told(truth: Truth | None) -> list[tuple[str, str]]:
    """How truth was had, once it was: a fact by its name."""
    if truth is None:
        return []
    kept = f"; from the cache, computed {truth.kept} for a case of the same weights and inputs"
    return [("truth", truth.rule + (kept if truth.kept else ""))]


def _row(row: Row) -> Html:
    parts: list[Html] = []
    table = "; ".join(" | ".join(cells) for cells in row.table)
    for text in (row.text, row.pair, *row.labels, table, row.markup):
        if text:
            parts.append(Html(f"<p>{escape(text)}</p>", text))
    for image in row.images:
        parts.append(picture(_marked(image, row)))
    if row.video is not None:
        strip = np.concatenate(list(row.video[:: max(1, len(row.video) // 6)]), axis=1)
        parts.append(picture(Image.fromarray(strip), side=600))
    if row.audio is not None:
        parts += [waveform(row.audio), Html("<br>"), player(row.audio, row.sampling_rate or 16000)]
    if row.words and not row.text:
        parts.append(Html(f"<p>{escape(' '.join(row.words))}</p>", " ".join(row.words)))
    return Html("".join(part.html for part in parts), "; ".join(part.text for part in parts))


def _marked(image: Image.Image, row: Row) -> Image.Image:
    """The image with the row's word boxes (in thousandths of its size) and points (in pixels) drawn on it."""
    if not (row.boxes or row.points):
        return image
    marked = image.convert("RGB").copy()
    pen = ImageDraw.Draw(marked)
    for x0, y0, x1, y1 in row.boxes:
        width, height = marked.width / 1000, marked.height / 1000
        pen.rectangle((x0 * width, y0 * height, x1 * width, y1 * height), outline="#0072b2")
    for x, y in row.points:
        pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill="#d55e00")
    return marked


def _answer(answer: Any, rate: int | None) -> Html:
    if isinstance(answer, Image.Image):
        return picture(answer)
    if isinstance(answer, np.ndarray):
        return _array(answer, rate)
    if isinstance(answer, Mapping) and "score" in answer:
        name = answer.get("label", answer.get("token_str", ""))
        rest = "".join(f", {key} {value}" for key, value in answer.items() if key in ("box", "segments"))
        text = f"{name!r} {answer['score']:.3f}{rest}"
        return Html(escape(text), text)
    if isinstance(answer, Mapping):
        return facts((str(name), _answer(value, rate)) for name, value in answer.items())
    if isinstance(answer, list | tuple) and any(
        isinstance(part, np.ndarray | Image.Image | Mapping) for part in answer
    ):
        parts = [_answer(part, rate) for part in answer[:10]]
        return Html("<br>".join(part.html for part in parts), "; ".join(part.text for part in parts))
    text = repr(answer) if isinstance(answer, str) else str(answer)
    return Html(escape(text[:400]), text[:400])


def _array(values: "np.ndarray[Any, Any]", rate: int | None) -> Html:
    flat = np.squeeze(values)
    if flat.ndim == 1 and rate and flat.size > rate // 100:
        return waveform(flat) + Html("<br>") + player(flat, rate)
    if flat.ndim == 2 and min(flat.shape) > 4:
        span = float(flat.max() - flat.min()) or 1.0
        return picture(Image.fromarray(((flat - flat.min()) / span * 255).astype(np.uint8)))
    text = f"array {'×'.join(map(str, values.shape))}: {np.array2string(flat.reshape(-1)[:6], precision=3)} …"
    return Html(escape(text), text)


def _comparisons(finding: Finding) -> Html:
    lines = []
    for one in sorted(finding.comparisons, key=lambda one: -one.ratio)[:40]:
        if one.errors and one.allowed:
            pairs = (("RMSE", "rmse"), ("worst row", "row"), ("worst element", "element"))
            cells = [f"{getattr(one.errors, key):.2e} of {getattr(one.allowed, key):.2e}" for _, key in pairs]
            where = str(list(one.errors.at))
        else:
            cells, where = ["exact" if one.passed else one.broken, "", ""], ""
        scale = f"{one.scale:.3g}" if one.scale is not None else ""
        lines.append((code(one.name), "×".join(map(str, one.shape)), scale, *cells, where, f"{one.ratio:.2g}"))
    return table(
        ("output", "shape", "scale", "RMSE", "worst row", "worst element", "at", "share of the allowed"), lines
    )


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _range(tensor: torch.Tensor) -> str:
    if not tensor.numel() or tensor.is_complex():
        return ""
    low, high = tensor.min().item(), tensor.max().item()
    return f"{low:.4g} … {high:.4g}"


def _first(tensor: torch.Tensor) -> str:
    values = tensor.detach().flatten()[:6].tolist()
    return ", ".join(f"{value:.3g}" if isinstance(value, float) else str(value) for value in values)
