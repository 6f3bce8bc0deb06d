"""Cases run as Ray tasks on several nodes, and those of a node that is killed run again elsewhere."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proofbook.batch.history import Need
from proofbook.batch.ledger import read_ledger
from proofbook.batch.local import Finished, Noticed, Started
from proofbook.batch.on_ray import _Task, execute, resources
from proofbook.batch.plan import make_plan, plan_case
from proofbook.catalog import Weights, load_catalog
from synthetic_workbook import write_workbook

ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
cluster_utils = pytest.importorskip("ray.cluster_utils")


def needing(device: str | None, memory: int = 10**9) -> _Task:
    case = plan_case(load_catalog().model("vit"), "cpu", Weights.TINY, seed=0)
    return _Task(case, Need(1.0, memory, device))


def test_a_task_asks_for_what_its_target_needs_and_for_nothing_that_nobody_has() -> None:
    has = {"CPU": 8.0, "GPU": 2.0, "xpu": 1.0}
    assert resources(needing(None), has, 8 * 10**9, 1) == {"num_cpus": 1, "memory": 10**9}
    assert resources(needing("cuda"), has, 8 * 10**9, 2)["num_gpus"] == 0.5
    assert resources(needing("xpu"), has, 8 * 10**9, 1)["resources"] == {"xpu": 1}
    assert {*resources(needing("mps"), has, 8 * 10**9, 1)} == {"num_cpus", "memory"}
    assert resources(needing(None, 10**12), has, 8 * 10**9, 1)["memory"] == 8 * 10**9


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head that executes nothing, and no other node yet."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    made = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 10**8})
    ray.init(address=made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.mark.slow
def test_a_killed_node_costs_a_second_execution_and_nothing_else(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_workbook(tmp_path / "workbook")
    monkeypatch.setenv("PROOFBOOK_ROOT", str(root))
    first = cluster.add_node(num_cpus=1, object_store_memory=10**8)
    models = ["slow1", "slow2", "slow3", "fails"]
    plan = make_plan(load_catalog(root / "params"), run="run", models=models, targets=["cpu"])
    folder = root / "outputs" / "run"
    plan.save(folder)
    needs = [(case, Need(5.0 if case.model == "slow1" else 1.0, 10**8)) for case in plan.cases]
    seen: list[object] = []
    for event in execute(plan, folder, root / "notebooks", needs, jobs=1):
        seen.append(event)
        if isinstance(event, Started) and len(seen) == 1:
            assert event.case.model == "slow1", "the longest goes first"
            cluster.remove_node(first, allow_graceful=False)
            cluster.add_node(num_cpus=2, object_store_memory=10**8)
    (said,) = [event.text for event in seen if isinstance(event, Noticed)]
    assert "was lost while it executed slow1@cpu, which is executed again" in said
    assert sum(isinstance(event, Finished) for event in seen) == 4
    ledger = read_ledger(folder)
    assert ledger.closes() == "4 planned = 1 fail + 3 pass"
    lost = {case.model: case.lost for case in ledger.cases}
    assert lost.pop("slow1") in said
    assert set(lost.values()) == {""}
    assert all(case.node and case.node != lost for case in ledger.cases)
