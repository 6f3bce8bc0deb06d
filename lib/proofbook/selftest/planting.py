"""How a fault gets into a model: hooks, replaced functions, intercepted operators. All are undone."""

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import wraps
from types import ModuleType
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from proofbook.checks.registry import NotApplicable
from proofbook.checks.trial import Trial
from proofbook.runtimes.modes import FunctionMode


@contextmanager
def replaced(owner: Any, name: str, make: Callable[[Any], Any]) -> Iterator[None]:
    """Put ``make(original)`` in the place of an attribute of a class or module."""
    original = getattr(owner, name)
    own = name in vars(owner)
    setattr(owner, name, make(original))
    try:
        yield
    finally:
        if own:
            setattr(owner, name, original)
        else:
            delattr(owner, name)


@contextmanager
def replaced_in_code(trial: Trial, names: Sequence[str], make: Callable[[Any], Any]) -> Iterator[None]:
    """Replace functions of these names in every module of transformers that the model's code is in.

    Raises:
        NotApplicable: its code uses none of them.
    """
    found = [(module, name) for module in _code_of(trial.model) for name in names if hasattr(module, name)]
    if not found:
        raise NotApplicable(f"its code calls none of {', '.join(names)}")
    originals = [(module, name, getattr(module, name)) for module, name in found]
    for module, name, original in originals:
        setattr(module, name, make(original))
    try:
        yield
    finally:
        for module, name, original in originals:
            setattr(module, name, original)


def _code_of(model: nn.Module) -> list[ModuleType]:
    names = {kind.__module__ for module in model.modules() for kind in type(module).__mro__}
    return [sys.modules[name] for name in sorted(names) if name.startswith("transformers.models.")]


def called(trial: Trial, *kinds: type[nn.Module]) -> list[tuple[str, nn.Module]]:
    """The modules of these kinds that a call of the batch runs through, each once, in the order of their calls.

    Raises:
        NotApplicable: there is none.
    """
    names = {id(module): name for name, module in part_called(trial).named_modules()}
    seen: dict[str, nn.Module] = {}

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(module, kinds) and id(module) in names:
            seen.setdefault(names[id(module)], module)

    handle = register_module_forward_hook(keep)
    try:
        trial.run()
    finally:
        handle.remove()
    if not seen:
        raise NotApplicable(f"runs through no {' or '.join(kind.__name__ for kind in kinds)}")
    return list(seen.items())


def part_called(trial: Trial) -> nn.Module:
    """The module whose forward the task calls."""
    part = trial.model.get_submodule(trial.encoded.module)
    assert isinstance(part, nn.Module)
    return part


@contextmanager
def spoiled(
    trial: Trial, names: Sequence[str], spoil: Callable[[nn.Module], AbstractContextManager[None]]
) -> Iterator[None]:
    """Let ``spoil`` have modules, named within the part that is called, while it is called, in every copy of it."""

    def make(forward: Any) -> Any:
        @wraps(forward)
        def wrong(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
            with ExitStack() as stack:
                for name in names:
                    stack.enter_context(spoil(self.get_submodule(name)))
                return forward(self, *args, **kwargs)

        return wrong

    with replaced(type(part_called(trial)), "forward", make):
        yield


@contextmanager
def returning(change: Callable[[Any], Any], module: nn.Module) -> Iterator[None]:
    """Let ``change`` have what a module returns."""
    handle = module.register_forward_hook(lambda _module, _args, output: change(output))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def having(attributes: Mapping[str, Any], module: nn.Module) -> Iterator[None]:
    """Set those attributes that a module has."""
    right = {name: getattr(module, name) for name in attributes if hasattr(module, name)}
    for name in right:
        setattr(module, name, attributes[name])
    try:
        yield
    finally:
        for name, value in right.items():
            setattr(module, name, value)


@contextmanager
def hooked_everywhere(kind: type[nn.Module], change: Callable[[nn.Module, Any], Any]) -> Iterator[None]:
    """Let ``change`` have what every module of a class returns, in whatever copy of the model."""

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        return change(module, output) if type(module) is kind else None

    handle = register_module_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def arguments_changed(trial: Trial, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Iterator[None]:
    """Let ``change`` have the keyword arguments of every call of the class of the part that is called."""

    def make(forward: Any) -> Any:
        @wraps(forward)
        def changed(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
            given = inspect.signature(forward).bind_partial(self, *args, **kwargs).arguments
            given |= given.pop("kwargs", {})
            return forward(**change(given))

        return changed

    with replaced(type(part_called(trial)), "forward", make):
        yield


class Intercepted(FunctionMode):
    """Calls ``change(function, args, kwargs)`` in the place of each function of torch named."""

    def __init__(self, functions: Sequence[Any], change: Callable[[Any, Sequence[Any], dict[str, Any]], Any]) -> None:
        super().__init__()
        self.functions = tuple(functions)
        self.change = change
        self.count = 0

    def called(self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        if function not in self.functions:
            return function(*args, **kwargs)
        self.count += 1
        return self.change(function, args, kwargs)


@contextmanager
def intercepted(
    trial: Trial, functions: Sequence[Any], change: Callable[[Any, Sequence[Any], dict[str, Any]], Any]
) -> Iterator[None]:
    """Let ``change`` have the calls of functions of torch.

    Raises:
        NotApplicable: a call of the batch calls none of them.
    """
    with Intercepted(functions, lambda function, args, kwargs: function(*args, **kwargs)) as counting:
        trial.run()
    if not counting.count:
        raise NotApplicable(f"calls no {' or '.join(function.__name__ for function in functions)}")
    with Intercepted(functions, change):
        yield


def first_floating(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """An output with its first floating tensor changed: a tensor, a tuple, or a ``ModelOutput``."""
    if isinstance(output, Tensor):
        return change(output)
    if isinstance(output, tuple | list):
        at = next((index for index, one in enumerate(output) if _floating(one)), None)
        return type(output)(change(one) if index == at else one for index, one in enumerate(output))
    if isinstance(output, Mapping):
        name = next((name for name, one in output.items() if _floating(one)), None)
        if name is not None:
            output[name] = change(output[name])  # type: ignore[index]
    return output


def _floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 0


def rms(tensor: Tensor) -> float:
    """The root mean square of the finite values."""
    values = tensor.detach()[tensor.isfinite()].double()
    return float(values.square().mean().sqrt()) if values.numel() else 0.0


def padded_mask(trial: Trial) -> Tensor:
    """The attention mask of the batch.

    Raises:
        NotApplicable: there is none, or it hides nothing.
    """
    mask = trial.inputs.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.dim() != 2 or bool(mask.all()):
        raise NotApplicable("no mask of the batch hides a position")
    return mask
