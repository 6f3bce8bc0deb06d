"""``proofbook list``."""

import json
from collections.abc import Iterable, Mapping
from enum import Enum, auto
from itertools import groupby
from typing import Any

from proofbook.catalog import Catalog, KnownFault, Model, load_catalog
from proofbook.cli.app import Listed
from proofbook.cli.console import console, root, table


class Extent(Enum):
    """Which models are listed."""

    ENTERED = auto()  # those of params/models/
    ALL = auto()  # and those that discovery derives
    NEW = auto()  # of these, the ones that no transformers had when this proofbook was released


def show(what: Listed, as_json: bool, extent: Extent = Extent.ENTERED) -> None:
    """Print everything of one kind, as a table or as JSON."""
    rows = _rows(what, load_catalog(root() / "params"), extent)
    if as_json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    columns = list(rows[0]) if rows else []
    made = table(f"{len(rows)} {what}", *columns)
    for row in rows:
        made.add_row(*(_plain(value) for value in row.values()))
    console().print(made, markup=False, highlight=False)


def _models(catalog: Catalog, extent: Extent) -> list[Model]:
    if extent is Extent.ENTERED:
        return list(catalog.models.values())
    every = catalog.every_model()
    if extent is Extent.ALL:
        return list(every.values())
    from proofbook.catalog.discovery import newer

    return [every[name] for name in newer(every) if name not in catalog.models]


def _rows(what: Listed, catalog: Catalog, extent: Extent) -> list[dict[str, Any]]:
    match what:
        case Listed.MODELS:
            return [
                {
                    "name": model.name,
                    "category": str(model.category),
                    "model_type": model.model_type,
                    "class": model.model_class,
                    "task": model.task,
                    "hub_id": model.hub_id,
                    "needs": list(model.needs),
                }
                for model in _models(catalog, extent)
            ]
        case Listed.TARGETS:
            return [target.model_dump(mode="json") for target in catalog.targets.values()]
        case Listed.SUITES:
            return [_suite(name, catalog) for name in catalog.suites]
        case Listed.CHECKS:
            from proofbook.checks.registry import registered

            return [
                {"name": check.name, "family": check.family, "description": check.description} for check in registered()
            ]
        case Listed.FAULTS:
            found = [row for model in _models(catalog, extent) for row in _faults(model.name, model.known_faults)]
            for one in catalog.switched:
                found += _faults(", ".join(one.types) or "all", one.known_faults, one.when)
            return found


def _faults(name: str, faults: Iterable[KnownFault], when: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """What is known to be wrong with a model, or with variants of some types, a row a cause: it may show in several
    checks."""
    switches = "; ".join(f"{switch}={json.dumps(value)}" for switch, value in (when or {}).items())

    def cause(fault: KnownFault) -> dict[str, Any]:
        return fault.model_dump(mode="json", include={"reason", "targets", "needs", "expires", "issue"})

    return [
        {"model": name, "variants": switches, "checks": [fault.check for fault in several], **told}
        for told, several in groupby(sorted(faults, key=lambda one: str(cause(one))), key=cause)
    ]


def _suite(name: str, catalog: Catalog) -> dict[str, Any]:
    from proofbook.batch.plan import suite_cases

    suite = catalog.suite(name)
    return {
        "name": name,
        "cases_per_target": len(suite_cases(catalog, name)),
        "time_limit": suite.time_limit,
        "description": suite.description,
    }


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
