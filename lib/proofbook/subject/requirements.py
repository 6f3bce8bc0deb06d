"""Whether the installed libraries are what an entry needs. Imports nothing heavy."""

from importlib.metadata import PackageNotFoundError, version

from packaging.requirements import Requirement

from proofbook.catalog import Model
from proofbook.catalog.environments import load_environments
from proofbook.verdict import Blocked


def check_needs(spec: Model) -> None:
    """Hold each of the entry's ``needs`` against what is installed.

    Raises:
        Blocked: the first that is not met, by its name as the entry writes it.
    """
    for need in spec.needs:
        requirement = Requirement(need)
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            raise Blocked(
                need,
                f"{requirement.name} is not installed",
                f'`pip install "{need}"`, or as its documentation says',
            ) from None
        if not requirement.specifier.contains(installed, prereleases=True):
            raise Blocked(
                need,
                f"{requirement.name} {installed} is installed",
                _remedy(need),
            )


def _remedy(need: str) -> str:
    name = next((one.name for one in load_environments().values() if one.meets(need)), None)
    return f"`proofbook env create {name}`" if name else f'`pip install "{need}"`, in an environment of its own'
