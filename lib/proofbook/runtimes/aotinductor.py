"""AOTInductor: what torch.export gives, compiled by inductor ahead of time to a package, and loaded from it."""

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from torch import fx

from proofbook.catalog import Target
from proofbook.runtimes.devices import torch_device
from proofbook.runtimes.exporting import Program, quiet
from proofbook.runtimes.graph import Graph, GraphRuntime
from proofbook.runtimes.inductor import require_compiler
from proofbook.runtimes.plain import through_aotinductor
from proofbook.runtimes.products import compute_products
from proofbook.runtimes.runtime import Proof, Tensors


class AotInductor(GraphRuntime):
    """Compiles to a ``.pt2`` package in a temporary folder, with nothing in it that was compiled before."""

    needs: ClassVar[tuple[str, ...]] = ("torch>=2.13",)
    plain = staticmethod(through_aotinductor)

    def __init__(self) -> None:
        require_compiler()

    def convert(self, program: Program, target: Target) -> "Package":
        return Package(program, target)


class Package(Graph):
    """A package of AOTInductor, loaded."""

    def __init__(self, program: Program, target: Target) -> None:
        from proofbook.runtimes.inductor_kernels import compiling, prepare_machine, watched

        self._program = program
        self._device = torch_device(target.device).type
        self._folder = tempfile.TemporaryDirectory(prefix="proofbook-aoti-", ignore_cleanup_errors=True)
        path = str(Path(self._folder.name) / "model.pt2")
        prepare_machine()
        compute_products(target.product_dtype)
        start = time.perf_counter()
        with torch.no_grad(), quiet(), compiling(self._folder.name), watched() as self._made:
            torch._inductor.aoti_compile_and_package(program.exported, package_path=path)
        compiled = time.perf_counter()
        self._model = torch._inductor.aoti_load_package(path)
        self.seconds: Mapping[str, float] = {"compile": compiled - start, "load": time.perf_counter() - compiled}

    def run(self, tensors: Tensors) -> Tensors:
        return dict(self._model(dict(tensors)))

    def proof(self, tensors: Tensors) -> Proof:
        from proofbook.runtimes import inductor_kernels as kernels

        self.run(tensors)
        made, where = self._made.kernels, kernels.place(kernels.INDUCTOR, self._device)
        return Proof(kernels.ran(made), "kernels", where, tuple(kernels.fallbacks(made, self._device)))

    def stages(self, tensors: Tensors) -> Mapping[str, Tensors]:
        with torch.no_grad():
            made = fx.Interpreter(self._made.graph).run(*tensors.values())
        return {"decomposed": dict(zip(self._program.outputs, made, strict=True))}

    def values(self, tensors: Tensors) -> tuple[fx.GraphModule, Tensors]:
        from proofbook.runtimes.inductor_kernels import compiling, values

        with compiling(self._folder.name):
            return self._made.graph, values(self._made.graph, list(tensors.values()))

    def release(self) -> None:
        self._folder.cleanup()
