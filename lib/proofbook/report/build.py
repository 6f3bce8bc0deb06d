"""Everything that a run is reported as, from its notebooks."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def build_report(run_dir: Path) -> Path:
    """Write ``summary.ipynb``, ``site/``, ``junit.xml``, ``summary.md`` and ``coverage.md`` into a run's folder.

    The run may be unfinished, and its notebooks damaged; an earlier report is replaced file by file.

    Returns:
        the path of ``site/index.html``.

    Raises:
        BadPlan: the folder is not that of a run.
        papermill.PapermillExecutionError: the summary notebook itself failed.
    """
    from proofbook.batch.ledger import current_ledger
    from proofbook.files import write_atomic
    from proofbook.report.collect import Results
    from proofbook.report.coverage import coverage_markdown
    from proofbook.report.junit import junit_xml
    from proofbook.report.markdown import summary_markdown

    run_dir = run_dir.resolve()
    results = Results(run_dir, current_ledger(run_dir))
    write_atomic(run_dir / "junit.xml", junit_xml(results))
    write_atomic(run_dir / "summary.md", summary_markdown(results).encode("utf-8", "replace"))
    write_atomic(run_dir / "coverage.md", coverage_markdown(results).encode("utf-8", "replace"))
    # these two bring in papermill and nbconvert
    from proofbook.report.site import build_site
    from proofbook.report.summary import execute_summary

    # a page a case is made here while the summary's kernel is at work
    with ThreadPoolExecutor(1) as beside:
        return build_site(results, beside.submit(execute_summary, run_dir).result)
