"""Rows from outside become typed columns, or are refused as a whole with the row and the column."""

from __future__ import annotations

import difflib
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache

import polars as pl

from kilter.core.errors import InvalidInput
from kilter.data.batch import TYPES, Scalar, micros

Given = bool | int | float | str | datetime | None

_NAME = re.compile(r"^[^\W_][\w .:-]{0,127}$")
_TIME = re.compile(r"^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d+)?)?([Zz]|[+-]\d\d:?\d\d)$")
_LARGEST_INTEGER = 2**63 - 1
_LATEST_SECOND = 253402300799.0  # the end of the year 9999
_NOTHING = type(None)
_WORDS = {
    bool: "a boolean",
    int: "a whole number",
    float: "a number",
    str: "a string",
    datetime: "a time",
    _NOTHING: "null",
}
_EXPECTED = {
    "boolean": "true, false or null",
    "integer": "a whole number of at most 63 bits, or null",
    "float": "a finite number or null",
    "string": "a string or null",
    "time": 'RFC 3339 with an offset ("2013-03-01T12:00:00Z"), seconds since 1970, or null',
}
_POLARS: tuple[tuple[type[pl.DataType], str], ...] = (
    (pl.Boolean, "boolean"),
    (pl.String, "string"),
    (pl.Categorical, "string"),
    (pl.Enum, "string"),
    (pl.Datetime, "time"),
)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``did you mean 'dest'?``, or nothing when no known name is near."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"did you mean {found[0]!r}?" if found else ""


def read_rows(
    table: str, rows: Sequence[Mapping[str, Given]], key: str, time: str, schema: Mapping[str, str]
) -> tuple[dict[str, list[Scalar]], dict[str, str]]:
    """Return rows as columns, and the kinds of columns that the schema does not have yet.

    Args:
        table: The table, for messages.
        rows: Parts of rows, each with its key; two parts of one key in one call become one, the later over the earlier.
        key: The column that identifies a row.
        time: The event-time column.
        schema: The known kinds by column.

    Raises:
        InvalidInput: When a row has no key, a null time or a value of another kind than its column; nothing is taken then.
    """
    if not rows:
        raise InvalidInput("no rows were given", where=table, allowed="at least one row")
    # Rows that come together have few shapes: their columns are gathered once per shape.
    names = dict.fromkeys(itertools.chain.from_iterable(dict.fromkeys(map(tuple, rows))))
    for place, row in enumerate(rows):
        if row.get(key) is None:
            raise InvalidInput(
                f"row {place} has no {key!r}",
                where=f"{table}.rows[{place}].{key}",
                allowed="a string or a whole number",
            )
        if time in row and row[time] is None:
            raise InvalidInput(
                f"row {place} has a null {time!r}",
                where=f"{table}.rows[{place}].{time}",
                allowed=_EXPECTED["time"],
                fix="leave the column out of a later part of a row that has its time already",
            )
    columns: dict[str, list[Scalar]] = {}
    found: dict[str, str] = {}
    for name in names:
        values = [row.get(name) for row in rows]
        kind = schema.get(name)
        if kind is None:
            _check_name(table, name)
            kind = _infer(values)
            if kind is None:
                continue  # only nulls so far: the column says nothing yet
            found[name] = kind
        columns[name] = _read(table, name, values, kind)
    if schema.get(key, found.get(key)) not in ("string", "integer"):
        raise InvalidInput(f"the key {key!r} is a {found.get(key)}", where=table, allowed="strings or whole numbers")
    return _one_part_per_key(columns, key), found


def kind_of(dtype: pl.DataType) -> str | None:
    """Return the kind of a Polars type, or None when tables don't have it."""
    if dtype.is_integer():
        return "integer"
    if dtype.is_float():
        return "float"
    return next((kind for type_, kind in _POLARS if isinstance(dtype, type_)), None)


def _check_name(table: str, name: str) -> None:
    if not _NAME.match(name):
        raise InvalidInput(
            f"{name[:140]!r} is not a column name",
            where=table,
            allowed="1 to 128 letters, digits, spaces and _ . : -, beginning with a letter or a digit",
        )


def _infer(values: Sequence[Given]) -> str | None:
    kinds = set(map(type, values)) - {_NOTHING}
    if not kinds:
        return None
    if kinds == {bool}:
        return "boolean"
    if kinds == {int}:
        return "integer"
    if kinds == {datetime}:
        return "time"
    if kinds == {str} and all(value is None or (isinstance(value, str) and _TIME.match(value)) for value in values):
        return "time"
    return "float" if kinds <= {int, float} else "string"


def _read(table: str, name: str, values: list[Given], kind: str) -> list[Scalar]:
    """Return values as their kind; the common case costs one pass over the types."""
    types = set(map(type, values)) - {_NOTHING}
    if kind == "string" and types <= {str}:
        return values  # type: ignore[return-value]
    if kind == "boolean" and types <= {bool}:
        return values  # type: ignore[return-value]
    if _plainly(values, types, kind):
        return values  # type: ignore[return-value]
    if kind == "time" and types == {str}:
        instants = [None if text is None else _instant(text) for text in values]
        if instants.count(None) == values.count(None):
            return instants  # type: ignore[return-value]
    result: list[Scalar] = []
    for place, value in enumerate(values):
        read = None if value is None else _read_one(value, kind)
        if read is None and value is not None and not (isinstance(value, float) and math.isnan(value)):
            word = _WORDS.get(type(value), type(value).__name__)
            shown = f"{value!r:.60}" if isinstance(value, bool | int | float | str) else word
            raise InvalidInput(
                f"row {place} gives {shown} ({word}) for {name!r}, a column of kind {kind}",
                where=f"{table}.rows[{place}].{name}",
                allowed=_EXPECTED[kind],
                fix="nothing was written: correct the row and send the rows again",
            )
        result.append(read)
    return result


def _plainly(values: list[Given], types: set[type], kind: str) -> bool:
    """Say whether all values are numbers of their kind as they stand, without looking at them one by one in Python."""
    if (kind, types) not in (("integer", {int}), ("float", {float})):
        return False
    present: list[float] = [value for value in values if value is not None]  # type: ignore[misc]
    bound = _LARGEST_INTEGER if kind == "integer" else 1e308
    # NaN is less than nothing and more than nothing, so it has to be looked for; whole numbers are never NaN.
    whole = kind == "integer" or all(map(math.isfinite, present))
    return whole and -bound < min(present) and max(present) < bound


def _read_one(value: bool | int | float | str | datetime, kind: str) -> Scalar:  # noqa: PYI041 - bool is meant as such
    """Return one value as its kind, or None when it is of another."""
    if kind == "time":
        return _read_time(value)
    if isinstance(value, bool) or kind == "boolean":
        return value if isinstance(value, bool) and kind == "boolean" else None
    if isinstance(value, str) or kind == "string":
        return value if isinstance(value, str) and kind == "string" else None
    if isinstance(value, datetime) or not math.isfinite(value):
        return None
    if kind == "float":
        return float(value) if abs(value) < 1e308 else None
    return int(value) if value == int(value) and abs(value) <= _LARGEST_INTEGER else None


def _read_time(value: bool | int | float | str | datetime) -> int | None:  # noqa: PYI041
    if isinstance(value, datetime):
        return micros(value) if value.tzinfo is not None else None
    if isinstance(value, str):
        return _instant(value)
    if isinstance(value, bool) or not abs(value) <= _LATEST_SECOND:
        return None
    return round(value * 1_000_000)


@lru_cache(maxsize=8192)
def _instant(text: str) -> int | None:
    """Return an RFC 3339 time as microseconds; rows that arrive together share many of their times."""
    if not _TIME.match(text):
        return None
    try:
        return micros(datetime.fromisoformat(text))
    except ValueError:
        return None


def _one_part_per_key(columns: dict[str, list[Scalar]], key: str) -> dict[str, list[Scalar]]:
    keys = columns[key]
    if len(set(keys)) == len(keys):
        return columns
    first: dict[Scalar, int] = {}
    for name in keys:
        first.setdefault(name, len(first))
    merged: dict[str, list[Scalar]] = {name: [None] * len(first) for name in columns}
    for name, values in columns.items():
        target = merged[name]
        for row, value in zip(keys, values, strict=True):
            if value is not None:
                target[first[row]] = value
    return merged


def read_frame(
    table: str, frame: pl.DataFrame, key: str, time: str, schema: Mapping[str, str]
) -> tuple[pl.DataFrame, dict[str, str]]:
    """Return a frame in the table's types, and the kinds of columns that the schema does not have yet.

    Args:
        table: The table, for messages.
        frame: One row per key.
        key: The column that identifies a row.
        time: The event-time column.
        schema: The known kinds by column.

    Raises:
        InvalidInput: When a column has another kind than the table's, a key or a time is null, or a key is there twice.
    """
    if key not in frame.columns:
        raise InvalidInput(f"the frame has no key {key!r}", where=table, allowed=", ".join(frame.columns))
    if frame.is_empty():
        raise InvalidInput("the frame has no rows", where=table, allowed="at least one row")
    added: dict[str, str] = {}
    casts: list[pl.Expr] = []
    for name, dtype in frame.schema.items():
        kind = schema.get(name)
        if dtype == pl.Null:
            continue  # only nulls: the column says nothing
        if kind is None:
            _check_name(table, name)
            kind = kind_of(dtype)
        casts.append(_cast(table, name, dtype, kind))
        if name not in schema:
            added[name] = str(kind)
    parts = frame.select(casts)
    for name in (key, time):
        if name in frame.columns and frame[name].null_count():
            row = frame[name].is_null().arg_max()
            raise InvalidInput(
                f"row {row} has a null {name!r}", where=f"{table}.{name}", allowed="a value in every row"
            )
    if parts[key].n_unique() != parts.height:
        twice = parts.filter(pl.col(key).is_duplicated())[key][0]
        raise InvalidInput(f"key {twice!r} is there twice", where=f"{table}.{key}", allowed="one row per key")
    return parts, added


def _cast(table: str, name: str, dtype: pl.DataType, kind: str | None) -> pl.Expr:
    given = kind_of(dtype)
    if given is None or (given != kind and (given, kind) != ("integer", "float")):
        raise InvalidInput(
            f"column {name!r} is {dtype}",
            where=table,
            allowed=kind or "booleans, numbers, strings and times",
            fix="cast the column, or give it another name; nothing was written",
        )
    if isinstance(dtype, pl.Datetime):
        aware = pl.col(name) if dtype.time_zone is not None else pl.col(name).dt.replace_time_zone("UTC")
        return aware.dt.convert_time_zone("UTC").dt.cast_time_unit("us")
    if kind == "float":
        return pl.col(name).cast(pl.Float64).fill_nan(None)
    return pl.col(name).cast(TYPES[str(kind)])
