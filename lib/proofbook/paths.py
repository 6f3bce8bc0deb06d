"""Where the workbook lies: the folder that holds ``notebooks/``, ``params/`` and ``outputs/``."""

import os
from pathlib import Path

from platformdirs import user_cache_path


def workbook_root() -> Path:
    """The folder of the workbook: ``$PROOFBOOK_ROOT``, else the checkout that this package was installed from.

    Raises:
        FileNotFoundError: neither has the folders ``notebooks`` and ``params``.
    """
    chosen = os.environ.get("PROOFBOOK_ROOT")
    root = Path(chosen).resolve() if chosen else Path(__file__).resolve().parents[2]
    missing = [name for name in ("notebooks", "params") if not (root / name).is_dir()]
    if missing:
        raise FileNotFoundError(
            f"{root} is not a proofbook workbook: it has no folder {' and no folder '.join(missing)}. "
            "Set PROOFBOOK_ROOT to a checkout, or install with `pip install -e .` inside one."
        )
    return root


def notebooks_dir() -> Path:
    """The folder of the category notebooks and of ``summary.ipynb``."""
    return workbook_root() / "notebooks"


def params_dir() -> Path:
    """The folder of the YAML files."""
    return workbook_root() / "params"


def outputs_dir() -> Path:
    """The folder in which runs land unless told otherwise."""
    return workbook_root() / "outputs"


def cache_dir() -> Path:
    """The folder of what is kept between runs because it is costly: ``$PROOFBOOK_CACHE``, else the user's own."""
    chosen = os.environ.get("PROOFBOOK_CACHE")
    return Path(chosen).resolve() if chosen else user_cache_path("proofbook")
