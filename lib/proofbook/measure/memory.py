"""How much memory a case took."""

import sys

import torch

from proofbook.runtimes.devices import peak_device_bytes


def peak_mb(device: torch.device) -> float:
    """The peak memory in MB (10^6 bytes): of tensors on the device where its backend counts them, else of this process.

    The process's figure is its resident set at its largest, libraries included.
    """
    on_device = peak_device_bytes(device)
    return (on_device if on_device is not None else _peak_resident_bytes()) / 1e6


def _peak_resident_bytes() -> int:
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB
