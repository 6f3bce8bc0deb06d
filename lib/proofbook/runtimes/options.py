"""What a target may tell its runtime."""

from collections.abc import Mapping, Sequence
from typing import Any

from proofbook.catalog import Target


def chosen(target: Target, known: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """The options of a target, each one of the values that its runtime knows.

    Raises:
        ValueError: an option or a value is not among them; the message names the target, and what is.
    """
    for name, value in target.options.items():
        if name not in known:
            allowed = ", ".join(known) or "none"
            raise ValueError(f"target {target.name}: {target.runtime} has no option {name!r}; known: {allowed}")
        # 1 is equal to True
        if (type(value), value) not in [(type(one), one) for one in known[name]]:
            allowed = ", ".join(str(one).lower() for one in known[name])
            raise ValueError(f"target {target.name}: option {name} is {value!r}; allowed: {allowed}")
    return dict(target.options)
