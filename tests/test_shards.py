"""A run is divided among machines that do not know of each other, and joined again; nothing is lost or done twice."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from proofbook.batch.history import History
from proofbook.batch.ledger import read_ledger
from proofbook.batch.plan import BadPlan, Plan
from proofbook.batch.shards import copy_cases, merged_plan, parse_shard, shard_of
from proofbook.batch.status import read_status
from proofbook.verdict import Verdict
from report_run import plan, write_run
from synthetic_workbook import write_workbook

MODELS = ("vit", "bert", "gpt2", "whisper", "clip", "detr", "t5")


def shards(folder: Path, count: int = 3, history: History | None = None) -> list[Path]:
    """The folders of a run's shards, each executed on a machine of its own."""
    whole, made = plan("cpu", models=MODELS), []
    for index in range(1, count + 1):
        part = shard_of(whole.model_copy(update={"run": f"s{index}"}), index, count, history or History())
        write_run(folder / f"s{index}", part, lambda case: Verdict.FAIL if case.model == "detr" else Verdict.PASS)
        made.append(folder / f"s{index}")
    return made


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "-1/2", ""])
def test_a_share_that_cannot_be_is_wrong_usage(text: str) -> None:
    with pytest.raises(BadPlan, match="it is I/N"):
        parse_shard(text)


def test_shares_last_about_as_long_by_what_earlier_runs_tell() -> None:
    whole = plan("cpu", models=MODELS)
    row = {"target": "cpu", "weights": "tiny", "environment": "current", "variant": "", "verdict": "pass"}
    history = History({**row, "model": name, "seconds": 60.0 if name == "t5" else 10.0} for name in MODELS)
    parts = [shard_of(whole, index, 2, history).cases for index in (1, 2)]
    assert sorted(len(part) for part in parts) == [1, 6]
    assert [shard_of(whole, index, 2, history).cases for index in (1, 2)] == parts


def test_there_are_no_more_shares_than_cases() -> None:
    with pytest.raises(BadPlan, match="only 7 cases"):
        shard_of(plan("cpu", models=MODELS), 1, 8, History())


def test_merged_shards_are_the_run_that_one_machine_would_have_made(tmp_path: Path) -> None:
    folders = shards(tmp_path)
    made = merged_plan(list(reversed(folders)), "whole")
    assert made.cases == plan("cpu", models=MODELS).cases
    made.save(tmp_path / "whole")
    (tmp_path / "s1" / "cases" / "stray.txt").write_text("no case's")
    assert copy_cases(folders, made, tmp_path / "whole") == len(MODELS)
    ledger = read_ledger(tmp_path / "whole")
    assert ledger.closes() == "7 planned = 1 fail + 6 pass"
    assert len(ledger.checks) == sum(len(read_ledger(folder).checks) for folder in folders)
    assert Plan.load(tmp_path / "whole").shard is None


def test_what_a_machine_did_not_get_to_is_not_run(tmp_path: Path) -> None:
    folders = shards(tmp_path)
    lost = Plan.load(folders[1]).cases[0]
    (folders[1] / lost.notebook).unlink()
    made = merged_plan(folders, "whole")
    made.save(tmp_path / "whole")
    copy_cases(folders, made, tmp_path / "whole")
    assert read_ledger(tmp_path / "whole").totals[Verdict.NOT_RUN] == 1


def test_missing_and_doubled_cases_are_named(tmp_path: Path) -> None:
    first, second, third = shards(tmp_path)
    with pytest.raises(BadPlan) as told:
        merged_plan([first, third, third], "whole")
    assert "no folder of shard 2/3" in str(told.value)
    missing, _, doubled = str(told.value).partition("there more than once:")
    assert all(case.case in missing for case in Plan.load(second).cases)
    assert all(case.case in doubled for case in Plan.load(third).cases)


def test_shares_of_different_runs_are_not_joined(tmp_path: Path) -> None:
    first, second, _ = shards(tmp_path)
    other = Plan.load(second).model_copy(update={"seed": 5})
    other.save(second)
    with pytest.raises(BadPlan, match="seed is 0, and 5"):
        merged_plan([first, second], "whole")
    four = shards(tmp_path / "four", 4)
    with pytest.raises(BadPlan, match="one of 3, and one of 4"):
        merged_plan([first, four[0]], "whole")
    write_run(tmp_path / "plain", plan("cpu", models=MODELS), lambda case: Verdict.PASS)
    with pytest.raises(BadPlan, match="is no shard"):
        merged_plan([first, tmp_path / "plain"], "whole")


def test_shares_are_run_and_merged_by_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proofbook: Callable[..., tuple[int, str]]
) -> None:
    root = write_workbook(tmp_path / "workbook")
    monkeypatch.setenv("PROOFBOOK_ROOT", str(root))
    monkeypatch.setenv("SYNTHETIC_NOTES", str(root))

    def merged(out: Path) -> tuple[int, str]:
        return proofbook("merge", tmp_path / "s1", tmp_path / "s2", "--no-report", "--out", out)

    chosen = ("--model", "passes,fails", "--target", "cpu", "--no-report")
    codes = [proofbook("run", *chosen, "--shard", f"{one}/2", "--out", tmp_path / f"s{one}")[0] for one in (1, 2)]
    assert sorted(codes) == [0, 1]
    code, said = merged(tmp_path / "whole")
    assert (code, "ledger: 2 planned = 1 fail + 1 pass" in said) == (1, True), said
    assert read_status(tmp_path / "whole")[0].condition == "complete"
    shutil.rmtree(tmp_path / "s2" / "cases")
    assert merged(tmp_path / "again")[0] == 1
    assert proofbook("merge", tmp_path / "s1", "--out", tmp_path / "half")[0] == 2
