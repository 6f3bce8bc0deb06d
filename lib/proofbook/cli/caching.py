"""``proofbook cache``: what is kept between runs because it is costly to compute."""

import typer

from proofbook import cache
from proofbook.cli.console import console
from proofbook.paths import cache_dir

commands = typer.Typer(help="What is kept between runs: truths in float64, and the list of discovered models.")


@commands.command()
def show() -> None:
    """Show what is kept, and where. $PROOFBOOK_CACHE names another folder."""
    out = console()
    out.print(str(cache_dir()), markup=False, highlight=False, soft_wrap=True)
    for name, (files, size) in cache.held().items():
        out.print(f"{name}: {files} files, {size / 1e6:.1f} MB", highlight=False)
    out.print(
        f"At most {cache.LIMIT / 1e9:.1f} GB of {cache.TRUTH}: the least recently used goes first.", highlight=False
    )


@commands.command()
def clear() -> None:
    """Remove all of it: the next run computes it anew."""
    console().print(f"{cache.clear() / 1e6:.1f} MB removed from {cache_dir()}", highlight=False, soft_wrap=True)
