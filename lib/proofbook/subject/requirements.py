"""Whether the installed libraries are what an entry needs. Imports nothing heavy."""

import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from proofbook.catalog import Model
from proofbook.catalog.environments import load_environments
from proofbook.verdict import Blocked

# how transformers names what it lacks, the name that pip knows it by before others
_SAYS = (
    re.compile(r"pip install (?:-\S+ )*(?P<name>[A-Za-z0-9][\w.-]*+)(?!\[)"),
    re.compile(r"requires (?:the )?`?(?P<name>[\w-]+)`?(?: library| package)"),
    re.compile(r"need to install (?P<name>[\w.-]*\w)"),
    re.compile(r"(?i:package|library) `(?P<name>[\w-]+)`"),
    re.compile(r"(?P<name>[A-Z][\w-]+) is (?:required|not installed)"),
)


def missing_package(error: ImportError) -> str | None:
    """The package whose absence an error tells of, as pip or else the message calls it, in lower case; None if unsaid.

    A library that explains in its own words often raises that from the error which has the module's name.
    """
    said = " ".join(str(error).split())
    told = next((match["name"] for pattern in _SAYS if (match := pattern.search(said))), None)
    before = error.__cause__ or error.__context__
    name = told or error.name or (before.name if isinstance(before, ImportError) else None)
    return name.lower().strip(".-") if name else None


def check_needs(spec: Model) -> None:
    """Hold each of the entry's ``needs`` against what is installed. Raises Blocked, as :func:`require`."""
    require(spec.needs)


def require(needs: Iterable[str]) -> None:
    """Hold requirements against what is installed.

    Raises:
        Blocked: the first that is not met, by its name as it is written.
    """
    for need in needs:
        requirement = Requirement(need)
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            raise Blocked(
                need,
                f"{requirement.name} is not installed",
                f"`{installing(need)}`, or as its documentation says",
            ) from None
        if not requirement.specifier.contains(installed, prereleases=True):
            raise Blocked(
                need,
                f"{requirement.name} {installed} is installed",
                _remedy(need),
            )


def installing(need: str) -> str:
    """The command that installs what is needed: an extra of proofbook's where one brings it."""
    name = canonicalize_name(Requirement(need).name)
    for text in requires("proofbook") or ():
        own = Requirement(text)
        extra = re.search(r"extra == [\"']([^\"']+)", str(own.marker))
        if extra and canonicalize_name(own.name) == name:
            return f'pip install -c constraints.txt -e ".[{extra[1]}]"'
    return f'pip install "{need}"'


def _remedy(need: str) -> str:
    name = next((one.name for one in load_environments().values() if one.meets(need)), None)
    return f"`proofbook env create {name}`" if name else f'`pip install "{need}"`, in an environment of its own'
