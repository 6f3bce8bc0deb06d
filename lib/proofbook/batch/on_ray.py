"""Executes planned cases as Ray tasks: on a cluster that `ray start` made, else on this machine. The extra ``ray``.

It tells the same events as :mod:`proofbook.batch.local`, whose way of executing a case each task takes on its node. Ray
decides which case runs where and when, by what each needs of CPUs, GPUs and memory; the longest are handed in first. A
task's result is the files of its case, which the runner alone writes into the run's folder.

Every node has the same workbook at the same path, and proofbook and Ray installed. A case whose node or worker is lost
is handed in again, at most :data:`ATTEMPTS` times in all; the events say so, and its row of the ledger (``lost``).
"""

import json
import os
import platform
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

from proofbook.batch.account import METADATA as ACCOUNT
from proofbook.batch.account import Batch
from proofbook.batch.history import Need
from proofbook.batch.ledger import read_result
from proofbook.batch.local import Event, Finished, Noticed, Started, execute_case
from proofbook.batch.machine import MachineryFailed, cores, threads
from proofbook.batch.parents import Parents
from proofbook.batch.plan import Plan, PlannedCase
from proofbook.batch.reuse import Keys
from proofbook.batch.scratch import scratch
from proofbook.catalog import Timings, Weights, load_catalog
from proofbook.files import write_atomic
from proofbook.subject.requirements import installing
from proofbook.verdict import Blocked

# how often a case is executed whose node is lost each time
ATTEMPTS = 3
# devices that Ray counts as GPUs; any other is a custom resource of its own name
_GPUS = ("cuda", "rocm")
# variables of the runner that its cases depend on
_PASSED = ("PROOFBOOK_", "OMP_NUM_THREADS", "HF_")


@dataclass(frozen=True)
class _Task:
    """A case as it is handed in."""

    case: PlannedCase
    need: Need
    # the nodes that were lost while they executed it
    lost: tuple[str, ...] = ()
    node: str = "a node"


def execute(
    plan: Plan,
    folder: Path,
    notebooks: Path,
    cases: Sequence[tuple[PlannedCase, Need]],
    *,
    jobs: int,
    per_device: int = 1,
    warm: bool = False,
) -> Generator[Event, None, None]:
    """Execute cases of a plan, and yield what happens as it happens. When closed, the tasks that run are ended.

    Args:
        plan: the run's plan.
        folder: the run's folder.
        notebooks: the folder of the category notebooks, on every node.
        cases: the cases to execute, and what each needs.
        jobs: the CPUs of a Ray that is started here, where no cluster is found.
        per_device: how many cases may share a GPU.
        warm: whether cases with tiny weights run in warm kernels, one parent a worker.

    Raises:
        Blocked: Ray is not installed.
        MachineryFailed: a case's workers were lost :data:`ATTEMPTS` times, or a task failed by itself.
        OSError: a notebook can't be written.
    """
    ray = _ray()
    started_here = not ray.is_initialized()
    if started_here:
        _connect(ray, jobs)
    try:
        yield from _Tasks(ray, plan, folder, notebooks, per_device, warm).run(cases)
    finally:
        if started_here:
            ray.shutdown()


class _Tasks:
    """The tasks of a run that have been handed in, and what they told so far."""

    def __init__(self, ray: Any, plan: Plan, folder: Path, notebooks: Path, per_device: int, warm: bool) -> None:
        self._ray, self._plan, self._folder = ray, plan, folder
        self._arguments = (plan.run, str(notebooks), plan.timings, warm, _variables())
        self._per_device = per_device
        self._has: dict[str, float] = ray.cluster_resources()
        nodes = [node["Resources"].get("memory", 0.0) for node in ray.nodes() if node["Alive"]]
        self._memory = int(max(nodes, default=0.0))
        # no second try by Ray itself, as nobody would hear of it
        self._remote = ray.remote(max_retries=0, num_returns="streaming")(execute_on_node)
        self._running: dict[Any, _Task] = {}

    def run(self, cases: Sequence[tuple[PlannedCase, Need]]) -> Iterator[Event]:
        try:
            for case, need in sorted(cases, key=lambda one: -one[1].seconds):
                self._hand_in(_Task(case, need))
            while self._running:
                (stream,), _ = self._ray.wait(list(self._running), num_returns=1, fetch_local=False)
                yield from self._follow(stream)
        finally:
            for stream in self._running:
                self._ray.cancel(stream, force=True)

    def _hand_in(self, task: _Task) -> None:
        options = resources(task, self._has, self._memory, self._per_device)
        stream = self._remote.options(**options).remote(task.case, task.lost, *self._arguments)
        self._running[stream] = task

    def _follow(self, stream: Any) -> Iterator[Event]:
        """What a task tells next: the node that it runs on, then the files of its case."""
        task = self._running[stream]
        try:
            told = self._ray.get(next(stream))
        except (
            self._ray.exceptions.WorkerCrashedError,
            self._ray.exceptions.NodeDiedError,
            self._ray.exceptions.ObjectLostError,
            self._ray.exceptions.OutOfMemoryError,
        ) as error:
            del self._running[stream]
            yield self._again(task, error)
            return
        if isinstance(told, str):
            self._running[stream] = replace(task, node=told)
            yield Started(task.case)
            return
        del self._running[stream]
        for name in sorted(told, key=lambda name: name == task.case.notebook):  # the notebook last: with it, it is done
            write_atomic(self._folder / name, told[name])
        yield Finished(task.case, read_result(self._folder, self._plan.run, task.case))

    def _again(self, task: _Task, error: Exception) -> Noticed:
        lost = (*task.lost, task.node)
        if len(lost) >= ATTEMPTS:
            raise MachineryFailed(
                f"{task.case.case}: {len(lost)} times its worker was lost ({', '.join(lost)})"
            ) from error
        self._hand_in(replace(task, lost=lost, node="a node"))
        return Noticed(f"{task.node} was lost while it executed {task.case.case}, which is executed again")


def resources(task: _Task, has: Mapping[str, float], memory: int, per_device: int) -> dict[str, Any]:
    """What Ray is asked for. What no node has is not asked for, as the case would wait for ever; it will be blocked."""
    threaded = threads(task.case.weights) if task.case.weights is Weights.TINY else cores()
    asked: dict[str, Any] = {"num_cpus": min(threaded, int(has.get("CPU", 1))), "memory": min(task.need.memory, memory)}
    device = task.need.device
    if device in _GPUS and has.get("GPU"):
        asked["num_gpus"] = 1 / per_device
    elif device and has.get(device):
        asked["resources"] = {device: 1 / per_device}
    return asked


def execute_on_node(
    case: PlannedCase,
    lost: tuple[str, ...],
    run: str,
    notebooks: str,
    timings: Timings,
    warm: bool,
    variables: Mapping[str, str],
) -> Iterator[str | dict[str, bytes]]:
    """What a task does: tell the name of its node, execute the case, and give its files by their paths in the run."""
    os.environ.update(variables)
    yield _node()
    with tempfile.TemporaryDirectory(prefix="r", dir=scratch()) as made:
        folder = Path(made)
        parents = _parents() if warm and case.weights is Weights.TINY else None
        keys = _keys(notebooks, timings)
        execute_case(case, run, folder, Path(notebooks), None, parents, batch=_batch(), keys=keys)
        content = json.loads((folder / case.notebook).read_bytes())
        content["metadata"][ACCOUNT].update(node=_node(), lost=", ".join(lost))
        write_atomic(folder / case.notebook, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        yield {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise Blocked("ray", "it is not installed", installing("ray")) from None
    return ray


def _connect(ray: Any, jobs: int) -> None:
    """Join the cluster of ``$RAY_ADDRESS``, or that of this machine; where there is none, start one here."""
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        ray.init(address="auto", **quiet)
    except ConnectionError:
        if os.environ.get("RAY_ADDRESS"):
            raise
        ray.init(address="local", num_cpus=jobs, include_dashboard=False, **quiet)


def _variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(_PASSED)}


@cache
def _node() -> str:
    import ray

    return f"node {ray.get_runtime_context().get_node_id()[:8]} on {platform.node()}"


@cache
def _batch() -> Batch:
    """That of this worker, which takes one case after the other."""
    return Batch(threads(Weights.TINY))


@cache
def _parents() -> Parents:
    """That of this worker; it ends with it."""
    return Parents().__enter__()


@cache
def _keys(notebooks: str, timings: Timings) -> Keys:
    params = Path(notebooks).parent / "params"
    return Keys(load_catalog(params), params, Path(notebooks), timings, date.today())
