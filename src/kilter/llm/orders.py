"""In which order traces come, and where a page ends.

The order by time alone goes on after the last one of a page, so that new traces move nothing; any other counts how many came before.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
import sqlalchemy as sa

from kilter.core.errors import InvalidInput
from kilter.llm.filters import SOURCE_RUN, column_of, named
from kilter.llm.gathering import NAME
from kilter.llm.tables import trace_metadata, trace_tags, traces
from kilter.llm.writing import SESSION
from kilter.tracking.orders import Place

ALLOWED = '"timestamp_ms", "execution_time_ms", "end_time_ms", "status", "name", "tags.NAME" or "metadata.NAME", with ASC or DESC'

_TERM = re.compile(
    r"""^\s*(?P<minus>-?)(?P<field>(?:[A-Za-z_]+\.)?(?:`[^`]+`|"[^"]+"|[\w/.:\-]+))(?:\s+(?P<way>asc|desc))?\s*$""",
    re.VERBOSE | re.IGNORECASE,
)
_MOST_TERMS = 10


class Order:
    """An order of traces.

    Args:
        terms: Fields, the first one counts most.

    Raises:
        InvalidInput: When one is no field.
    """

    def __init__(self, terms: list[str]) -> None:
        if len(terms) > _MOST_TERMS:
            raise InvalidInput("too many fields", where="order", allowed=f"{_MOST_TERMS} fields")
        self._terms = [_term(term) for term in terms]
        if len({field for field, _ in self._terms}) < len(self._terms):
            raise InvalidInput(f"`order_by` contains duplicate fields: {terms}", where="order")
        self._place = Place(f"traces:{terms}")
        self._by_time = not self._terms or self._terms == [(("attribute", "timestamp_ms"), True)]

    def apply(self, query: sa.Select[Any], cursor: str | None) -> sa.Select[Any]:
        """Return the query in this order, from a cursor on."""
        if self._by_time:
            return self._after(query, cursor)
        for (kind, name), descending in self._terms:
            query, column = _joined(query, kind, name)
            query = query.order_by(column.is_(None), column.desc() if descending else column.asc())
        return query.order_by(traces.c.request_ms.desc(), traces.c.id).offset(self._place.start(cursor))

    def cursor(self, cursor: str | None, limit: int, last: sa.Row[Any]) -> str:
        """Return the place after a page.

        Args:
            cursor: Where the page began.
            limit: How many are on it.
            last: The last one of it.
        """
        if self._by_time:
            return self._place.cursor([last.request_ms, last.id])
        return self._place.cursor(self._place.start(cursor) + limit)

    def _after(self, query: sa.Select[Any], cursor: str | None) -> sa.Select[Any]:
        if cursor is not None:
            try:
                at, last = msgspec.convert(self._place.read(cursor), tuple[int, str])
            except msgspec.ValidationError:
                raise InvalidInput("the cursor can't be read", where="cursor", fix="start again without one") from None
            if abs(at) >= 2**63:
                raise InvalidInput("the cursor can't be read", where="cursor", fix="start again without one")
            same = (traces.c.request_ms == at) & (traces.c.id > last)
            query = query.where((traces.c.request_ms < at) | same)
        return query.order_by(traces.c.request_ms.desc(), traces.c.id)


def _term(text: str) -> tuple[tuple[str, str], bool]:
    match = _TERM.match(text)
    if match is None or (match["minus"] and match["way"]):
        raise InvalidInput(f"Invalid order_by clause '{text[:60]}'", where="order", allowed=ALLOWED)
    kind, name = named(match["field"])
    if kind == "attribute":
        name = {"timestamp": "timestamp_ms", "execution_time": "execution_time_ms", "end_time": "end_time_ms"}.get(
            name, name
        )
    if kind not in {"attribute", "tag", "metadata"} or name in {"prompt", "text"}:
        raise InvalidInput(f"Invalid identifier type '{kind}'", where="order", allowed=ALLOWED)
    descending = bool(match["minus"]) or (match["way"] or "").lower() == "desc"
    return (kind, name), descending


def _joined(query: sa.Select[Any], kind: str, name: str) -> tuple[sa.Select[Any], sa.ColumnElement[Any]]:
    if kind == "tag" and name == NAME:
        return query, traces.c.name
    if kind == "metadata" and name == SESSION:
        return query, traces.c.session
    if kind == "attribute" and name != "run_id":
        return query, column_of(name)
    table = (trace_tags if kind == "tag" else trace_metadata).alias()
    key = SOURCE_RUN if kind == "attribute" else name
    query = query.outerjoin(table, (table.c.trace == traces.c.id) & (table.c.name == key))
    return query, table.c.value
