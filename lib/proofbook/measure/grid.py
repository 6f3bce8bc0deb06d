"""Which sizes of batches and lengths of sequences a case is timed at, beside its own: ``batch=1,2,8;length=16,64``."""

from dataclasses import dataclass
from itertools import product

AXES = ("batch", "length")


@dataclass(frozen=True)
class Grid:
    """Rows of a batch, and tokens of a row; empty where the case's own are meant."""

    batches: tuple[int, ...] = ()
    lengths: tuple[int, ...] = ()

    @property
    def points(self) -> list[tuple[int | None, int | None]]:
        """Every batch size with every length, None for the case's own; none at all for an empty grid."""
        if not (self.batches or self.lengths):
            return []
        return list(product(self.batches or (None,), self.lengths or (None,)))


def parse_grid(text: str) -> Grid:
    """The grid that a text says; an empty one for an empty text.

    Raises:
        ValueError: it is not written as one; the message says what is allowed.
    """
    found: dict[str, tuple[int, ...]] = {}
    for part in filter(None, (one.strip() for one in text.split(";"))):
        axis, _, values = (one.strip() for one in part.partition("="))
        sizes = [one.strip() for one in values.split(",")]
        if axis not in AXES or axis in found or not all(one.isdecimal() and int(one) > 0 for one in sizes):
            raise ValueError(
                f"sweep {text!r}: {part!r} is not batch=N,… or length=N,…, each at most once and N above 0"
            )
        found[axis] = tuple(dict.fromkeys(map(int, sizes)))
    return Grid(found.get("batch", ()), found.get("length", ()))
