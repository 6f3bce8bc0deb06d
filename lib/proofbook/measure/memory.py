"""How much memory a case took."""

import sys

import torch

from proofbook.runtimes.devices import peak_device_bytes

# what devices held at most before their peaks were reset
_earlier: dict[torch.device, int] = {}


def peak_mb(device: torch.device) -> float:
    """The peak memory in MB (10^6 bytes): of tensors on the device where its backend counts them, else of this process.

    The process's figure is its resident set at its largest, libraries included.
    """
    on_device = peak_device_bytes(device)
    return peak_process_mb() if on_device is None else max(on_device, _earlier.get(device, 0)) / 1e6


def peak_process_mb() -> float:
    """The largest that this process's resident set has been, in MB (10^6 bytes): libraries, truth and all."""
    return _peak_resident_bytes() / 1e6


def peak_device_mb(device: torch.device) -> float | None:
    """The most memory of tensors on the device since :func:`reset_peak`, in MB; None where its backend counts none."""
    found = peak_device_bytes(device)
    return None if found is None else found / 1e6


def reset_peak(device: torch.device) -> None:
    """Begin a new peak of the device: what is on it counts, and what was no longer does."""
    found = peak_device_bytes(device)
    if found is not None:
        _earlier[device] = max(found, _earlier.get(device, 0))
        getattr(torch, device.type).reset_peak_memory_stats(device)


def _peak_resident_bytes() -> int:
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB
