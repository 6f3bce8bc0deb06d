"""Classes that a checkpoint brings as code of its own; used only where the entry says ``trust_remote_code``."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from proofbook.verdict import Blocked


def brought_classes(config: Mapping[str, Any]) -> Iterator[str]:
    """The model classes that a ``config.json`` brings, as ``MODULE.CLASS``, those with a head before others."""
    brought = config.get("auto_map") or {}
    models = {name: brought[name] for name in brought if name.startswith("AutoModel")}
    for name in sorted(models, key=lambda name: (name == "AutoModel", name)):
        yield models[name] if isinstance(models[name], str) else models[name][0]


def brought_class(folder: Path, name: str) -> type[PreTrainedModel]:
    """The class of a checkpoint's own code, which is run by this.

    Raises:
        Blocked: the checkpoint brings no class of this name.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for reference in brought_classes(config):
        if reference.rpartition(".")[2] == name:
            return get_class_from_dynamic_module(reference, folder, local_files_only=True)  # type: ignore[no-any-return]
    known = ", ".join(brought_classes(config)) or "none"
    raise Blocked(name, f"the checkpoint's auto_map brings {known}", "Correct the entry's class")
