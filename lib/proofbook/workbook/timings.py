"""How fast and how big a case is: all that is measured of it, and the columns of the ledger that hold it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from proofbook.checks.trial import Trial
from proofbook.measure.flops import count_flops, peak_flops
from proofbook.measure.generation import Generation, NoGeneration, time_generation
from proofbook.measure.latency import Latency
from proofbook.measure.memory import peak_device_mb, peak_process_mb
from proofbook.measure.speedup import Speedup, speedup
from proofbook.measure.statistics import Interval
from proofbook.measure.sweep import Point
from proofbook.runtimes.eager import EagerRuntime
from proofbook.subject.tasks.task import Row
from proofbook.workbook.records import SweepRecord

# seconds spent on generations at most, behind the first, and on calls in turns with eager torch
GENERATION_BUDGET_S, SPEEDUP_BUDGET_S = 0.4, 0.5

# what outputs are called that are samples of sound
_SOUNDS = ("waveform", "audio_values")


@dataclass(frozen=True)
class Measured:
    """What was measured of a case; a text in place of a measurement says why there is none."""

    latency: Latency
    # of one call, in the unit
    work: float
    unit: str
    load_s: float
    # seconds, by step
    prepare_s: Mapping[str, float]
    generation: Generation | str
    # over eager torch on the same device
    speedup: Speedup | str
    # of one call; None where the counter found nothing that it counts
    flops: int | None
    # a second, of the device
    peak_flops: float
    # MB, of the whole process so far, and of the device in the timed calls
    process_mb: float
    device_mb: float | None
    # seconds of audio a second
    audio_rate: float | None

    @property
    def throughput(self) -> float:
        """Work a second at the median call."""
        return self.latency.throughput(self.work)

    @property
    def flops_rate(self) -> float | None:
        """Operations a second at the median call."""
        return None if self.flops is None else self.latency.throughput(self.flops)

    @property
    def peak_share(self) -> float | None:
        """Of the operations a second that the device was seen to do."""
        return None if self.flops_rate is None else self.flops_rate / self.peak_flops


def measure(trial: Trial) -> Measured:
    """Measure a trial: a second or two, most of it timed calls."""
    latency = trial.latency
    device_mb = peak_device_mb(trial.session.device)
    generation = _generation(trial)
    session = trial.session
    return Measured(
        latency=latency,
        work=trial.encoded.work,
        unit=trial.task.unit,
        load_s=trial.load_s,
        prepare_s=dict(session.prepare_s),
        generation=generation,
        speedup=_speedup(trial),
        flops=count_flops(trial.called, session.place(trial.inputs)) or None,
        peak_flops=peak_flops(session.device, getattr(torch, trial.target.dtype)),
        process_mb=peak_process_mb(),
        device_mb=device_mb,
        audio_rate=_audio_rate(trial, latency, generation),
    )


def latency_columns(latency: Latency, work: float, unit: str) -> dict[str, Any]:
    """The columns of the ledger that hold the times of forward calls, of ``work`` each."""
    return {
        "first_s": latency.first_s,
        "p50_ms": latency.percentile(50),
        **_interval("p50", latency.interval),
        "p90_ms": latency.percentile(90),
        "p99_ms": latency.percentile(99),
        "calls": len(latency.calls_ms),
        "warm_up_calls": len(latency.warming_ms),
        "steady": latency.steady,
        "clock": latency.clock,
        "throughput": latency.throughput(work),
        "throughput_unit": f"{unit}/s",
    }


def measured_columns(measured: Measured) -> dict[str, Any]:
    """The columns that hold all the rest."""
    written = measured.generation if isinstance(measured.generation, Generation) else None
    faster = measured.speedup if isinstance(measured.speedup, Speedup) else None
    bounds = faster.ratio.interval if faster else None
    return {
        "prepare_s": dict(measured.prepare_s),
        "speedup": faster.ratio.median if faster else None,
        "speedup_low": bounds.low if bounds else None,
        "speedup_high": bounds.high if bounds else None,
        "audio_rate": measured.audio_rate,
        **_quantile("first_token", written.first_token if written else None),
        **_quantile("token", written.token if written else None),
        "tokens_per_s": written.tokens_per_s if written else None,
        "gflop": measured.flops / 1e9 if measured.flops else None,
        "peak_gflops": measured.peak_flops / 1e9,
        "peak_share": measured.peak_share,
        "peak_process_mb": measured.process_mb,
        "peak_device_mb": measured.device_mb,
    }


def point_record(case: str, point: Point, unit: str) -> SweepRecord:
    """The row of one point of a case's sweep."""
    if point.latency is None:
        return SweepRecord(case=case, batch=point.batch, length=point.length, reason=point.reason)
    found = latency_columns(point.latency, point.work, unit)
    named = {name: value for name, value in found.items() if name in SweepRecord.model_fields}
    return SweepRecord(case=case, batch=point.batch, length=point.length, **named)


def _interval(name: str, interval: Interval | None) -> dict[str, float | None]:
    low, high = (interval.low, interval.high) if interval else (None, None)
    return {f"{name}_low_ms": low, f"{name}_high_ms": high}


def _quantile(name: str, found: tuple[float, Interval | None] | None) -> dict[str, float | None]:
    return {f"{name}_ms": found[0], **_interval(name, found[1])} if found else {}


def _speedup(trial: Trial) -> Speedup | str:
    if trial.target.runtime == "eager":
        return "it is eager torch itself"
    # whoever calls the module may have changed it; a graph leaves it as it is
    model = trial.load().model if trial.runtime.runs_module else trial.model
    plain = trial.target.model_copy(update={"runtime": "eager", "options": {}})
    other = EagerRuntime().prepare(model.get_submodule(trial.encoded.module), [trial.inputs], plain)
    return speedup(trial.session, other, trial.inputs, SPEEDUP_BUDGET_S)


def _generation(trial: Trial) -> Generation | str:
    if not trial.runtime.runs_module:
        return f"{trial.target.runtime} runs a graph of forward calls, which does not generate"
    try:
        synchronize = trial.session.synchronize
        return time_generation(trial.model, trial.answer, synchronize, len(trial.rows), GENERATION_BUDGET_S)
    except NoGeneration as reason:
        return str(reason)


def _audio_rate(trial: Trial, latency: Latency, generation: Generation | str) -> float | None:
    """Seconds of audio a second: of the sound that is read, or written, by whole generations; else by forward calls, of
    the sound that the task counts or that is among the outputs. Its inverse is called the real-time factor."""
    if isinstance(generation, Generation):
        answers = trial.answers
        if all(isinstance(answer, str) for answer in answers):
            seconds = heard_s(trial.rows)
        else:
            seconds = _sounding_s(answers, sampling_rate(trial.config))
        if seconds:
            return seconds / generation.whole_s
    rate = sampling_rate(trial.config)
    written = [trial.outputs[name].numel() / rate for name in _SOUNDS if name in trial.outputs] if rate else []
    if trial.task.unit == "seconds of audio":
        written = [trial.encoded.work]
    return latency.throughput(written[0]) if written else None


def heard_s(rows: Sequence[Row]) -> float:
    """The seconds of sound in raw rows, without padding."""
    return sum(len(row.audio) / row.sampling_rate for row in rows if row.audio is not None and row.sampling_rate)


def _sounding_s(answers: Sequence[Any], rate: int | None) -> float:
    """The seconds of sound in answers: of those that are samples, at a known rate."""
    sounds = [np.squeeze(one) for one in answers if isinstance(one, np.ndarray) and one.dtype.kind == "f"]
    return sum(sound.size / rate for sound in sounds if sound.ndim == 1) if rate else 0.0


def sampling_rate(config: Any) -> int | None:
    """That of the sound that a model writes or reads: its configuration's, or the first that a part of it has."""
    parts = (getattr(config, part, None) for part in getattr(config, "sub_configs", {}))
    rates = (getattr(part, "sampling_rate", None) for part in (config, *parts))
    return next((int(rate) for rate in rates if rate), None)
