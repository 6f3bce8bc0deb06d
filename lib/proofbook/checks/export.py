"""Can torch.export make a graph of it, and does the graph compute the same?"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from proofbook.checks.plain import agree, call, placed, rounding
from proofbook.checks.registry import NotApplicable, Observation, check
from proofbook.checks.reproduction import reproduces
from proofbook.checks.trial import Trial
from proofbook.checks.truth import CALL_SEED
from proofbook.runtimes.exporting import tensors_of, traced
from proofbook.runtimes.outputs import is_cache

# the flag by which a class claims that its forward is one graph
CLAIM = "_can_compile_fullgraph"


@check
def exported_graph(trial: Trial) -> Observation:
    """The graph of torch.export gives the model's numbers; a class that claims to compile as one graph exports."""
    inputs = trial.session.place(trial.inputs)
    tensors = tensors_of(inputs)
    try:
        graph = traced(trial.called, inputs).module()
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
        found = {name: one.cpu() for name, one in graph(tensors).items() if not is_cache(name)}
    expected = {name: one for name, one in trial.outputs.items() if not is_cache(name)}
    return Observation.of(trial.agree(found, expected), f"1 in each of {len(expected)} outputs")


@reproduces(exported_graph)
def it_exports(model: nn.Module, inputs: Mapping[str, Any], dtype: torch.dtype, claim: str) -> None:
    """torch.export makes a graph of a model whose class claims to compile as one."""
    call(model, inputs, dtype)
    try:
        traced(model, placed(model, inputs, dtype))
    except Exception as error:
        said = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        raise AssertionError(f"observed {said}, allowed a graph, as {claim} claims") from error


@reproduces(exported_graph)
def graph_gives_the_same(
    model: nn.Module, inputs: Mapping[str, Any], dtype: torch.dtype, tolerance: Mapping[str, float]
) -> None:
    """The graph of torch.export gives what the model gives."""
    expected, noise = call(model, inputs, dtype), rounding(model, inputs, dtype)
    given = placed(model, inputs, dtype)
    graph = traced(model, given).module()
    torch.manual_seed(CALL_SEED)  # as `call`
    with torch.no_grad():
        found = {name: one.cpu() for name, one in graph(tensors_of(given)).items()}
    agree(found, {name: one for name, one in expected.items() if not is_cache(name)}, tolerance, noise)
