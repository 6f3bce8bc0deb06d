"""The batch against a bare loop over the same checks: what notebooks, kernels and the ledger cost beside the work.

    python benchmarks/floor.py [--model bert gpt2 vit …] [--target cpu] [--jobs N]

The loop is one process with one thread that imports what it needs, asks every check about each model in turn, and
times it as its notebook does. The batch is `proofbook run` of the same models, ``--jobs`` at a time, its plan, displays
and ledger included, the report not: one at a time unless told otherwise, as the loop is, since cores share caches and
memory, and of two processes each is slower than one alone, whatever they run. Neither finds truth that was computed
before. The loop runs twice, before and after the batch, so that a machine that gets busy slows both; its time is the
mean.

Prints seconds and ends with one line of JSON: ``ratio`` is the batch's wall time times its jobs by the time of the
loop, ``cells_ratio`` the time that the batch spent in cells by that of the loop: the rest is kernels and scheduling.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

LOOP = """
import sys, warnings
import torch, transformers
from proofbook.catalog import Weights, load_catalog
from proofbook.checks.registry import examine, registered
from proofbook.checks.trial import Trial
from proofbook.workbook.timings import measure
warnings.simplefilter("ignore")
transformers.logging.set_verbosity_error()
catalog, (target, *models) = load_catalog(), sys.argv[1:]
for name in models:
    trial = Trial(catalog.model(name), catalog.target(target), Weights.TINY, 0, catalog.tolerances)
    print(name, [str(examine(check, trial).verdict) for check in registered()])
    measure(trial)
"""
BATCH = "from proofbook.cli import main; main()"
# none with a known fault: for that the batch writes a script, and proves it, which the loop does not
MODELS = (
    *("bert", "distilbert", "gpt2", "mistral", "opt", "m2m-100", "vit", "resnet", "clip", "whisper", "phi", "nllb"),
    *("roberta", "electra", "gpt-neox", "falcon", "gemma", "olmo", "albert", "pythia", "deit", "convnext", "swin"),
    "siglip",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=MODELS)
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    with TemporaryDirectory() as made:
        loop = [LOOP, given.target, *given.model]
        out, jobs = Path(made, "run"), str(given.jobs)
        chosen = ["--model", ",".join(given.model), "--target", given.target, "--jobs", jobs]
        before = seconds(loop, Path(made, "before"))
        batch = seconds([BATCH, "run", *chosen, "--no-report", "--out", str(out)], Path(made, "batch"))
        after = seconds(loop, Path(made, "after"))
        cells = spent_in_cells(out)
    loop_s = mean([before, after])
    print(f"loop {before:.1f} and {after:.1f} s; batch {batch:.1f} s with {jobs} jobs, {cells:.1f} s of it in cells")
    answer = {
        "models": len(given.model),
        "jobs": given.jobs,
        "loop_s": loop_s,
        "batch_s": batch,
        "ratio": batch * given.jobs / loop_s,
        "cells_ratio": cells / loop_s,
    }
    print(json.dumps({name: round(value, 3) for name, value in answer.items()}))


def seconds(arguments: list[str], cache: Path) -> float:
    """How long Python takes for some lines and arguments, with one thread and nothing computed before.

    Raises:
        RuntimeError: it failed; the message holds its last words. A batch may hold cases that fell short.
    """
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    environment = {**os.environ, **one, "PROOFBOOK_CACHE": str(cache)}
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", *arguments], capture_output=True, text=True, env=environment)
    if done.returncode not in (0, 1) or (done.returncode and arguments[0] is LOOP):
        raise RuntimeError(done.stderr[-2000:])
    return time.perf_counter() - began


def spent_in_cells(folder: Path) -> float:
    """Seconds in the cells of a run's cases."""
    from proofbook.batch.ledger import read_ledger

    return sum(case.cells_s or 0.0 for case in read_ledger(folder).cases)


if __name__ == "__main__":
    main()
