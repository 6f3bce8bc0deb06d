"""Tables, JUnit XML and Markdown of a run, over runs whose notebooks are written rather than executed."""

import json
import re
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree as ET

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

import report_run
from proofbook.batch.ledger import Ledger, Result
from proofbook.batch.plan import BadPlan, PlannedCase
from proofbook.report import causes, facts, findings, overview, plots
from proofbook.report.collect import Results, collect, newest_run
from proofbook.report.junit import junit_xml
from proofbook.report.markdown import code, plain, summary_markdown
from proofbook.report.markup import LOOKS, TRIAGE, chip, number, table
from proofbook.report.pages import exporter, page, style_sheet
from proofbook.report.site import build_site
from proofbook.verdict import Verdict
from proofbook.workbook.records import CheckRecord

# one model for each verdict that a case can have
FATES = {
    "bert": Verdict.PASS,
    "llama": Verdict.FAIL,
    "gpt2": Verdict.ERROR,
    "t5": Verdict.TIMEOUT,
    "vit": Verdict.CRASH,
    "detr": Verdict.XPASS,
    "clip": Verdict.NOT_RUN,
    "whisper": Verdict.BLOCKED,
    "llava": Verdict.XFAIL,
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A run of two targets in which every verdict occurs."""
    plan = report_run.plan("cpu", "cpu-bf16", models=list(FATES))
    return report_run.write_run(tmp_path_factory.mktemp("run"), plan, lambda case: FATES[case.model])


@pytest.fixture(scope="module")
def flawless(tmp_path_factory: pytest.TempPathFactory) -> Results:
    plan = report_run.plan("cpu", models=["bert", "vit"])
    return report_run.write_run(tmp_path_factory.mktemp("run"), plan, lambda case: Verdict.PASS)


def in_memory(reason: str, verdict: Verdict = Verdict.FAIL) -> Results:
    """A run of one case whose record says something."""
    plan = report_run.plan("cpu", models=["bert"])
    planned = plan.cases[0]
    checks = [
        CheckRecord(
            case=planned.case, check="truth", family="accuracy", verdict=verdict, observed=reason, detail=reason
        )
    ]
    case = report_run.case_record(planned, verdict, checks).model_copy(update={"reason": reason})
    return Results(Path("nowhere"), Ledger(plan, (Result(case, tuple(checks)),)))


def test_every_verdict_has_a_look_and_a_place_in_the_triage() -> None:
    assert set(LOOKS) == set(TRIAGE) == set(Verdict)
    assert len({look.ground for look in LOOKS.values()}) == len(Verdict)


def luminance(colour: str) -> float:
    """The relative luminance of a colour, as WCAG 2 defines it."""
    parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("verdict", Verdict)
def test_a_verdict_is_legible_and_its_ground_alone_says_whether_it_fell_short(verdict: Verdict) -> None:
    ink, ground = luminance(LOOKS[verdict].ink), luminance(LOOKS[verdict].ground)
    assert (max(ink, ground) + 0.05) / (min(ink, ground) + 0.05) >= 4.5  # WCAG 2, level AA
    if verdict is not Verdict.NOT_RUN:  # white with an edge: nothing is there
        assert (ground < 0.2) is verdict.fell_short


def test_the_headline_counts_every_verdict(results: Results) -> None:
    said = overview.headline(results)
    assert "2 of 18 cases passed, 12 fell short, 2 could not run here" in repr(said)
    for verdict in set(FATES.values()):
        assert chip(verdict, count=2) in Markup(said._repr_html_())


def test_a_ledger_that_does_not_close_is_shouted(results: Results) -> None:
    torn = Results(results.folder, Ledger(results.ledger.plan, results.ledger.results[:-1]))
    assert "THE LEDGER DOES NOT CLOSE" in repr(overview.headline(torn))


def test_a_target_on_which_nothing_ran_is_named(tmp_path: Path) -> None:
    plan = report_run.plan("cpu", "cuda", models=["bert"])
    run = report_run.write_run(tmp_path, plan, lambda case: Verdict.BLOCKED if case.target == "cuda" else Verdict.PASS)
    assert "Not one case could run on cuda" in repr(overview.headline(run))
    assert repr(findings.failures(run)).endswith("but not one could run on cuda: see what was missing.")
    assert summary_markdown(run).splitlines()[2].startswith("❌ ")


def test_the_matrix_has_a_cell_for_each_case_and_links_to_its_notebook(results: Results) -> None:
    html = overview.matrix(results)._repr_html_()
    assert html.count('<span class="verdict ') == len(results.cases)
    for case in results.cases:
        assert (f'<a href="{case.notebook}"' in html) is (case.verdict is not Verdict.NOT_RUN)


def test_wrong_answers_come_first_and_each_failure_has_its_rerun_command(results: Results) -> None:
    html = findings.failures(results)._repr_html_()
    places = [html.index(f'<span class="verdict {verdict}"') for verdict in findings.SHORT]
    assert places == sorted(places)
    short = [case for case in results.cases if case.verdict.fell_short and case.verdict is not Verdict.NOT_RUN]
    assert all(case.rerun in html for case in short)
    assert "proofbook run --resume sample-run" in html
    assert "observed 3.1e-2, allowed 4.2e-6; logits: worst row 2 of 3" in html
    assert "the kernel was killed by SIGKILL" in html


def test_where_all_is_well_the_page_says_so(flawless: Results) -> None:
    assert repr(findings.failures(flawless)) == "No case of 2 fell short."
    assert repr(findings.blocked(flawless)) == "Nothing was missing: no case was blocked."
    assert repr(findings.known_faults(flawless)) == "No known fault showed."
    assert "No case fell short." in summary_markdown(flawless)


def test_a_run_in_which_nothing_was_reached_is_reported(tmp_path: Path) -> None:
    run = report_run.write_run(tmp_path, report_run.plan("cpu", models=["bert"]), lambda case: Verdict.NOT_RUN)
    assert "0 of 1 case passed, 1 fell short" in repr(overview.headline(run))
    assert repr(findings.coverage(run)) == "No case recorded a check."
    assert repr(facts.sizes(run)) == "No case came far enough to build its model."
    assert repr(facts.environment(run)) == "No case recorded its surroundings."
    assert plots.timings(run) == []
    assert ET.fromstring(junit_xml(run)).get("errors") == "1"


def test_a_check_that_is_skipped_nearly_everywhere_is_marked(tmp_path: Path) -> None:
    models = ["bert", "vit", "detr", "clip", "whisper", "llava", "t5", "wav2vec2", "sam", "bart", "gpt2"]
    run = report_run.write_run(tmp_path, report_run.plan("cpu", models=models), lambda case: Verdict.PASS)
    said = findings.coverage(run)
    assert "greedy-cache: answered on 1 / 11 models" in repr(said)
    assert "loads: answered on 11 / 11 models" in repr(said)
    assert said._repr_html_().count("skipped on") == 1
    assert "skipped on 91%</strong>: the model does not generate" in said._repr_html_()


def test_what_is_missing_stands_once_with_its_remedy_and_all_who_wait_for_it(results: Results) -> None:
    html = findings.blocked(results)._repr_html_()
    assert html.count("pip install detectron2") == 1
    assert "whisper@cpu" in html and "whisper@cpu-bf16" in html


def test_a_known_fault_shows_its_issue_and_expiry(results: Results) -> None:
    assert "known until 2027-03-01: attends to later tokens (https://example.org/issues/7)" in repr(
        findings.known_faults(results)
    )


def test_timings_are_one_plot_a_category_with_a_dot_for_each_timed_case(results: Results) -> None:
    drawn = plots.timings(results)
    timed = [case for case in results.cases if case.p50_ms is not None]
    assert len(drawn) == len({case.category for case in timed})
    links = Counter(found for plot in drawn for found in re.findall(r'xlink:href="(cases/[^"]+)"', plot.svg))
    assert links == {case.notebook: 3 for case in timed}  # latency, throughput, the whole case


def test_what_generates_and_what_is_faster_than_eager_torch_has_plots_of_that(results: Results) -> None:
    more = {"token_ms": 1.5, "token_low_ms": 1.25, "token_high_ms": 1.75, "speedup": 2.0, "p50_low_ms": 7.0}
    other = [
        Result(result.case.model_copy(update={**more, "p50_ms": 8.0, "p50_high_ms": 9.0}))
        if result.case.case == "bert@cpu"
        else result
        for result in results.ledger.results
    ]
    drawn = plots.timings(Results(results.folder, Ledger(results.ledger.plan, tuple(other))))
    plot = next(plot for plot in drawn if "bert@cpu" in repr(plot))
    assert "each token after the first" in plot.svg and "as fast as eager torch" in plot.svg
    assert "bert@cpu: p50 8 ms (7 to 9)" in repr(plot)
    assert not any("as fast as eager torch" in one.svg for one in drawn if one is not plot)


def test_where_cases_differ_the_environment_counts_each_value(results: Results) -> None:
    other = [
        Result(result.case.model_copy(update={"versions": {"torch": "2.6.0"}}), result.checks)
        if result.case.case == "bert@cpu"
        else result
        for result in results.ledger.results
    ]
    mixed = Results(results.folder, Ledger(results.ledger.plan, tuple(other)))
    recorded = sum(1 for case in results.cases if case.versions)
    assert facts.recorded_versions(mixed)["torch"] == [f"2.13.0+cpu ({recorded - 1} cases)", "2.6.0 (1 case)"]


def test_frames_have_the_columns_of_the_ledger(results: Results) -> None:
    cases, checks = results.frames()
    assert len(cases) == len(results.cases) and len(checks) == len(results.checks)
    assert {"case", "verdict", "p50_ms", "rerun"} <= set(cases.columns)
    assert {"case", "check", "verdict", "observed", "allowed"} <= set(checks.columns)


def test_collect_takes_the_newest_run_unless_told_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadPlan, match="holds no run yet"):
        newest_run(tmp_path)
    report_run.write_run(tmp_path / "one", report_run.plan("cpu", models=["bert"]), lambda case: Verdict.PASS)
    assert newest_run(tmp_path) == tmp_path / "one"
    monkeypatch.chdir(tmp_path)
    run = collect("one")
    assert run.link(run.cases[0]) == "one/cases/encoder-only/bert@cpu.ipynb"
    monkeypatch.chdir(tmp_path / "one")
    assert collect(".").link(run.cases[0]) == "cases/encoder-only/bert@cpu.ipynb"


def test_junit_tells_each_verdict_in_the_words_of_test_reports(results: Results) -> None:
    root = ET.fromstring(junit_xml(results))
    expected = {
        Verdict.FAIL: "failure",
        Verdict.XPASS: "failure",
        Verdict.ERROR: "error",
        Verdict.TIMEOUT: "error",
        Verdict.CRASH: "error",
        Verdict.NOT_RUN: "error",
        Verdict.BLOCKED: "skipped",
        Verdict.XFAIL: "skipped",
    }
    found = {case.get("name"): [child.tag for child in case] for case in root.iter("testcase")}
    assert found == {case.case: [expected[case.verdict]] if case.verdict in expected else [] for case in results.cases}
    for element in (root, *root.iter("testsuite")):
        children = Counter(child.tag for case in element.iter("testcase") for child in case)
        assert element.get("tests") == str(len(list(element.iter("testcase"))))
        counts = [element.get(name) for name in ("failures", "errors", "skipped")]
        assert counts == [str(children[tag]) for tag in ("failure", "error", "skipped")]
    failure = root.find(".//testcase[@name='llama@cpu']/failure")
    assert failure is not None and failure.text is not None
    assert failure.get("message") == "fail: truth: logits: worst row 2 of 3, worst element [2, 7, 113]"
    assert "proofbook debug llama --target cpu" in failure.text
    assert {prop.get("name") for prop in root.iter("property")} == set(report_run.VERSIONS)


# what models, kernels and file systems say in their errors: anything at all
said = st.text(st.characters(), max_size=200) | st.sampled_from(
    ["\x1b[31mred\x1b[0m", "a | b\nc", "<script>alert(1)</script>", "`code`", "\ud800", "]]>", "\x00", "&amp;", "${x}"]
)


@given(said, st.sampled_from(sorted(Verdict)))
def test_junit_is_well_formed_whatever_a_reason_says(reason: str, verdict: Verdict) -> None:
    xml = junit_xml(in_memory(reason, verdict))
    assert len(list(ET.fromstring(xml.encode("utf-8")).iter("testcase"))) == 1
    assert "\x1b" not in xml


@given(said)
def test_markdown_keeps_its_tables_whatever_a_reason_says(reason: str) -> None:
    written = summary_markdown(in_memory(reason))
    assert len(re.findall(r"^\| ✘ fail \| `bert@cpu` \| .* \| `proofbook debug bert .*` \|$", written, re.M)) == 1
    assert "<script" not in written
    for cell in (plain(reason), code(reason)):
        assert "\n" not in cell and not re.search(r"(?<!\\)\|", cell)


@given(said)
def test_html_holds_what_a_reason_says_as_text(reason: str) -> None:
    for shown in (findings.failures(in_memory(reason)), overview.matrix(in_memory(reason))):
        assert "<script" not in shown._repr_html_()


def test_markdown_of_a_thousand_failures_is_short_enough_for_a_job_summary(tmp_path: Path) -> None:
    plan = report_run.plan(*(f"target-{number}" for number in range(6)))
    reason = "RuntimeError: " + "size mismatch " * 200

    def row(case: PlannedCase) -> Result:
        return Result(report_run.case_record(case, Verdict.ERROR, []).model_copy(update={"reason": reason}))

    written = summary_markdown(Results(tmp_path, Ledger(plan, tuple(row(case) for case in plan.cases))))
    assert len(plan.cases) > 900
    assert len(written.encode()) < 300_000  # GitHub allows 1 MiB for all steps of a job
    assert f"… and {len(plan.cases) - 200} more" in written


def caused(verdict: Verdict, check: str, observed: str | None) -> str:
    """The cause of a case with one check of its verdict."""
    run = in_memory("", verdict)
    told = CheckRecord(
        case=run.cases[0].case,
        check=check,
        family="forward",
        verdict=verdict,
        seconds=0.1,
        observed=observed,
        allowed=None,
        detail="ValueError: no",
    )
    return causes.cause_of(run.cases[0], [told])


def test_why_cases_do_not_pass_is_told_in_words_that_like_cases_share() -> None:
    refusal = "unsupported operator aten.bincount"
    for verdict in (Verdict.ERROR, Verdict.XFAIL):
        assert caused(verdict, "prepared", refusal) == refusal
    assert caused(Verdict.FAIL, "matches-truth", "3 of the error allowed") == "wrong by matches-truth"
    assert caused(Verdict.ERROR, "causal", None) == "causal raises"
    assert caused(Verdict.BLOCKED, "loads", "detectron2") == "missing detectron2"


def test_each_targets_causes_stand_under_its_verdicts(results: Results, flawless: Results) -> None:
    said = repr(causes.by_target(results))
    assert said.startswith("cpu: ")
    for cause in ("the time limit", "the kernel died", "not reached"):
        assert f"1 {cause}" in said
    assert "What each target takes" in summary_markdown(results)
    assert repr(causes.by_target(flawless)) == "Every case passed."


def test_cells_are_escaped_unless_they_are_markup() -> None:
    html = table(["a<b"], [["<i>"], [Markup("<b>bold</b>")], [None]])
    assert "a&lt;b" in html and "&lt;i&gt;" in html and "<b>bold</b>" in html and "None" not in html


@pytest.mark.parametrize(
    ("value", "words"),
    [(None, ""), (0, "0"), (0.00123456, "0.00123"), (1.5, "1.5"), (99.44, "99.4"), (123.4, "123"), (45678.9, "45,679")],
)
def test_numbers_have_three_digits(value: float | None, words: str) -> None:
    assert number(value) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0.0 s"),
        (2e-5, "<1 ms"),
        (0.0314, "31 ms"),
        (59.94, "59.9 s"),
        (60, "1 min 00 s"),
        (3599, "59 min 59 s"),
        (7800, "2 h 10 min"),
    ],
)
def test_durations_are_told_as_people_tell_them(seconds: float, words: str) -> None:
    assert overview.duration(seconds) == words


def test_a_page_shows_formulas_pictures_sound_and_terminal_colours(results: Results) -> None:
    failed = next(case for case in results.cases if case.verdict is Verdict.FAIL)
    notebook = nbformat.read(results.folder / failed.notebook, as_version=4)
    about = {"kind": "case", "title": "<t>", "root": "../../", "home": "x", "run": "r", "links": [], "foot": "f"}
    html = page(exporter(code=True), notebook, {**about, "banner": ""})
    assert "<title>&lt;t&gt;</title>" in html
    assert html.count("<math") == 2 and "$" not in html.partition("<main>")[2]
    assert '<audio controls src="data:audio/wav' in html
    assert '<img src="data:image/png;base64' in html and "<svg" in html
    assert '<span class="ansi-red-fg">CaseFailed</span>' in html
    assert "&lt;far&gt; off &amp; the row too" in html
    assert "scrapbook" not in html  # data for programs
    assert "case.finish" in re.sub(r"<[^>]+>", "", html)
    for kind in set(re.findall(r"ansi-[a-z-]+", html)):
        assert f".{kind} " in style_sheet()


def test_a_notebook_whose_json_is_of_another_shape_costs_its_own_page_only(tmp_path: Path) -> None:
    run = report_run.write_run(tmp_path, report_run.plan("cpu", models=["bert", "vit"]), lambda case: Verdict.PASS)
    bert = next(tmp_path.glob("cases/*/bert@cpu.ipynb"))
    content = json.loads(bert.read_text())
    content["cells"].append({"cell_type": "code", "metadata": {}, "source": "without outputs"})
    bert.write_text(json.dumps(content))
    build_site(run, nbformat.v4.new_notebook)
    assert "bert@cpu.ipynb can't be read" in next(tmp_path.glob("site/cases/*/bert@cpu.html")).read_text()
    assert "can't be read" not in next(tmp_path.glob("site/cases/*/vit@cpu.html")).read_text()


def test_a_formula_that_can_not_be_read_stays_as_tex() -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("Broken: $a < b_$ and prose")])
    html = page(exporter(code=True), notebook, {"kind": "case", "links": []})
    assert "<code>a &lt; b_</code> and prose" in html
