"""Cases run longest first, as far as jobs, memory and devices reach; what is known of them comes from earlier runs."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofbook.batch import machine
from proofbook.batch.history import KERNEL_BYTES, SECONDS, History, Need
from proofbook.batch.ledger import read_ledger
from proofbook.batch.plan import PlannedCase, plan_case
from proofbook.batch.schedule import Admission, Room, Schedule, shares
from proofbook.catalog import Weights, load_catalog
from proofbook.verdict import Verdict
from report_run import plan as planned
from report_run import write_run

GB = 10**9
catalog = load_catalog()
CASES = [plan_case(model, "cpu", Weights.TINY, seed=0) for model in list(catalog.models.values())[:40]]


def room(jobs: int = 2, free: Callable[[], int] = lambda: 8 * GB, **more: object) -> Room:
    return Room(jobs, cores=2, free=free, **more)  # type: ignore[arg-type]


def schedule(needs: list[Need], where: Room) -> Schedule:
    return Schedule(zip(CASES, needs, strict=False), where)


def running(made: Schedule, count: int) -> list[Admission]:
    """Takes cases until there is no room: what a thread that waits has not got is not there."""
    taken = []
    for _ in range(count):
        got: list[Admission | None] = []
        thread = threading.Thread(target=lambda got=got: got.append(made.take()), daemon=True)
        thread.start()
        thread.join(0.2)
        if not got:
            made.stop()
            thread.join()
            break
        if got[0] is not None:
            taken.append(got[0])
    return taken


def test_the_longest_goes_first_and_equals_keep_their_order() -> None:
    made = schedule([Need(seconds, 1) for seconds in (1, 3, 2, 3)], room(jobs=1))
    order = []
    while (one := made.take()) is not None:
        order.append(CASES.index(one.case))
        made.give_back(one)
    assert order == [1, 3, 2, 0]


def test_what_is_given_back_twice_makes_no_more_room() -> None:
    made = schedule([Need(1, 1)] * 5, room(jobs=2))
    first, _ = running(made, 2)
    made.give_back(first)
    made.give_back(first)
    assert len(running(made, 3)) == 1


def test_no_more_run_than_there_are_jobs() -> None:
    assert len(running(schedule([Need(1, 1)] * 5, room(jobs=3)), 5)) == 3


def test_a_case_that_memory_does_not_hold_lets_shorter_ones_pass() -> None:
    taken = running(schedule([Need(9, 5 * GB), Need(8, 5 * GB), Need(1, 1 * GB)], room(jobs=3)), 3)
    assert [one.need.memory for one in taken] == [5 * GB, 1 * GB]


def test_memory_that_others_take_meanwhile_is_not_given_twice() -> None:
    free = [8 * GB]
    made = schedule([Need(2, 2 * GB), Need(1, 2 * GB)], room(free=lambda: free[0]))
    first = made.take()
    free[0] = 1 * GB
    assert running(made, 1) == []
    assert first is not None


def test_one_case_always_runs_whatever_it_needs() -> None:
    made = schedule([Need(2, 100 * GB), Need(1, 100 * GB)], room())
    for _ in range(2):
        one = made.take()
        assert one is not None
        made.give_back(one)
    assert made.take() is None


def test_what_must_be_alone_is() -> None:
    needs = [Need(9, 1, alone=True), Need(1, 1), Need(1, 1)]
    assert len(running(schedule(needs, room()), 3)) == 1
    needs[0] = Need(0.5, 1, alone=True)
    assert [one.need.alone for one in running(schedule(needs, room(jobs=3)), 3)] == [False, False]


def test_each_gpu_has_one_case_unless_told_otherwise() -> None:
    needs = [Need(1, 1, "cuda")] * 5 + [Need(1, 1)]
    taken = running(schedule(needs, room(jobs=9, devices={"cuda": 2})), 6)
    assert sorted((one.need.device or "", one.unit) for one in taken if one.need.device) == [("cuda", 0), ("cuda", 1)]
    assert sum(one.need.device is None for one in taken) == 1
    shared = running(schedule(needs, room(jobs=9, devices={"cuda": 2}, per_device=2)), 6)
    assert sorted(one.unit for one in shared if one.unit is not None) == [0, 0, 1, 1]


def test_cases_of_a_device_that_is_missing_do_not_wait_for_it() -> None:
    assert len(running(schedule([Need(1, 1, "cuda")] * 2, room()), 2)) == 2


def test_a_process_sees_the_gpu_that_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert machine.visible("cuda", 1) == {"CUDA_VISIBLE_DEVICES": "1"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-7f")
    assert machine.visible("cuda", 1) == {"CUDA_VISIBLE_DEVICES": "GPU-7f"}
    assert machine.visible(None, None) == {}


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=40), st.integers(1, 5))
def test_shares_hold_every_case_once_and_are_about_as_long(seconds: list[float], count: int) -> None:
    given_ = CASES[: len(seconds)]
    durations = dict(zip((case.case for case in given_), seconds, strict=True))

    def spent(case: PlannedCase) -> float:
        return durations[case.case]

    parts = shares(given_, count, spent)
    assert sorted(case.case for part in parts for case in part) == sorted(durations)
    assert all(part == [case for case in given_ if case in part] for part in parts)
    sums = [sum(map(spent, part)) for part in parts]
    assert max(sums) - min(sums) <= max(seconds) + 1e-9
    assert shares(list(reversed(given_)), count, spent) == [list(reversed(part)) for part in parts]


ROW = {"model": "vit", "target": "cpu", "weights": "tiny", "environment": "current", "variant": "", "verdict": "pass"}
VIT, BEIT, BERT = (plan_case(catalog.model(name), "cpu", Weights.TINY, 0) for name in ("vit", "beit", "bert"))
CPU = catalog.target("cpu")


def test_a_case_takes_as_long_as_it_took_last_else_as_its_model_its_category_or_any() -> None:
    other = {**ROW, "model": "detr", "category": "vision"}
    known = History(
        [
            {**ROW, "category": "vision", "seconds": 50.0},
            {**ROW, "category": "vision", "seconds": 5.0},
            {**ROW, "category": "vision", "seconds": 9.0, "target": "cuda"},
            {**other, "seconds": 1.0},
            {**other, "seconds": 0.0, "target": "cuda", "verdict": "not-run"},
        ]
    )
    assert known.seconds(VIT) == 5.0
    bf16 = plan_case(catalog.model("vit"), "cpu-bf16", Weights.TINY, 0)
    assert known.seconds(bf16) == 7.0  # of the model's other targets
    assert known.seconds(BEIT) == 5.0  # the category's median of 5, 9 and 1
    assert known.seconds(BERT) == 5.0
    assert History().seconds(VIT) == SECONDS


def test_memory_is_what_the_case_took_and_for_real_weights_what_its_parameters_take() -> None:
    rows = [{**ROW, "category": "vision", "peak_mb": 500.0, "parameters_full": 1_000_000_000}]
    rows += [{**ROW, "target": "cuda", "category": "vision", "peak_mb": 9000.0}]
    known = History(rows)
    assert known.memory(VIT, CPU) == known.memory(BEIT, CPU) == 600_000_000
    real = plan_case(catalog.model("vit"), "cpu-bf16", Weights.HUB, 0)
    assert known.memory(real, catalog.target("cpu-bf16")) == KERNEL_BYTES + 12_000_000_000
    assert History([*rows, {**rows[0], "resident_mb": 700.0}]).memory(VIT, CPU) == 840_000_000
    assert known.need(real, catalog.target("cpu-bf16")).alone
    assert History().memory(VIT, CPU) == KERNEL_BYTES


def test_history_is_read_from_ledgers_and_damaged_ones_are_named(tmp_path: Path) -> None:
    for name, models in {"one": ["vit", "bert"], "two": ["vit"]}.items():
        run = tmp_path / name
        write_run(run, planned("cpu", models=models, name=name), lambda _: Verdict.PASS)
        read_ledger(run).write(run)
    damaged = tmp_path / "three" / "ledger" / "cases.parquet"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes((tmp_path / "two" / "ledger" / "cases.parquet").read_bytes()[:700])
    known = History.of(tmp_path)
    (seen,) = (case for case in read_ledger(tmp_path / "two").cases if case.model == "vit")
    assert known.seconds(VIT) == seen.seconds
    assert len(known.damaged) == 1
    assert str(damaged) in known.damaged[0]
    assert History.of(tmp_path / "nowhere").damaged == ()


@given(st.binary(max_size=300))
def test_whatever_a_ledger_holds_history_goes_on(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("outputs") / "run" / "ledger" / "cases.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert len(History.of(path.parents[2]).damaged) == 1


def test_memory_is_that_of_the_narrowest_cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "sys" / "a" / "b"
    inner.mkdir(parents=True)
    for folder, limit in ((inner.parent, "max"), (inner, str(3 * GB))):
        (folder / "memory.max").write_text(limit)
        (folder / "memory.current").write_text(str(2 * GB))
        (folder / "memory.stat").write_text(f"anon 1\ninactive_file {GB}\n")
    own = tmp_path / "cgroup"
    own.write_text("0::/a/b\n")
    assert machine.limits(tmp_path / "sys", own) == [2 * GB]
    assert machine.limits(tmp_path / "sys", tmp_path / "nowhere") == []
