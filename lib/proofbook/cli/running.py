"""``proofbook run`` and ``proofbook report``."""

import shlex
import sys
from dataclasses import asdict, dataclass
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console

from proofbook.batch.bringing import bring_over
from proofbook.batch.history import History
from proofbook.batch.ledger import Ledger
from proofbook.batch.lock import locked
from proofbook.batch.machine import MachineryFailed, cores, default_jobs, usable_targets
from proofbook.batch.parents import unavailable
from proofbook.batch.plan import Plan, make_plan
from proofbook.batch.progress import style
from proofbook.batch.reuse import Keys
from proofbook.batch.run import Executor, Interrupted, execute_run, new_folder, unfinished, write_ledger
from proofbook.batch.scratch import sweep
from proofbook.batch.shards import parse_shard, shard_of
from proofbook.batch.store import Store, is_url, open_run
from proofbook.batch.variants import Extent, variants_for
from proofbook.catalog import Category, Timings, Weights, load_catalog
from proofbook.cli.console import console, root, shown
from proofbook.cli.errors import FELL_SHORT, STOPPED, WrongUsage
from proofbook.environments import editable
from proofbook.subject.requirements import installing

# commands shown at the end of a run; the summary has them all
LAST_SHOWN = 20


@dataclass(frozen=True)
class Selection:
    """What a new run is asked to hold."""

    suite: str | None
    models: tuple[str, ...]
    categories: tuple[Category, ...]
    targets: tuple[str, ...]
    weights: Weights | None
    folder: Path | None
    environment: str | None
    variants: Extent | None
    seed: int
    time_limit: float | None
    timings: Timings | None
    memory_limit: float | None
    sweep: str
    shard: str | None
    # a folder or a URL
    out: str | None


@dataclass(frozen=True)
class Manner:
    """How cases are executed."""

    jobs: int | None
    per_device: int
    report: bool
    cold: bool
    # whether events are printed as lines of JSON, and all that is for people goes to the standard error stream
    json: bool = False
    executor: Executor = Executor.LOCAL

    @property
    def out(self) -> Console:
        """Where it is told to a person."""
        return console(errors=self.json)


def start_run(wanted: Selection, manner: Manner, changed: bool) -> int:
    """Plan and execute a new run, ``changed`` only what earlier ones have no answer for; the exit status."""
    out, workbook = manner.out, root()
    share = parse_shard(wanted.shard) if wanted.shard is not None else None
    catalog = load_catalog(workbook / "params")
    targets = wanted.targets
    if not targets:
        with out.status("finding the devices of this machine"):
            targets = tuple(usable_targets(catalog))
    chosen: dict[str, Any] = {
        "run": "",
        "suite": wanted.suite,
        "models": wanted.models,
        "categories": wanted.categories,
        "targets": targets,
        "weights": wanted.weights,
        "folder": wanted.folder,
        "environment": wanted.environment,
        "seed": wanted.seed,
        "time_limit": wanted.time_limit,
        "timings": wanted.timings,
        "memory_limit": wanted.memory_limit,
        "sweep": wanted.sweep,
    }
    plan = make_plan(catalog, **chosen)
    if wanted.variants:
        with out.status("deriving variants of the configurations"):
            plan = make_plan(catalog, **chosen, variants=variants_for(plan.cases, wanted.variants))
    if share:
        plan = shard_of(plan, *share, History.of(workbook / "outputs"))
    _check_executor(manner.executor, plan.timings)
    folder, store = destination(workbook / "outputs", wanted.out)
    plan = plan.model_copy(update={"run": folder.name})
    with locked(folder):
        plan.save(folder)
        if store:
            store.begin(folder)
        if changed:
            _bring_over(plan, folder, workbook, out)
        return _execute(plan, folder, workbook, manner, out, store)


def continue_run(name: str, wanted: Selection, manner: Manner) -> int:
    """Execute the cases that a run still lacks; the exit status."""
    if any(asdict(wanted).values()):
        raise WrongUsage(
            "--resume continues a run as it was planned: "
            "only --executor, --jobs, --per-device, --cold, --json and --no-report go with it"
        )
    workbook = root()
    folder = open_run(name, workbook / "outputs")
    plan = Plan.load(folder)
    _check_executor(manner.executor, plan.timings)
    with locked(folder):
        return _execute(plan, folder, workbook, manner, manner.out, Store.of(folder))


def report_run(name: str) -> None:
    """Rebuild a run's ledger from its notebooks and render its summary."""
    out, folder = console(), open_run(name, root() / "outputs")
    write_ledger(folder, out)
    _report(folder, out)
    _copy_out(Store.of(folder), folder, out)


def _check_executor(executor: Executor, timings: Timings) -> None:
    """Raises WrongUsage for an executor that can't execute a plan, before anything of the run is written."""
    if executor is Executor.RAY and find_spec("ray") is None:
        raise WrongUsage(f"--executor ray: Ray is not installed. `{installing('ray')}`, on every node")
    if executor is Executor.RAY and timings is Timings.ALONE:
        raise WrongUsage("--timings alone: what other tasks of Ray do meanwhile can't be held. Use --executor local")


def destination(outputs: Path, chosen: str | None) -> tuple[Path, Store | None]:
    """The folder of a new run, and the URL that it is to be copied to where one was chosen."""
    if chosen is None or not is_url(chosen):
        return new_folder(outputs, Path(chosen) if chosen else None), None
    store = Store(chosen)
    store.check_free()
    return new_folder(outputs, name=store.name), store


def _copy_out(store: Store | None, folder: Path, out: Console) -> None:
    """Copy to its URL what is new in a run's folder."""
    if store:
        with out.status(f"copying to {store.url}"):
            store.complete(folder)
        out.print(f"copied to {store.url}", markup=False, highlight=False, soft_wrap=True)


def _keys(plan: Plan, workbook: Path) -> Keys:
    params = workbook / "params"
    return Keys(load_catalog(params), params, workbook / "notebooks", plan.timings, date.today())


def _bring_over(plan: Plan, folder: Path, workbook: Path, out: Console) -> None:
    if editable():
        said = f"{', '.join(editable())} can be edited where it is installed"
        out.print(f"all cases run: {said}, so nobody can tell whether it has changed", highlight=False, soft_wrap=True)
        return
    with out.status("looking for results that still hold"):
        brought = bring_over(plan, folder, _keys(plan, workbook), workbook / "outputs")
    out.print(str(brought), markup=False, highlight=False, soft_wrap=True)
    for said in brought.damaged:
        out.print(said, style="yellow", markup=False, highlight=False, soft_wrap=True)


def _execute(plan: Plan, folder: Path, workbook: Path, manner: Manner, out: Console, store: Store | None) -> int:
    sweep()
    jobs = manner.jobs or default_jobs()
    left = len(unfinished(plan, folder))
    # a case a core imports no more often by itself than a parent for them would
    warm = not manner.cold and unavailable() is None and left > jobs
    kernels = "warm" if warm else "cold"
    copied = f", copied to {store.url}" if store else ""
    out.print(
        f"run {plan.run}: {left} of {len(plan.cases)} cases to execute on {', '.join(plan.targets)}; "
        f"{jobs} at a time on {cores()} cores, in {kernels} kernels, in {shown(folder)}{copied}",
        highlight=False,
        soft_wrap=True,
    )
    history = History.of(workbook / "outputs")
    for said in history.damaged:
        out.print(said, style="yellow", markup=False, highlight=False, soft_wrap=True)
    try:
        ledger = execute_run(
            plan,
            folder,
            workbook / "notebooks",
            jobs,
            out,
            warm,
            history=history,
            keys=_keys(plan, workbook),
            per_device=manner.per_device,
            stream=sys.stdout if manner.json else None,
            executor=manner.executor,
            store=store,
        )
    except Interrupted as stopped:
        again = f"proofbook run --resume {shlex.quote(shown(folder))}"
        out.print(f"{stopped}. Continue with:\n{again}", highlight=False, soft_wrap=True)
        _copy_out(store, folder, out)
        return STOPPED
    conclude(ledger, folder, out, report=manner.report, store=store)
    return FELL_SHORT if ledger.fell_short else 0


def conclude(ledger: Ledger, folder: Path, out: Console, *, report: bool, store: Store | None) -> None:
    """Say how to look at what fell short, render the summary where it is asked for, and copy all to the run's URL."""
    _close(ledger, out)
    try:
        if report:
            _report(folder, out)
    finally:
        _copy_out(store, folder, out)


def _report(folder: Path, out: Console) -> None:
    from proofbook.report.build import build_report

    try:
        page = build_report(folder)
    except Exception as error:  # whatever it is, the cases are done and it must not hide them
        cause = f"{type(error).__name__}: {error}".strip().partition("\n")[0]
        again = f"proofbook report {shlex.quote(shown(folder))}"
        raise MachineryFailed(f"the cases are done, but not their report: {cause}. Again: `{again}`") from error
    out.print(f"summary: {shown(page)}", markup=False, highlight=False, soft_wrap=True)


def _close(ledger: Ledger, out: Console) -> None:
    """Say how to look at what fell short, and what could not run at all."""
    short = [case for case in ledger.cases if case.verdict.fell_short]
    if short:
        out.print(f"{len(short)} of {len(ledger.cases)} cases fell short. To look at one:", highlight=False)
    for case in short[:LAST_SHOWN]:
        out.print(f"  [{style(case.verdict)}]{case.verdict:8}[/]{case.rerun}", highlight=False, soft_wrap=True)
    if len(short) > LAST_SHOWN:
        out.print(f"  … and {len(short) - LAST_SHOWN} more", highlight=False)
    for target in ledger.blocked_targets():
        reason = next(case.reason for case in ledger.cases if case.target == target)
        out.print(f"not one case could run on {target}: {reason}", markup=False, highlight=False, soft_wrap=True)
