"""``proofbook doctor``: what this machine has, what is missing, and how to get it."""

import platform
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import psutil
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pydantic import BaseModel

import proofbook
from proofbook.batch.machine import DeviceState, available_bytes, cores, default_jobs, devices, lack
from proofbook.catalog import Catalog, Model, load_catalog
from proofbook.catalog.environments import load_environments
from proofbook.cli.console import console, root, table
from proofbook.cli.environments import states as environments
from proofbook.environments import chosen_for, own_name
from proofbook.subject.requirements import installing

PACKAGES = (
    *("torch", "transformers", "tokenizers", "safetensors", "accelerate", "numpy", "huggingface-hub"),
    *("papermill", "scrapbook", "nbclient", "ipykernel", "jupyterlab", "nbconvert", "pandas", "pyarrow"),
)
# what `pip install NAME` does not do
REMEDIES = {
    "detectron2": "built from source: https://detectron2.readthedocs.io/en/latest/tutorials/install.html",
    "transformers": "proofbook env create transformers==X.Y.Z",
}


class Usable(BaseModel):
    """Whether a target can be used here, and why not."""

    usable: bool
    why: str


class Optional_(BaseModel):
    """A package that some models need beyond proofbook's own requirements."""

    requirement: str
    installed: str | None
    satisfied: bool
    enables: list[str]
    remedy: str


class Diagnosis(BaseModel):
    """All that the doctor says."""

    proofbook: str
    workbook: str
    python: str
    platform: str
    cores: int
    memory_gb: float
    available_gb: float
    default_jobs: int
    versions: dict[str, str | None]
    devices: dict[str, DeviceState]
    targets: dict[str, Usable]
    environments: list[dict[str, str]]
    optional: list[Optional_]


def show(as_json: bool) -> None:
    """Print the diagnosis."""
    found = diagnose()
    print(found.model_dump_json(indent=1)) if as_json else _print(found)


def diagnose() -> Diagnosis:
    """Look at this machine.

    Raises:
        MachineryFailed: the devices can't be found.
    """
    workbook = root()
    catalog = load_catalog(workbook / "params")
    states = devices()
    return Diagnosis(
        proofbook=proofbook.__version__,
        workbook=str(workbook),
        python=platform.python_version(),
        platform=platform.platform(),
        cores=cores(),
        memory_gb=round(psutil.virtual_memory().total / 1e9, 1),
        available_gb=round(available_bytes() / 1e9, 1),
        default_jobs=default_jobs(),
        versions={name: _installed(name) for name in PACKAGES},
        devices=states,
        targets={
            target.name: Usable(usable=not lack(target), why=lack(target) or states[target.device].detail)
            for target in catalog.targets.values()
        },
        environments=environments(),
        optional=list(_optional(catalog)),
    )


def _optional(catalog: Catalog) -> Iterator[Optional_]:
    """Every requirement that models name beyond proofbook's own, with the models that wait for it."""
    needed: dict[str, list[str]] = {}
    for model in catalog.models.values():
        for text in (*model.needs, *_package_of_weights(model)):
            needed.setdefault(text, []).append(model.name)
    for text, models in sorted(needed.items()):
        requirement = Requirement(text)
        installed = _installed(requirement.name)
        satisfied = installed is not None and requirement.specifier.contains(installed, prereleases=True)
        satisfied = satisfied or chosen_for([text]) != own_name()
        yield Optional_(
            requirement=text,
            installed=installed,
            satisfied=satisfied,
            enables=models,
            remedy="" if satisfied else _remedy(requirement),
        )


def _package_of_weights(model: Model) -> Iterator[str]:
    """The distribution that carries a model's local weights, where one does."""
    if match := re.match(r"package://([^/]+)", model.local or ""):
        yield canonicalize_name(match[1])


def _remedy(requirement: Requirement) -> str:
    for environment in load_environments().values():
        if environment.meets(str(requirement)):
            return f"proofbook env create {environment.name}"
    return REMEDIES.get(requirement.name) or installing(str(requirement))


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _print(found: Diagnosis) -> None:
    out = console()
    out.print(
        f"proofbook {found.proofbook} in {found.workbook}\n"
        f"Python {found.python} on {found.platform}\n"
        f"{found.cores} cores, {found.memory_gb} GB of memory of which {found.available_gb} free: "
        f"{found.default_jobs} cases at a time by default\n",
        highlight=False,
    )
    made = table("devices", "device", "here", "what")
    for name, state in found.devices.items():
        what = state.detail if state.available else f"{state.detail}. {state.remedy}"
        made.add_row(name, _yes(state.available), what)
    out.print(made, "")
    made = table("targets", "target", "usable", "why")
    for name, target in found.targets.items():
        made.add_row(name, _yes(target.usable), target.why)
    out.print(made, "")
    made = table("packages", "package", "version")
    for name, number in found.versions.items():
        made.add_row(name, number or "[red]missing[/]")
    out.print(made, "")
    made = table("environments", "environment", "here", "differs in", "how to get it")
    for row in found.environments:
        made.add_row(row["name"], _yes(bool(row["here"])), row["differs"], row["remedy"])
    out.print(made, "")
    made = table("optional packages", "package", "here", "enables", "how to get it")
    for one in found.optional:
        made.add_row(one.requirement, _yes(one.satisfied), ", ".join(one.enables), one.remedy)
    out.print(made)


def _yes(answer: bool) -> str:
    return "[green]yes[/]" if answer else "[yellow]no[/]"
