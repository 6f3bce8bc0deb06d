"""Which runtimes there are: the entry points ``proofbook.runtimes`` of all installed packages, ours among them."""

import difflib
from functools import cache
from importlib.metadata import entry_points

from proofbook.runtimes.runtime import Runtime
from proofbook.subject.requirements import require
from proofbook.verdict import Blocked

GROUP = "proofbook.runtimes"


def runtime_names() -> list[str]:
    """The names of all runtimes, also of those whose packages are missing."""
    return sorted({one.name for one in entry_points(group=GROUP)})


@cache
def runtime_of(name: str) -> Runtime:
    """The runtime of that name.

    Raises:
        Blocked: no installed package has it, or it needs one that is missing, or does not load.
    """
    found = next(iter(entry_points(group=GROUP, name=name)), None)
    if found is None:
        known = runtime_names()
        near = difflib.get_close_matches(name, known, n=1)
        guess = f"Did you mean {near[0]}?" if near else "Install the package that brings it"
        raise Blocked(name, f"no installed package has a runtime of that name; known: {', '.join(known)}", guess)
    try:
        runtime: Runtime = found.load()()
    except ImportError as error:
        raise Blocked(name, f"{found.value} does not load: {error}", "Install the package again") from error
    require(runtime.needs)
    return runtime


def releases(name: str) -> dict[str, str]:
    """The releases of what a runtime uses beside packages of Python, by their names; none where it can't be used."""
    try:
        return dict(getattr(runtime_of(name), "releases", {}))
    except Blocked:
        return {}


def missing(name: str) -> str:
    """What it takes to use a runtime here, in words; empty where nothing is missing."""
    try:
        runtime_of(name)
    except Blocked as lack:
        return str(lack)
    return ""
