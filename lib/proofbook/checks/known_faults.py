"""Faults that a model's entry knows of: expected while they show, in the releases that have them, until their date."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import date

from proofbook.catalog import KnownFault
from proofbook.checks.registry import Finding
from proofbook.environments import here
from proofbook.verdict import Verdict


def judged(finding: Finding, faults: Iterable[KnownFault], target: str, today: date) -> Finding:
    """A finding in the light of known faults: a failure that one expects is ``xfail``, a pass then ``xpass``, but of a
    fault that shows only sometimes."""
    for fault in faults:
        aimed = fault.check in (finding.check.name, "all") and (fault.targets == "all" or target in fault.targets)
        if not aimed or fault.expires < today or not here(fault.needs):
            continue
        note = f"known until {fault.expires}: {fault.reason} ({fault.issue}). {finding.detail}".strip()
        if finding.verdict is Verdict.ERROR or (finding.verdict is Verdict.FAIL and fault.check != "all"):
            return replace(finding, verdict=Verdict.XFAIL, detail=note)
        if finding.verdict is Verdict.PASS and fault.check != "all" and fault.shows == "always":
            gone = f"the fault no longer shows; remove its entry. {note}"
            return replace(finding, verdict=Verdict.XPASS, detail=gone)
    return finding
