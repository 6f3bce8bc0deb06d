"""Sentences in several scripts, written for proofbook (Apache-2.0, as the code)."""

from functools import cache
from importlib.resources import files


@cache
def _sections() -> dict[str, tuple[str, ...]]:
    """The lines of ``corpus.txt`` under their headings."""
    sections: dict[str, list[str]] = {}
    for line in files(__package__).joinpath("corpus.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("[") and line.endswith("]"):
            lines = sections.setdefault(line[1:-1], [])
        elif not line.startswith("# "):
            lines.append(line)
    return {language: tuple(lines) for language, lines in sections.items()}


def languages() -> tuple[str, ...]:
    """What the corpus is in: ISO 639-3 codes, ``code`` and ``emoji``, the most widely spread scripts first."""
    return tuple(_sections())


def corpus(*chosen: str) -> list[str]:
    """The sentences of the languages chosen, or of all."""
    sections = _sections()
    return [line for language in chosen or sections for line in sections[language]]
