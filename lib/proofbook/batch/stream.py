"""The output streams of a kernel: as ipykernel's, up to an amount that no reader would miss.

A cell that prints without end would else fill the memory of whoever listens, faster than that can be thrown away.
"""

from ipykernel.iostream import OutStream

# characters that a kernel sends of one stream; a notebook keeps fewer, and says that it does (`output.py`)
SENT = 4_000_000


class BoundedStream(OutStream):
    """Sends the first :data:`SENT` characters and drops the rest."""

    _sent = 0

    def write(self, string: str) -> int:
        """As a text stream's."""
        if self._sent > SENT:
            return len(string)
        self._sent += len(string)
        super().write(string[:SENT])
        return len(string)
