"""The plan of a run: which cases, each with all that is needed to execute it and to account for it."""

import shlex
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

import proofbook
from proofbook.catalog import Catalog, Category, Model, Timings, UnknownName, Weights
from proofbook.catalog.environments import CURRENT
from proofbook.environments import chosen_for, made, own_name
from proofbook.files import write_atomic
from proofbook.measure.grid import parse_grid
from proofbook.workbook.records import case_id, notebook_path, rerun_command

PLAN_FILE = "plan.json"
DEFAULT_SUITE = "smoke"
# seconds a case may take where no suite says otherwise
DEFAULT_TIME_LIMIT = 300.0


class BadPlan(ValueError):
    """A plan that can't be made or can't be read; the message says which value is wrong and what is allowed."""


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PlannedCase(_Frozen):
    """One case to execute. The notebook's path is relative to the run's folder, with forward slashes."""

    case: str
    model: str
    model_type: str
    category: Category
    task: str
    target: str
    weights: Weights
    # the environment whose interpreter runs it
    environment: str = CURRENT
    # the switches of the tiny configuration that are set otherwise
    variant: str = ""
    # at which sizes of batches and lengths calls are timed beside its own
    sweep: str = ""
    # the folder of the weights where they are local and not the model's own
    folder: str | None = None
    seed: int
    # seconds for the whole case, from the start of its kernel to the end of its last cell
    time_limit: float
    # GB (10^9 bytes) for all processes of the case; None for what the machine that runs it can bear
    memory_limit: float | None = None
    notebook: str
    rerun: str


class Shard(_Frozen):
    """Which share of a run a plan is."""

    # counted from 1
    index: int
    count: int
    # all cases of the run, by name, in their order
    whole: tuple[str, ...]


class Plan(_Frozen):
    """A run, before anything is executed."""

    run: str
    # UTC, ISO 8601
    created: str
    version: str
    suite: str | None
    seed: int
    # among what calls are timed
    timings: Timings = Timings.BESIDE
    targets: tuple[str, ...]
    # where this is but a part of a run, the others being for other machines
    shard: Shard | None = None
    cases: tuple[PlannedCase, ...]

    def save(self, folder: Path) -> None:
        """Write the plan into a run's folder."""
        write_atomic(folder / PLAN_FILE, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the plan of a run's folder.

        Raises:
            BadPlan: there is none, or it is damaged, or of another version's shape.
        """
        path = folder / PLAN_FILE
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise BadPlan(f"{folder} is not a run: it has no {PLAN_FILE}") from None
        except NotADirectoryError:
            raise BadPlan(f"{folder} is not a run: it is not a folder") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the whole file"
            raise BadPlan(f"{path} can't be used: {where}: {first['msg']}") from None


def make_plan(
    catalog: Catalog,
    *,
    run: str,
    targets: Sequence[str],
    suite: str | None = None,
    models: Collection[str] = (),
    categories: Collection[str] = (),
    weights: Weights | None = None,
    folder: Path | None = None,
    environment: str | None = None,
    seed: int = 0,
    time_limit: float | None = None,
    memory_limit: float | None = None,
    variants: Mapping[str, Sequence[str]] | None = None,
    timings: Timings | None = None,
    sweep: str = "",
) -> Plan:
    """Plan the cases of a suite, of models or of categories, on every target given.

    With a suite, ``models`` and ``categories`` keep only those of its cases; without one, ``models`` are the cases, or
    ``categories`` select from the models of ``params/models/``; with none of the three, the suite is
    :data:`DEFAULT_SUITE`. ``weights`` and ``timings`` replace what the suite says.
    A case runs in ``environment``, else in the one that this machine has for what its model needs. ``variants`` of a
    model, by its name, are further cases of its tiny weights. ``sweep`` is for every case.

    Raises:
        UnknownName: a model, category, target or suite that the catalog doesn't have.
        BadPlan: the selection is empty, ``folder`` does not fit it, or ``sweep`` is not written as one.
    """
    try:
        parse_grid(sweep)
    except ValueError as wrong:
        raise BadPlan(str(wrong)) from None
    if not (suite or models or categories):
        suite = DEFAULT_SUITE
    for name in categories:
        if name not in set(Category):
            raise UnknownName("category", name, Category)
    named = {(model := catalog.model(name)).name: model for name in models}
    candidates = (
        suite_cases(catalog, suite)
        if suite
        else [(model, Weights.TINY) for model in (named or catalog.models).values()]
    )
    selected = {
        (model.name, weights or own): model
        for model, own in candidates
        if (not named or model.name in named) and (not categories or model.category in categories)
    }
    limit = time_limit or (catalog.suite(suite).time_limit if suite else DEFAULT_TIME_LIMIT)
    # asked once a model, as it is read from what is installed
    places = {name: environment or chosen_for(model.needs) for (name, _), model in selected.items()}
    cases = [
        plan_case(
            model, catalog.target(target).name, own, seed, limit, folder, places[name], variant, memory_limit, sweep
        )
        for target in dict.fromkeys(targets)
        for (name, own), model in selected.items()
        for variant in ("", *((variants or {}).get(name, ()) if own is Weights.TINY else ()))
    ]
    _check(cases, folder, suite)
    _check_environment(environment)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return Plan(
        run=run,
        created=created,
        version=proofbook.__version__,
        suite=suite,
        seed=seed,
        timings=timings or (catalog.suite(suite).timings if suite else Timings.BESIDE),
        targets=tuple(dict.fromkeys(targets)),
        cases=tuple(cases),
    )


def suite_cases(catalog: Catalog, name: str) -> list[tuple[Model, Weights]]:
    """The models of a suite, each with the weights it runs with. Raises :class:`UnknownName`."""
    suite = catalog.suite(name)
    named = [(catalog.model(case.model), case.weights) for case in suite.cases]
    whole = catalog.every_model() if suite.discovered else catalog.models
    wanted = [model for model in whole.values() if suite.discovered or model.tracked]
    return named + [
        (model, Weights.TINY) for category in suite.categories for model in wanted if model.category is category
    ]


def plan_case(
    model: Model,
    target: str,
    weights: Weights,
    seed: int,
    time_limit: float = DEFAULT_TIME_LIMIT,
    folder: Path | None = None,
    environment: str | None = None,
    variant: str = "",
    memory_limit: float | None = None,
    sweep: str = "",
) -> PlannedCase:
    """One case of a plan, in an environment, or in the one that this machine has for what the model needs."""
    environment = environment or chosen_for(model.needs)
    case = case_id(model.name, target, weights, environment, variant)
    at = str(folder.resolve()) if folder else None
    rerun = rerun_command(model.name, target, weights, seed, environment, variant, sweep)
    return PlannedCase(
        case=case,
        model=model.name,
        model_type=model.model_type,
        category=model.category,
        task=model.task,
        target=target,
        weights=weights,
        environment=environment,
        variant=variant,
        sweep=sweep,
        folder=at,
        seed=seed,
        time_limit=time_limit,
        memory_limit=memory_limit,
        notebook=str(notebook_path(model.category, case)),
        rerun=f"{rerun} --folder {shlex.quote(at)}" if at else rerun,
    )


def _check_environment(name: str | None) -> None:
    has = (CURRENT, own_name(), *made())
    if name is not None and name not in has:
        known = ", ".join(dict.fromkeys(has))
        raise BadPlan(f"--environment {name}: this machine has {known}. To make it: `proofbook env create {name}`")


def _check(cases: Sequence[PlannedCase], folder: Path | None, suite: str | None) -> None:
    if not cases:
        among = f"suite {suite}" if suite else "params/models"
        raise BadPlan(f"nothing to run: {among} holds no case of the models, categories and targets asked for")
    if folder is None:
        return
    if {case.weights for case in cases} != {Weights.LOCAL} or len({case.model for case in cases}) > 1:
        raise BadPlan("--folder holds the weights of one model: it needs --weights local and one --model")
    if not folder.is_dir():
        raise BadPlan(f"--folder {folder}: no such folder")
