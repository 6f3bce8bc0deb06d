"""torch.compile with inductor, as users ship it: of the module, by dynamo, with whatever that leaves to Python."""

import inspect
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from proofbook.catalog import Target
from proofbook.runtimes.devices import moved, require_device, synchronize
from proofbook.runtimes.exporting import quiet
from proofbook.runtimes.graph import ANOTHER_GRAPH, Walked
from proofbook.runtimes.options import chosen
from proofbook.runtimes.outputs import flatten
from proofbook.runtimes.plain import through_inductor
from proofbook.runtimes.products import compute_products
from proofbook.runtimes.refusals import refused
from proofbook.runtimes.runtime import Fallback, Proof, Refused, Tensors, Trace
from proofbook.verdict import Blocked

if TYPE_CHECKING:
    from torch._dynamo.utils import CompilationMetrics

# kinds of fallback
GRAPH_BREAK = "graph break"
EAGER = "eager fallback"
OTHER_VALUES = "another graph for other values"
NO_CUDA_GRAPH = "no CUDA graph"
# a guard in what dynamo says of a frame that it compiles again, one a line: "0/1: tensor 'x' rank mismatch  # code"
_GUARD = re.compile(r"(?m)^\d+/\d+: (.+?)(?:\s+#.*)?$")
_OF_SIZES = re.compile(r"(?:size|rank|stride) mismatch|\.(?:size|stride|dim|ndim|shape)\b")


class InductorRuntime:
    """Compiles the module with ``torch.compile``.

    A target's options are two of its arguments: ``mode``, and ``dynamic``, true or false; without it torch opens a size
    when it sees another for the first time, as it does by default.
    """

    # the seams and the records that are read here are those of this release
    needs: ClassVar[tuple[str, ...]] = ("torch>=2.13",)
    runs_module: ClassVar[bool] = False
    plain = staticmethod(through_inductor)

    def __init__(self) -> None:
        require_compiler()

    def prepare(self, model: nn.Module, examples: Sequence[Mapping[str, Any]], target: Target) -> "InductorSession":
        """Compile for the sizes of the examples, by calling it with each."""
        from torch._inductor import list_mode_options

        compute_products(target.product_dtype)
        options = chosen(target, {"mode": list(list_mode_options()), "dynamic": [True, False]})
        return InductorSession(model.to(require_device(target.device)), examples, target, **options)


class InductorSession:
    """A module compiled by torch.compile, watched while it is."""

    def __init__(
        self,
        model: nn.Module,
        examples: Sequence[Mapping[str, Any]],
        target: Target,
        mode: str | None = None,
        dynamic: bool | None = None,
    ) -> None:
        from proofbook.runtimes.inductor_backend import Backend

        self.device = require_device(target.device)
        self.prepare_s: dict[str, float] = {}
        self._model = model
        self._dtype = getattr(torch, target.dtype)
        self._backend = Backend(mode, dynamic)
        # as in all graphs there is no cache
        cached = "use_cache" in inspect.signature(model.forward).parameters
        self._fixed = {"use_cache": False} if cached else {}
        # what dynamo says of each frame that it compiled, and how many of these are those of the examples
        self._compiled: list[CompilationMetrics] = []
        self._ready = 0
        # why it left one for Python
        self._breaks: list[str] = []
        # among whose overloads none has `isolate_recompiles`
        compile_: Any = torch.compile
        self._call = compile_(model, backend=self._backend, dynamic=dynamic, isolate_recompiles=True)
        for one in examples:
            self._prepare(one)
        self._ready = len(self._compiled)

    def place(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return moved(inputs, self.device, self._dtype)

    def call(self, placed: Mapping[str, Any]) -> Any:
        with torch.no_grad():
            return self._call(**{**placed, **self._fixed})

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        placed = self.place(inputs)
        with self._watched():
            outputs = self.call(placed)
        return {name: one.cpu() for name, one in flatten(outputs).items()}

    def proof(self, inputs: Mapping[str, Any]) -> Proof:
        from proofbook.runtimes import inductor_kernels as kernels

        self.run(inputs)  # what has to be compiled is no part of a call
        placed = self.place(inputs)
        os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else the profiler tells that it starts and stops
        with self._backend.recording() as graphs, torch.autograd.profiler.profile() as profile:
            self.call(placed)
        made = [kernel for graph in graphs for kernel in graph.made.kernels]
        skipped = Counter(one.skipped for one in graphs if one.skipped)
        found = [
            *self._recompiled(),
            *(Fallback(GRAPH_BREAK, one) for one in dict.fromkeys(self._breaks)),
            *_eager(profile.function_events),
            *kernels.fallbacks(made, self.device.type),
            *(Fallback(NO_CUDA_GRAPH, f"{count} of {len(graphs)} graphs: {why}") for why, count in skipped.items()),
        ]
        return Proof(kernels.ran(made), "kernels", kernels.place(kernels.INDUCTOR, self.device.type), tuple(found))

    def stages(self, inputs: Mapping[str, Any]) -> dict[str, Tensors]:
        from proofbook.runtimes.inductor_backend import AOT, DYNAMO

        with torch.no_grad():
            steps: dict[str, Tensors] = {"torch": flatten(self._model(**{**self.place(inputs), **self._fixed}))}
        self.run(inputs)  # what has to be compiled is compiled by all steps
        for step in (DYNAMO, AOT):
            with self._backend.answering(step):
                steps[step] = self.run(inputs)
        return {**steps, "inductor": self.run(inputs)}

    def trace(self, inputs: Mapping[str, Any]) -> Trace:
        """Of several graphs, between which something broke, all that share no name with an earlier one's."""
        from proofbook.runtimes.inductor_kernels import values

        self.run(inputs)
        with self._backend.recording() as graphs:
            self.run(inputs)
        seen: dict[str, Tensor] = {}
        expected: dict[str, Tensor] = {}
        operations = []
        for graph in graphs:
            walked = Walked(graph.made.graph)
            with torch.no_grad(), self._backend.compiling():
                walked.run(*graph.given)
                made = values(graph.made.graph, graph.given)
            operations += [one for one in walked.operations if one.name not in expected]
            expected = {**walked.values, **expected}
            seen = {**made, **seen}
        return Trace(operations, seen, expected)

    def synchronize(self) -> None:
        synchronize(self.device)

    def release(self) -> None:
        self._backend.release()

    def _prepare(self, example: Mapping[str, Any]) -> None:
        """Compile for an example. Whatever is raised is a refusal."""
        try:
            self.run(example)
        except (Blocked, Refused):
            raise
        except Exception as error:  # of the model, dynamo, inductor or a compiler
            raise refused(self._backend.step, error) from error

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Keep what dynamo says of calls in here; what it would leave to eager torch in silence is raised."""
        from torch._dynamo import config, exc, utils

        from proofbook.runtimes.inductor_backend import DYNAMO

        before = len(utils.graph_break_reasons)
        utils.clear_compilation_metrics()
        self._backend.step = DYNAMO  # which an exception may have left elsewhere
        try:
            with quiet(), config.patch(fail_on_recompile_limit_hit=True, suppress_errors=False):
                yield
        except (exc.TorchDynamoException, exc.FailOnRecompileLimitHit) as error:
            raise refused(self._backend.step, error) from error
        finally:
            made = utils.get_compilation_metrics()
            self._compiled += made
            self._breaks += [_told(one) for one in utils.graph_break_reasons[before:]]
            for step, seconds in _seconds(made).items():
                self.prepare_s[step] = self.prepare_s.get(step, 0.0) + seconds

    def _recompiled(self) -> Iterator[Fallback]:
        """Frames compiled again, by the guards that failed; another size of the examples is none."""
        reasons: dict[str, list[str]] = {ANOTHER_GRAPH: [], OTHER_VALUES: []}
        for number, one in enumerate(self._compiled):
            guards = _GUARD.findall(one.recompile_reason or "")
            kind = ANOTHER_GRAPH if all(_OF_SIZES.search(guard) for guard in guards) else OTHER_VALUES
            if guards and (kind == OTHER_VALUES or number >= self._ready):
                reasons[kind] += guards
        for kind, found in reasons.items():
            if found:
                yield Fallback(kind, f"{len(self._compiled)} graphs so far; {'; '.join(dict.fromkeys(found))}")


def require_compiler() -> None:
    """See that there is a C++ compiler, the one that inductor takes: its kernels for the CPU are C++, and so is what
    launches those of a GPU; and OpenSSL's command, by which torch knows the headers that it precompiles.

    Raises:
        Blocked: one of them is missing.
    """
    if sys.platform == "win32":  # where torch looks for others
        return
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    for name, remedy in (
        (compiler, "Install g++, or set $CXX to another C++ compiler"),
        ("openssl", "Install openssl"),
    ):
        if shutil.which(name) is None:
            raise Blocked(name, f"{name} is not found, with which inductor compiles", remedy)


def _seconds(made: "Sequence[CompilationMetrics]") -> dict[str, float]:
    """What compiling took, by step; each one's own record holds what those within it took."""
    if not made:
        return {}
    dynamo, aot, inductor = (
        sum(getattr(one, f"{step}_cumulative_compile_time_us") or 0 for one in made) / 1e6
        for step in ("dynamo", "aot_autograd", "inductor")
    )
    return {"dynamo": dynamo - aot, "AOTAutograd": aot - inductor, "inductor": inductor}


def _told(broke: Any) -> str:
    """Why a graph broke, and where in the code."""
    reason = broke.reason.strip().partition("\n")[0]
    place = broke.user_stack[-1] if broke.user_stack else None
    return f"{reason} at {place.filename}:{place.lineno}, `{place.line}`" if place else reason


def _eager(events: Sequence[Any]) -> list[Fallback]:
    """The operators that Python called between graphs: they stand within none in what a profiler saw."""
    found = Counter(one.name for one in events if one.name.startswith("aten::") and not _within(one))
    return [Fallback(EAGER, ", ".join(f"{count} {name}" for name, count in found.most_common()))] * bool(found)


def _within(event: Any) -> bool:
    """Whether it is part of a graph, or of an operator."""
    from proofbook.runtimes.inductor_backend import GRAPH

    above = event.cpu_parent
    while above is not None and above.name != GRAPH and not above.name.startswith("aten::"):
        above = above.cpu_parent
    return above is not None
