"""Which devices this machine has, found by using each one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

from proofbook.verdict import Blocked

DEVICES = ("cpu", "cuda", "rocm", "mps", "xpu", "webgpu")

_REMEDIES = {
    "cuda": "It needs an NVIDIA GPU with its driver, and a CUDA build of torch.",
    "rocm": "It needs an AMD GPU with its driver, and a ROCm build of torch.",
    "mps": "It needs a Mac with Apple silicon, macOS 14 or newer, and torch for macOS.",
    "xpu": "It needs an Intel GPU with its driver, and an XPU build of torch.",
}


@dataclass(frozen=True)
class Device:
    """One device: whether it computes, its name or what is missing, how many units there are, what it would take."""

    available: bool
    detail: str
    count: int = 0
    remedy: str = ""


def torch_device(name: str) -> torch.device:
    """The torch device behind a device's name, where a model's tensors lie: ROCm builds of torch call theirs ``cuda``,
    and what goes to a browser lies on the CPU."""
    return torch.device({"rocm": "cuda", "webgpu": "cpu"}.get(name, name))


def require_device(name: str) -> torch.device:
    """The torch device of that name, proven to compute.

    Raises:
        Blocked: this machine does not have it.
    """
    device = detect(name)
    if not device.available:
        raise Blocked(name, device.detail, device.remedy)
    return torch_device(name)


def detect(name: str) -> Device:
    """Try one device: a product of matrices computed on it must equal the CPU's."""
    if name == "webgpu":
        from proofbook.runtimes import webgpu

        return webgpu.detect()
    absent, remedy = _absence(name), _REMEDIES.get(name, "")
    if absent:
        return Device(False, absent, remedy=remedy)
    device = torch_device(name)
    try:
        a = torch.arange(64.0).reshape(8, 8)
        if not torch.equal((a.to(device) @ a.to(device)).cpu(), a @ a):
            return Device(False, f"the product of two 8×8 matrices on {device} is wrong", remedy=remedy)
    except Exception as error:  # each backend raises its own
        return Device(False, f"using {device} raised {type(error).__name__}: {error}", remedy=remedy)
    return Device(True, _description(name), _count(name))


def detect_all() -> dict[str, Device]:
    """Try every device."""
    return {name: detect(name) for name in DEVICES}


def moved(inputs: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Copies of inputs on a device, floating point in a dtype."""

    def move(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().clone().to(device, dtype if tensor.is_floating_point() else tensor.dtype)

    return dict(tree_map_only(torch.Tensor, move, dict(inputs)))


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all work queued on it; the CPU queues none."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


def peak_device_bytes(device: torch.device) -> int | None:
    """The most bytes of tensors the device has held in this process, or None where its backend keeps no peak."""
    if device.type in ("cuda", "xpu"):
        return int(getattr(torch, device.type).max_memory_allocated(device))
    return None


def _absence(name: str) -> str:
    """Why torch can't reach the device, or an empty string."""
    built_for = f"this torch ({torch.__version__}) is not built for it"
    match name:
        case "cpu":
            return ""
        case "cuda" if torch.version.hip or not torch.backends.cuda.is_built():
            return built_for
        case "rocm" if not torch.version.hip:
            return built_for
        case "mps" if not torch.backends.mps.is_built():
            return built_for
        case "cuda" | "rocm":
            return "" if torch.cuda.is_available() else "torch finds no GPU"
        case "mps":
            return "" if torch.backends.mps.is_available() else "torch finds no Apple GPU"
        case "xpu":
            return "" if torch.xpu.is_available() else "torch finds no Intel GPU, or is not built for one"
    raise ValueError(f"unknown device {name!r}; known: {', '.join(DEVICES)}")


def _description(name: str) -> str:
    match name:
        case "cpu":
            return f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
        case "mps":
            return "Apple GPU"
        case _:
            backend, count = getattr(torch, torch_device(name).type), _count(name)
            return f"{backend.get_device_name(0)}{f' and {count - 1} more' if count > 1 else ''}"


def _count(name: str) -> int:
    """The units of a device that computes, which each could run a case of its own."""
    if name in ("cpu", "mps"):
        return 1
    return int(getattr(torch, torch_device(name).type).device_count())
