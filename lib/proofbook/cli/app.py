"""The commands and their options; what they do is in the modules beside this one."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from proofbook.batch.run import Executor
from proofbook.batch.variants import Extent
from proofbook.catalog import Category, Timings, Weights
from proofbook.cli.caching import commands as caching
from proofbook.cli.environments import commands as environments
from proofbook.cli.errors import exit_code_of

EXIT_CODES = (
    "Exit status: 0 all as expected; 1 a case fell short (fail, error, timeout, crash, xpass, not-run), or not one "
    "case could run on some target; 2 wrong usage; 3 the machinery failed; 130 stopped by Ctrl-C."
)

app = typer.Typer(
    name="proofbook",
    help="Prove which Hugging Face models work on which hardware, whether the numbers are right, and how fast.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(environments, name="env")
app.add_typer(caching, name="cache")


class Listed(StrEnum):
    """What ``proofbook list`` can list."""

    MODELS = "models"
    TARGETS = "targets"
    SUITES = "suites"
    CHECKS = "checks"
    FAULTS = "faults"


Seed = Annotated[int, typer.Option(min=0, help="Seed of weights and inputs.")]
Folder = Annotated[Path | None, typer.Option(help="Folder of the checkpoint, for --weights local.")]
EnvironmentName = Annotated[
    str | None, typer.Option(help="Environment of every case; by default the one that its model needs.")
]
SWEEP = "Time calls at these sizes as well: batch=1,2,8;length=16,64"
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _each(named: list[str] | None) -> tuple[str, ...]:
    """The names in options that may be repeated, and may hold several with commas."""
    return tuple(name.strip() for value in named or () for name in value.split(",") if name.strip())


@app.command(epilog=EXIT_CODES)
def run(
    suite: Annotated[
        str | None, typer.Option(help="Suite to run; smoke if no suite, model or category is named.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Only these models: one, or several with commas; may be repeated.")
    ] = None,
    category: Annotated[list[Category] | None, typer.Option(help="Only this category; may be repeated.")] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="Hardware targets: one, or several with commas; may be repeated. All that this machine has, "
            "but for those that take minutes a case."
        ),
    ] = None,
    weights: Annotated[Weights | None, typer.Option(help="Weights of every case; tiny, or the suite's.")] = None,
    folder: Folder = None,
    environment: EnvironmentName = None,
    variants: Annotated[
        Extent | None,
        typer.Option(help="Run tiny models also with switches of their configurations set otherwise; none by default."),
    ] = None,
    seed: Seed = 0,
    time_limit: Annotated[
        float | None, typer.Option(min=1, help="Seconds a case may take; the suite's, or 300.")
    ] = None,
    memory_limit: Annotated[
        float | None,
        typer.Option(min=0.1, help="GB that a case may take; 6, or with real weights nine tenths of the memory."),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Cases at a time; one a core, as far as memory reaches.")
    ] = None,
    per_device: Annotated[int, typer.Option(min=1, help="Cases at a time on one GPU.")] = 1,
    timings: Annotated[
        Timings | None,
        typer.Option(help="Time calls beside other cases, or alone, while these wait; beside, or as the suite says."),
    ] = None,
    sweep: Annotated[str, typer.Option(help=f"{SWEEP}; none by default.")] = "",
    changed: Annotated[
        bool,
        typer.Option("--changed", help="Run only what has changed; bring over what earlier runs found for the rest."),
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Only the I-th of N shares of about the same duration; see `merge`."),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|URL",
            help="Folder of the run; outputs/<time, UTC>. With a URL, s3://bucket/run, that of its name in outputs/, "
            "copied there as it grows.",
        ),
    ] = None,
    resume: Annotated[
        str | None, typer.Option(help="Run to continue (path, name, URL or latest): its cases without a notebook.")
    ] = None,
    executor: Annotated[
        Executor, typer.Option(help="What executes cases: this machine, or Ray, on the cluster of `ray start` if any.")
    ] = Executor.LOCAL,
    cold: Annotated[
        bool,
        typer.Option("--cold", help="Start each kernel anew, rather than fork it from one that has imported torch."),
    ] = False,
    report: Annotated[bool, typer.Option(help="Render the summary at the end.")] = True,
    json: Annotated[
        bool, typer.Option("--json", help="Print one event a line, as JSON; what is for people goes to stderr.")
    ] = False,
) -> None:
    """Plan cases, execute their notebooks, close the ledger and render the summary.

    Each case is a model on a target. --model and --category select from all models, or, with --suite, from the
    suite's cases. A case with tiny weights gets one thread, one with real weights the whole machine.
    """
    from proofbook.cli.running import Manner, Selection, continue_run, start_run

    selection = Selection(
        suite=suite,
        models=_each(model),
        categories=tuple(category or ()),
        targets=_each(target),
        weights=weights,
        folder=folder,
        environment=environment,
        variants=variants,
        seed=seed,
        time_limit=time_limit,
        timings=timings,
        memory_limit=memory_limit,
        sweep=sweep,
        shard=shard,
        out=out,
    )
    manner = Manner(jobs, per_device, report, cold, json, executor)
    if resume is not None and changed:
        raise typer.BadParameter("--resume continues a run as it was planned: --changed is for a new one")
    code = start_run(selection, manner, changed) if resume is None else continue_run(resume, selection, manner)
    raise typer.Exit(code)


@app.command("list")
def list_(
    what: Listed,
    every: Annotated[
        bool,
        typer.Option("--all", help="Of models and faults: also the other architectures of the installed transformers."),
    ] = False,
    new: Annotated[
        bool, typer.Option("--new", help="Of models: only architectures newer than this release of proofbook.")
    ] = False,
    json: Json = False,
) -> None:
    """List models, targets, suites, checks, or the faults of libraries that are known."""
    from proofbook.cli.listing import Extent, show

    if (every and what not in (Listed.MODELS, Listed.FAULTS)) or (new and what is not Listed.MODELS):
        raise typer.BadParameter(
            f"{'--new' if new else '--all'} is for models{'' if new else ' and faults'}, not for {what}"
        )
    show(what, json, Extent.NEW if new else Extent.ALL if every else Extent.ENTERED)


@app.command()
def doctor(json: Json = False) -> None:
    """What this machine has: devices, targets, versions; what is missing and how to get it."""
    from proofbook.cli.doctor import show

    show(json)


@app.command()
def debug(
    case: Annotated[str, typer.Argument(metavar="MODEL|PATH", help="A model, or a case's executed notebook.")],
    target: Annotated[str | None, typer.Option(help="Hardware target; the notebook's, or cpu.")] = None,
    weights: Annotated[Weights | None, typer.Option(help="Weights; the notebook's, or tiny.")] = None,
    folder: Folder = None,
    environment: EnvironmentName = None,
    variant: Annotated[
        str | None, typer.Option(help="Switches of the tiny configuration: NAME=VALUE;…; the notebook's, or none.")
    ] = None,
    sweep: Annotated[str | None, typer.Option(help=f"{SWEEP}; the notebook's, or none.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of weights and inputs; the notebook's, or 0.")] = None,
    browser: Annotated[bool, typer.Option(help="Open a browser; without, the address is only printed.")] = True,
) -> None:
    """Open a case's notebook in JupyterLab, its parameters set, in the same environment as in a run."""
    from proofbook.cli.debugging import debug_case

    raise typer.Exit(debug_case(case, target, weights, folder, seed, browser, environment, variant, sweep))


@app.command()
def selftest(
    suite: Annotated[str, typer.Option(help="Suite whose models are used.")] = "spread",
    model: Annotated[
        list[str] | None, typer.Option(help="Only these models: one, or several with commas; may be repeated.")
    ] = None,
    fault: Annotated[
        list[str] | None, typer.Option(help="Only these faults, or none: one, or several with commas; may be repeated.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=0, help="Draws of each model without a fault, to count false alarms.")] = 1,
    target: Annotated[str, typer.Option(help="Hardware target.")] = "cpu",
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes; one a core.")] = None,
    json: Json = False,
) -> None:
    """Prove that the checks work: plant faults in real models, and see which check finds each.

    Exit status: 1 if a fault was missed, could not be planted, or a check fell short on a model without one.
    """
    from proofbook.cli.selftesting import selftest_suite

    raise typer.Exit(selftest_suite(suite, _each(model), _each(fault), seeds, target, jobs, json))


@app.command()
def add(
    source: Annotated[
        str, typer.Argument(metavar="HUB_ID|FOLDER|CONFIG", help="A repository, a checkpoint's folder, a config.json.")
    ],
    name: Annotated[str, typer.Option(help="Name of the model; that of the repository or folder.")] = "",
    category: Annotated[Category | None, typer.Option(help="Its category; by what its class reads.")] = None,
    task: Annotated[str, typer.Option(help="Its task; by its class.")] = "",
    trust_remote_code: Annotated[
        bool,
        typer.Option("--trust-remote-code", help="Let code that the checkpoint brings run; recorded in the entry."),
    ] = False,
) -> None:
    """Add a model to params/models: its entry, derived from its configuration, for you to review."""
    from proofbook.cli.adding import add_model

    add_model(source, name, category, task, trust_remote_code)


@app.command(epilog=EXIT_CODES)
def merge(
    shards: Annotated[
        list[str], typer.Argument(metavar="RUN…", help="The runs of all shards of one run; URLs as well.")
    ],
    out: Annotated[
        str | None, typer.Option(metavar="FOLDER|URL", help="Folder of the merged run, or URL; outputs/<time, UTC>.")
    ] = None,
    report: Annotated[bool, typer.Option(help="Render the summary at the end.")] = True,
) -> None:
    """Join the runs of `run --shard` into one, whose ledger closes."""
    from proofbook.cli.merging import merge_runs

    raise typer.Exit(merge_runs(shards, out, report))


@app.command()
def status(
    run: Annotated[str, typer.Argument(help="Run: a path, a name in outputs/, or latest.")] = "latest",
    json: Json = False,
) -> None:
    """Where a run stands, also one of another terminal: running, complete, stopped, failed, killed or planned."""
    from proofbook.cli.watching import show_status

    show_status(run, json)


@app.command()
def report(run: Annotated[str, typer.Argument(help="Run: a path, a name in outputs/, a URL, or latest.")]) -> None:
    """Rebuild a run's ledger and render its summary: site/, junit.xml, summary.md, summary.ipynb."""
    from proofbook.cli.running import report_run

    report_run(run)


@app.command(epilog="Exit status: 0 nothing broke; 1 something broke; 2 wrong usage; 3 the machinery failed.")
def compare(
    before: Annotated[str, typer.Argument(help="Run to compare with: a path, a name in outputs/, a URL, or latest.")],
    after: Annotated[str, typer.Argument(help="Run to compare.")],
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
) -> None:
    """Tell what broke, what was mended and what got slower from one run to another."""
    from proofbook.cli.comparing import compare_runs

    raise typer.Exit(compare_runs(before, after, markdown))


def main() -> None:
    """Run the command line; every failure ends as one clear line and an exit status."""
    try:
        app()
    except (Exception, KeyboardInterrupt) as error:
        sys.exit(exit_code_of(error))
