"""Checkpoints from the Hugging Face hub, through its cache; every way to fail in words."""

import errno
from pathlib import Path

from huggingface_hub import constants, get_token, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from proofbook.verdict import Blocked

# configuration, tokenizer and processor; not the copies in other formats that subfolders hold
_SMALL = ["*.json", "*.txt", "*.model", "*.jinja", "*.bpe"]
_WEIGHTS = ["*.safetensors"]
_CODE = ["*.py"]
_OLD_WEIGHTS = ["pytorch_model*.bin"]
_NOT = ["*/*", "*.fp16.*", "*.bf16.*"]

# of httpx or requests, as the installed release of the hub's client has it
_HTTPError: type[Exception] = next(base for base in HfHubHTTPError.__bases__ if base is not OSError)


def download_config(hub_id: str) -> Path:
    """A checkpoint's ``config.json`` in the hub's cache. Raises as :func:`download`."""
    try:
        return Path(hf_hub_download(hub_id, "config.json"))
    except (OSError, HFValidationError, _HTTPError) as error:
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            raise _without_config(hub_id) from error
        raise blocked(hub_id, error) from error


def download(hub_id: str, code: bool = False) -> Path:
    """The folder of a checkpoint in the hub's cache, downloaded where it is not there yet.

    Configuration, weights, tokenizer and processor only, and the checkpoint's own ``code`` where it is trusted. The
    client's own settings apply: ``HF_HOME``, ``HF_TOKEN``, ``HF_ENDPOINT``, ``HF_HUB_OFFLINE``.

    Raises:
        Blocked: it can't be had; the cause and the remedy are in words.
    """
    try:
        folder = Path(snapshot_download(hub_id, allow_patterns=_SMALL + _WEIGHTS + _CODE * code, ignore_patterns=_NOT))
        if not any(folder.glob("*.safetensors")):
            snapshot_download(hub_id, allow_patterns=_OLD_WEIGHTS, ignore_patterns=_NOT)
    except (OSError, HFValidationError, _HTTPError) as error:
        raise blocked(hub_id, error) from error
    if not (folder / "config.json").is_file():
        raise _without_config(hub_id)
    return folder


def _without_config(hub_id: str) -> Blocked:
    return Blocked(hub_id, "the repository has no config.json", "Check the entry's hub_id")


def blocked(hub_id: str, error: Exception) -> Blocked:
    """What an error of the hub's client means for a person."""
    page = f"{constants.ENDPOINT}/{hub_id}"
    match error:
        case GatedRepoError():
            cause = f"the repository is gated, and {'the token has no access' if get_token() else 'there is no token'}"
            remedy = f"Accept its licence at {page}, and set HF_TOKEN to a token of that account"
        case RepositoryNotFoundError():
            cause = f"no such repository, or a private one ({_status(error)})"
            remedy = f"Check the entry's hub_id at {page}; for a private one set HF_TOKEN"
        case RevisionNotFoundError() | DisabledRepoError():
            cause = f"the hub refuses it: {_first_line(error)}"
            remedy = f"See {page}"
        case HFValidationError():
            cause = f"not the id of a repository: {_first_line(error)}"
            remedy = "Correct the entry's hub_id"
        case LocalEntryNotFoundError() if constants.HF_HUB_OFFLINE:
            cause = f"HF_HUB_OFFLINE is set, and the cache {constants.HF_HUB_CACHE} does not hold it whole"
            remedy = "Unset HF_HUB_OFFLINE, or download it once while online"
        case OSError(errno=errno.ENOSPC):
            cause = f"no space is left on the disk of {constants.HF_HUB_CACHE}"
            remedy = "Free some, or set HF_HOME to a folder on a larger disk"
        case PermissionError():
            cause = f"the cache can't be written: {_first_line(error)}"
            remedy = "Set HF_HOME to a folder that can be"
        case HfHubHTTPError():
            cause = f"the hub answered with an error ({_status(error)})"
            remedy = "Try again later; HF_ENDPOINT names another address of the hub"
        case _:
            cause = f"{constants.ENDPOINT} can't be reached: {_first_line(error.__cause__ or error)}"
            remedy = "Connect to the network or set HTTPS_PROXY; on a machine without, use weights=local"
    return Blocked(hub_id, cause, remedy)


def _status(error: HfHubHTTPError) -> str:
    return f"HTTP status {error.response.status_code}"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
