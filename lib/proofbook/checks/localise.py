"""Where do two executions part? Module by module, then operator by operator, the first to add an error of its own."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import torch
from torch import nn

from proofbook.checks.hidden import without_padding
from proofbook.checks.plain import placed
from proofbook.checks.truth import CALL_SEED, computing_in
from proofbook.runtimes.modes import OperatorMode
from proofbook.runtimes.outputs import flatten
from proofbook.runtimes.runtime import Trace

# an error this many times that of the inputs is a module's or an operator's own
GROWTH = 10.0
# operators that move values and compute none
_MOVES = ("clone", "detach", "_unsafe_view", "empty", "fill", "lift_fresh", "scalar_tensor")

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Execution:
    """One call of a model where it is: with these inputs, floating ones in its dtype; all rows of it, or one, and all
    tokens, or some. It may be the last of several, of which the others left it a cache."""

    model: nn.Module
    inputs: Mapping[str, Any]
    row: int | None = None
    # which tokens are looked at: a boolean for each that a row has
    seen: torch.Tensor | None = None
    # makes the calls before this one, and gives what they hand on to it beside its inputs
    before: Callable[[], Mapping[str, Any]] = dict

    @property
    def dtype(self) -> torch.dtype:
        """That of the model's parameters."""
        return next(one.dtype for one in self.model.parameters() if one.is_floating_point())

    def ready(self) -> Callable[[], Any]:
        """Make the calls before this one; what is returned makes this one, once."""
        given = {**placed(self.model, self.inputs, self.dtype), **self.before()}

        def call() -> Any:
            with torch.no_grad(), torch.random.fork_rng(devices=[]), computing_in(self.dtype):
                torch.manual_seed(CALL_SEED)
                return self.model(**given)

        return call

    def kept(self, values: Any) -> Tensors:
        """Copies on the CPU of all tensors in what goes into or comes out of a call, of what is looked at."""
        return {name: self._looked_at(one).detach().to("cpu", copy=True) for name, one in flatten(values).items()}

    def _looked_at(self, tensor: torch.Tensor) -> torch.Tensor:
        size = max((len(one) for one in self.inputs.values() if isinstance(one, torch.Tensor) and one.dim()), default=0)
        if self.row is not None and tensor.dim() and len(tensor) == size:
            tensor = tensor[self.row : self.row + 1]
        if self.seen is None:
            return tensor
        kept = self.seen.nonzero().flatten().to(tensor.device)
        # states of tokens, by heads as well; of four dimensions the last may be that of what a token attends to
        dims = range(1, max(2, tensor.dim() - 1)) if tensor.dim() != 4 else (1, 2, 3)
        for dim in dims if tensor.dim() > 1 else ():
            if tensor.shape[dim] == len(self.seen):
                tensor = tensor.index_select(dim, kept)
        return tensor


@dataclass(frozen=True)
class Step:
    """One call of a module or an operator: the relative RMSE between two executions of its inputs and its outputs."""

    name: str
    kind: str
    inputs: float
    outputs: float
    # the how manieth call of that module
    call: int = 0


def walk(actual: Execution, expected: Execution) -> list[Step]:
    """Both executions side by side; the steps in the order in which modules return."""
    seen, true = _recorded(actual), _recorded(expected)
    kinds = {name: type(module).__name__ for name, module in actual.model.named_modules()}
    return [
        Step(name, kinds[name], _distance(seen[name, call][0], ins), _distance(seen[name, call][1], outs), call)
        for (name, call), (ins, outs) in true.items()
        if (name, call) in seen
    ]


def walk_graph(trace: Trace, inputs: Mapping[str, Any]) -> list[Step]:
    """The operations of a graph whose values the target shows, held against torch's own where no mask among the inputs
    hides them, in their order."""
    seen, true = (without_padding(one, inputs) for one in (trace.seen, trace.expected))
    steps, off = [], dict[str, float]()
    for one in trace.operations:
        read = max((off.get(name, 0.0) for name in one.reads), default=0.0)
        # what the target does not show, as it computes it with others, is as far off as what it reads
        off[one.name] = _distance(_only(seen, one.name), _only(true, one.name)) if one.name in seen else read
        if one.name in seen:
            steps.append(Step(" ".join(filter(None, (one.module, one.name))), one.kind, read, off[one.name]))
    return steps


def _only(values: Mapping[str, torch.Tensor], name: str) -> Tensors:
    return {"": values[name]} if name in values else {}


def operators(actual: Execution, expected: Execution, within: Step) -> list[Step]:
    """The operators of torch that one call of a module runs, in both executions, in their order.

    Where the two run different operators (another kernel, another implementation of attention), all up to the next
    that they share are one step.
    """
    seen, true = _watched(actual, within), _watched(expected, within)
    names = [one.name for one in seen], [one.name for one in true]
    steps = []
    for kind, a, b, c, d in SequenceMatcher(None, *names, autojunk=False).get_opcodes():
        pairs = list(zip(seen[a:b], true[c:d], strict=True)) if kind == "equal" else [(seen[a:b], true[c:d])]
        for one, other in pairs:
            ours, theirs = _together(one), _together(other)
            if ours and theirs:
                name = ours.name if kind == "equal" else f"{ours.name} / {theirs.name}"
                ins, outs = _distance(ours.inputs, theirs.inputs), _distance(ours.outputs, theirs.outputs)
                steps.append(Step(name, "operator", ins, outs))
    return steps


def first_divergence(steps: Sequence[Step], floor: float) -> Step | None:
    """The first call whose outputs are off by more than the floor although its inputs agree; None if there is none."""
    for step in steps:
        if step.outputs > floor and step.outputs > GROWTH * step.inputs:
            return step
    return None


def steepest(steps: Sequence[Step], floor: float) -> Step | None:
    """The call that multiplies the error of its inputs the most; inputs nearer than the floor count as that far."""

    def growth(step: Step) -> float:
        return step.outputs / max(step.inputs, floor) if math.isfinite(step.inputs) else 0.0

    return max(steps, key=growth, default=None)


def _recorded(execution: Execution) -> dict[tuple[str, int], tuple[Tensors, Tensors]]:
    """What goes into and comes out of every module's call, by the module's name and the number of the call."""
    call = execution.ready()
    seen: dict[tuple[str, int], tuple[Tensors, Tensors]] = {}
    counts: dict[str, int] = {}
    handles = []
    for name, module in execution.model.named_modules():

        def keep(_: nn.Module, args: Any, kwargs: Any, output: Any, name: str = name) -> None:
            number = counts[name] = counts.get(name, -1) + 1
            seen[name, number] = (execution.kept([args, kwargs]), execution.kept(output))

        handles.append(module.register_forward_hook(keep, with_kwargs=True))
    try:
        call()
    finally:
        for handle in handles:
            handle.remove()
    return seen


@dataclass(frozen=True)
class _Operation:
    """One operator as it was called."""

    name: str
    inputs: Tensors
    outputs: Tensors


class _Watch(OperatorMode):
    """Keeps every operator that computes something."""

    def __init__(self, kept: Callable[[Any], Tensors]) -> None:
        super().__init__()
        self.kept = kept
        self.seen: list[_Operation] = []

    def called(self, operator: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        name = str(operator.overloadpacket).removeprefix("aten.")
        computes = not operator.is_view and not name.startswith(_MOVES)
        inputs = self.kept([args, kwargs]) if computes else {}
        result = operator(*args, **kwargs)
        if computes:
            # a kernel may give more than the value that another way of computing it gives
            value = result[0] if isinstance(result, tuple) else result
            self.seen.append(_Operation(name, inputs, self.kept(value)))
        return result


def _watched(execution: Execution, within: Step) -> list[_Operation]:
    """The operators of one call of one module."""
    call, watch, calls = execution.ready(), _Watch(execution.kept), [-1]
    module = execution.model.get_submodule(within.name)

    def enter(*_: Any) -> None:
        calls[0] += 1
        if calls[0] == within.call:
            watch.__enter__()  # type: ignore[no-untyped-call]

    def leave(*_: Any) -> None:
        if calls[0] == within.call:
            watch.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    handles = [module.register_forward_pre_hook(enter), module.register_forward_hook(leave, always_call=True)]
    try:
        call()
    finally:
        for handle in handles:
            handle.remove()
    return watch.seen


def _together(operations: "_Operation | Sequence[_Operation]") -> _Operation | None:
    """Several operators as one: what goes into the first and comes out of the last; None where there are none."""
    if isinstance(operations, _Operation):
        return operations
    if not operations:
        return None
    name = " + ".join(one.name for one in operations)
    return _Operation(name, operations[0].inputs, operations[-1].outputs)


def _distance(actual: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> float:
    """The largest relative RMSE between floating tensors of the same name and shape; masked values count when equal.

    Whole numbers (tokens, positions) are the same, or infinitely far apart.
    """
    worst = 0.0
    for name, true in expected.items():
        tensor = actual.get(name)
        if tensor is None or tensor.numel() != true.numel() or "mask" in name:
            continue  # a mask has another form for each attention implementation
        tensor = tensor.reshape(true.shape)  # kernels fold heads into rows, or don't
        if not true.is_floating_point():
            worst = worst if torch.equal(tensor, true) else math.inf
            continue
        limit = torch.finfo(tensor.dtype if tensor.is_floating_point() else torch.float32).max / 2
        a, b = tensor.double().clamp(-limit, limit), true.double().clamp(-limit, limit)
        valid = (b.abs() < limit) & b.isfinite()
        if valid.any():
            scale = float(b[valid].square().mean().sqrt()) or 1.0
            error = torch.nan_to_num(a[valid] - b[valid], nan=torch.inf)
            worst = max(worst, float(error.square().mean().sqrt()) / scale)
    return worst
