"""WebGPU, which is reached through a browser."""

from contextlib import closing
from functools import cache

import torch

from proofbook.runtimes.browser import BrowserFailed, browser_release
from proofbook.runtimes.devices import Device
from proofbook.runtimes.page import Page
from proofbook.verdict import Blocked

_REMEDY = "It needs a graphics card with its driver (on Linux for Vulkan), and a Chromium that offers it."


@cache
def detect() -> Device:
    """Let the first adapter that the browser offers multiply two matrices; one that the CPU computes says so."""
    a = torch.arange(64.0).reshape(8, 8)
    try:
        with closing(Page()) as page:
            found = page.call("adapter")
            if found is None:
                return Device(False, f"{browser_release()} offers no adapter", remedy=_REMEDY)
            made = page.call("product", *[a.flatten().tolist()] * 2)
            name = f"{found['name']}, in {browser_release()}"
    except Blocked as lack:
        return Device(False, f"{lack.name}: {lack.cause}", remedy=lack.remedy)
    except (BrowserFailed, RuntimeError) as error:
        return Device(False, f"using it raised {type(error).__name__}: {error}", remedy=_REMEDY)
    if made != (a @ a).flatten().tolist():
        return Device(False, f"the product of two 8×8 matrices on {name} is wrong", remedy=_REMEDY)
    return Device(True, f"{'software, computed by the CPU: ' * found['software']}{name}", 1)
