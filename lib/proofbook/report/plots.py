"""How fast: dots by model and target, drawn as SVG whose points link to the executed notebooks."""

import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from proofbook.catalog import Category
from proofbook.report.collect import Results
from proofbook.report.markup import number
from proofbook.workbook.html import COLOURS, MARKERS
from proofbook.workbook.records import CaseRecord

INCHES_A_ROW = 0.18
# from this many rows on the axis is labelled above as well as below
TALL = 15
# above this ratio of the largest to the smallest value an axis is logarithmic
LINEAR_UP_TO = 20

Value = Callable[[CaseRecord], float | None]


Bounds = Callable[[CaseRecord], tuple[float | None, float | None]]


@dataclass(frozen=True)
class Panel:
    """One figure of each case, and its confidence interval where it has one."""

    title: str
    value: Value
    bounds: Bounds = lambda case: (None, None)


# those of some cases only
BESIDE = (
    Panel(
        "each token after the first (ms)",
        lambda case: case.token_ms,
        lambda case: (case.token_low_ms, case.token_high_ms),
    ),
    Panel(
        "times as fast as eager torch",
        lambda case: case.speedup,
        lambda case: (case.speedup_low, case.speedup_high),
    ),
)


@dataclass(frozen=True)
class Plot:
    """A displayable SVG, and what to show in its place where there is none."""

    svg: str
    text: str

    def _repr_svg_(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        return self.text


def timings(results: Results) -> list[Plot]:
    """Latency, throughput and the time of the whole case: a plot for each category and unit of work.

    Where there are any, the time of a generated token and the speed-up over eager torch stand beside them. A line
    through a dot is its 95% confidence interval. One row a model, the fastest first; only cases that were timed.
    """
    plots = []
    for category, cases in results.by_category.items():
        timed = [case for case in cases if case.p50_ms is not None]
        for unit in dict.fromkeys(case.throughput_unit for case in timed):
            same = [case for case in timed if case.throughput_unit == unit]
            plots.append(_plot(results, category, unit or "no unit", same))
    return plots


def _plot(results: Results, category: Category, unit: str, cases: Sequence[CaseRecord]) -> Plot:
    panels = [
        Panel("latency, p50 (ms)", lambda case: case.p50_ms, lambda case: (case.p50_low_ms, case.p50_high_ms)),
        Panel(f"throughput ({unit})", lambda case: case.throughput),
        Panel("whole case (s)", lambda case: case.seconds),
    ]
    panels[2:2] = [panel for panel in BESIDE if any(panel.value(case) for case in cases)]
    rows = _fastest_first(cases)
    with mpl.rc_context({"svg.fonttype": "none", "font.size": 9, "font.family": ["DejaVu Sans", "sans-serif"]}):
        figure = Figure(
            figsize=(11.5 + 2.5 * (len(panels) - 3), 1.0 + INCHES_A_ROW * max(len(rows), 2)), layout="constrained"
        )
        axes: Sequence[Axes] = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axis, panel in zip(axes, panels, strict=True):
            _dots(axis, results, cases, rows, panel)
            axis.set_title(panel.title, loc="left", fontsize=9)
            axis.tick_params(length=0, labeltop=len(rows) >= TALL)
        axes[0].set_yticks(range(len(rows)), rows)
        axes[0].set_ylim(len(rows) - 0.4, -0.6)
        figure.suptitle(str(category), x=0.01, ha="left", weight="bold")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=len(labels), frameon=False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    lines = [f"{case.case}: p50 {number(case.p50_ms)} ms{_interval(case)}" for case in cases]
    # without the XML header, which has no place inside a page, nor the indentation, which is a third of it
    svg = re.sub(r"\s*\n\s*", " ", buffer.getvalue())
    return Plot(svg[svg.index("<svg") :], "\n".join(lines))


def _interval(case: CaseRecord) -> str:
    if case.p50_low_ms is None or case.p50_high_ms is None:
        return ""
    return f" ({number(case.p50_low_ms)} to {number(case.p50_high_ms)})"


def _fastest_first(cases: Iterable[CaseRecord]) -> list[str]:
    best: dict[str, float] = {}
    for case in cases:
        name = Results.row(case)
        best[name] = min(best.get(name, float("inf")), case.p50_ms or 0)
    return sorted(best, key=lambda name: best[name])


def _dots(axis: Axes, results: Results, cases: Sequence[CaseRecord], rows: Sequence[str], panel: Panel) -> None:
    seen: list[float] = []
    places = {row: place for place, row in enumerate(rows)}
    for at, target in enumerate(results.targets):
        points = [(found, case) for case in cases if case.target == target and (found := panel.value(case))]
        if not points:
            continue
        for _, case in points:
            low, high = panel.bounds(case)
            if low is not None and high is not None:
                place = places[Results.row(case)]
                axis.plot((low, high), (place, place), color=COLOURS[at % len(COLOURS)], linewidth=1, zorder=1)
        dots = axis.scatter(
            [found for found, _ in points],
            [places[Results.row(case)] for _, case in points],
            s=22,
            label=target,
            color=COLOURS[at % len(COLOURS)],
            marker=MARKERS[(at + at // len(COLOURS)) % len(MARKERS)],
        )
        dots.set_urls([results.link(case) or "" for _, case in points])
        seen += [found for found, _ in points]
    axis.set_axisbelow(True)
    axis.grid(axis="both", color="#dddddd", linewidth=0.6)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    _scale(axis, seen)


def _scale(axis: Axes, seen: Sequence[float]) -> None:
    if seen and max(seen) > LINEAR_UP_TO * min(seen):
        axis.set_xscale("log")
        axis.xaxis.set_minor_locator(NullLocator())
    else:
        axis.set_xlim(left=0)
        axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda found, _: number(found)))
