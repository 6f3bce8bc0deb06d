"""In what surroundings a case ran: machine, device, versions."""

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from proofbook.runtimes.devices import detect

WARM = "warm: a fork of a process that had imported torch and transformers"
kernel = "cold: started for this case"
"""How this process came to be; a warm parent, of which kernels are forked, sets it to :data:`WARM`."""

_PACKAGES = ("proofbook", "torch", "transformers", "tokenizers", "numpy")


def machine() -> str:
    """The operating system, and the threads that torch computes with."""
    return f"{platform.platform()}, {torch.get_num_threads()} threads"


def versions() -> dict[str, str]:
    """The releases of Python and of the packages that decide numbers."""
    return {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}


def surroundings(device: str) -> dict[str, str]:
    """All that the summary of a run tells of the place where a case ran."""
    return {**versions(), "machine": machine(), "kernel": kernel, f"device {device}": detect(device).detail}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
