"""Run folders to report on: notebooks as they are left behind by cases that pass, fall short, die, and never ran."""

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from proofbook.batch.ledger import read_ledger
from proofbook.batch.plan import Plan, PlannedCase, plan_case
from proofbook.catalog import Weights, load_catalog
from proofbook.report.collect import Results
from proofbook.verdict import Verdict
from proofbook.workbook.records import CaseRecord, CheckRecord
from proofbook.workbook.scraps import CASE, CHECKS

FAMILIES = {
    "loads": "loading",
    "save-load": "loading",
    "finite": "forward",
    "deterministic": "forward",
    "truth": "accuracy",
    "alone-or-batched": "batching",
    "answers": "answers",
    "greedy-cache": "generation",
}
UNITS = {"vision": "images/s", "speech": "seconds of audio/s", "vision-text": "images/s"}
VERSIONS = {"python": "3.11.9", "proofbook": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.23.0"}
# a third of a square, so that a page with a picture can be looked at
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAUAAAAFCAYAAACNbyblAAAAHElEQVQI12P4//8/w38GIAXDIBKE0DHxgljNBAAO"
    "9TXL0Y4OHwAAAABJRU5ErkJggg=="
)
TRACEBACK = [
    "\x1b[31m---------------------------------------------------------------------------\x1b[39m",
    "\x1b[31mCaseFailed\x1b[39m                                Traceback (most recent call last)",
    "\x1b[36mCell\x1b[39m\x1b[36m \x1b[39m\x1b[32mIn[9]\x1b[39m\x1b[32m, line 1\x1b[39m\n"
    "\x1b[32m----> \x1b[39m\x1b[32m1\x1b[39m \x1b[43mcase\x1b[49m\x1b[43m.\x1b[49m\x1b[43mfinish\x1b[49m()",
    "\x1b[31mCaseFailed\x1b[39m: the worst element is <far> off & the row too",
]

Outcome = Callable[[PlannedCase], Verdict]


def plan(*targets: str, models: Sequence[str] = (), name: str = "sample-run") -> Plan:
    """A plan of tiny cases over the real catalog; of every tracked model unless some are named."""
    catalog = load_catalog()
    chosen = [catalog.model(model) for model in models] or [one for one in catalog.models.values() if one.tracked]
    cases = [plan_case(model, target, Weights.TINY, seed=0) for target in targets for model in chosen]
    return Plan(
        run=name,
        created="2026-11-23T17:30:00+00:00",
        version="0.1.0",
        suite=None if models else "tracked",
        seed=0,
        targets=targets,
        cases=tuple(cases),
    )


def write_run(folder: Path, planned: Plan, outcome: Outcome) -> Results:
    """A run folder whose notebooks are written rather than executed, and what is read back from it."""
    planned.save(folder)
    for case in planned.cases:
        verdict = outcome(case)
        if verdict is not Verdict.NOT_RUN:
            write_notebook(folder / case.notebook, case, verdict)
    return Results(folder, read_ledger(folder))


def write_notebook(path: Path, case: PlannedCase, verdict: Verdict) -> None:
    """An executed notebook with all kinds of outputs, and the scraps or metadata that go with the verdict."""
    checks = check_records(case, verdict)
    cells = [
        new_markdown_cell(
            f"# {case.model}\n\nProse with a formula, $\\mathrm{{clip}}(m \\cdot f, s\\,\\varepsilon)$, and\n\n"
            "$$\\mathrm{RMSE} = \\sqrt{\\frac{1}{n} \\sum_i (y_i - t_i)^2}$$\n\n| a | table |\n|---|---|\n| 1 | 2 |"
        ),
        new_code_cell(
            f"model = {case.model!r}  # a model of params/models\ntarget = {case.target!r}",
            metadata={"tags": ["parameters"]},
            execution_count=1,
        ),
        new_code_cell("case.show_inputs()", execution_count=2, outputs=_inputs()),
        new_code_cell("case.show_outputs()", execution_count=3, outputs=_texts()),
    ]
    if verdict in (Verdict.CRASH, Verdict.TIMEOUT):
        cells.append(new_code_cell("case.check('forward')"))
    else:
        glued = [_scrap(CASE, case_record(case, verdict, checks).model_dump(mode="json"))]
        glued.append(_scrap(CHECKS, [check.model_dump(mode="json") for check in checks]))
        if verdict.fell_short:
            words = TRACEBACK[-1].partition(": ")[2]
            glued.append(new_output("error", ename="CaseFailed", evalue=words, traceback=TRACEBACK))
        cells.append(new_code_cell("case.finish()", execution_count=9, outputs=glued))
    metadata = {"papermill": {"duration": 4.2, "exception": None}}
    if verdict in (Verdict.CRASH, Verdict.TIMEOUT):
        reason = "the kernel was killed by SIGKILL" if verdict is Verdict.CRASH else "more than 300 s"
        metadata["proofbook"] = {"verdict": verdict, "reason": reason}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells, metadata=metadata), path)


def check_records(case: PlannedCase, verdict: Verdict) -> list[CheckRecord]:
    """Records of eight checks, of which one gives the case its verdict; the last applies to few models."""
    special = {Verdict.BLOCKED: "loads", Verdict.ERROR: "finite"}.get(verdict, "truth")
    details = {
        Verdict.BLOCKED: "detectron2: not installed. pip install detectron2, where a build for this torch exists",
        Verdict.ERROR: "RuntimeError: The size of tensor a (64) must match the size of tensor b (<32>) at dimension 1",
        Verdict.FAIL: "logits: worst row 2 of 3, worst element [2, 7, 113]",
        Verdict.XFAIL: "known until 2027-03-01: attends to later tokens (https://example.org/issues/7).",
        Verdict.XPASS: "the fault no longer shows; remove its entry.",
    }
    records = []
    for name, family in FAMILIES.items():
        own = verdict if name == special else Verdict.PASS
        detail = details.get(own, "")
        if name == "greedy-cache" and case.model not in ("gpt2", "llama"):
            own, detail = Verdict.SKIP, "the model does not generate"
        wrong = own is Verdict.FAIL
        observed = "3.1e-2" if wrong else "detectron2" if own is Verdict.BLOCKED else None
        records.append(
            CheckRecord(
                case=case.case,
                check=name,
                family=family,
                verdict=own,
                seconds=_drawn(case.case + name, 0.01, 1.5),
                observed=observed,
                allowed="4.2e-6" if wrong else None,
                detail=detail,
            )
        )
    return records


def case_record(case: PlannedCase, verdict: Verdict, checks: list[CheckRecord]) -> CaseRecord:
    """The record that the notebook of the case would glue."""
    deciding = next((check for check in checks if check.verdict is verdict), None)
    timed = verdict in (Verdict.PASS, Verdict.FAIL, Verdict.XFAIL, Verdict.XPASS)
    p50 = _drawn(case.case, 0.6, 90, log=True)
    return CaseRecord(
        **case.model_dump(include=set(CaseRecord.model_fields)),
        verdict=verdict,
        reason=f"{deciding.check}: {deciding.detail}" if deciding and verdict is not Verdict.PASS else "",
        checks=len(checks),
        failed=sum(check.verdict.fell_short for check in checks),
        seconds=_drawn(case.case + "s", 2, 30),
        load_s=_drawn(case.case + "l", 0.05, 0.9) if timed else None,
        first_s=p50 / 300 if timed else None,
        p50_ms=p50 if timed else None,
        p90_ms=p50 * 1.2 if timed else None,
        throughput=3000 / p50 if timed else None,
        throughput_unit=UNITS.get(case.category, "tokens/s") if timed else None,
        peak_mb=_drawn(case.case + "m", 420, 1200) if timed else None,
        parameters=int(_drawn(case.model + "p", 2e4, 9e5)) if timed else None,
        parameters_full=int(_drawn(case.model + "f", 1e7, 7e9, log=True)) if timed else None,
        input_hash="0f3a" * 4,
        versions=VERSIONS,
    )


def _scrap(name: str, data: object) -> nbformat.NotebookNode:
    scrap = {"name": name, "data": data, "encoder": "json", "version": 1}
    return new_output("display_data", {"application/scrapbook.scrap.json+json": scrap}, metadata={"scrapbook": {}})


def _inputs() -> list[nbformat.NotebookNode]:
    html = (
        "<table><thead><tr><th>row</th><th>raw input</th></tr></thead><tbody><tr><td>0</td><td>a < b"
        f'<img alt="picture" width="80" src="data:image/png;base64,{PIXEL}">'
        '<audio controls src="data:audio/wav;base64,UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAIA+AAACABAAZGF0YQAAAAA=">'
        "</audio></td></tr></tbody></table>"
    )
    return [new_output("execute_result", {"text/html": html, "text/plain": "row 0"}, execution_count=2)]


def _texts() -> list[nbformat.NotebookNode]:
    svg = '<svg xmlns="http://www.w3.org/2000/svg" width="90" height="30"><rect width="90" height="30"/></svg>'
    return [
        new_output("stream", name="stderr", text="\x1b[33mUserWarning\x1b[0m: <no> padding token\n"),
        new_output("display_data", {"image/svg+xml": svg, "text/plain": "a plot"}),
        new_output("display_data", {"image/png": PIXEL, "text/plain": "a plot"}),
    ]


def _drawn(key: str, low: float, high: float, log: bool = False) -> float:
    """A figure between two others that depends on the key alone."""
    share = zlib.crc32(key.encode()) / 2**32
    return float(low * (high / low) ** share if log else low + (high - low) * share)
