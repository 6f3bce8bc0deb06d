"""The source of functions, with all of ours that they call: what a script without proofbook takes over."""

import ast
import builtins
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FunctionType, ModuleType
from typing import Any

OURS = __name__.partition(".")[0]


class NotPlain(TypeError):
    """Something that a function names can't stand in a script; the message says what."""


class Bundle:
    """Lines of imports, and definitions in an order in which each stands below those that it needs.

    Args:
        top: the function that stands above all, to be read first: what it needs must be there only when it is called.
        instead: functions that stand in for others of the same name.
    """

    def __init__(self, top: str = "", instead: Mapping[FunctionType, FunctionType] | None = None) -> None:
        self._top = top
        self._instead = dict(instead or {})
        self.imports: set[str] = set()
        self._constants: list[str] = []
        self._definitions: dict[str, str] = {}
        self._taken: dict[str, Any] = {}

    @property
    def names(self) -> frozenset[str]:
        """What is defined or imported."""
        return frozenset(self._taken)

    @property
    def definitions(self) -> str:
        """Constants, then functions and classes."""
        ordered = sorted(self._definitions, key=lambda name: name != self._top)
        sources = [self._definitions[name] for name in ordered]
        return "\n\n\n".join([*["\n".join(self._constants)] * bool(self._constants), *sources])

    def take(self, name: str, value: Any, home: ModuleType) -> None:
        """Add what a name stands for in a module: an import, a constant, or a definition with all that it names.

        Raises:
            NotPlain: it is of ours and none of these, or the name stands for something else already.
        """
        value = inspect.unwrap(value) if callable(value) else value
        if isinstance(value, FunctionType):
            value = self._instead.get(value, value)
        if name in self._taken:
            if self._taken[name] is not value:
                raise NotPlain(f"{name} stands for two things")
            return
        self._taken[name] = value
        if isinstance(value, ModuleType):
            self.imports.add(_import(value.__name__, name))
        elif isinstance(value, bool | int | float | str):
            self._constants.append(f"{name} = {value!r}")
        elif source := _assignment(name, home):  # an alias of what is not ours among them
            for used, found in _named(source, home):
                if used != name:
                    self.take(used, found, home)
            self._definitions[name] = source  # it may name definitions
        elif not _is_ours(value):
            self.imports.add(f"from {value.__module__} import {name}")
        elif isinstance(value, FunctionType | type):
            source, at = _source(value), sys.modules[value.__module__]
            for used, found in _named(source, at):
                self.take(used, found, at)
            self._definitions[name] = source
        else:
            raise NotPlain(f"{name} is no constant of {home.__name__}")


def bundled(
    functions: Sequence[Callable[..., Any]], instead: Mapping[FunctionType, FunctionType] | None = None
) -> Bundle:
    """Functions with all that they name, the first at the top. Raises :class:`NotPlain`."""
    bundle = Bundle(top=functions[0].__name__, instead=instead)
    for function in functions:
        bundle.take(function.__name__, function, sys.modules[function.__module__])
    return bundle


def _is_ours(value: Any) -> bool:
    module = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", OURS)
    return str(module).partition(".")[0] == OURS


def _import(module: str, name: str) -> str:
    if module == name:
        return f"import {module}"
    parent, _, child = module.rpartition(".")
    return f"from {parent} import {child}" if child == name else f"import {module} as {name}"


def _source(value: Any) -> str:
    """The source of a function or class, without decorators of ours, which only register it."""
    text = inspect.getsource(value)
    node = ast.parse(text).body[0]
    assert isinstance(node, ast.FunctionDef | ast.ClassDef)
    lines = text.rstrip().splitlines()
    names = vars(sys.modules[value.__module__])
    dropped: set[int] = set()
    for decorator in node.decorator_list:
        first = next(each.id for each in ast.walk(decorator) if isinstance(each, ast.Name))
        if _is_ours(names[first]):
            dropped |= set(range(decorator.lineno, (decorator.end_lineno or decorator.lineno) + 1))
    return "\n".join(line for number, line in enumerate(lines, start=1) if number not in dropped)


def _assignment(name: str, home: ModuleType) -> str:
    """The statement that gives a name its value in a module; empty where it has none."""
    text = inspect.getsource(home)
    for node in ast.parse(text).body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return ast.get_source_segment(text, node) or ""
    return ""


def _named(source: str, home: ModuleType) -> Iterator[tuple[str, Any]]:
    """The names of a definition that its module gives a meaning."""
    known = vars(home)
    names = {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
    return ((name, known[name]) for name in sorted(names) if name in known and not hasattr(builtins, name))
