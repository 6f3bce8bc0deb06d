"""Where commands print."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from proofbook.cli.errors import WrongUsage
from proofbook.paths import workbook_root

# columns where the output goes to a file or a pipe, which have no width of their own
FILE_WIDTH = 200


def console(*, errors: bool = False) -> Console:
    """The standard output stream, or that of errors."""
    out = Console(stderr=errors)
    return out if out.is_terminal else Console(stderr=errors, width=FILE_WIDTH)


def table(title: str, *columns: str) -> Table:
    """A plain table, its first column never wrapped."""
    made = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        made.add_column(column, no_wrap=number == 0, overflow="fold")
    return made


def root() -> Path:
    """The workbook's folder.

    Raises:
        WrongUsage: there is none.
    """
    try:
        return workbook_root()
    except FileNotFoundError as error:
        raise WrongUsage(str(error)) from None


def shown(path: Path) -> str:
    """A path as a person types it: relative to the working folder where it lies below."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
