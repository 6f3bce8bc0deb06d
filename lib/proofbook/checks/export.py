"""Can torch.export make a graph of it, and does the graph compute the same?"""

import inspect
import io
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import config

from proofbook.checks.plain import agree, call, placed, rounding
from proofbook.checks.registry import NotApplicable, Observation, check
from proofbook.checks.reproduction import reproduces
from proofbook.checks.trial import Trial
from proofbook.checks.truth import CALL_SEED
from proofbook.runtimes.outputs import attached, is_cache

# the flag by which a class claims that its forward is one graph
CLAIM = "_can_compile_fullgraph"


@check
def exported_graph(trial: Trial) -> Observation:
    """The graph of torch.export gives the model's numbers; a class that claims to compile as one graph exports."""
    inputs = trial.session.place(trial.inputs)
    tensors = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
    try:
        with _quiet(), _without_traces():
            graph = exported(trial.called, inputs)
    except Exception as error:  # whatever in the model's code can't be traced
        why = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
        # the claim is of decoding, which reads tokens; pictures and sound were read before
        tokens_alone = not any(one.is_floating_point() for one in tensors.values())
        if tokens_alone and getattr(trial.model, CLAIM, False):
            allowed = "a graph, which the class claims to compile to"
            return Observation(False, "not exported", allowed, why, evidence={"claim": CLAIM})
        raise NotApplicable(f"torch.export stops: {why}") from error
    torch.manual_seed(CALL_SEED)
    with torch.no_grad():
        found = {name: one.cpu() for name, one in graph(**tensors).items() if not is_cache(name)}
    expected = {name: one for name, one in trial.outputs.items() if not is_cache(name)}
    return Observation.of(trial.agree(found, expected), f"1 in each of {len(expected)} outputs")


@reproduces(exported_graph)
def it_exports(model: nn.Module, inputs: Mapping[str, Any], dtype: torch.dtype, claim: str) -> None:
    """torch.export makes a graph of a model whose class claims to compile as one."""
    call(model, inputs, dtype)
    try:
        exported(model, placed(model, inputs, dtype))
    except Exception as error:
        said = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        raise AssertionError(f"observed {said}, allowed a graph, as {claim} claims") from error


@reproduces(exported_graph)
def graph_gives_the_same(
    model: nn.Module, inputs: Mapping[str, Any], dtype: torch.dtype, tolerance: Mapping[str, float]
) -> None:
    """The graph of torch.export gives what the model gives."""
    expected, noise = call(model, inputs, dtype), rounding(model, inputs, dtype)
    graph = exported(model, placed(model, inputs, dtype))
    torch.manual_seed(CALL_SEED)  # as `call`
    tensors = {name: one for name, one in placed(model, inputs, dtype).items() if isinstance(one, Tensor)}
    with torch.no_grad():
        found = {name: one.cpu() for name, one in graph(**tensors).items()}
    agree(found, {name: one for name, one in expected.items() if not is_cache(name)}, tolerance, noise)


def exported(model: nn.Module, inputs: Mapping[str, Any]) -> nn.Module:
    """The graph of a model by its inputs that are tensors, the others being fixed, and without a cache."""
    tensors = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
    fixed = {name: value for name, value in inputs.items() if name not in tensors}
    if "use_cache" in inspect.signature(model.forward).parameters:
        fixed["use_cache"] = False  # a cache is an object of Python, which no graph returns
    with torch.no_grad():
        program = torch.export.export(Flat(model, fixed).eval(), args=(), kwargs=tensors, strict=False)
    return program.module()


class Flat(nn.Module):
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
