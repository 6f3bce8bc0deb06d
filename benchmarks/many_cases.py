"""What planning and reporting cost with 10,000 cases, and how memory grows with their number.

    python benchmarks/many_cases.py [--cases 10000]

Plans so many cases of the tracked models, on all targets and with made-up variants, against an earlier run of as many
that tells how long each takes; writes a notebook for each, as executed ones are; and reports on them, and on a tenth of
them, each in a process of its own. Nothing is executed: `floor.py` and `kernels.py` are for that.

Prints seconds and ends with one line of JSON: ``plan_s`` from reading ``params/`` and the ledger of the earlier run to
the plan on the disk and the order of its cases; ``ledger_s`` of making the ledger; ``report_s`` of the whole report,
the ledger and the start of its process included, and ``report_cpu_s``, what its two processes computed meanwhile; the
most memory that took, with all cases and with a tenth of them; and ``memory_ratio``, how many times as much ten times
the cases take.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from proofbook.batch.history import History
from proofbook.batch.ledger import CASES_FILE, read_ledger
from proofbook.batch.plan import Plan, make_plan
from proofbook.batch.schedule import Room, Schedule
from proofbook.catalog import load_catalog
from proofbook.verdict import Verdict

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

REPORT = """
import json, resource, sys
from pathlib import Path
from proofbook.cli.running import report_run
report_run(sys.argv[1])
used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
memory, seconds = (sum(each) for each in zip(*((one.ru_maxrss, one.ru_utime + one.ru_stime) for one in used)))
print(json.dumps([memory * 1024 / 1e6, seconds]))
"""
SHORT = {7: Verdict.FAIL, 19: Verdict.ERROR, 31: Verdict.TIMEOUT, 43: Verdict.BLOCKED}
"""Of fifty cases, those that do not pass."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    given = parser.parse_args()
    with TemporaryDirectory() as made:
        outputs = Path(made)
        earlier, whole, tenth = (outputs / name for name in ("earlier", "whole", "tenth"))
        write(planned(given.cases, History(), earlier), earlier)
        ledger_s = timed(lambda: read_ledger(earlier).write(earlier))
        plan_s = timed(lambda: planned(given.cases, History.of(outputs), whole))
        earlier.joinpath(CASES_FILE).unlink()
        earlier.joinpath("cases").rename(whole / "cases")
        part = planned(given.cases // 10, History(), tenth)
        write(part, tenth)
        report_s, memory, report_cpu_s = report(whole)
        tenth_s, memory_of_tenth, _ = report(tenth)
    print(f"{given.cases} cases: planned in {plan_s:.1f} s, ledger {ledger_s:.1f} s, report {report_s:.1f} s")
    print(f"its processes computed for {report_cpu_s:.1f} s")
    print(f"{given.cases // 10} cases: report {tenth_s:.1f} s")
    answer = {
        "cases": given.cases,
        "plan_s": plan_s,
        "ledger_s": ledger_s,
        "report_s": report_s,
        "report_cpu_s": report_cpu_s,
        "memory_mb": memory,
        "memory_of_tenth_mb": memory_of_tenth,
        "memory_ratio": memory / memory_of_tenth,
    }
    print(json.dumps({name: round(value, 3) for name, value in answer.items()}))


def planned(count: int, history: History, folder: Path) -> Plan:
    """So many cases, planned, put into order and saved."""
    catalog = load_catalog()
    models = [model.name for model in catalog.models.values() if model.tracked]
    enough = count // (len(models) * len(catalog.targets)) + 1
    variants = {name: [f"switch={number}" for number in range(enough)] for name in models}
    plan = make_plan(catalog, run=folder.name, models=models, targets=list(catalog.targets), variants=variants)
    plan = plan.model_copy(update={"cases": plan.cases[:count]})
    needs = [(case, history.need(case, catalog.target(case.target))) for case in plan.cases]
    Schedule(needs, Room(2, 2, lambda: 8 * 10**9))
    folder.mkdir(exist_ok=True)
    plan.save(folder)
    return plan


def write(plan: Plan, folder: Path) -> None:
    """The executed notebook of every case, as those of the tests."""
    from report_run import write_notebook

    for number, case in enumerate(plan.cases):
        write_notebook(folder / case.notebook, case, SHORT.get(number % 50, Verdict.PASS))


def timed(work: Callable[[], object]) -> float:
    """How long it takes, in seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def report(folder: Path) -> tuple[float, float, float]:
    """Seconds of a run's report, the most MB of memory that its processes had, and the seconds that they computed."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", REPORT, str(folder)], check=True, capture_output=True, text=True)
    memory, computed = json.loads(done.stdout.splitlines()[-1])
    return time.perf_counter() - began, memory, computed


if __name__ == "__main__":
    main()
