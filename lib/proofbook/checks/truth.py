"""Truth: the same weights and inputs in float64, eager attention, on the CPU; and the noise floor held against it."""

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import count
from typing import Any, Self

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

from proofbook.runtimes.modes import FunctionMode, OperatorMode
from proofbook.runtimes.outputs import flatten
from proofbook.runtimes.quantised import dequantised

# models draw noise in places even in eval mode (stochastic vocoders, sampled codebooks)
CALL_SEED = 20261123


@dataclass(frozen=True)
class Truth:
    """The true outputs, by path, and the rule by which they were had."""

    outputs: dict[str, torch.Tensor]
    rule: str
    exact: bool
    # when it was computed, where that was for another case: UTC, ISO 8601
    kept: str = ""


_DRAWS: tuple[Callable[..., Any], ...] = (torch.randn, torch.rand, torch.randn_like, torch.rand_like)
_FILLS: tuple[Callable[..., Any], ...] = (torch.Tensor.normal_, torch.Tensor.uniform_)


class Float64(FunctionMode):
    """Computes in float64 what a model's code asks to be computed in float32.

    Models name float32 where a half precision would not do: in norms, softmax and rotary embeddings. In a model
    of float64 those lines lower the precision instead, so under this mode every mention of float32 means float64,
    and so does every tensor made without naming a dtype. Noise is that of the model in its own dtype, ``drawn``: the
    same seed gives other numbers in float64.
    """

    def __init__(self, drawn: torch.dtype = torch.float32) -> None:
        super().__init__()
        self._drawn = drawn

    def __enter__(self) -> Self:
        self._default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        return super().__enter__()  # type: ignore[no-untyped-call,no-any-return]

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)  # type: ignore[no-untyped-call]
        torch.set_default_dtype(self._default)

    def called(self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        if function is torch.Tensor.float:
            return args[0].double()
        raised_args = [torch.float64 if argument is torch.float32 else argument for argument in args]
        raised = {key: torch.float64 if argument is torch.float32 else argument for key, argument in kwargs.items()}
        if function in _DRAWS:
            own = "dtype" in raised or function in (torch.randn_like, torch.rand_like)
            return function(*args, **{**raised, "dtype": self._drawn if own else torch.float32}).double()
        if function in _FILLS:
            return args[0].copy_(function(args[0].to(self._drawn), *args[1:], **raised))
        return function(*raised_args, **raised)


def truth_of(model: nn.Module, inputs: Mapping[str, Any]) -> Truth:
    """Run a copy of the model, its weights as they are, in float64 with eager attention on the CPU.

    Where the model can't run in float64 the truth is eager float32, and the rule says so.
    """
    try:
        outputs = run_reference(reference_model(model, torch.float64), inputs, torch.float64, drawn=_dtype_of(model))
        return Truth(outputs, "float64, eager attention, CPU", exact=True)
    except Exception as error:  # any operator may lack float64: the weaker rule is named, not hidden
        outputs = run_reference(reference_model(model, torch.float32), inputs, torch.float32)
        rule = f"float32, eager attention, CPU, because float64 raised {type(error).__name__}: {error}"
        return Truth(outputs, rule, exact=False)


def floor_outputs(model: nn.Module, inputs: Mapping[str, Any], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The outputs of eager attention in a dtype on the CPU: their distance from truth is the noise floor."""
    return run_reference(reference_model(model, dtype), inputs, dtype)


class Rounding(OperatorMode):
    """Changes each value that an operation makes of weights, at random, by as much as rounding to a dtype changes it.

    fl(x op y) = (x op y) (1 + d), |d| at most half an eps: the standard model of floating-point arithmetic (Higham,
    Accuracy and Stability of Numerical Algorithms, 2.2). What is made of constants alone, as the buckets of relative
    positions are, is the same in every execution.
    """

    def __init__(self, weights: Iterable[torch.Tensor], dtype: torch.dtype, seed: int) -> None:
        super().__init__()
        self._eps = torch.finfo(dtype).eps
        self._generator = torch.Generator().manual_seed(seed)
        self._made = WeakTensorKeyDictionary()  # of weights, as a set
        self._made.update((one, True) for one in weights)

    def called(self, operator: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        given = operator(*args, **kwargs)
        if not any(one in self._made for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)):
            return given
        schema = operator._schema
        if operator.overloadpacket is torch.ops.aten._log_softmax:
            given += self.rounded(args[0] - given) - (args[0] - given)  # it rounds the sum that it subtracts
        if not any(one.alias_info for one in schema.returns):  # else a view, or written in place
            given = tree_map_only(torch.Tensor, self.rounded_unless_exact, given)
        self._made.update((one, True) for one in tree_leaves(given) if isinstance(one, torch.Tensor))
        return given

    def rounded_unless_exact(self, value: torch.Tensor) -> torch.Tensor:
        """The tensor rounded but for zeros and ones, of which masks are made: no rounding makes others of them."""
        if not value.is_floating_point():
            return value
        return torch.where((value == 0) | (value == 1), value, self.rounded(value))

    def rounded(self, exact: torch.Tensor) -> torch.Tensor:
        """The tensor rounded, one of integers as it is; so are the lowest values of masks, which must not overflow."""
        if not exact.is_floating_point():
            return exact
        drawn = torch.rand(exact.shape, generator=self._generator, dtype=exact.dtype) - 0.5
        return torch.where(exact.abs() < torch.finfo(exact.dtype).max / 2, exact * (1 + self._eps * drawn), exact)


def rounded_models(
    model: nn.Module, dtype: torch.dtype, first: int = 0
) -> Iterator[tuple[nn.Module, AbstractContextManager[object]]]:
    """Copies of the model in float64 as rounding to ``dtype`` may change it, one way after another, without end.

    Each weight is rounded at random and, in the context that comes with the copy, each value of every operation
    (:class:`Rounding`): how far results move by that is how well ``dtype`` determines them, in whatever order sums are
    taken. ``first`` ways are left out.
    """
    reference = reference_model(model, torch.float64)
    for seed in count(first):
        rounded = copied(reference)
        rounding = Rounding(rounded.parameters(), dtype, seed)
        with torch.no_grad():
            for one in rounded.parameters():
                one.copy_(rounding.rounded(one))
        yield rounded, rounding


def rounded_truths(
    model: nn.Module, inputs: Mapping[str, Any], dtype: torch.dtype, first: int = 0
) -> Iterator[dict[str, torch.Tensor]]:
    """The outputs in float64 of :func:`rounded_models`."""
    for rounded, rounding in rounded_models(model, dtype, first):
        with rounding:
            yield run_reference(rounded, inputs, torch.float64)


def copied(model: nn.Module) -> Any:
    """A copy of a model that shares nothing with it.

    Half of the time of ``copy.deepcopy`` goes into the ten empty tables that every module keeps for hooks: their copies
    are made here.
    """
    empty = {id(one): type(one)() for part in model.modules() for one in vars(part).values() if _is_empty(one)}
    return copy.deepcopy(model, empty)


def _is_empty(value: Any) -> bool:
    return type(value) in (dict, OrderedDict, set) and not value


def reference_model(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """As :func:`eager_copy`; a weight in integers is what these stand for."""
    reference: nn.Module = copied(model)
    dequantised(reference)
    return made_eager(reference, dtype)


def eager_copy(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy of the model on the CPU, in a dtype, its attention and its experts eager where one may choose."""
    return made_eager(copied(model), dtype)


def made_eager(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The model itself, moved and changed so."""
    reference = model.to("cpu", dtype).eval()
    for module in reference.modules():
        # what a module has worked out of its parameters and keeps, which follows no change of dtype
        kept = {name: one for name, one in vars(module).items() if isinstance(one, torch.Tensor)}
        vars(module).update({name: one.to("cpu", dtype) for name, one in kept.items() if one.is_floating_point()})
    for part in ("attn", "experts"):
        choose = getattr(reference, f"set_{part}_implementation", None)
        if choose is not None:
            choose("eager")
    return reference


def in_dtype(inputs: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Copies of the inputs on the CPU, the floating ones in a dtype."""

    def convert(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().clone().to("cpu", dtype if tensor.is_floating_point() else tensor.dtype)

    return dict(tree_map_only(torch.Tensor, convert, dict(inputs)))


def computing_in(dtype: torch.dtype, drawn: torch.dtype = torch.float32) -> AbstractContextManager[object]:
    """The mode under which a reference model of that dtype runs, its noise that of a model of dtype ``drawn``."""
    return Float64(drawn) if dtype is torch.float64 else nullcontext()


def _dtype_of(model: nn.Module) -> torch.dtype:
    return next((one.dtype for one in model.parameters() if one.is_floating_point()), torch.float32)


def run_reference(
    model: nn.Module, inputs: Mapping[str, Any], dtype: torch.dtype, drawn: torch.dtype = torch.float32
) -> dict[str, torch.Tensor]:
    """The outputs of a reference model of that dtype, its noise that of a model of dtype ``drawn``."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]), computing_in(dtype, drawn):
        torch.manual_seed(CALL_SEED)
        return flatten(model(**in_dtype(inputs, dtype)))
