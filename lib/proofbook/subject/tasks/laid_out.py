"""Tasks on text laid out otherwise than in lines: a gap in a question about a table, labels for a page of markup."""

from collections.abc import Sequence
from typing import Any

from proofbook.subject.samples.pages import MARKUP, TABLE, TABLE_GAPS
from proofbook.subject.tasks.task import Encoded, Row, Subject
from proofbook.subject.tasks.text import FillMask, TokenClassification
from proofbook.subject.tasks.tokens import accepted, encoded, texts_of, tokenizer_of


class TableFillMask(FillMask):
    """What stands in a gap of a question about a table, which is the same for all rows: the best tokens."""

    names = ("table-fill-mask",)

    def rows(self, subject: Subject) -> list[Row]:
        gap = self._gap(subject)[0]
        return [Row(text=question.format(gap), table=TABLE) for question in TABLE_GAPS]

    def encode(self, subject: Subject, rows: Sequence[Row]) -> Encoded:
        import pandas as pd

        heads, *cells = rows[0].table
        table = pd.DataFrame(cells, columns=list(heads))
        asked = tokenizer_of(subject)(table=table, queries=texts_of(rows), padding=True, return_tensors="pt")
        return encoded(accepted(subject, dict(asked)))


class MarkupTokenClassification(TokenClassification):
    """A label for each token of a page of markup: the best, with its probability."""

    names = ("markup-token-classification",)

    def rows(self, subject: Subject) -> list[Row]:
        return [Row(markup=page) for page in MARKUP]

    def encode(self, subject: Subject, rows: Sequence[Row]) -> Encoded:
        tokenizer_of(subject)
        made: Any = subject.processor([row.markup for row in rows], padding=True, return_tensors="pt")
        return encoded(accepted(subject, dict(made)))


TASKS = (TableFillMask(), MarkupTokenClassification())
