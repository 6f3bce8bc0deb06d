"""Making and removing environments (see ``proofbook.environments``)."""

import json
import os
import shutil
import site
import subprocess
import sys
import sysconfig
import tempfile
from importlib.metadata import distributions
from pathlib import Path

from packaging.utils import canonicalize_name

from proofbook.batch.machine import MachineryFailed
from proofbook.catalog.environments import Environment
from proofbook.environments import MARKER, Made, folder_of, interpreter_in, kernelspec_of, made
from proofbook.files import write_atomic
from proofbook.verdict import Blocked

# seconds that pip may take to resolve, download and install
INSTALLATION = 1800
# what an environment must be able to do before it counts
_TRIAL = "import ipykernel, torch, transformers, proofbook; print(torch.__version__)"


def create(wanted: Environment) -> Made:
    """Make an environment, or give the one that is there with the same requirements.

    It is used from the moment its marker is written, which is last; what an attempt that failed leaves is removed.

    Raises:
        MachineryFailed: it can't be made; the message says why.
    """
    from filelock import FileLock

    folder = folder_of(wanted.name)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineryFailed(f"{folder.parent} can't be written: {error}. Set PROOFBOOK_PREFIX to a folder") from None
    with FileLock(folder.with_name(f".{wanted.name}.lock")):
        there = made().get(wanted.name)
        if there is not None and there.requirements == wanted.requirements:
            return there
        _discard(wanted.name)
        try:
            return _create(wanted, folder)
        except BaseException:
            _discard(wanted.name)
            raise


def remove(name: str) -> None:
    """Remove an environment and its kernelspec.

    Raises:
        Blocked: there is none of that name.
    """
    if not folder_of(name).exists():
        raise Blocked(name, "this machine has no such environment", "`proofbook env list` shows those that it has")
    _discard(name)


def _discard(name: str) -> None:
    folder = folder_of(name)
    (folder / MARKER).unlink(missing_ok=True)
    for leftover in (folder, kernelspec_of(name)):
        if leftover.exists():
            shutil.rmtree(leftover)


def _create(wanted: Environment, folder: Path) -> Made:
    import venv

    venv.EnvBuilder(with_pip=False, symlinks=os.name != "nt").create(folder)
    packages = _site_packages(folder)
    shares = _shared()
    # at the end of the search path, where editable installs below them are found as well
    lines = "".join(f"import site; site.addsitedir({path!r})\n" for path in shares)
    write_atomic(packages / "zz-proofbook-shared.pth", lines)
    _install(wanted, folder)
    _try(wanted, folder)
    found: dict[str, str] = {
        canonicalize_name(one.metadata["Name"]): one.version for one in distributions(path=[str(packages)])
    }
    result = Made(
        name=wanted.name,
        description=wanted.description,
        requirements=wanted.requirements,
        # pip leaves out what is shared in the very release
        versions=dict(sorted({**wanted.pins, **found}.items())),
        shares=shares,
    )
    _register_kernel(wanted.name, folder)
    write_atomic(folder / MARKER, result.model_dump_json(indent=1) + "\n")
    return result


def _shared() -> tuple[str, ...]:
    """The folders in which this interpreter has its packages."""
    own = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    return tuple(path for path in dict.fromkeys(own) if Path(path).is_dir())


def _site_packages(folder: Path) -> Path:
    scheme = {"base": str(folder), "platbase": str(folder)}
    return Path(sysconfig.get_path("purelib", scheme="venv", vars=scheme))


def _install(wanted: Environment, folder: Path) -> None:
    """Let pip put in front whatever the requirements want otherwise than it is installed; torch stays as it is."""
    from importlib.metadata import version

    with tempfile.TemporaryDirectory() as scratch:
        constraints = Path(scratch) / "constraints.txt"
        constraints.write_text(f"torch=={version('torch')}\n", encoding="utf-8")
        command = [
            *(sys.executable, "-m", "pip", "--python", str(interpreter_in(folder)), "install", "--quiet"),
            *("--disable-pip-version-check", "--no-warn-conflicts", "--constraint", str(constraints)),
            *wanted.requirements,
        ]
        _run(command, f"pip could not install {' '.join(wanted.requirements)}")


def _try(wanted: Environment, folder: Path) -> None:
    """See that the environment imports what a kernel needs, and that its torch is the shared one."""
    from importlib.metadata import version

    answer = _run([str(interpreter_in(folder)), "-c", _TRIAL], f"{wanted.name} was installed, but does not work")
    if answer.strip() != version("torch"):
        raise MachineryFailed(f"{wanted.name} would have another torch, {answer.strip()}, than {version('torch')}")


def _run(command: list[str], failure: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=INSTALLATION, check=True).stdout
    except subprocess.CalledProcessError as error:
        lines = [line for line in (error.stderr or error.stdout).splitlines() if "WARNING" not in line]
        raise MachineryFailed(f"{failure}: {' '.join(lines[-6:]).strip()}") from None
    except subprocess.TimeoutExpired:
        raise MachineryFailed(f"{failure} within {INSTALLATION} s") from None


def _register_kernel(name: str, folder: Path) -> None:
    """Let JupyterLab and papermill offer the environment as a kernel."""
    spec = {
        "argv": [str(interpreter_in(folder)), "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": f"Python 3 (proofbook, {name})",
        "language": "python",
    }
    write_atomic(kernelspec_of(name) / "kernel.json", json.dumps(spec, indent=1) + "\n")
