"""Writing an entry into ``params/models/``: at the end of its file, all that stands there kept as it is."""

from pathlib import Path
from typing import Any

import yaml

from proofbook.catalog.catalog import ParamsError
from proofbook.catalog.schema import Model
from proofbook.files import write_atomic

_WIDTH = 105


def entry_text(entry: Model) -> str:
    """An entry as the files of ``params/models/`` have it, indented, with its name; only what is not the default."""
    fields = entry.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude={"name", "category"})
    order = ("model_type", "class", "task", "hub_id")
    lines = [f"  {_inline(entry.name)}:"]
    for key in (*order, *(key for key in fields if key not in order)):
        lines.append(f"    {key}: {_inline(fields.get(key, ''))}")
    return "\n".join(lines) + "\n"


def _inline(value: Any) -> str:
    """A value in YAML's flow style; further lines are indented below the entry's keys."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=_WIDTH)
    return text.removesuffix("\n").removesuffix("\n...").replace("\n", "\n      ")


def append_entry(folder: Path, entry: Model) -> Path:
    """Append an entry to the file of its category; the file's path.

    Args:
        folder: ``params/``.
        entry: a model whose name no file has.

    Raises:
        ParamsError: the file would not say afterwards what it says now and the entry; it is left as it is.
    """
    path = folder / "models" / f"{entry.category}.yaml"
    before = path.read_text(encoding="utf-8")
    after = before + ("" if before.endswith("\n") else "\n") + entry_text(entry)
    known = yaml.safe_load(before)["models"] or {}
    found = yaml.safe_load(after)["models"]
    added = found.pop(entry.name, None)
    if found != known or added is None or Model(name=entry.name, category=entry.category, **added) != entry:
        raise ParamsError(
            f"{path}: the entry {entry.name!r} does not fit at its end; add it by hand:\n{entry_text(entry)}"
        )
    write_atomic(path, after)
    return path
