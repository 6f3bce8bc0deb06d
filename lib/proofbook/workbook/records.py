"""The rows of the ledger, as a notebook glues them and as ``ledger/*.parquet`` holds them."""

import hashlib
import shlex
from pathlib import PurePosixPath

from pydantic import BaseModel, ConfigDict

from proofbook.catalog import Category, Timings, Weights
from proofbook.catalog.environments import CURRENT
from proofbook.verdict import Verdict


class Record(BaseModel):
    """Base of both rows: plain JSON values, None for what was not observed."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="null")


class CheckRecord(Record):
    """One check of one case."""

    case: str
    check: str
    family: str
    verdict: Verdict
    seconds: float | None = None
    # the figure that was judged and the bound it was held against, in words where they are not one number
    observed: str | None = None
    allowed: str | None = None
    detail: str = ""


class SweepRecord(Record):
    """One point of a case's sweep: forward calls at a size of the batch and a length of the text."""

    case: str
    batch: int
    # tokens of a row; None for the case's own
    length: int | None = None
    # as in the row of the case
    p50_ms: float | None = None
    p50_low_ms: float | None = None
    p50_high_ms: float | None = None
    calls: int | None = None
    steady: bool | None = None
    throughput: float | None = None
    throughput_unit: str | None = None
    # why it has no times
    reason: str = ""


class Execution(Record):
    """How a batch executed a case, by its own account, which it leaves in the notebook's metadata.

    Times in seconds by a clock that nobody sets. A case that was executed by hand has none of it.
    """

    # when its kernel was asked for: UTC, ISO 8601
    executed: str = ""
    # the run that executed it, where this one only brought it over
    reused: str = ""
    # which batch of its run: when that began (UTC, ISO 8601) and the process; a run that is resumed has several
    batch: str = ""
    # the cores that the batch had for its cases
    cores: int | None = None
    threads: int | None = None
    # from the beginning of the batch to that of the case
    began_s: float | None = None
    # from there to its end, starting the kernel and waiting for others included
    wall_s: float | None = None
    # within cells
    cells_s: float | None = None
    # whether its calls were timed while no other case of the batch ran
    timings: Timings = Timings.BESIDE
    # the cores of the machine that were busy while they were timed alone, whoever kept them so
    busy_cores: float | None = None
    # the most that its processes had in the machine's memory, in MB, what a warm one shares with its parent included
    resident_mb: float | None = None
    # the hash of all that the outcome depends on; empty where that is not known
    key: str = ""
    # the node of a cluster that executed it, and those that were lost while they did, before
    node: str = ""
    lost: str = ""


class CaseRecord(Execution):
    """One planned case. Times in seconds unless the name says otherwise; memory in MB (10^6 bytes)."""

    run: str = ""
    case: str
    model: str
    model_type: str
    category: Category
    target: str
    weights: Weights
    environment: str = CURRENT
    # the switches of the tiny configuration that are set otherwise, as `subject/variants.py` writes them
    variant: str = ""
    # at which sizes calls were timed beside its own, as `measure/grid.py` reads them
    sweep: str = ""
    task: str
    verdict: Verdict
    reason: str = ""
    checks: int = 0
    failed: int = 0
    seconds: float | None = None
    load_s: float | None = None
    # what the runtime took to make it ready, by step: `export`, `convert`, `compile`
    prepare_s: dict[str, float] = {}
    first_s: float | None = None
    # the median of calls, with its confidence interval (95%)
    p50_ms: float | None = None
    p50_low_ms: float | None = None
    p50_high_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    # those behind the percentiles, and those left out before them
    calls: int | None = None
    warm_up_calls: int | None = None
    # whether they had become steady; None where there are too few of them to tell
    steady: bool | None = None
    # what they were timed by: `device events` or `wall clock`
    clock: str | None = None
    throughput: float | None = None
    throughput_unit: str | None = None
    # seconds of audio a second: by whole generations of what writes text or sound, else by calls
    audio_rate: float | None = None
    # of what is generated: up to the first token of the batch, from one to the next, and all rows' tokens a second
    first_token_ms: float | None = None
    first_token_low_ms: float | None = None
    first_token_high_ms: float | None = None
    token_ms: float | None = None
    token_low_ms: float | None = None
    token_high_ms: float | None = None
    tokens_per_s: float | None = None
    # how many times as long eager torch takes for a call, on the same device and in turns, with its interval (95%)
    speedup: float | None = None
    speedup_low: float | None = None
    speedup_high: float | None = None
    # floating-point operations (10^9): of one call, of the device a second at most, and the share of that in calls
    gflop: float | None = None
    peak_gflops: float | None = None
    peak_share: float | None = None
    peak_mb: float | None = None
    # of the whole process, truth and libraries included; of tensors on the device while calls were timed
    peak_process_mb: float | None = None
    peak_device_mb: float | None = None
    parameters: int | None = None
    parameters_full: int | None = None
    seed: int | None = None
    input_hash: str | None = None
    # relative to the run's folder, with forward slashes
    notebook: str = ""
    rerun: str = ""
    versions: dict[str, str] = {}
    # the script beside the notebook that fails by itself as the case did; empty where there is none
    reproduction: str = ""
    # whether code of the checkpoint itself was run
    trust_remote_code: bool = False


def case_id(model: str, target: str, weights: Weights, environment: str = CURRENT, variant: str = "") -> str:
    """The name of a case, unique in a run: ``vit@cpu``; with other than tiny weights ``vit.hub@cpu``, in another
    environment than the current one ``vit@cpu@transformers-4.57``, of a variant ``vit+3f2a9c@cpu``, by the first digits
    of its SHA-256."""
    kind = "" if weights is Weights.TINY else f".{weights}"
    switched = f"+{hashlib.sha256(variant.encode()).hexdigest()[:6]}" if variant else ""
    place = "" if environment == CURRENT else f"@{environment}"
    return f"{model}{kind}{switched}@{target}{place}"


def notebook_path(category: Category, case: str) -> PurePosixPath:
    """Where the executed notebook of a case lies in its run's folder."""
    return PurePosixPath("cases", category, f"{case}.ipynb")


def reproduction_name(case: str) -> str:
    """What the files of a case's reproduction are called, before their suffixes."""
    return f"{case}.repro"


def reproduction_files(case: str) -> list[str]:
    """The files that a reproduction may consist of: the script, and what it reads."""
    return [f"{reproduction_name(case)}{suffix}" for suffix in (".py", ".safetensors")]


def rerun_command(
    model: str,
    target: str,
    weights: Weights,
    seed: int,
    environment: str = CURRENT,
    variant: str = "",
    sweep: str = "",
) -> str:
    """The exact command that opens the case for debugging."""
    place = "" if environment == CURRENT else f" --environment {environment}"
    switched = f" --variant {shlex.quote(variant)}" if variant else ""
    swept = f" --sweep {shlex.quote(sweep)}" if sweep else ""
    return f"proofbook debug {model} --target {target} --weights {weights} --seed {seed}{place}{switched}{swept}"
