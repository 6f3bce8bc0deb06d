"""The seat for debugging: a case's notebook with its parameters set, ready to be opened and changed."""

import json
from pathlib import Path
from typing import Any

from proofbook.batch.local import kernelspec, parameters
from proofbook.batch.plan import PlannedCase, plan_case
from proofbook.catalog import Catalog, Weights
from proofbook.environments import interpreter, kernel_name, made
from proofbook.files import write_atomic
from proofbook.measure.grid import parse_grid


class BadCase(ValueError):
    """A case that can't be debugged as it was named; the message says why."""


def find_case(
    catalog: Catalog,
    named: str,
    *,
    target: str | None = None,
    weights: Weights | None = None,
    seed: int | None = None,
    folder: Path | None = None,
    environment: str | None = None,
    variant: str | None = None,
    sweep: str | None = None,
) -> PlannedCase:
    """The case that a person means: a model, or the path of an executed notebook. What is given wins over the path's.

    Raises:
        BadCase: the path is no notebook of a case, or ``sweep`` is not written as one.
        Blocked: this machine does not have the environment.
        UnknownName: the catalog lacks the model or the target.
    """
    path = Path(named)
    known: dict[str, Any] = {"model": named}
    if path.suffix == ".ipynb" or path.is_file():
        known = _parameters_of(path)
    model = catalog.model(known["model"])
    chosen = catalog.target(target or known.get("target", "cpu")).name
    at = folder or (Path(known["folder"]) if known.get("folder") else None)
    weights = weights or Weights(known.get("weights", Weights.TINY))
    if at and weights is not Weights.LOCAL:
        raise BadCase("--folder holds the weights of a model: it needs --weights local")
    seed = known.get("seed", 0) if seed is None else seed
    environment = environment or known.get("environment")
    variant = known.get("variant", "") if variant is None else variant
    sweep = known.get("sweep", "") if sweep is None else sweep
    try:
        parse_grid(sweep)
    except ValueError as wrong:
        raise BadCase(str(wrong)) from None
    case = plan_case(model, chosen, weights, seed, folder=at, environment=environment, variant=variant, sweep=sweep)
    interpreter(case.environment)
    return case


def write_debug_notebook(case: PlannedCase, notebooks: Path, folder: Path) -> Path:
    """Write the case's category notebook, without outputs and with its parameters set, into a folder.

    A notebook that is there already may hold somebody's work: it is kept, and the new one gets a number.

    Raises:
        BadCase: the category notebook is missing or damaged.
    """
    import nbformat
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    source = notebooks / f"{case.category}.ipynb"
    try:
        notebook = load_notebook_node(str(source))
    except Exception as error:  # nbformat, JSON and the file system each raise their own
        raise BadCase(f"{source} can't be read: {type(error).__name__}: {error}") from error
    notebook = parameterize_notebook(notebook, parameters(case), kernel_name="python3", language="python")
    notebook.metadata.kernelspec = kernelspec(case)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    names = (case.case, *(f"{case.case}-{number}" for number in range(2, 10_000)))
    path = next(path for name in names if not (path := folder / f"{name}.ipynb").exists())
    write_atomic(path, f"{nbformat.writes(notebook)}\n")
    return path


def _parameters_of(path: Path) -> dict[str, Any]:
    """The parameters with which a notebook was executed."""
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))["metadata"]
        known: dict[str, Any] = dict(metadata["papermill"]["parameters"])
        kernel = metadata.get("kernelspec", {}).get("name")
        known["environment"] = next((name for name in made() if kernel_name(name) == kernel), None)
        if not isinstance(known["model"], str):
            raise TypeError(f"model is {known['model']!r}")
    except FileNotFoundError:
        raise BadCase(f"{path}: no such notebook") from None
    except (ValueError, KeyError, TypeError, OSError) as error:
        cause = f"{type(error).__name__}: {error}"
        raise BadCase(f"{path} is not the executed notebook of a case ({cause}). Name its model instead") from None
    return known
