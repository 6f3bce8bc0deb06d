"""inductor as torch.compile calls it, each graph kept at the seams between its steps: as dynamo traced it, as
AOTAutograd decomposed it, as inductor compiled it. Any of the three answers a call."""

import copy
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import fx
from torch._inductor import config
from torch._inductor.compile_fx import compile_fx, compile_fx_inner

from proofbook.runtimes.inductor_kernels import INDUCTOR, Made, compiling, prepare_machine, watched

DYNAMO, AOT = "dynamo", "AOTAutograd"
# what a profiler calls a graph's part of a call
GRAPH = "proofbook.graph"


class Backend(torch._TorchCompileInductorWrapper):
    """What ``torch.compile(backend="inductor")`` makes of mode and dynamic, with a folder of its own for what is
    cached: nothing that was compiled before, in this process or another, spares it work.

    ``by`` is the step that answers calls, ``step`` the one that is at work while a graph is compiled.
    """

    # another session's graphs are none of this one's
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __init__(self, mode: str | None, dynamic: bool | None) -> None:
        super().__init__(mode, None, dynamic)  # type: ignore[no-untyped-call]
        self.by = INDUCTOR
        self.step = DYNAMO
        # the graphs called while it is asked for them
        self.called: list[CompiledGraph] | None = None
        prepare_machine()
        self._folder = tempfile.TemporaryDirectory(prefix="proofbook-inductor-", ignore_cleanup_errors=True)

    def __call__(self, model_: fx.GraphModule, inputs_: Sequence[Any], **_: Any) -> Callable[..., Any]:
        return CompiledGraph(self, model_, inputs_)

    @contextmanager
    def answering(self, step: str) -> Iterator[None]:
        """Calls in here are answered by a step."""
        self.by = step
        try:
            yield
        finally:
            self.by = INDUCTOR

    @contextmanager
    def recording(self) -> Iterator[list["CompiledGraph"]]:
        """The graphs that are called in here, in their order; each keeps what it is called with."""
        self.called = []
        try:
            yield self.called
        finally:
            self.called = None

    def compiling(self) -> AbstractContextManager[None]:
        """Compile in here with nothing cached but what this session compiled."""
        return compiling(self._folder.name)

    def release(self) -> None:
        """Let go of what was cached."""
        self._folder.cleanup()


class CompiledGraph:
    """One graph that dynamo traced, to be called as dynamo calls it."""

    def __init__(self, backend: Backend, traced: fx.GraphModule, examples: Sequence[Any]) -> None:
        self._backend = backend
        self._traced = copy.deepcopy(traced)  # as compiling changes it
        self.made = Made()
        # what the decomposed graph was last called with, while the backend is recording
        self.given: list[Any] = []
        # why no CUDA graph holds it, though asked for
        self.skipped = ""
        backend.step = AOT
        with backend.compiling():
            self._compiled: Any = compile_fx(
                traced, examples, inner_compile=self._compile, config_patches=backend.config
            )
        backend.step = DYNAMO

    def __call__(self, *args: Any) -> Any:
        answer = self._traced if self._backend.by == DYNAMO else self._compiled
        if self._backend.called is None:
            return answer(*args)
        self._backend.called.append(self)
        with torch.autograd.profiler.record_function(GRAPH):
            return answer(*args)

    def _compile(self, graph: fx.GraphModule, examples: Sequence[Any], **how: Any) -> Any:
        """What inductor makes of a decomposed graph; called with a list of arguments."""
        self._backend.step = INDUCTOR
        with watched() as self.made:
            self.made.graph = graph  # unless there is something to compile
            code: Any = compile_fx_inner(graph, examples, **how)
        if config.triton.cudagraphs and not how["cudagraphs"]:
            self.skipped = getattr(code, "disabled_cudagraphs_reason", None) or "torch gives no reason"

        def called(args: list[Any]) -> Any:
            if self._backend.called is not None:
                self.given = list(args)  # as it is emptied
            if self._backend.by == AOT:
                return tuple(fx.Interpreter(self.made.graph).run(*args))
            return code(args)

        called._boxed_call = True  # type: ignore[attr-defined]  # how AOTAutograd asks
        return called
