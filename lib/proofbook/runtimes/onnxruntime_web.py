"""ONNX Runtime in a browser, by WebAssembly or WebGPU, from the ONNX exporter of torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from proofbook.catalog import Target
from proofbook.runtimes.browser import browser_release, chromium
from proofbook.runtimes.exporting import Program
from proofbook.runtimes.graph import GraphRuntime
from proofbook.runtimes.onnxruntime import PROVIDERS, NativeSession, OnnxGraph, OnnxRuntime, OnnxSession
from proofbook.runtimes.page import Page, package, package_release
from proofbook.runtimes.runtime import Fallback, Proof, Tensors

# execution providers by a target's device, as the library names them, and as ONNX Runtime itself does
_PROVIDERS = {"cpu": "wasm", "webgpu": "webgpu"}
_PLACES = {"CPUExecutionProvider": "wasm", "WebGpuExecutionProvider": "webgpu"}
# the fallback of a machine whose graphics are computed by its processor
SOFTWARE = "software adapter"


class OnnxRuntimeWeb(GraphRuntime):
    """Converts to ONNX, and runs the file in a page of a browser without a window.

    A target's options are those of the execution provider, as the library documents them.

    Raises:
        Blocked: onnxruntime-web or a browser is missing.
    """

    # ONNX Runtime itself computes the step before
    needs: ClassVar[tuple[str, ...]] = OnnxRuntime.needs
    experts: ClassVar[str] = OnnxRuntime.experts

    def __init__(self) -> None:
        chromium()
        package()

    @property
    def releases(self) -> dict[str, str]:
        return {"onnxruntime-web": package_release(), "browser": browser_release()}

    def convert(self, program: Program, target: Target) -> "OnnxWebGraph":
        return OnnxWebGraph(program, target, _PROVIDERS[target.device])


class OnnxWebGraph(OnnxGraph):
    """A file of ONNX, and a session of it in the page of this process."""

    def __init__(self, program: Program, target: Target, provider: str) -> None:
        self._options = target.options
        self._page = Page.borrowed()
        try:
            super().__init__(program, target, provider)
        except BaseException:
            self._page.give_back()
            raise

    def proof(self, tensors: Tensors) -> Proof:
        found = super().proof(tensors)
        if self._provider != "webgpu" or not (adapter := self._page.call("adapter"))["software"]:
            return found
        return Proof(found.ran, found.unit, found.where, (*found.fallbacks, Fallback(SOFTWARE, adapter["name"])))

    def release(self) -> None:
        super().release()
        self._page.give_back()

    def _open(self, path: Path, optimised: bool = True, profile: bool = False) -> OnnxSession:
        if not optimised:  # the step before the browser
            return NativeSession(path, PROVIDERS["cpu"], optimised)
        return WebSession(self._page, path, self._provider, self._options, profile)


class WebSession:
    """A session of onnxruntime-web in a page."""

    def __init__(self, page: Page, path: Path, provider: str, options: Mapping[str, Any], profile: bool) -> None:
        self._page = page
        self._number = page.open(path, {"name": provider, **options}, {"enableProfiling": profile})

    def call(self, outputs: Mapping[str, str], tensors: Tensors) -> Tensors:
        made = self._page.run(self._number, tensors, list(outputs))
        return {path: made[name] for name, path in outputs.items()}

    def events(self) -> list[dict[str, Any]]:
        found = self._page.profile(self._number)
        for args in (event.get("args", {}) for event in found):
            args["provider"] = _PLACES.get(args.get("provider", ""))
        return found

    def close(self) -> None:
        if not self._page.browser.failed:
            self._page.call("close", self._number)
