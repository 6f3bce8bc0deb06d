"""JUnit XML, for the test reports of CI systems: one suite a category, one test case a case."""

import re
from collections.abc import Sequence
from xml.etree import ElementTree as ET

from proofbook.report.collect import Results
from proofbook.report.facts import recorded_versions
from proofbook.report.findings import failure_text
from proofbook.verdict import Verdict
from proofbook.workbook.records import CaseRecord

# the element under a test case that says what became of it; none for a pass
ELEMENTS = {
    Verdict.FAIL: "failure",
    Verdict.XPASS: "failure",
    Verdict.ERROR: "error",
    Verdict.TIMEOUT: "error",
    Verdict.CRASH: "error",
    Verdict.NOT_RUN: "error",
    Verdict.BLOCKED: "skipped",
    Verdict.XFAIL: "skipped",
    Verdict.SKIP: "skipped",
}
# control sequences of terminals, and what XML 1.0 can't hold at all
_UNPRINTABLE = re.compile("\x1b\\[[0-9;?]*[A-Za-z]|[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(results: Results) -> str:
    """The run as JUnit XML: attributes and elements that Jenkins, GitLab and GitHub's actions read alike."""
    root = ET.Element("testsuites", {"name": _clean(results.name), **_tally(results.cases)})
    for category, cases in results.by_category.items():
        suite = ET.SubElement(root, "testsuite", {"name": category, **_tally(cases)})
        properties = ET.SubElement(suite, "properties")
        for name, values in recorded_versions(results).items():
            ET.SubElement(properties, "property", {"name": _clean(name), "value": _clean("; ".join(values))})
        for case in cases:
            suite.append(_test_case(results, case))
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _tally(cases: Sequence[CaseRecord]) -> dict[str, str]:
    kinds = [ELEMENTS.get(case.verdict) for case in cases]
    return {
        "tests": str(len(cases)),
        "failures": str(kinds.count("failure")),
        "errors": str(kinds.count("error")),
        "skipped": str(kinds.count("skipped")),
        "time": f"{sum(case.seconds or 0 for case in cases):.3f}",
    }


def _test_case(results: Results, case: CaseRecord) -> ET.Element:
    element = ET.Element(
        "testcase",
        {
            "name": _clean(case.case),
            "classname": _clean(f"{case.category}.{case.target}"),
            "time": f"{case.seconds or 0:.3f}",
        },
    )
    if case.reused:
        properties = ET.SubElement(element, "properties")
        for name, value in {"reused from run": case.reused, "executed": case.executed}.items():
            ET.SubElement(properties, "property", {"name": name, "value": _clean(value)})
    kind = ELEMENTS.get(case.verdict)
    if kind is not None:
        said = {"message": _clean(f"{case.verdict}: {case.reason}".removesuffix(": "))}
        if kind == "skipped":
            ET.SubElement(element, kind, said)
        else:
            ET.SubElement(element, kind, {**said, "type": case.verdict}).text = _clean(failure_text(results, case))
    return element


def _clean(words: str) -> str:
    return _UNPRINTABLE.sub("", words)
