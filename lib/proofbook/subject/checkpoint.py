"""Checkpoints: the folder that ``from_pretrained`` reads, be it written from a seed, given, or downloaded."""

import importlib.util
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer, PreTrainedModel
from transformers.utils import logging

from proofbook.catalog import Model, Weights
from proofbook.compat import DTYPE
from proofbook.subject.draw import build_model, library_blocks, model_class, seeded
from proofbook.subject.hub import download
from proofbook.subject.pipelines import is_pipeline, load_denoiser, load_pipeline, write_tiny_pipeline
from proofbook.subject.processors import align, build_processor, composite_class
from proofbook.subject.remote_code import brought_class
from proofbook.subject.requirements import check_needs, installing
from proofbook.subject.settling import has_statistics, settle_statistics
from proofbook.subject.shrink import tiny_config
from proofbook.subject.tasks import task_named
from proofbook.subject.tasks.task import Subject
from proofbook.verdict import Blocked

_PROCESSOR_FILES = ("tokenizer_config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json")


@dataclass(frozen=True)
class Loaded:
    """A model as ``from_pretrained`` gives it, and the names of parameters that went astray on the way."""

    model: PreTrainedModel
    # parameters of the model that the checkpoint lacks, and the other way round
    missing_keys: tuple[str, ...]
    unexpected_keys: tuple[str, ...]
    # with both shapes
    mismatched_keys: tuple[str, ...]


def checkpoint_folder(spec: Model, weights: Weights, seed: int, scratch: Path, local: str = "") -> Path:
    """The folder of a model's checkpoint.

    Args:
        spec: the model's entry.
        weights: ``tiny`` is drawn from ``seed`` and written to ``scratch``, with its processor; ``local`` is the
            folder ``local``, else that of the entry; ``hub`` is downloaded, or found in the hub's cache.
        seed: draws tiny weights.
        scratch: an empty folder.
        local: a folder; only for ``local`` weights.

    Raises:
        Blocked: a library, a package or the hub can't give it.
        FileNotFoundError: no such folder, or no checkpoint in it.
        ValueError: ``local`` weights, but no folder, neither given nor in the entry.
    """
    match weights:
        case Weights.TINY:
            return write_tiny(spec, seed, scratch)
        case Weights.LOCAL:
            return local_folder(spec, local)
        case Weights.HUB:
            return download(spec.hub_id, code=spec.trust_remote_code)


def write_tiny(spec: Model, seed: int, folder: Path) -> Path:
    """Draw a tiny model from a seed, and write it and its processor to a folder as their checkpoint would be."""
    check_needs(spec)
    if is_pipeline(spec):
        return write_tiny_pipeline(spec, seed, folder)
    with library_blocks(spec):
        config = tiny_config(spec)
        processor = build_processor(spec, config)
    align(config, processor)
    model = build_model(spec, config, seed)
    if has_statistics(model):
        task, subject = task_named(spec.task), Subject(config, processor, spec.tiny.inputs if spec.tiny else {})
        encoded = task.encode(subject, task.rows(subject))
        with seeded(seed):  # a call may draw noise
            settle_statistics(model, model.get_submodule(encoded.module), encoded.inputs)
    with _no_progress_bars():
        model.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
    return folder


@contextmanager
def _unwarned() -> Iterator[None]:
    """No warnings of transformers meanwhile."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """transformers draws one for every file, which a notebook keeps."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def local_folder(spec: Model, local: str = "") -> Path:
    """The folder given, else that of the entry: a path, or ``package://IMPORT_NAME/PATH``. Raises as
    :func:`checkpoint_folder`."""
    named = local or spec.local
    if not named:
        raise ValueError(
            f"{spec.name}: weights=local needs a folder: pass one, or give the entry a `local:` in params/models/"
        )
    folder = _in_package(named) if named.startswith("package://") else Path(named).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"{spec.name}: {folder} is not a folder")
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{spec.name}: {folder} holds no checkpoint: it has no config.json")
    return folder


def _in_package(address: str) -> Path:
    package, _, path = address.removeprefix("package://").partition("/")
    found = importlib.util.find_spec(package)  # finds without importing
    if found is None or not found.submodule_search_locations:
        distribution = package.replace("_", "-")
        raise Blocked(
            distribution,
            f"the package {package}, which carries the checkpoint, is not installed",
            f"`{installing(distribution)}`",
        )
    return Path(next(iter(found.submodule_search_locations)), path)


def load_model(
    spec: Model,
    folder: Path,
    dtype: torch.dtype | str,
    attn_implementation: str | None = None,
    other_head: bool = False,
) -> Loaded:
    """The entry's class loaded from a folder, on the CPU in evaluation mode.

    Args:
        dtype: of the parameters; ``auto`` for the one that the checkpoint says.
        attn_implementation: ``eager``, ``sdpa``, …; the library's own choice by default.
        other_head: whether the checkpoint may have a head of another name or shape, in whose place the library draws
            one; its table of all that it then lacks is not printed.

    Raises:
        Blocked: the installed libraries don't have the class, or lack what it needs.
    """
    chosen = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
    lenient = {"ignore_mismatched_sizes": True} if other_head else {}
    own = {"trust_remote_code": True} if spec.trust_remote_code else {}
    if is_pipeline(spec):
        return _loaded(*load_denoiser(spec, folder, dtype))
    with library_blocks(spec), _no_progress_bars(), _unwarned() if other_head else nullcontext():
        kind = brought_class(folder, spec.model_class) if own else model_class(spec)
        model, astray = kind.from_pretrained(
            folder, local_files_only=True, output_loading_info=True, **{DTYPE: dtype}, **chosen, **lenient, **own
        )
    return _loaded(model, astray)


def _loaded(model: Any, astray: Mapping[str, Any]) -> Loaded:
    mismatched = (f"{key}: {tuple(theirs)} for {tuple(ours)}" for key, theirs, ours in astray["mismatched_keys"])
    return Loaded(
        model.eval(),
        tuple(sorted(astray["missing_keys"])),
        tuple(sorted(astray["unexpected_keys"])),
        tuple(sorted(mismatched)),
    )


def load_processor(spec: Model, folder: Path) -> Any:
    """The processor that lies in a checkpoint's folder: a composite, or a tokenizer, image processor or feature
    extractor alone; None where the folder holds none.

    Raises:
        Blocked: the installed libraries don't have its class, or lack what it needs.
    """
    if is_pipeline(spec):
        return load_pipeline(spec, folder)
    if not any((folder / name).is_file() for name in _PROCESSOR_FILES):
        return None
    with library_blocks(spec):
        own = {"trust_remote_code": True} if spec.trust_remote_code else {}
        return (composite_class(spec) or _of_parts(folder)).from_pretrained(folder, local_files_only=True, **own)


def _of_parts(folder: Path) -> Any:
    """What reads a folder without a composite: transformers may map the model's type to one that has more parts."""
    there = [name for name in _PROCESSOR_FILES if (folder / name).is_file()]
    if there == ["preprocessor_config.json"] and "image_processor_type" in json.loads((folder / there[0]).read_text()):
        return AutoImageProcessor
    return AutoProcessor if any("processor" in name for name in there) else AutoTokenizer
