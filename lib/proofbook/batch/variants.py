"""The variants of planned models: derived in other processes, which import torch, one for each environment."""

import json
import subprocess
from collections import defaultdict
from collections.abc import Iterable
from enum import StrEnum

from proofbook.batch.machine import MachineryFailed
from proofbook.batch.plan import PlannedCase
from proofbook.catalog import Weights
from proofbook.environments import interpreter

_PROGRAM = "proofbook.subject.variants"


class Extent(StrEnum):
    """How many variants a model has."""

    FEW = "few"  # every alternative of every switch at least once, in four variants at most
    MANY = "many"  # every pair of alternatives, in twelve at most


def variants_for(cases: Iterable[PlannedCase], extent: Extent) -> dict[str, list[str]]:
    """The variants of the models of cases with tiny weights, by the model's name, as their environments have them.

    Raises:
        MachineryFailed: transformers or torch can't be imported there.
        Blocked: this machine does not have an environment.
    """
    by_environment: defaultdict[str, set[str]] = defaultdict(set)
    for case in cases:
        if case.weights is Weights.TINY:
            by_environment[case.environment].add(case.model)
    found: dict[str, list[str]] = {}
    for environment, models in by_environment.items():
        command = [interpreter(environment), "-m", _PROGRAM, extent, *sorted(models)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise MachineryFailed(f"variants of {environment}: {done.stderr.strip()[-2000:]}")
        found |= json.loads(done.stdout.splitlines()[-1])
    return found
