"""Reads ``params/`` into a :class:`Catalog`. Imports neither torch nor transformers: planning must be instant."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from proofbook.catalog.schema import (
    Category,
    DerivedException,
    Entry,
    KnownFault,
    Model,
    Suite,
    Switched,
    Target,
    Tolerance,
)
from proofbook.paths import params_dir

T = TypeVar("T")
E = TypeVar("E", bound=Entry)


class ParamsError(ValueError):
    """A file of ``params/`` that can't be used; the message names the file, the key and what is allowed."""


class UnknownName(LookupError):
    """A name that the catalog does not have; the message lists what it has, the nearest first."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        guess = f" Did you mean {' or '.join(near)}?" if near else ""
        listed = ", ".join(known) if len(known) <= 40 else f"`proofbook list {kind}s` shows all {len(known)}"
        super().__init__(f"unknown {kind} {name!r}.{guess} Known: {listed}")


@dataclass(frozen=True)
class Catalog:
    """Everything that ``params/`` says, by name."""

    models: Mapping[str, Model]
    targets: Mapping[str, Target]
    suites: Mapping[str, Suite]
    tolerances: Mapping[str, Tolerance]
    # by model type, of entries that discovery derives
    exceptions: Mapping[str, DerivedException] = field(default_factory=dict)
    # what shows only in variants
    switched: tuple[Switched, ...] = ()

    def model(self, name: str) -> Model:
        """The model of that name: an entry of ``params/models/``, else one that discovery derives, named by its type.

        Raises:
            UnknownName: neither has it.
        """
        from proofbook.catalog.discovery import may_have, released_types

        if name in self.models:
            return self.models[name]
        if not may_have(name):  # a slip is no reason to look at all of transformers
            raise UnknownName("model", name, {*self.models, *released_types()})
        return _named("model", name, self.every_model())

    def every_model(self) -> dict[str, Model]:
        """The models of ``params/models/``, and one for every other type of the installed transformers.

        Raises:
            DiscoveryFailed: transformers can't be imported.
        """
        from proofbook.catalog.discovery import discover

        entered = {model.model_type for model in self.models.values()} | set(self.models)
        derived = {
            name: self.exceptions[name].applied(model) if name in self.exceptions else model
            for name, model in discover().items()
            if name not in entered
        }
        return {**self.models, **derived}

    def target(self, name: str) -> Target:
        """The target of that name. Raises :class:`UnknownName`."""
        return _named("target", name, self.targets)

    def suite(self, name: str) -> Suite:
        """The suite of that name. Raises :class:`UnknownName`."""
        return _named("suite", name, self.suites)


def load_catalog(folder: Path | None = None) -> Catalog:
    """Read and check every file of ``params/``.

    Args:
        folder: another folder of the same shape; the workbook's own by default.

    Raises:
        ParamsError: a file is missing, is not YAML, or says something that is not allowed.
    """
    folder = folder or params_dir()
    return _load(folder, _stamp(folder))


def _stamp(folder: Path) -> tuple[object, ...]:
    """What changes when a file below the folder does."""
    files = ((path, path.stat()) for path in sorted(folder.rglob("*.yaml")))
    return tuple((path, status.st_mtime_ns, status.st_size) for path, status in files)


@lru_cache(maxsize=4)
def _load(folder: Path, stamp: tuple[object, ...]) -> Catalog:
    models: dict[str, Model] = {}
    for category in Category:
        path = folder / "models" / f"{category}.yaml"
        for name, model in _entries(path, "models", Model, category=category).items():
            if name in models:
                raise ParamsError(f"{path}: model {name!r} is already in {models[name].category}.yaml")
            models[name] = model
    targets = _entries(folder / "targets.yaml", "targets", Target)
    suites = _entries(folder / "suites.yaml", "suites", Suite)
    for suite in suites.values():
        for case in suite.cases:
            if case.model not in models:
                raise ParamsError(
                    f"{folder / 'suites.yaml'}: suites.{suite.name}.cases: {UnknownName('model', case.model, models)}"
                )
    tolerances = _entries(folder / "tolerances.yaml", "tolerances", Tolerance, key="dtype")
    exceptions = _entries(folder / "exceptions.yaml", "exceptions", DerivedException, key="model_type")
    switched = _entries(folder / "variants.yaml", "variants", Switched)
    for model in models.values():
        _check_targets(folder / "models" / f"{model.category}.yaml", model.name, model.known_faults, targets)
    for one in switched.values():
        _check_targets(folder / "variants.yaml", one.name, one.known_faults, targets)
    return Catalog(models, targets, suites, tolerances, exceptions, tuple(switched.values()))


def _check_targets(path: Path, name: str, faults: Iterable[KnownFault], targets: Iterable[str]) -> None:
    """Raises ParamsError for a fault of a target that there is not: it would hold nowhere, unseen."""
    for fault in faults:
        for target in () if fault.targets == "all" else fault.targets:
            if target not in targets:
                raise ParamsError(f"{path}: {name}: known_faults: {UnknownName('target', target, targets)}")


def _named(kind: str, name: str, table: Mapping[str, T]) -> T:
    try:
        return table[name]
    except KeyError:
        raise UnknownName(kind, name, table) from None


def _entries(path: Path, top: str, kind: type[E], key: str = "name", **common: Any) -> dict[str, E]:
    """The entries of one file: a mapping under ``top``, whose keys become the field ``key``."""
    content = _read_yaml(path)
    if not isinstance(content, dict) or list(content) != [top] or not isinstance(content[top], dict):
        raise ParamsError(f"{path}: must hold one mapping, {top!r}, of names to entries")
    entries: dict[str, E] = {}
    for name, fields in content[top].items():
        if not isinstance(fields, dict):
            raise ParamsError(f"{path}: {top}.{name}: must be a mapping, is {fields!r}")
        try:
            entries[name] = kind.model_validate({key: name, **common, **fields})
        except ValidationError as error:
            raise ParamsError(f"{path}: {_explain(error, f'{top}.{name}', kind)}") from None
    return entries


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: not valid YAML: {error}") from None


# by libyaml where PyYAML was built with it: each kernel reads all of params/, and Python takes ten times as long
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _UniqueKeys(_Loader):  # type: ignore[misc]
    """YAML in which a key that stands twice in one mapping is an error: the first would be lost unseen. One that is
    merged into it (``<<``) may be said anew."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        made: dict[Any, Any] = super().construct_mapping(node, deep)
        return made


def _explain(error: ValidationError, where: str, kind: type[BaseModel]) -> str:
    lines = []
    for problem in error.errors():
        at = ".".join([where, *map(str, problem["loc"])])
        if problem["type"] == "extra_forbidden":
            allowed = sorted(field.alias or name for name, field in kind.model_fields.items())
            lines.append(f"{at}: unknown key; allowed: {', '.join(allowed)}")
        elif problem["type"] == "missing":
            lines.append(f"{at}: missing")
        else:
            lines.append(f"{at}: {problem['msg']}; got {problem['input']!r}")
    return "; ".join(lines)
