"""``proofbook add``."""

from proofbook.batch.machine import MachineryFailed
from proofbook.catalog import Category, load_catalog
from proofbook.catalog.writing import append_entry, entry_text
from proofbook.cli.console import console, root, shown
from proofbook.cli.errors import WrongUsage
from proofbook.verdict import Blocked


def add_model(given: str, name: str, category: Category | None, task: str, trust_remote_code: bool) -> None:
    """Derive the entry of a model, write it, and print what was written.

    Raises:
        WrongUsage: no entry can be made of what was given.
        MachineryFailed: the hub can't give the configuration.
    """
    params = root() / "params"
    catalog = load_catalog(params)
    # after the catalog, which is quick to complain: this imports torch and transformers
    from proofbook.subject.entry import CannotAdd, derive_entry, read_source

    try:
        entry = derive_entry(read_source(given), catalog, name, category, task, trust_remote_code)
    except CannotAdd as error:
        raise WrongUsage(str(error)) from None
    except Blocked as error:
        raise MachineryFailed(str(error)) from None
    path = append_entry(params, entry)
    out = console()
    out.print(f"added to {shown(path)}, for you to review:\n", highlight=False, soft_wrap=True)
    out.print(entry_text(entry), markup=False, highlight=False, soft_wrap=True)
    weights = " --weights local" if entry.trust_remote_code and entry.local else ""
    weights = weights or (" --weights hub" if entry.trust_remote_code else "")
    out.print(f"Try it:\nproofbook run --model {entry.name} --target cpu{weights}", highlight=False, soft_wrap=True)
