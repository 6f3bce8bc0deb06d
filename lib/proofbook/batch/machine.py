"""What this machine gives a batch: its cores, its memory, and the devices that really compute."""

import json
import os
import subprocess
import sys
from functools import cache

from pydantic import BaseModel, TypeAdapter, ValidationError

from proofbook.catalog import Catalog, Weights

# what the kernel of a tiny case takes at most, torch and transformers included: 0.3 to 1 GB seen
KERNEL_BYTES = 1.5e9
PROBE_SECONDS = 300


class MachineryFailed(RuntimeError):
    """Something of the batch itself failed, rather than a case or a wish."""


class DeviceState(BaseModel):
    """Whether a device computes here; ``detail`` names it, or says why not, and ``remedy`` what it would take."""

    available: bool
    detail: str
    remedy: str = ""


def cores() -> int:
    """The CPU cores that this process may use."""
    import psutil

    affinity = getattr(psutil.Process(), "cpu_affinity", None)  # macOS has none
    return len(affinity()) if affinity else os.cpu_count() or 1


def available_bytes() -> int:
    """The memory that new processes can have without swapping."""
    import psutil

    return int(psutil.virtual_memory().available)


def default_jobs() -> int:
    """How many cases run at a time unless told otherwise: one a core, as far as memory reaches."""
    return max(1, min(cores(), int(available_bytes() / KERNEL_BYTES)))


def threads(weights: Weights) -> int:
    """The OpenMP threads of a case's kernel: one for tiny weights, all cores for real ones.

    It depends on nothing else (and so not on ``--jobs``): sums of floats depend on the number of threads, and a
    case run again by hand must give the same numbers. ``$OMP_NUM_THREADS`` overrides it.
    """
    chosen = os.environ.get("OMP_NUM_THREADS", "")
    if chosen.isdecimal() and int(chosen) > 0:
        return int(chosen)
    return 1 if weights is Weights.TINY else cores()


@cache
def devices() -> dict[str, DeviceState]:
    """Every device of proofbook and whether it computes here, asked of a process of its own that may import torch.

    Raises:
        MachineryFailed: the process did not answer; the message holds its last words.
    """
    command = [sys.executable, "-m", "proofbook.runtimes.devices"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=True)
        last = answer.stdout.strip().rpartition("\n")[2]
        return TypeAdapter(dict[str, DeviceState]).validate_python(json.loads(last))
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().rpartition("\n")[2]
        cause = f"it ended with status {error.returncode}: {said}"
    except subprocess.TimeoutExpired:
        cause = f"no answer within {PROBE_SECONDS} s"
    except (ValidationError, ValueError) as error:
        cause = f"its answer makes no sense: {error}"
    raise MachineryFailed(f"finding the devices of this machine failed (`{' '.join(command[1:])}`): {cause}")


def usable_targets(catalog: Catalog) -> list[str]:
    """The targets whose device this machine has, in the order of ``targets.yaml``."""
    return [
        target.name
        for target in catalog.targets.values()
        if (state := devices().get(target.device)) and state.available
    ]
