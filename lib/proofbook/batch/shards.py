"""One run on many machines without an engine: each executes its share of the plan, and the shares are joined.

Every machine makes the same plan and divides it in the same way, so that nobody has to be asked. They divide alike as
long as they know the same of how long cases take: all of the same earlier runs, or none. Each share names all cases of
the whole, so that joining them shows what is missing and what was done twice.
"""

import glob
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from proofbook.batch.history import History
from proofbook.batch.plan import BadPlan, Plan, PlannedCase, Shard
from proofbook.batch.schedule import shares

# cases named in an error
_NAMED = 10
# what shards of one run have in common beside the cases of the whole
_COMMON = ("suite", "seed", "timings", "targets", "version")


def parse_shard(text: str) -> tuple[int, int]:
    """Which share of how many, from ``I/N``, counted from 1.

    Raises:
        BadPlan: it is of another shape, or there is no such share.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    index, count = map(int, found.groups()) if found else (0, 0)
    if not 1 <= index <= count:
        raise BadPlan(f"--shard {text}: it is I/N, the I-th of N shares, such as 1/4 or 4/4")
    return index, count


def shard_of(plan: Plan, index: int, count: int, history: History) -> Plan:
    """The part of a plan that one machine executes: about as long as the others, by what earlier runs tell.

    Args:
        plan: the whole.
        index: which share, counted from 1.
        count: how many shares there are.
        history: how long cases take. All machines must know the same.

    Raises:
        BadPlan: there are fewer cases than shares.
    """
    if count > len(plan.cases):
        raise BadPlan(f"--shard {index}/{count}: there are only {len(plan.cases)} cases to share")
    share = shares(plan.cases, count, history.seconds)[index - 1]
    whole = tuple(case.case for case in plan.cases)
    return plan.model_copy(update={"cases": tuple(share), "shard": Shard(index=index, count=count, whole=whole)})


def merged_plan(folders: Sequence[Path], run: str) -> Plan:
    """The plan of the run that the shards in these folders are shares of, in the order of the whole.

    Raises:
        BadPlan: a folder is no shard, they are not shares of one run, or some case is missing or there twice; the
            message names which.
    """
    plans = [Plan.load(folder) for folder in folders]
    for folder, plan in zip(folders, plans, strict=True):
        if plan.shard is None:
            raise BadPlan(f"{folder} is no shard: it was planned without --shard")
        _check_alike(folders[0], plans[0], folder, plan)
    first = plans[0]
    assert first.shard
    found = {case.case: case for plan in plans for case in plan.cases}
    counts = Counter(case.case for plan in plans for case in plan.cases)
    given = Counter(plan.shard.index for plan in plans if plan.shard)
    problems = []
    if missing := [case for case in first.shard.whole if case not in found]:
        lacking = sorted(set(range(1, first.shard.count + 1)) - set(given))
        names = ", ".join(f"{one}/{first.shard.count}" for one in lacking)
        shards = f" (there is no folder of shard {names})" if lacking else ""
        problems.append(f"missing: {_names(missing)}{shards}")
    if doubled := [case for case in first.shard.whole if counts[case] > 1]:
        problems.append(f"there more than once: {_names(doubled)}")
    if problems:
        raise BadPlan(
            f"these {len(plans)} folders do not make up the {len(first.shard.whole)} planned cases; "
            f"{'; '.join(problems)}. Machines that know different earlier runs divide differently"
        )
    cases = tuple(found[case] for case in first.shard.whole)
    created = min(plan.created for plan in plans)
    return first.model_copy(update={"run": run, "created": created, "cases": cases, "shard": None})


def copy_cases(folders: Sequence[Path], plan: Plan, folder: Path) -> int:
    """Copy what the shards have executed into the folder of the merged run; how many notebooks that were.

    Raises:
        OSError: a copy can't be written.
    """
    copied = 0
    for case in plan.cases:
        for source in folders:
            if not (source / case.notebook).is_file():
                continue
            (folder / case.notebook).parent.mkdir(parents=True, exist_ok=True)
            for made in made_by(case, source):
                shutil.copyfile(made, (folder / case.notebook).with_name(made.name))
            copied += 1
    return copied


def made_by(case: PlannedCase, folder: Path) -> list[Path]:
    """The executed notebook of a case, and the script that reproduces its failure."""
    path = folder / case.notebook
    return sorted(path.parent.glob(f"{glob.escape(path.stem)}.*"))


def _check_alike(first: Path, of_first: Plan, folder: Path, plan: Plan) -> None:
    assert of_first.shard and plan.shard
    for name in _COMMON:
        if getattr(plan, name) != getattr(of_first, name):
            one, other = getattr(of_first, name), getattr(plan, name)
            raise BadPlan(f"{first} and {folder} are not shares of one run: {name} is {one!r}, and {other!r}")
    if plan.shard.count != of_first.shard.count:
        raise BadPlan(
            f"{first} and {folder} are not shares of one run: one of {of_first.shard.count}, and one of "
            f"{plan.shard.count}"
        )
    if differing := sorted({*plan.shard.whole} ^ {*of_first.shard.whole}):
        raise BadPlan(f"{first} and {folder} are not shares of one run: only one was to hold {_names(differing)}")


def _names(cases: Sequence[str]) -> str:
    more = f" and {len(cases) - _NAMED} more" if len(cases) > _NAMED else ""
    return f"{', '.join(cases[:_NAMED])}{more}"
