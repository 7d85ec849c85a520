"""The little language in which runs are asked for: ``metrics.auc > 0.7 and params.trees = 80 and status = 'FINISHED'``."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa

from kilter.core.errors import InvalidInput
from kilter.engines.sql.types import json_text
from kilter.tracking.tables import params, runs, summaries, tags

ALLOWED = (
    "comparisons joined by 'and': FIELD OPERATOR VALUE, where a field is status, experiment, name, spec, data_digest, "
    "metrics.NAME, params.NAME or tags.NAME, an operator is =, !=, <, <=, > or >=, and texts stand in quotes"
)
ORDER_ALLOWED = '"started" or "metrics.NAME", with "-" in front for the greatest first'

_COMPARISON = re.compile(
    r"""\s*(?P<field>(?:metrics|params|tags)\.(?:`[^`]+`|[\w/.\-]+)|[a-z_]+)\s*
        (?P<operator>!=|<=|>=|=|<|>)\s*
        (?P<value>'[^']*'|"[^"]*"|[-+]?[\w.+\-]+)\s*""",
    re.VERBOSE,
)
_AND = re.compile(r"and\b", re.IGNORECASE)
_COLUMNS = ("status", "experiment", "name", "spec", "data_digest", "code_digest", "environment")
_OPERATORS: dict[str, Callable[[Any, Any], sa.ColumnElement[bool]]] = {
    "=": lambda column, value: column == value,
    "!=": lambda column, value: column != value,
    "<": lambda column, value: column < value,
    "<=": lambda column, value: column <= value,
    ">": lambda column, value: column > value,
    ">=": lambda column, value: column >= value,
}


def condition(text: str) -> sa.ColumnElement[bool]:
    """Return a filter as a condition on the table of runs.

    Raises:
        InvalidInput: When the text can't be read; the message points at the place.
    """
    found: list[sa.ColumnElement[bool]] = []
    at = 0
    while True:
        match = _COMPARISON.match(text, at)
        if match is None:
            raise InvalidInput(f"can't read {text[at : at + 40]!r}", where="filter", allowed=ALLOWED)
        found.append(_compare(match["field"], match["operator"], match["value"]))
        at = match.end()
        if at == len(text):
            return sa.and_(*found)
        joined = _AND.match(text, at)
        if joined is None:
            raise InvalidInput(f"can't read {text[at : at + 40]!r}", where="filter", allowed=ALLOWED)
        at = joined.end()


def _compare(field: str, operator: str, text: str) -> sa.ColumnElement[bool]:
    compare = _OPERATORS[operator]
    kind, _, name = field.partition(".")
    name = name.strip("`")
    quoted = text[0] in "'\""
    value = text[1:-1] if quoted else text
    number = None if quoted else _number(text)
    if kind == "metrics" and name:
        if number is None:
            raise InvalidInput(f"{field} is compared with {text}", where="filter", allowed="a number")
        return _exists(summaries, name, compare(summaries.c.last, number))
    if kind == "params" and name:
        if number is not None:
            return _exists(params, name, compare(params.c.number, number))
        words = {"true": True, "false": False}
        return _exists(params, name, compare(params.c.value, sa.literal(words.get(value, value), params.c.value.type)))
    if kind == "tags" and name:
        return _exists(tags, name, compare(tags.c.value, value))
    if field not in _COLUMNS:
        raise InvalidInput(f"there is no field {field!r}", where="filter", allowed=ALLOWED)
    return compare(runs.c[field], value)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _exists(table: sa.Table, name: str, test: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    return sa.exists().where(table.c.run == runs.c.id, table.c.name == name, test)


class Order:
    """An order of runs, and the place in it where a page ends.

    Args:
        text: ``"started"``, ``"-started"``, ``"metrics.NAME"`` or ``"-metrics.NAME"``. Runs without the metric, or
            with NaN as its newest value, are left out.

    Raises:
        InvalidInput: When the text names no order.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.descending = text.startswith("-")
        field = text.removeprefix("-")
        self.metric = field.removeprefix("metrics.") if field.startswith("metrics.") else ""
        if field != "started" and not self.metric:
            raise InvalidInput(f"{text!r} is not an order", where="order", allowed=ORDER_ALLOWED)
        self.column: sa.ColumnElement[Any] = summaries.c.last if self.metric else runs.c.started_at

    def apply(self, query: sa.Select[Any], cursor: str | None) -> sa.Select[Any]:
        """Return the query in this order, from the cursor on; the value ordered by is selected as ``placed``."""
        query = query.add_columns(self.column.label("placed"))
        if self.metric:
            joined = (summaries.c.run == runs.c.id) & (summaries.c.name == self.metric)
            query = query.join(summaries, joined).where(summaries.c.last.is_not(None))
        if cursor is not None:
            value, run = self._read(cursor)
            beyond = self.column < value if self.descending else self.column > value
            later = runs.c.id < run if self.descending else runs.c.id > run
            query = query.where(beyond | ((self.column == value) & later))
        columns = (self.column, runs.c.id)
        return query.order_by(*(column.desc() if self.descending else column.asc() for column in columns))

    def cursor(self, row: sa.Row[Any]) -> str:
        """Return the place after a row."""
        return base64.urlsafe_b64encode(json_text([self.text, _plain(row.placed), row.id]).encode()).decode()

    def _read(self, cursor: str) -> tuple[Any, str]:
        try:
            text, value, run = msgspec.json.decode(base64.urlsafe_b64decode(cursor.encode()))
            placed = msgspec.convert(value, float if self.metric else datetime, strict=False)
        except (ValueError, TypeError, binascii.Error, msgspec.MsgspecError) as error:
            raise InvalidInput("the cursor can't be read", where="cursor", fix="start again without one") from error
        if text != self.text or not isinstance(run, str):
            raise InvalidInput("the cursor is of another order", where="cursor", fix="start again without one")
        return placed, run


def _plain(value: Any) -> Any:
    """Return an infinity as text, because a cursor is JSON."""
    return str(value) if value in (float("inf"), float("-inf")) else value
