"""The rows of a case in the ledger, made of what was observed of it so far."""

import time
from typing import TYPE_CHECKING

from proofbook.runtimes import Refused
from proofbook.runtimes.registry import releases
from proofbook.subject.full_size import full_parameters
from proofbook.workbook.records import CaseRecord, CheckRecord, SweepRecord
from proofbook.workbook.surroundings import surroundings
from proofbook.workbook.timings import latency_columns, measured_columns, point_record

if TYPE_CHECKING:
    from proofbook.workbook.case import Case


def case_record(case: "Case") -> CaseRecord:
    """The row of a case; what was not observed is None."""
    observed = vars(case)  # what cached properties have made so far; asking them would make it now
    latency, measured = observed.get("latency"), observed.get("measured")
    loaded, encoded = observed.get("loaded"), observed.get("encoded")
    return CaseRecord(
        run=case.run_name,
        case=case.id,
        model=case.spec.name,
        model_type=case.spec.model_type,
        category=case.spec.category,
        target=case.target.name,
        weights=case.weights,
        environment=case.environment,
        variant=case.variant,
        sweep=case.sweep,
        task=case.spec.task,
        verdict=case.verdict,
        reason=case.reason,
        checks=len(case.findings),
        failed=sum(finding.verdict.fell_short for finding in case.findings.values()),
        seconds=time.perf_counter() - case.began,
        load_s=observed.get("load_s"),
        **(latency_columns(latency, encoded.work, case.task.unit) if latency and encoded else {}),
        **(measured_columns(measured) if measured else {}),
        peak_mb=case.peak_mb if "prepared" in observed and not isinstance(case.prepared, Refused) else None,
        parameters=sum(one.numel() for one in loaded.model.parameters()) if loaded else None,
        parameters_full=full_parameters(case.spec) if loaded else None,
        seed=case.seed,
        input_hash=case.input_hash if encoded else None,
        rerun=case.rerun,
        versions={**surroundings(case.target.device), **releases(case.target.runtime)},
        reproduction=case.reproduction,
        trust_remote_code=case.spec.trust_remote_code,
    )


def check_records(case: "Case") -> list[CheckRecord]:
    """The rows of a case's checks."""
    return [
        CheckRecord(
            case=case.id,
            check=one.check.name,
            family=one.check.family,
            verdict=one.verdict,
            seconds=one.seconds,
            observed=one.observed,
            allowed=one.allowed,
            detail=one.detail[:2000],
        )
        for one in case.findings.values()
    ]


def sweep_records(case: "Case") -> list[SweepRecord]:
    """The rows of a case's sweep; none where none was made."""
    return [point_record(case.id, one, case.task.unit) for one in vars(case).get("points", ())]
