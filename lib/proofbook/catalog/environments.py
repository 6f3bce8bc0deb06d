"""Environments: releases of libraries other than the installed ones, pinned, by name, in ``params/environments.yaml``.

Each is made on a machine by ``proofbook env create NAME``; which of them are made is in ``proofbook.environments``.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from pydantic import Field, model_validator

from proofbook.catalog.catalog import _entries
from proofbook.catalog.schema import Entry, Name
from proofbook.paths import params_dir

# the environment of this interpreter
CURRENT = "current"


class Environment(Entry):
    """Releases that stand in front of the installed ones."""

    name: Name
    description: str
    # each pins one release: transformers==4.57.6
    requirements: tuple[str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _pinned(self) -> Self:
        if self.name == CURRENT:
            raise ValueError(f"{CURRENT!r} is the name of the interpreter's own environment")
        if "transformers" not in self.pins:
            raise ValueError("an environment pins transformers, and whatever else differs with it")
        return self

    @property
    def pins(self) -> dict[str, str]:
        """The releases by canonical name."""
        return dict(map(_pin, self.requirements))

    def meets(self, need: str) -> bool:
        """Whether one of the pins is what an entry's ``needs`` asks for."""
        return bool(met([need], self.pins))


def _pin(text: str) -> tuple[str, str]:
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        raise ValueError(f"{text!r} is not a requirement: {error}") from None
    specifiers = list(requirement.specifier)
    if len(specifiers) != 1 or specifiers[0].operator != "==" or "*" in specifiers[0].version:
        raise ValueError(f"{text!r} does not pin a release: write {requirement.name}==1.2.3")
    return canonicalize_name(requirement.name), specifiers[0].version


def load_environments(folder: Path | None = None) -> dict[str, Environment]:
    """The entries of ``environments.yaml`` by name. Raises :class:`~proofbook.catalog.catalog.ParamsError`."""
    return _entries((folder or params_dir()) / "environments.yaml", "environments", Environment)


def of_release(text: str) -> Environment:
    """An environment that is named by its release alone: ``transformers==5.9.0``, or ``transformers-5.9.0``.

    Raises:
        ValueError: the text names no release of transformers.
    """
    text = text.strip().lower()
    name, _, release = text.replace("==", "-").partition("-")
    if name != "transformers" or not release[:1].isdigit():
        raise ValueError(f"{text!r} is neither in params/environments.yaml nor a release, transformers==X.Y.Z")
    return Environment(
        name=f"{name}-{release}", description=f"transformers {release}", requirements=(f"{name}=={release}",)
    )


def met(needs: Iterable[str], versions: Mapping[str, str]) -> bool:
    """Whether installed releases, by canonical name, are what every one of some ``needs`` asks for."""
    requirements = [Requirement(need) for need in needs]
    return all(
        (version := versions.get(canonicalize_name(one.name))) is not None and _contains(one.specifier, version)
        for one in requirements
    )


def _contains(specifier: SpecifierSet, version: str) -> bool:
    return specifier.contains(version, prereleases=True)
