"""What this machine gives a batch: its cores, its memory, and the devices that really compute."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ValidationError

from proofbook.catalog import Catalog, Target, Weights

PROBE_SECONDS = 300
# the variables by which drivers hide units of a device from a process
_VISIBLE = {"cuda": "CUDA_VISIBLE_DEVICES", "rocm": "HIP_VISIBLE_DEVICES", "xpu": "ZE_AFFINITY_MASK"}


class MachineryFailed(RuntimeError):
    """Something of the batch itself failed, rather than a case or a wish."""


class DeviceState(BaseModel):
    """Whether a device computes here; ``detail`` names it, or says why not, and ``remedy`` what it would take.

    ``count`` is how many units of it there are.
    """

    available: bool
    detail: str
    count: int = 0
    remedy: str = ""


class Found(BaseModel):
    """What a machine has: its devices, and of each runtime what it would take to use it, or nothing, and the releases
    of what it uses beside packages of Python."""

    devices: dict[str, DeviceState]
    runtimes: dict[str, str]
    releases: dict[str, dict[str, str]]


def cores() -> int:
    """The CPU cores that this process may use."""
    import psutil

    affinity = getattr(psutil.Process(), "cpu_affinity", None)  # macOS has none
    return len(affinity()) if affinity else os.cpu_count() or 1


def available_bytes() -> int:
    """The memory that new processes can have without swapping, within the limits of this process's cgroup."""
    import psutil

    return min([psutil.virtual_memory().available, *limits()])


def limits(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[int]:
    """What the cgroups of this process leave of their limits of memory, in bytes; none outside of Linux.

    Args:
        root: where the system shows cgroups.
        own: the file that names those of this process.
    """
    left = []
    for folder in _cgroups(root, own):
        for limit, usage, cached in _FILES:
            try:
                allowed, used = (int((folder / name).read_text()) for name in (limit, usage))
                statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            except (OSError, ValueError):  # not of this version of cgroups, or `max`
                continue
            left.append(max(0, allowed - used + int(statistics.get(cached, 0))))
    return left


# limit, usage, and what of the usage is a cache of files that can go; of version 2 and version 1
_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def _cgroups(root: Path, own: Path) -> list[Path]:
    """The folders of this process's cgroup for memory and of all above it, as far as they are to be seen."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            top = root / controllers
            inner = top / path.lstrip("/")
            # within a container the path may be that of the host, of which only the top is to be seen
            found += [folder for folder in (inner, *inner.parents) if folder.is_relative_to(top)]
    return found


def default_jobs() -> int:
    """How many cases run at a time unless told otherwise: as many as have their threads on cores of their own.

    How many of them memory holds is seen when each begins (:mod:`proofbook.batch.schedule`).
    """
    return max(1, cores() // threads(Weights.TINY))


def units(kinds: Iterable[str]) -> dict[str, int]:
    """How many units this machine has of each of these devices other than the CPU; those it lacks are left out.

    Raises:
        MachineryFailed: the devices can't be found.
    """
    wanted = set(kinds) - {"cpu"}
    return {kind: state.count for kind in sorted(wanted) if (state := devices().get(kind)) and state.available}


def threads(weights: Weights) -> int:
    """The OpenMP threads of a case's kernel: one for tiny weights, all cores for real ones.

    It depends on nothing else (and so not on ``--jobs``): sums of floats depend on the number of threads, and a
    case run again by hand must give the same numbers. ``$OMP_NUM_THREADS`` overrides it.
    """
    chosen = os.environ.get("OMP_NUM_THREADS", "")
    if chosen.isdecimal() and int(chosen) > 0:
        return int(chosen)
    return 1 if weights is Weights.TINY else cores()


def devices() -> dict[str, DeviceState]:
    """Every device of proofbook, and whether it computes here. Raises MachineryFailed, as :func:`found`."""
    return found().devices


_asking = threading.Lock()


def found() -> Found:
    """The devices and runtimes of this machine, asked of a process of its own that may import torch, once: a
    thread that asks meanwhile waits for the answer, which takes seconds.

    Raises:
        MachineryFailed: the process did not answer; the message holds its last words.
    """
    with _asking:
        return _answered()


@cache
def _answered() -> Found:
    command = [sys.executable, "-m", "proofbook.runtimes"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=True)
        last = answer.stdout.strip().rpartition("\n")[2]
        return Found.model_validate_json(last)
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().rpartition("\n")[2]
        cause = f"it ended with status {error.returncode}: {said}"
    except subprocess.TimeoutExpired:
        cause = f"no answer within {PROBE_SECONDS} s"
    except (ValidationError, ValueError) as error:
        cause = f"its answer makes no sense: {error}"
    raise MachineryFailed(
        f"finding the devices and runtimes of this machine failed (`{' '.join(command[1:])}`): {cause}"
    )


def visible(kind: str | None, unit: int | None) -> dict[str, str]:
    """The variable by which a process sees only one unit of a device; none where there is nothing to choose."""
    name = _VISIBLE.get(kind or "")
    if name is None or unit is None:
        return {}
    chosen = [one for one in os.environ.get(name, "").split(",") if one]
    return {name: chosen[unit] if unit < len(chosen) else str(unit)}


def usable_targets(catalog: Catalog) -> list[str]:
    """The targets that run without being named and whose device and runtime this machine has, in the order of
    ``targets.yaml``."""
    return [target.name for target in catalog.targets.values() if target.default and not lack(target)]


def lack(target: Target) -> str:
    """What of a target this machine lacks, in words; empty where it has all."""
    device, lacks = found().devices[target.device], found().runtimes
    if not device.available:
        return device.detail
    return lacks.get(target.runtime, f"no installed package has the runtime {target.runtime}")
