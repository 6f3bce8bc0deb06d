"""The only module that knows scrapbook's format: gluing a notebook's records, and reading them back.

Gluing emits the message that scrapbook documents for a JSON scrap rather than import it: the import costs a kernel as
much as that of torch. Reading finds that message in the notebook's JSON and lets scrapbook decode it; scrapbook's own
reader of notebooks, which finds the same, validates each against schemas for ten times as long.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from proofbook.workbook.records import CaseRecord, CheckRecord, Record, SweepRecord

CASE, CHECKS, SWEEP = "proofbook.case", "proofbook.checks", "proofbook.sweep"
MEDIA_TYPE = "application/scrapbook.scrap.json+json"


class NoScraps(ValueError):
    """A notebook from which no case can be read; the message says why."""


class _Payload(BaseModel):
    """What stands under :data:`MEDIA_TYPE` in an output, by scrapbook's schema of version 1."""

    name: str
    data: Any
    encoder: Literal["json"]
    version: Literal[1]


@dataclass(frozen=True)
class Scraps:
    """What one executed notebook glued."""

    case: CaseRecord
    checks: tuple[CheckRecord, ...]
    # of a case that was swept
    sweep: tuple[SweepRecord, ...] = ()


def glue(case: CaseRecord, checks: Sequence[CheckRecord], sweep: Sequence[SweepRecord] = ()) -> None:
    """Glue the records of a case into the notebook that is running; those of a sweep where there are any."""
    _glue(CASE, _plain(case))
    _glue(CHECKS, [_plain(check) for check in checks])
    if sweep:
        _glue(SWEEP, [_plain(point) for point in sweep])


def read(path: Path) -> Scraps:
    """Read the records of one executed notebook.

    Raises:
        NoScraps: the file is missing or damaged, or its notebook did not reach its last cell; the message names it.
    """
    try:
        notebook = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise NoScraps(f"{path}: not a readable notebook: {type(error).__name__}: {error}") from error
    try:
        return scraps_of(notebook)
    except NoScraps as error:
        raise NoScraps(f"{path}: {error}") from error.__cause__


def scraps_of(notebook: Mapping[str, Any]) -> Scraps:
    """The records in the JSON of an executed notebook; of a name that was glued twice the last, as in scrapbook.

    Raises:
        NoScraps: the notebook did not reach its last cell; or, with a cause, what it holds is of another shape.
    """
    try:
        glued = {scrap.name: scrap.data for scrap in _scraps(notebook)}
    except (AttributeError, KeyError, TypeError, ValidationError) as error:
        raise NoScraps(f"not a readable notebook: {type(error).__name__}: {error}") from error
    missing = [name for name in (CASE, CHECKS) if name not in glued]
    if missing:
        raise NoScraps(f"holds no scrap {' and no scrap '.join(missing)}")
    try:
        return Scraps(
            CaseRecord.model_validate(glued[CASE]),
            tuple(CheckRecord.model_validate(row) for row in glued[CHECKS]),
            tuple(SweepRecord.model_validate(row) for row in glued.get(SWEEP, ())),
        )
    except (TypeError, ValueError) as error:
        raise NoScraps(f"its scraps are of another shape: {error}") from error


def _scraps(notebook: Mapping[str, Any]) -> Iterator[Any]:
    """Those of ours, decoded; whoever adds a cell may glue others, in whichever encoding."""
    from scrapbook.encoders import registry
    from scrapbook.scraps import Scrap

    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            payload = output.get("data", {}).get(MEDIA_TYPE)
            if payload is not None and payload["name"] in (CASE, CHECKS, SWEEP):
                found = _Payload.model_validate(payload)
                yield registry.decode(Scrap(found.name, found.data, found.encoder))


def _plain(record: Record) -> Any:
    """A record as JSON has it: by way of text, since only there NaN and infinity become null."""
    return json.loads(record.model_dump_json())


def _glue(name: str, data: Any) -> None:
    from IPython.display import display

    scrap = {"name": name, "data": data, "encoder": "json", "version": 1}
    display(
        {MEDIA_TYPE: scrap},
        metadata={"scrapbook": {"name": name, "data": True, "display": False}},
        raw=True,
    )
