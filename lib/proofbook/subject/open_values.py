"""What a configuration class leaves open, closed as the model's own code or its checkpoints close it.

A class may leave a value open that the code of its model can't do without, or for which that code has a value of its
own that fits its full size alone.
"""

import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from proofbook.compat import PreTrainedConfig
from proofbook.subject.shrink_relations import apportion

# the axes of positions in time, height and width, where the code says how much of a head each rotates
_SECTIONS = re.compile(r"\.get\(\"mrope_section\", \[([\d, ]+)\]\)")


def close(config: PreTrainedConfig) -> None:
    """Fill the open values of a configuration and its parts, in place."""
    for part in walk(config):
        _close_head(part)
        _close_sections(part)


def walk(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    """A configuration, then those within it at any depth."""
    yield config
    for value in vars(config).values():
        if isinstance(value, PreTrainedConfig):
            yield from walk(value)


def _close_head(config: PreTrainedConfig) -> None:
    """Heads share the hidden width evenly, unless the configuration says how wide each is."""
    if vars(config).get("head_dim", 0) is None and (width := _head_width(config)):
        config.head_dim = width


def _close_sections(config: PreTrainedConfig) -> None:
    """The axes of a position share what is rotated of a head, in the proportions that the model's code has."""
    rope, width = vars(config).get("rope_parameters"), _head_width(config)
    if not isinstance(rope, dict) or rope.get("rope_type") != "default" or not width:
        return
    sections = sections_in_code(inspect.getfile(type(config)))
    if sections and "mrope_section" not in rope:
        pairs = int(width * rope.get("partial_rotary_factor", 1.0)) // 2
        rope["mrope_section"] = apportion(list(sections), pairs)


def _head_width(config: PreTrainedConfig) -> int | None:
    # past the class's own look-up, which refuses what may differ from layer to layer
    hidden, heads, width = (
        vars(config).get(config.attribute_map.get(name, name))
        for name in ("hidden_size", "num_attention_heads", "head_dim")
    )
    if isinstance(width, int):
        return width
    return hidden // heads if isinstance(hidden, int) and isinstance(heads, int) and heads else None


@cache
def sections_in_code(configuration: str) -> tuple[int, ...]:
    """How many pairs of a head's numbers each axis of a position rotates by default, as the code of the models beside
    the file of a configuration class says; empty where it says nothing."""
    for path in sorted(Path(configuration).parent.glob("modeling_*.py")):
        if found := _SECTIONS.search(path.read_text(encoding="utf-8")):
            return tuple(int(number) for number in found[1].split(","))
    return ()
