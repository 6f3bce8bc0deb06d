"""Can torch.export make a graph of it, and does the graph compute the same, at the sizes of other inputs as well?"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from proofbook.checks.decoding import parameters
from proofbook.checks.plain import agree, call, placed, rounding
from proofbook.checks.registry import NotApplicable, Observation, check, evidence
from proofbook.checks.reproduction import reproduces
from proofbook.checks.streams import Stream, joined, slice_row, sliceable
from proofbook.checks.trial import Trial
from proofbook.checks.truth import CALL_SEED
from proofbook.runtimes.exporting import open_sizes, tensors_of, traced
from proofbook.runtimes.modes import OperatorMode
from proofbook.runtimes.outputs import is_cache

# the flag by which a class claims that its forward is one graph
CLAIM = "_can_compile_fullgraph"
# tokens that a longer text has more
LONGER = 3
# operators of a call whose sizes are left open at most: tracing them takes thrice the time of sizes that stay, which is
# most of a second for so many, and minutes where sizes are sums of many others
OPERATORS = 250


@check(floats=True)
def exported_graph(trial: Trial) -> Observation:
    """A graph of torch.export gives the model's numbers, and at other sizes than the traced ones too or refuses them.

    A class that claims to compile as one graph exports; no class claims that its sizes can stay open.
    """
    inputs = trial.session.place(trial.inputs)
    with _Counting() as counting:
        trial.run()
    few = counting.count <= OPERATORS
    others, usual = dict[str, Any](), {"": trial.outputs}
    for name, one, outputs in _others(trial) if few else ():
        others[name], usual[name] = trial.session.place(one), outputs
    try:
        program, fixed = _exported(trial.called, inputs, others)
    except Exception as error:  # whatever in the model's code can't be traced
        why = _first_line(error)
        # the claim is of decoding, which reads tokens; pictures and sound were read before
        tokens_alone = not any(one.is_floating_point() for one in tensors_of(inputs).values())
        if tokens_alone and getattr(trial.model, CLAIM, False):
            allowed = "a graph, which the class claims to compile to"
            return Observation(False, "not exported", allowed, why, evidence={"claim": CLAIM})
        raise NotApplicable(f"torch.export stops: {why}") from error
    fixed = fixed if few else f"a call runs {counting.count} operators, and sizes are left open of {OPERATORS} at most"
    graph, comparisons, notes = program.module(), [], [f"only at the batch's sizes: {fixed}"] * bool(fixed)
    asked = []
    for name, given in {"": inputs, **({} if fixed else others)}.items():
        with evidence(others=[*others.values()]):
            found = outputs_of(graph, given)
        if found is None and name:
            notes.append(f"refuses {name}")
            continue
        expected = {path: one for path, one in usual[name].items() if not is_cache(path)}
        note, noisy = (f", {name}", given) if name else ("", None)
        comparisons += trial.agree(found or {}, expected, note, noisy)
        asked += [name] * bool(name)
    count = sum(not is_cache(name) for name in trial.outputs)
    allowed = f"1 in each of {count} outputs" + (f"; of {', '.join(asked)} as well" if asked else "")
    seen = Observation.of(comparisons, allowed, "; ".join(notes))
    return replace(seen, evidence={"others": [] if fixed else [*others.values()]})


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
    model: nn.Module,
    inputs: Mapping[str, Any],
    dtype: torch.dtype,
    tolerance: Mapping[str, float],
    others: list[Mapping[str, Any]],
) -> None:
    """The graph of torch.export gives what the model gives, at the sizes of other inputs too or refuses them."""
    usual = call(model, inputs, dtype)
    every = [placed(model, one, dtype) for one in (inputs, *others)]
    graph = traced(model, every[0], open_sizes(every), Dim.AUTO).module()
    for given in every:
        expected = usual if given is every[0] else call(model, given, dtype)
        found = outputs_of(graph, given)
        if found is not None:
            true = {name: one for name, one in expected.items() if not is_cache(name)}
            agree(found, true, tolerance, rounding(model, given, dtype))


def outputs_of(graph: nn.Module, given: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """What a graph gives but for caches, on the CPU; None where it refuses the sizes by a guard."""
    torch.manual_seed(CALL_SEED)  # as `call`
    try:
        with torch.no_grad():
            found = graph(tensors_of(given))
    except (AssertionError, RuntimeError) as error:
        # of sizes that hang on the data an assertion of the graph's own; the second before torch 2.9
        if str(error).startswith(("Guard failed", "Expected input", "Runtime assertion failed")):
            return None
        raise
    return {name: one.cpu() for name, one in found.items() if not is_cache(name)}


def _exported(
    model: nn.Module, inputs: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]]
) -> tuple[ExportedProgram, str]:
    """A graph that leaves open the sizes in which other inputs differ, or some of them; or, where torch.export has
    none, one of the sizes of the inputs and the reason."""
    sizes = open_sizes([inputs, *others.values()])
    try:
        return traced(model, inputs, sizes, Dim.AUTO), ""
    except Exception as error:  # whatever in the model's code can't be traced
        if not any(None in one for one in sizes.values()):
            raise
        return traced(model, inputs), _first_line(error)


def _others(trial: Trial) -> Iterator[tuple[str, dict[str, Any], dict[str, Tensor]]]:
    """Inputs of other sizes than the batch, and what the model gives for them, as far as it takes them: its first row
    as it is encoded alone, and a row and some tokens more."""
    batch, rows = trial.inputs, len(trial.rows)
    alone = trial.encode(trial.rows[:1]).inputs
    larger = joined([batch, slice_row(batch, 0)]) if sliceable(batch, rows) else dict(batch)
    for side in ("decoder_", ""):
        stream = Stream(f"{side}input_ids", f"{side}attention_mask")
        if isinstance(batch.get(stream.tokens), Tensor) and stream.mask in parameters(trial):
            last = larger[stream.tokens][:, -LONGER:]
            found = stream.extended(larger, last)
            larger = {name: found[name] for name in batch}
    for name, one in (("a row alone", alone), ("a row and tokens more", larger)):
        if list(tensors_of(one)) == list(tensors_of(batch)) and _shapes(one) != _shapes(batch):
            try:
                outputs = trial.run(one)
            except Exception:  # of what the model itself refuses no graph is asked
                continue
            yield name, one, outputs


class _Counting(OperatorMode):
    """Counts the operators of torch that run."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def called(self, operator: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        self.count += 1
        return operator(*args, **kwargs)


def _shapes(inputs: Mapping[str, Any]) -> list[torch.Size]:
    return [one.shape for one in tensors_of(inputs).values()]


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
