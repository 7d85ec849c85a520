"""The list of what is wrong with a declaration, while it is being made."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import polars as pl

from kilter.core.durations import ALLOWED as DURATION_ALLOWED
from kilter.core.durations import parse_duration
from kilter.core.errors import DeclarationError, InvalidInput
from kilter.core.words import did_you_mean
from kilter.data.declare import Table
from kilter.loop.declaration.spec import Declared

Schemas: TypeAlias = Mapping[str, Mapping[str, pl.DataType]]
"""The columns of each table that has rows already, with their types."""

_ZERO = re.compile(r"^\s*0+(\.0+)?\s*(ms|s|m|h|d|w)\s*$")


class Faults:
    """What was found so far, and the words in which findings are made.

    Args:
        declared: The declaration that is checked.
        schemas: Per table, its columns; empty where there are no rows yet.
    """

    def __init__(self, declared: Declared, schemas: Schemas) -> None:
        self.declared = declared
        self.loop = declared.loop
        self.schemas = schemas
        self.found: list[DeclarationError] = []
        self._lines = declared.source.lines(declared.name)

    def wrong(self, field: str, message: str, *, allowed: str = "", fix: str = "") -> None:
        """Note that a field is wrong, with the file and the nearest line."""
        line = 0
        part = field
        while part and not line:  # the nearest part of the field that has a line of its own
            line = self._lines.get(part, 0)
            part = part[: max(part.rfind("."), part.rfind("["), 0)]
        line = line or self._lines.get("", 0)
        file = f"{self.declared.source.filename}:{line}" if line else self.declared.source.filename
        self.found.append(DeclarationError(message, where=f"{file}: {field}", allowed=allowed, fix=fix))

    def duration(self, field: str, given: str, *, zero: bool = False) -> float | None:
        """Return a duration in seconds, or note what is wrong with it and return None."""
        if zero and isinstance(given, str) and _ZERO.match(given):
            return 0.0
        try:
            return parse_duration(given).total_seconds()
        except InvalidInput as error:
            self.wrong(field, error.message, allowed=DURATION_ALLOWED)
            return None

    def between(self, field: str, given: float, low: float, high: float) -> None:
        """Note a number that is not strictly between two bounds; NaN never is."""
        if isinstance(given, bool) or not isinstance(given, int | float) or not low < given < high:
            self.wrong(field, f"{given!r} is out of range", allowed=f"a number above {low:g} and below {high:g}")

    def column(self, field: str, table: Table, column: str) -> None:
        """Note a column that the table doesn't have, when its columns are known."""
        schema = self.schemas.get(table.name)
        if not column:
            self.wrong(field, "a column without a name", allowed="a column of the table")
        elif schema is not None and column not in schema:
            self.wrong(
                field,
                f"table {table.name!r} has no column {column!r}",
                allowed=", ".join(schema),
                fix=did_you_mean(column, schema),
            )

    def literal(self, field: str, given: object, choices: Iterable[str]) -> None:
        """Note a word that is none of the choices."""
        allowed = tuple(choices)
        if given not in allowed:
            self.wrong(
                field, f"{given!r} was given", allowed=" or ".join(map(repr, allowed)), fix=did_you_mean(given, allowed)
            )

    def kind(self, field: str, given: object, kinds: tuple[Any, ...], allowed: str) -> None:
        """Note a value of a wrong class."""
        if not isinstance(given, kinds) or (isinstance(given, bool) and bool not in kinds):
            fix = f"use {given.name}.columns(...)" if isinstance(given, Table) else ""
            self.wrong(field, f"{shown(given)} was given", allowed=allowed, fix=fix)

    def each(self, field: str, given: object, kinds: tuple[Any, ...], allowed: str) -> None:
        """Note what is no list, and each item of a wrong class."""
        if not isinstance(given, list | tuple):
            self.wrong(field, f"{shown(given)} was given", allowed=f"a list of {allowed}")
            return
        for i, item in enumerate(given):
            self.kind(f"{field}[{i}]", item, kinds, allowed)


def shown(value: object) -> str:
    """Return a value as people can read it in a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"a {type(value).__name__}"
