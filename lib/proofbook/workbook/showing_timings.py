"""How timings look in a notebook: figures with what stands behind them, and each call as a point."""

from collections.abc import Mapping, Sequence
from itertools import cycle

from proofbook.measure.generation import Generation
from proofbook.measure.latency import Latency
from proofbook.measure.speedup import Speedup
from proofbook.measure.statistics import CONFIDENCE, FEWEST_JUDGED, Interval
from proofbook.measure.sweep import Point
from proofbook.workbook.html import COLOURS, MARKERS, Html, escape, facts, figure, table
from proofbook.workbook.timings import Measured


def show_measured(measured: Measured) -> Html:
    """The timings in figures and as a plot, call by call."""
    latency = measured.latency
    return facts(
        [
            ("load", f"{measured.load_s:.3f} s"),
            *([("making it ready", _prepared(measured.prepare_s))] if measured.prepare_s else []),
            ("first call", f"{latency.first_s:.3f} s"),
            ("median", _with_interval(latency.median_ms, latency.interval)),
            ("p90 / p99", f"{_percentile(latency, 90)} / {_percentile(latency, 99)}"),
            ("timed", _timed(latency)),
            ("throughput", f"{number(measured.throughput)} {measured.unit} a second"),
            ("beside eager torch", _faster(measured.speedup)),
            *_written(measured.generation),
            *([("audio", f"{number(measured.audio_rate)} s a second")] if measured.audio_rate else []),
            ("operations", _operations(measured)),
            ("peak memory", _memory(measured)),
        ]
    ) + _calls(latency)


def show_points(points: Sequence[Point], unit: str) -> Html:
    """The points of a sweep as a table, and as a plot by the batch, a line a length; a skip says why it is one."""
    if not points:
        said = "No sweep was asked for; the parameter `sweep` does, as in batch=1,2,8;length=16,64."
        return Html(f"<p>{escape(said)}</p>", said)
    head = ("rows", "tokens a row", "median", "calls", f"{unit} a second", "not timed because")
    shown = table(head, [_point(one) for one in points])
    timed = [one for one in points if one.latency]
    return shown + _curves(timed, unit) if len(timed) > 1 else shown


def _point(point: Point) -> tuple[object, ...]:
    length = "its own" if point.length is None else point.length
    if point.latency is None or point.throughput is None:
        return (point.batch, length, "", "", "", point.reason)
    median = _with_interval(point.latency.median_ms, point.latency.interval)
    return (point.batch, length, median, len(point.latency.calls_ms), number(point.throughput), "")


def _curves(points: Sequence[Point], unit: str) -> Html:
    """Median and throughput by the batch, a line a length; by the length where there is but one batch."""
    import matplotlib.pyplot as plt

    by_batch = len({one.batch for one in points}) > 1
    drawing, axes = plt.subplots(1, 2, figsize=(9, 2.4), layout="constrained")
    names = dict.fromkeys(one.length if by_batch else one.batch for one in points)
    for name, (colour, marker) in zip(names, cycle(zip(COLOURS, MARKERS, strict=True)), strict=False):
        line = [one for one in points if (one.length if by_batch else one.batch) == name]
        at = [one.batch if by_batch else one.length for one in line]
        label = None if name is None else f"{name} {'tokens a row' if by_batch else 'rows'}"
        times = [one.latency.median_ms for one in line if one.latency]
        for axis, values in zip(axes, (times, [one.throughput for one in line]), strict=True):
            axis.plot(at, values, marker=marker, color=colour, markersize=4, linewidth=1, label=label)
    for axis, what in zip(axes, ("ms, median", f"{unit} a second"), strict=True):
        axis.set(xlabel="rows" if by_batch else "tokens a row", ylabel=what, ylim=(0, None))
    if axes[0].get_legend_handles_labels()[0]:
        axes[0].legend(frameon=False, fontsize=8)
    plt.close(drawing)
    return figure(drawing)


def number(value: float) -> str:
    """Three digits, and no more noughts than people read: ``0.0123``, ``1.23``, ``12,345``."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _with_interval(milliseconds: float, interval: Interval | None) -> str:
    if interval is None:
        return f"{milliseconds:.3g} ms; too few for a confidence interval"
    return f"{milliseconds:.3g} ms ({CONFIDENCE:.0%} confidence: {interval.low:.3g} to {interval.high:.3g})"


def _percentile(latency: Latency, percent: float) -> str:
    value = latency.percentile(percent)
    return f"{value:.3g} ms" if value is not None else f"too few calls ({len(latency.calls_ms)})"


def _timed(latency: Latency) -> str:
    told = {
        True: "",
        False: ", not steady even then",
        None: f", too few to tell whether steady ({FEWEST_JUDGED} would do)",
    }
    warming = len(latency.warming_ms)
    return f"{len(latency.calls_ms)} calls by {latency.clock}, behind {warming} to warm up{told[latency.steady]}"


def _prepared(seconds: Mapping[str, float]) -> str:
    return ", ".join(f"{step} {took:.3g} s" for step, took in seconds.items())


def _faster(speedup: Speedup | str) -> str:
    if isinstance(speedup, str):
        return speedup
    ratio, bounds = speedup.ratio, speedup.ratio.interval
    within = f" ({CONFIDENCE:.0%} confidence: {bounds.low:.3g} to {bounds.high:.3g})" if bounds else ""
    return f"{ratio.median:.3g} times as fast{within}, by {ratio.pairs} pairs of calls in turns"


def _written(generation: Generation | str) -> list[tuple[str, str]]:
    if isinstance(generation, str):
        return [("generation", generation)]
    times = len(generation.whole_ms)
    if generation.first_token is None or generation.token is None:
        return [("generation", f"{generation.whole_s * 1000:.3g} ms, median of {times}, in a loop of the class's own")]
    written = f"{generation.rows} rows of {generation.tokens} tokens, {times} times"
    return [
        ("first token", _with_interval(*generation.first_token)),
        ("each token after it", _with_interval(*generation.token)),
        ("generation", f"{number(generation.tokens_per_s or 0)} tokens a second ({written})"),
    ]


def _operations(measured: Measured) -> str:
    peak = f"{number(measured.peak_flops / 1e9)} GFLOP/s that products of matrices reach here"
    if measured.flops is None or measured.flops_rate is None or measured.peak_share is None:
        return f"none that torch counts; {peak}"
    rate = f"{number(measured.flops / 1e9)} GFLOP a call, {number(measured.flops_rate / 1e9)} GFLOP/s"
    return f"{rate}: {measured.peak_share:.1%} of the {peak}"


def _memory(measured: Measured) -> str:
    process = f"{measured.process_mb:,.0f} MB in this process"
    return process if measured.device_mb is None else f"{measured.device_mb:,.0f} MB on the device in calls; {process}"


def _calls(latency: Latency) -> Html:
    """Each call as a point, those of the warm-up pale, and how many took how long."""
    import matplotlib.pyplot as plt

    warming, calls = latency.warming_ms, latency.calls_ms
    drawing, (line, bars) = plt.subplots(1, 2, figsize=(9, 2.4), width_ratios=(2, 1))
    line.plot(range(1, len(warming) + 1), warming, "x", markersize=4, color="#999999", label="warm-up")
    behind = range(len(warming) + 1, len(warming) + len(calls) + 1)
    line.plot(behind, calls, ".", markersize=4, color="#0072b2")
    line.axhline(latency.median_ms, color="#d55e00", linewidth=1, label="median")
    if latency.interval:
        line.axhspan(latency.interval.low, latency.interval.high, color="#d55e00", alpha=0.2, linewidth=0)
    line.set(xlabel="call after the first", ylabel="ms", ylim=(0, None))
    line.legend(frameon=False)
    bars.hist(calls, bins=20, orientation="horizontal", color="#0072b2")
    bars.set(xlabel="calls", ylim=line.get_ylim())
    plt.close(drawing)
    return figure(drawing)
