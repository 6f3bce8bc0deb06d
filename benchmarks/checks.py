"""What each check costs: the battery over the models of a suite, one process, one thread.

    python benchmarks/checks.py [--suite tracked] [--model M…] [--target cpu]

Prints a table, the dearest check first, and ends with one line of JSON: seconds of the whole battery a model (median
and 90th percentile; the making of the tiny checkpoint is included, the start of the process is not), and of each check.
"""

import argparse
import json
import time
import warnings
from collections import defaultdict
from statistics import median, quantiles

import torch
import transformers

from proofbook.catalog import Weights, load_catalog
from proofbook.checks.registry import examine, registered
from proofbook.checks.trial import Trial
from proofbook.verdict import Verdict


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--suite", default="tracked")
    arguments.add_argument("--model", nargs="*")
    arguments.add_argument("--target", default="cpu")
    given = arguments.parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    catalog = load_catalog()
    suite = catalog.suite(given.suite)
    names = given.model or [case.model for case in suite.cases]
    names = names or [one.name for one in catalog.models.values() if one.tracked and one.category in suite.categories]
    wholes: dict[str, float] = {}
    parts: defaultdict[str, list[float]] = defaultdict(list)
    skipped: defaultdict[str, int] = defaultdict(int)
    for name in names:
        start = time.perf_counter()
        trial = Trial(catalog.model(name), catalog.target(given.target), Weights.TINY, 0, catalog.tolerances)
        found = [examine(check, trial) for check in registered()]
        if found[0].verdict is Verdict.BLOCKED:
            continue
        wholes[name] = time.perf_counter() - start
        for one in found:
            if one.verdict is Verdict.SKIP:
                skipped[one.check.name] += 1
            else:
                parts[one.check.name].append(one.seconds)
    print(f"{'check':36}{'ran':>5}{'skipped':>9}{'median s':>10}{'p90 s':>8}{'sum s':>9}")
    for name, seconds in sorted(parts.items(), key=lambda item: -sum(item[1])):
        print(
            f"{name:36}{len(seconds):5}{skipped[name]:9}{median(seconds):10.3f}{p90(seconds):8.3f}{sum(seconds):9.1f}"
        )
    slowest = sorted(wholes, key=wholes.__getitem__, reverse=True)[:10]
    print("slowest models: " + ", ".join(f"{name} {wholes[name]:.1f} s" for name in slowest))
    answer = {
        "models": len(wholes),
        "median_s": round(median(wholes.values()), 3),
        "p90_s": round(p90(list(wholes.values())), 3),
        "checks": {name: round(median(seconds), 4) for name, seconds in parts.items()},
    }
    print(json.dumps(answer))


def p90(seconds: list[float]) -> float:
    """The 90th percentile."""
    return quantiles(seconds, n=10)[-1] if len(seconds) > 1 else seconds[0]


if __name__ == "__main__":
    main()
