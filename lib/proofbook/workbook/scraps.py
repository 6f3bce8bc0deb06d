"""The only module that knows scrapbook: gluing a notebook's records, and reading them back.

Gluing emits the message that scrapbook documents for a JSON scrap rather than import it: the import costs a
kernel as much as that of torch. Reading goes through scrapbook itself.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proofbook.workbook.records import CaseRecord, CheckRecord, Record

CASE, CHECKS = "proofbook.case", "proofbook.checks"


class NoScraps(ValueError):
    """A notebook from which no case can be read; the message names the file and says why."""


@dataclass(frozen=True)
class Scraps:
    """What one executed notebook glued."""

    case: CaseRecord
    checks: tuple[CheckRecord, ...]


def glue(case: CaseRecord, checks: Sequence[CheckRecord]) -> None:
    """Glue the records of a case into the notebook that is running."""
    _glue(CASE, _plain(case))
    _glue(CHECKS, [_plain(check) for check in checks])


def read(path: Path) -> Scraps:
    """Read the records of one executed notebook.

    Raises:
        NoScraps: the file is missing or damaged, or its notebook did not reach its last cell.
    """
    import scrapbook

    try:
        scraps = scrapbook.read_notebook(str(path)).scraps
    except Exception as error:  # nbformat, JSON and the file system each raise their own
        raise NoScraps(f"{path}: not a readable notebook: {type(error).__name__}: {error}") from error
    missing = [name for name in (CASE, CHECKS) if name not in scraps]
    if missing:
        raise NoScraps(f"{path}: holds no scrap {' and no scrap '.join(missing)}")
    try:
        return Scraps(
            CaseRecord.model_validate(scraps[CASE].data),
            tuple(CheckRecord.model_validate(row) for row in scraps[CHECKS].data),
        )
    except ValueError as error:
        raise NoScraps(f"{path}: its scraps are of another shape: {error}") from error


def _plain(record: Record) -> Any:
    """A record as JSON has it: by way of text, since only there NaN and infinity become null."""
    return json.loads(record.model_dump_json())


def _glue(name: str, data: Any) -> None:
    from IPython.display import display

    scrap = {"name": name, "data": data, "encoder": "json", "version": 1}
    display(
        {"application/scrapbook.scrap.json+json": scrap},
        metadata={"scrapbook": {"name": name, "data": True, "display": False}},
        raw=True,
    )
