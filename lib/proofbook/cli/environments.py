"""``proofbook env``."""

import json

import typer

from proofbook.batch import environments
from proofbook.catalog.environments import CURRENT, Environment, load_environments, of_release
from proofbook.cli.console import console, root, shown, table
from proofbook.cli.errors import WrongUsage
from proofbook.environments import folder_of, made
from proofbook.verdict import Blocked

commands = typer.Typer(
    help="Environments: other releases of transformers, each beside the packages that are installed already.",
    no_args_is_help=True,
)


@commands.command()
def create(
    name: str = typer.Argument(help="A name of params/environments.yaml, or a release: transformers==5.9.0."),
) -> None:
    """Make an environment: a virtual environment that shares torch, and a kernel for JupyterLab."""
    wanted = _entry(name)
    out = console()
    with out.status(f"installing {', '.join(wanted.requirements)}"):
        done = environments.create(wanted)
    has = ", ".join(f"{package} {release}" for package, release in done.versions.items())
    out.print(f"{done.name}: {has}; all else is shared. In {shown(folder_of(done.name))}", highlight=False)


@commands.command("list")
def list_(as_json: bool = typer.Option(False, "--json", help="Print JSON.")) -> None:
    """List the environments of params/environments.yaml, and those that this machine has."""
    rows = states()
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    out = table("environments", "environment", "here", "differs in", "what", "how to get it")
    for row in rows:
        out.add_row(row["name"], "yes" if row["here"] else "no", row["differs"], row["what"], row["remedy"])
    console().print(out)


@commands.command()
def remove(name: str) -> None:
    """Remove an environment from this machine."""
    try:
        environments.remove(name)
    except Blocked as error:
        raise WrongUsage(str(error)) from None


def states() -> list[dict[str, str]]:
    """Every environment, made or not: its name, whether it is here, in what it differs, and how to get it."""
    here, known = made(), load_environments(root() / "params")
    rows = [{"name": CURRENT, "here": "yes", "differs": "", "what": "this interpreter", "remedy": ""}]
    for name in dict.fromkeys((*known, *here)):
        if name in here:
            differs = ", ".join(f"{package} {release}" for package, release in here[name].versions.items())
            rows.append({"name": name, "here": "yes", "differs": differs, "what": here[name].description, "remedy": ""})
            continue
        entry = known[name]
        rows.append(
            {
                "name": name,
                "here": "",
                "differs": ", ".join(entry.requirements),
                "what": entry.description,
                "remedy": f"proofbook env create {name}",
            }
        )
    return rows


def _entry(name: str) -> Environment:
    known = load_environments(root() / "params")
    try:
        return known[name] if name in known else of_release(name)
    except ValueError as error:
        raise WrongUsage(f"{error}. Known: {', '.join(known)}") from None
