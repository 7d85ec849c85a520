"""In which order runs and experiments come, and where a page ends.

An order is a list of fields: ``-metrics.auc, started``. Those without the field come last, whichever way. The order by time alone
goes on after the last one of a page (so that new runs move nothing); any other counts how many came before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import msgspec
import sqlalchemy as sa

from kilter.engines.sql.paging import Place, unreadable, wanted
from kilter.tracking.filters import experiment_column, named_field, run_column
from kilter.tracking.tables import experiment_tags, experiments, params, runs, summaries, tags

__all__ = ["Orders", "Place", "Term", "terms_of"]

ALLOWED = (
    '"started", "ended", "name", "metrics.NAME", "params.NAME" or "tags.NAME", with "-" in front for the greatest first; '
    "several with commas between"
)


@dataclass(frozen=True)
class Term:
    """One field of an order.

    Args:
        kind: ``metrics``, ``params``, ``tags`` or nothing.
        name: The field's name.
        descending: The greatest first.
    """

    kind: str
    name: str
    descending: bool


def terms_of(text: str) -> tuple[Term, ...]:
    """Return the fields of an order.

    Raises:
        InvalidInput: When it can't be read.
    """
    return tuple(Term(*named_field(one.field), one.descending) for one in wanted(text, ALLOWED))


class Orders:
    """An order of runs or of experiments.

    Args:
        text: The fields.
        of: What is ordered.

    Raises:
        InvalidInput: When the text names no order.
    """

    def __init__(self, text: str, of: Literal["runs", "experiments"] = "runs") -> None:
        self.terms = terms_of(text)
        self._of = of
        self._place = Place(f"{of}:{text}")

    @property
    def by_time(self) -> bool:
        """Whether it is that of the runs' beginnings alone."""
        return self._of == "runs" and len(self.terms) <= 1 and all(_is_time(term) for term in self.terms)

    def apply(self, query: sa.Select[Any], cursor: str | None = None) -> sa.Select[Any]:
        """Return the query in this order, from a cursor on."""
        if self._of == "experiments":
            return _ordered_experiments(query, self.terms).offset(self.start(cursor))
        if self.by_time:
            return self._after(query, cursor)
        for term in self.terms:
            query, column = _joined(query, term)
            query = query.order_by(column.is_(None), column.desc() if term.descending else column.asc())
        return query.order_by(runs.c.started_at.desc(), runs.c.id).offset(self.start(cursor))

    def present(self, query: sa.Select[Any]) -> sa.Select[Any] | None:
        """Return the query over only those that have the metric which comes first, or None.

        The index on (metric, value) gives them in order without sorting: a first page costs the same in a store of any size.
        """
        if not self.terms or self.terms[0].kind != "metrics" or len(self.terms) > 1:
            return None
        term = self.terms[0]
        value = summaries.c.last
        query = query.join(summaries, (summaries.c.run == runs.c.id) & (summaries.c.name == term.name))
        query = query.where(value.is_not(None)).order_by(value.desc() if term.descending else value.asc())
        return query.order_by(runs.c.started_at.desc(), runs.c.id)

    def start(self, cursor: str | None) -> int:
        """Return how many come before a cursor."""
        return self._place.start(cursor)

    def cursor(self, before: int, last: sa.Row[Any] | None = None) -> str:
        """Return the place after a page.

        Args:
            before: How many came before and on it.
            last: The last row on it.
        """
        if self.by_time and last is not None:
            return self._place.cursor([last.started_at, last.id])
        return self._place.cursor(before)

    def _after(self, query: sa.Select[Any], cursor: str | None) -> sa.Select[Any]:
        descending = self.terms[0].descending if self.terms else True
        time, run = runs.c.started_at, runs.c.id
        if cursor is not None:
            at, last = self._placed(cursor)
            query = query.where((time < at if descending else time > at) | ((time == at) & (run > last)))
        return query.order_by(time.desc() if descending else time.asc(), run)

    def _placed(self, cursor: str) -> tuple[datetime, str]:
        try:
            return msgspec.convert(self._place.read(cursor), tuple[datetime, str], strict=False)
        except msgspec.ValidationError:
            raise unreadable() from None


def _is_time(term: Term) -> bool:
    return not term.kind and term.name == "started_at"


def _joined(query: sa.Select[Any], term: Term) -> tuple[sa.Select[Any], sa.ColumnElement[Any]]:
    if not term.kind:
        return query, run_column(term.name)
    table: sa.Table = {"metrics": summaries, "params": params, "tags": tags}[term.kind]
    beside = table.alias()
    query = query.outerjoin(beside, (beside.c.run == runs.c.id) & (beside.c.name == term.name))
    if term.kind == "metrics":
        return query, beside.c.last
    return query, sa.type_coerce(beside.c.value, sa.Text())


def _ordered_experiments(query: sa.Select[Any], terms: Sequence[Term]) -> sa.Select[Any]:
    for term in terms:
        if term.kind == "tags":
            beside = experiment_tags.alias()
            on = (beside.c.experiment == experiments.c.id) & (beside.c.name == term.name)
            query, column = query.outerjoin(beside, on), beside.c.value
        else:
            column = experiment_column({"started_at": "created"}.get(term.name, term.name))
        query = query.order_by(column.is_(None), column.desc() if term.descending else column.asc())
    if not terms:
        query = query.order_by(experiments.c.changed_at.desc())
    return query.order_by(experiments.c.id)
