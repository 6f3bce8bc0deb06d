"""The entry of a new model, derived from the configuration of its checkpoint."""

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from transformers import CONFIG_MAPPING

from proofbook.catalog import Catalog, Category, Model
from proofbook.catalog.registered import entry_of
from proofbook.subject.hub import download_config
from proofbook.subject.remote_code import brought_classes
from proofbook.subject.shrink import full_config
from proofbook.subject.tasks import task_named

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# what neither changes what a model computes nor how large it is
_UNNEEDED = re.compile(
    r"_.*|.*_token_ids?|.*token_(id|index)|.*_token|model_type|architectures|(torch_)?dtype|.*version|name_or_path|auto_map"
    r"|id2label|label2id|num_labels|output_.*|return_.*|use_cache|problem_type|tokenizer_class|task_specific_params"
    r"|(?!token_dropout$).*drop(out|_rate|_prob|_path_rate|_path)?(_.*)?|.*layerdrop|initializer_.*|.*_init|init_.*|.*_loss(_.*)?"
    r"|gradient_checkpointing|apply_spec_augment|mask_(time|feature)_.*|finetuning_task|pretraining_tp|quantization_config"
    r"|(min|max)_length|do_sample|num_beams|early_stopping|suppress_tokens|begin_suppress_tokens|forced_.*"
    r"|no_repeat_ngram_size|length_penalty|temperature|top_[kp]|bad_words_ids|prefix|pruned_heads|chunk_size_feed_forward"
)


class CannotAdd(ValueError):
    """No entry can be made of what was given; the message says why, and what to do."""


@dataclass(frozen=True)
class Source:
    """A configuration, and where its checkpoint lies."""

    config: dict[str, Any]
    # what the model is called where no name is given
    called: str
    hub_id: str = ""
    # an absolute path
    folder: str | None = None


def read_source(given: str) -> Source:
    """Read a checkpoint's folder, a ``config.json``, or, by its id, that of a repository of the hub.

    Raises:
        CannotAdd: it is none of these, or the file can't be read.
        Blocked: the hub can't give it.
    """
    path = Path(given).expanduser()
    if path.is_dir():
        config = _read(path / "config.json")
        return Source(config, path.resolve().name, _origin(config), str(path.resolve()))
    if path.is_file():
        config = _read(path)
        origin = _origin(config)
        return Source(config, origin.rpartition("/")[2] or str(config.get("model_type", "")), origin)
    if path.suffix == ".json" or path.is_absolute() or not _HUB_ID.fullmatch(given):
        raise CannotAdd(f"{given} is no file, no folder, and not the id of a repository (OWNER/NAME)")
    return Source(_read(download_config(given)), given.rpartition("/")[2], given)


def _read(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CannotAdd(f"{path.parent} holds no checkpoint: it has no config.json") from None
    except (OSError, ValueError) as error:
        raise CannotAdd(f"{path} can't be read as JSON: {error}") from None
    if not isinstance(config, dict) or not ("model_type" in config or "auto_map" in config):
        raise CannotAdd(f"{path} is not the configuration of a model: it names no model_type")
    return config


def _origin(config: Mapping[str, Any]) -> str:
    """The repository that a configuration says it was loaded from."""
    name = str(config.get("_name_or_path", ""))
    return name if _HUB_ID.fullmatch(name) else ""


def derive_entry(
    source: Source,
    catalog: Catalog,
    name: str = "",
    category: Category | None = None,
    task: str = "",
    trust_remote_code: bool = False,
) -> Model:
    """The entry of the model whose configuration was read; what is given by name comes before what is derived.

    Raises:
        CannotAdd: the name is taken, transformers does not know the model, or it brings code that is not trusted.
        UnknownName: no such task.
    """
    name = name or re.sub(r"[^a-z0-9._-]+", "-", source.called.lower()).strip("-._")
    if not _NAME.fullmatch(name):
        raise CannotAdd(f"{name!r} is no name for a model: lower-case letters, digits, dots, dashes; --name gives one")
    if name in catalog.models:
        taken = catalog.models[name]
        raise CannotAdd(f"the name {name!r} is taken, in {taken.category}.yaml; --name gives another")
    if task:
        task_named(task)
    brought = list(brought_classes(source.config))
    model_type = str(source.config.get("model_type", ""))
    known = model_type in CONFIG_MAPPING
    own_class = _named_class(source.config) if known else ""
    if trust_remote_code and brought:
        found = _of_code(brought[0].rpartition(".")[2], model_type)
    elif brought and not own_class:
        raise CannotAdd(
            f"{name} runs code of its own ({', '.join(brought)}), which transformers does not have. "
            "Read that code first; then --trust-remote-code lets it run"
        )
    elif not known:
        near = difflib.get_close_matches(model_type, CONFIG_MAPPING, n=3)
        guess = f"; near to it are {', '.join(near)}" if near else ""
        raise CannotAdd(f"transformers {transformers.__version__} has no model type {model_type!r}{guess}")
    else:
        found = _of_class(model_type, own_class, catalog)
    changes = {"task": task, "category": category}
    entry = found.model_copy(
        update={
            "name": name,
            "hub_id": source.hub_id,
            "local": source.folder,
            "tracked": True,
            "config": {} if found.trust_remote_code else _differences(model_type, source.config),
            **{key: value for key, value in changes.items() if value},
        }
    )
    return _checked(entry)


def _named_class(config: Mapping[str, Any]) -> str:
    """The first of the classes that a configuration names which transformers has; empty where it has none."""
    return next((one for one in config.get("architectures") or () if hasattr(transformers, one)), "")


def _of_class(model_type: str, name: str, catalog: Catalog) -> Model:
    """As the tracked entries have a class; else as discovery derives it."""
    found = entry_of(model_type, name)
    if found is None:
        raise CannotAdd(f"transformers {transformers.__version__} has a configuration {model_type}, but no model of it")
    for model in catalog.models.values():
        if (model.model_type, model.model_class) == (model_type, found.model_class):
            kept = {"category": model.category, "task": model.task, "needs": model.needs}
            return found.model_copy(update=kept)
    return found


def _of_code(name: str, model_type: str) -> Model:
    """The entry of a class that transformers does not have: by the head that its name ends in."""
    heads = {
        "ForCausalLM": (Category.DECODER_ONLY, "text-generation"),
        "ForMaskedLM": (Category.ENCODER_ONLY, "fill-mask"),
        "ForTokenClassification": (Category.ENCODER_ONLY, "token-classification"),
        "ForImageClassification": (Category.VISION, "image-classification"),
        "ForObjectDetection": (Category.VISION, "object-detection"),
        "ForCTC": (Category.SPEECH, "automatic-speech-recognition"),
    }
    category, task = next((heads[end] for end in heads if name.endswith(end)), (Category.OTHER, "forward"))
    fields = {"name": "new", "category": category, "model_type": model_type, "class": name, "task": task, "hub_id": ""}
    return Model.model_validate({**fields, "trust_remote_code": True})


def _differences(model_type: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Where a configuration differs from the defaults of its class, in the names that the class itself uses."""
    kind = CONFIG_MAPPING[model_type]
    try:
        read = kind.from_dict(dict(given))
    except Exception as error:  # each class refuses in its own way
        raise CannotAdd(f"{kind.__name__} refuses the configuration: {type(error).__name__}: {error}") from error
    try:
        defaults = kind().to_dict()
    except Exception:  # a composite of any two models has no default for either
        defaults = {}
    found: dict[str, Any] = json.loads(json.dumps(_changed(read.to_dict(), defaults)))
    labels = len(given.get("id2label") or ())
    if labels not in (0, len(defaults.get("id2label") or ()) or 2):
        found["num_labels"] = labels
    return found


def _changed(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in given.items():
        default = defaults.get(key)
        if isinstance(value, Mapping) and "model_type" in value:
            part = str(value["model_type"])
            same = isinstance(default, Mapping) and default.get("model_type") == part
            own = default if same else CONFIG_MAPPING[part]().to_dict() if part in CONFIG_MAPPING else {}
            inner = _changed(value, own or {})
            if inner or not same:
                found[key] = inner if same else {"model_type": part, **inner}
        elif not _UNNEEDED.fullmatch(key) and value != default:
            found[key] = value
    return found


def _checked(entry: Model) -> Model:
    """The entry, its ``config`` without what follows from the rest of it, once a configuration could be made of it."""
    entry = Model.model_validate(entry.model_dump(by_alias=True))
    if entry.trust_remote_code:
        return entry
    try:
        whole = full_config(entry).to_dict()
        for key in list(entry.config):
            rest = {name: value for name, value in entry.config.items() if name != key}
            shorter = entry.model_copy(update={"config": rest})
            if _makes(shorter, whole):
                entry = shorter
    except ValueError as error:
        raise CannotAdd(f"the entry derived for {entry.name} does not make a configuration: {error}") from error
    return entry


def _makes(entry: Model, whole: Mapping[str, Any]) -> bool:
    try:
        return bool(full_config(entry).to_dict() == whole)
    except Exception:  # each class refuses in its own way what lacks a part
        return False
