"""``proofbook selftest``."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TypeVar

from rich.progress import track

from proofbook.batch.machine import cores
from proofbook.catalog import Catalog, UnknownName, load_catalog
from proofbook.cli.console import console, root, table
from proofbook.cli.errors import FELL_SHORT

T = TypeVar("T")


def selftest_suite(
    suite: str, models: Sequence[str], named: Sequence[str], seeds: int, target: str, jobs: int | None, as_json: bool
) -> int:
    """Plant faults in a suite's models and print what became of them; the exit status."""
    catalog = load_catalog(root() / "params")
    catalog.target(target)
    chosen = list(dict.fromkeys(models)) or _models(catalog, suite)
    faults = _faults(named)

    from proofbook.selftest.matrix import clean_all, hidden, matrix, plant_all
    from proofbook.selftest.trials import Result

    out, processes = console(), jobs or cores()
    silent = as_json or not out.is_terminal

    def each(results: Iterator[T], count: int, doing: str) -> list[T]:
        return list(track(results, doing, total=count, console=out, disable=silent))

    planted = each(plant_all(faults, chosen, target, processes), len(faults) * len(chosen), "planting faults")
    alarms = each(clean_all(chosen, range(seeds), target, processes), seeds * len(chosen), "clean models")
    lines, false = matrix(planted), [alarm for several in alarms for alarm in several]
    behind = hidden(planted)
    wrong = [one for one in planted if one.result in (Result.MISSED, Result.UNPLANTED) and one not in behind]
    if as_json:
        answer = {"planted": [asdict(one) for one in planted], "alarms": [asdict(one) for one in false]}
        print(json.dumps({**answer, "clean": seeds * len(chosen)}, indent=1, ensure_ascii=False))
        return FELL_SHORT if wrong or false else 0
    categories = sorted({category for line in lines for category in line.categories})
    made = table(f"{len(lines)} faults in {len(chosen)} models", "fault", *categories, "found by", "median s")
    for line in lines:
        cells = ("/".join(map(str, line.categories[one])) if one in line.categories else "" for one in categories)
        seconds = "" if line.median_s is None else f"{line.median_s:.2f}"
        made.add_row(line.fault, *cells, ", ".join(line.checks[:3]), seconds)
    out.print(made, markup=False, highlight=False)
    found, all_ = sum(line.found for line in lines), sum(line.planted for line in lines)
    out.print(f"found {found} of {all_} faults{f' ({found / all_:.1%})' if all_ else ''}", highlight=False)
    nowhere = [fault for fault in faults if fault not in {line.fault for line in lines}]
    if nowhere:
        out.print(f"not applicable to any of the models: {', '.join(nowhere)}", highlight=False)
    for one in wrong:
        out.print(f"{one.result}: {one.fault} in {one.model} {one.detail}".rstrip(), markup=False, highlight=False)
    for one in behind:
        said = f"hidden by what is known of the model: {one.fault} in {one.model} ({', '.join(one.expected)})"
        out.print(said, markup=False, highlight=False)
    out.print(f"{len(false)} false alarms in {seeds * len(chosen)} clean runs", highlight=False)
    for alarm in false:
        told = f"false alarm: {alarm.model}, seed {alarm.seed}: {alarm.check}: {alarm.detail[:200]}"
        out.print(told, markup=False, highlight=False)
    return FELL_SHORT if wrong or false else 0


def _models(catalog: Catalog, suite: str) -> list[str]:
    """The models of a suite, each once."""
    found = catalog.suite(suite)
    named = [case.model for case in found.cases]
    return list(
        dict.fromkeys([*named, *(one.name for one in catalog.models.values() if one.category in found.categories)])
    )


def _faults(named: Sequence[str]) -> list[str]:
    """The faults named, or all; the name ``none`` stands for none."""
    from proofbook.selftest.register import faults

    known = [fault.name for fault in faults()]
    for name in named:
        if name not in (*known, "none"):
            raise UnknownName("fault", name, [*known, "none"])
    return [name for name in named or known if name != "none"]
