"""Modes of torch in which what its code computes is watched or changed: each says only what becomes of a call."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


class FunctionMode(TorchFunctionMode):
    """Gets every call of a function of torch, as Python code makes it."""

    def called(self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """What the call gives."""
        raise NotImplementedError

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return self.called(func, args, dict(kwargs or {}))


class OperatorMode(TorchDispatchMode):
    """Gets every call of an operator, which functions of torch come down to, those of gradients as well."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def called(self, operator: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """What the call gives."""
        raise NotImplementedError

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return self.called(func, args, dict(kwargs or {}))
