"""``proofbook compare``."""

from proofbook.batch.store import open_run
from proofbook.cli.console import console, root, table
from proofbook.cli.errors import FELL_SHORT


def compare_runs(before: str, after: str, markdown: bool) -> int:
    """Print what differs between two runs; the exit status says whether anything broke."""
    from proofbook.report.collect import collect
    from proofbook.report.compare import Comparison, comparison_markdown, headline, sections, versions

    found = Comparison(*(collect(open_run(run, root() / "outputs")) for run in (before, after)))
    if markdown:
        print(comparison_markdown(found))
        return FELL_SHORT if found.broke else 0
    out = console()
    if differ := versions(found):
        shown = table("what differs", "", found.before.name, found.after.name)
        for row in differ:
            shown.add_row(*row)
        out.print(shown, "")
    for title, changes in sections(found).items():
        if changes:
            shown = table(title.lower(), "case", "check", "before", "after", "what is said")
            for one in changes:
                shown.add_row(one.case, one.check, one.before, one.after, " ".join(one.why.split())[:160])
            out.print(shown, "")
    if found.alone:
        out.print(f"only in one of the runs: {', '.join(found.alone)}", markup=False, highlight=False, soft_wrap=True)
    out.print(headline(found), highlight=False)
    return FELL_SHORT if found.broke else 0
