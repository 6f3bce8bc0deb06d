"""Can torch.export make a graph of it, and does the graph compute the same?"""

import inspect
import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import config

from proofbook.checks.registry import NotApplicable, Observation, check
from proofbook.checks.trial import Trial
from proofbook.checks.truth import CALL_SEED
from proofbook.runtimes.outputs import attached, is_cache


@check
def exported_graph(trial: Trial) -> Observation:
    """The graph of torch.export gives the model's numbers; a class that claims to compile as one graph exports."""
    inputs = trial.session.place(trial.inputs)
    others = [name for name, value in inputs.items() if not isinstance(value, Tensor)]
    given: dict[str, Any] = {name: inputs.pop(name) for name in others}
    if "use_cache" in inspect.signature(trial.called.forward).parameters:
        given["use_cache"] = False  # a cache is an object of Python, which no graph returns
    module = _Flat(trial.called, given).eval()
    try:
        with torch.no_grad(), _quiet(), _without_traces():
            graph = torch.export.export(module, args=(), kwargs=inputs, strict=False).module()
    except Exception as error:  # whatever in the model's code can't be traced
        why = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
        # the claim is of decoding, which reads tokens; pictures and sound were read before
        tokens_alone = not any(one.is_floating_point() for one in inputs.values())
        if tokens_alone and getattr(trial.model, "_can_compile_fullgraph", False):
            return Observation(False, "not exported", "a graph, which the class claims to compile to", why)
        raise NotApplicable(f"torch.export stops: {why}") from error
    torch.manual_seed(CALL_SEED)
    with torch.no_grad():
        found = {name: one.cpu() for name, one in graph(**inputs).items() if not is_cache(name)}
    expected = {name: one for name, one in trial.outputs.items() if not is_cache(name)}
    return Observation.of(trial.agree(found, expected), f"1 in each of {len(expected)} outputs")


class _Flat(nn.Module):
    """A model whose outputs are one flat table of tensors, and whose arguments that are no tensors are fixed."""

    def __init__(self, model: nn.Module, given: dict[str, Any]) -> None:
        super().__init__()
        self.model = model
        self.given = given

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        return attached(self.model(**inputs, **self.given))


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter logs and prints what stops it, with the whole graph."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


@contextmanager
def _without_traces() -> Iterator[None]:
    """The exporter notes for every operator the lines of Python that called it, a third of its time; nobody reads
    them here."""
    if not hasattr(config, "do_not_emit_stack_traces"):  # of older releases
        yield
        return
    before, config.do_not_emit_stack_traces = config.do_not_emit_stack_traces, True
    try:
        yield
    finally:
        config.do_not_emit_stack_traces = before
