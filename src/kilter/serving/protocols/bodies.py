"""Rows in the other forms that protocols allow: lists, columns, CSV, Arrow and NumPy.

Numbers by place are a model's inputs in their order; whatever has names is read by name, and names that no model asks for are
passed over. A row's key and time may be there or not. Nothing is unpickled.
"""

from __future__ import annotations

import ast
import io
import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
import numpy as np
import polars as pl

from kilter.core.errors import InvalidInput, Unavailable
from kilter.serving.answering.rows import Given, Row, RowReader, made_up
from kilter.serving.front.http import HttpError
from kilter.serving.protocols import arrow

Check = Callable[[int], None]
JSON_TYPES: Final = frozenset({b"", b"application/json", b"application/x-www-form-urlencoded"})
"""A body without a type counts as JSON; so does what curl names a body that nobody named."""
CSV: Final = b"text/csv"
NPY: Final = frozenset({b"application/x-npy", b"application/x-numpy"})
ARROW: Final = frozenset(
    {
        b"application/vnd.apache.arrow.stream",
        b"application/vnd.apache.arrow.file",
        b"application/x-arrow-stream",
        b"application/x-arrow-file",
    }
)
TYPES: Final = "application/json, text/csv, application/x-npy, application/vnd.apache.arrow.stream"
_LONGEST_HEAD: Final = 1_000
_SCALARS: Final = frozenset({str, int, float, bool, type(None)})
_ANY: msgspec.json.Decoder[Any] = msgspec.json.Decoder()


def json_body(body: bytes) -> Any:
    """Return a JSON body of whatever form.

    Raises:
        HttpError: When it is not JSON.
    """
    try:
        return _ANY.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HttpError(400, "the body is not JSON", allowed=TYPES) from error


def table(kind: bytes, body: bytes, reader: RowReader | None, now: datetime, check: Check) -> Given | None:
    """Return the rows of a body that is a table by its type; None when its type is JSON.

    Args:
        kind: The content type.
        body: The body.
        reader: The model's reader.
        now: The time of rows that have none.
        check: Refuses a number of rows.

    Raises:
        HttpError: 415 for another type.
        InvalidInput: When it can't be read, or has other columns.
    """
    if kind in JSON_TYPES:
        return None
    held = needed(reader)
    if kind == CSV:
        return _csv(body, held, now, check)
    if kind in NPY:
        return _npy(body, held, now, check)
    if kind in ARROW:
        return _arrow(body, held, now, check)
    raise HttpError(415, "the body's type is not read here", allowed=TYPES)


def needed(reader: RowReader | None) -> RowReader:
    """Return the reader.

    Raises:
        Unavailable: When there is no model that could say what the columns are.
    """
    if reader is None:
        raise Unavailable("no model is loaded that could read these rows", where="model", fix="use /predict/{endpoint}")
    return reader


# ---------------------------------------------------------------- JSON


def instances(values: object, where: str, reader: RowReader | None, now: datetime, check: Check) -> Given:
    """Return rows of a JSON list: objects by name, lists by place, or bare values for a model with one input.

    Args:
        values: The list.
        where: How an error calls it.
        reader: The model's reader.
        now: The time of rows that have none.
        check: Refuses a number of rows.

    Raises:
        InvalidInput: It names the row and the column.
    """
    if type(values) is not list:
        raise InvalidInput("this is no list of rows", where=where, allowed="[[...]], or [{column: value}]")
    check(len(values))
    held = needed(reader)
    first = type(values[0])
    if any(type(one) is not first for one in values) and (first is list or first is dict):
        raise InvalidInput("some rows are objects or lists, and some are not", where=where, allowed="one kind of rows")
    if first is dict:
        return named(values, where, held, now)
    return positional(values if first is list else [[one] for one in values], where, held, now)


def named(rows: Sequence[Mapping[str, object]], where: str, reader: RowReader, now: datetime) -> Given:
    """Return rows that are objects; lists of one value, as tensors write them, count as the value.

    Raises:
        InvalidInput: It names the row and the column.
    """
    plain: list[Row] = []
    for index, row in enumerate(rows):
        held = row
        if any(type(value) not in _SCALARS for value in row.values()):
            held = {name: value[0] if type(value) is list and len(value) == 1 else value for name, value in row.items()}
            for place, value in enumerate(held.values()):
                if type(value) not in _SCALARS:
                    raise InvalidInput("a value is a list or an object", where=f"{where}[{index}], value {place}",
                                       allowed="a number, text, true, false or null")  # fmt: skip
        plain.append(held)
    return reader.read(plain, now, named=False)


def positional(rows: Sequence[Sequence[object]], where: str, reader: RowReader, now: datetime) -> Given:
    """Return rows that are lists of the model's inputs in their order; for tensors, nested as deep as the model's shape.

    Raises:
        InvalidInput: It names the row and the place.
    """
    width = len(reader.direct)
    nested = bool(reader.signature.shape) and len(reader.signature.shape) > 1
    for index, row in enumerate(rows):
        if nested:
            row = _flat(row)  # noqa: PLW2901
        if len(row) != width:
            raise InvalidInput(f"the row has {len(row)} values", where=f"{where}[{index}]",
                               allowed=f"{width}: {_names(reader)}")  # fmt: skip
    if nested:
        rows = [_flat(row) for row in rows]
    if reader.categorical or width != reader.width:
        objects = [dict(zip(reader.direct, row, strict=True)) for row in rows]
        return named(objects, where, reader, now)
    flat: list[Any] = [value for row in rows for value in row]
    try:
        matrix = array("d", flat).tobytes()
    except (TypeError, OverflowError):
        matrix = array("d", [_number(v, f"{where}[{i}][{j}]") for i, row in enumerate(rows) for j, v in enumerate(row)]).tobytes()  # fmt: skip
    return _unnamed(len(rows), matrix, reader, now)


def columns(values: object, where: str, reader: RowReader | None, now: datetime, check: Check) -> Given:
    """Return rows of a JSON object with a list per column.

    Raises:
        InvalidInput: It names the column.
    """
    if type(values) is not dict or not values:
        raise InvalidInput("this is no object of columns", where=where, allowed="{column: [values]}")
    held = needed(reader)
    lists = [value if type(value) is list else [value] for value in values.values()]
    if any(len(one) != len(lists[0]) for one in lists):
        raise InvalidInput("the columns have different lengths", where=where, allowed="as many values in each column")
    if len(values) == 1 and held.width > 1 and type(lists[0]) is list and lists[0] and type(lists[0][0]) is list:
        return instances(lists[0], f"{where}.*", held, now, check)  # one tensor of all inputs, under a name of its own
    check(len(lists[0]))
    rows = [dict(zip(values, row, strict=True)) for row in zip(*lists, strict=True)]
    return named(rows, where, held, now)


def split(value: object, where: str, reader: RowReader | None, now: datetime, check: Check) -> Given:
    """Return rows of a data frame as pandas writes it with ``orient="split"``.

    Raises:
        InvalidInput: It names the part.
    """
    if type(value) is not dict or type(value.get("data")) is not list:
        raise InvalidInput("this is no data frame", where=where, allowed='{"columns": [...], "data": [[...]]}')
    names, rows = value.get("columns"), value["data"]
    check(len(rows))
    held = needed(reader)
    if any(type(row) is not list for row in rows):
        raise InvalidInput("a row is no list", where=f"{where}.data", allowed="[[...]]")
    if names is None or _by_place(names, held):
        return positional(rows, f"{where}.data", held, now)
    if type(names) is not list or any(type(name) is not str for name in names) or len(set(names)) != len(names):
        raise InvalidInput("the columns are no list of names", where=f"{where}.columns", allowed=_names(held))
    for index, row in enumerate(rows):
        if len(row) != len(names):
            raise InvalidInput(
                f"the row has {len(row)} values", where=f"{where}.data[{index}]", allowed=f"{len(names)}"
            )
    return named([dict(zip(names, row, strict=True)) for row in rows], f"{where}.data", held, now)


# ---------------------------------------------------------------- tables


def frame(found: pl.DataFrame, where: str, reader: RowReader, now: datetime, check: Check) -> Given:
    """Return a frame's rows, its columns by name; by place, when no name is the model's and all are numbers.

    Raises:
        InvalidInput: It names the column.
    """
    check(found.height)
    numbers = all(kind.is_numeric() or kind in {pl.Boolean, pl.Null} for kind in found.dtypes)
    if numbers and found.width == len(reader.direct) and not set(found.columns) & set(reader.direct):
        found = found.rename(dict(zip(found.columns, reader.direct, strict=True)))
    if numbers and set(found.columns) == set(reader.names) and not reader.categorical:
        return _matrix(found.select(pl.col(reader.names).cast(pl.Float64)).to_numpy(), where, reader, now)
    plain = [_plain(column, f"{where}, column {place}") for place, column in enumerate(found.get_columns())]
    return named(pl.DataFrame(plain).to_dicts(), where, reader, now)


def _csv(body: bytes, reader: RowReader, now: datetime, check: Check) -> Given:
    """Read a CSV: with a header when its first line names an input, else by place."""
    first = body.partition(b"\n")[0].decode("utf-8", "replace").strip("\r\ufeff ")
    cells = [cell.strip().strip('"') for cell in first.split(",")]
    headed = any(cell in reader.direct or (cell and cell == reader.key) for cell in cells)
    categorical = {name: pl.String for name in (*reader.categorical, reader.key) if name in cells}
    try:
        found = pl.read_csv(
            io.BytesIO(body), has_header=headed, schema_overrides=categorical if headed else None,
            infer_schema_length=None,
        )  # fmt: skip
    except (pl.exceptions.PolarsError, ValueError, OverflowError) as error:
        raise InvalidInput("the body is no CSV", where="body", allowed=f"rows of {_names(reader)}, with a header or without") from error  # fmt: skip
    if not headed and found.width != len(reader.direct):
        raise InvalidInput(f"the rows have {found.width} values", where="body",
                           allowed=f"a header, or {len(reader.direct)}: {_names(reader)}")  # fmt: skip
    if not headed:
        found = found.rename(dict(zip(found.columns, reader.direct, strict=True)))
        found = found.with_columns(pl.col(name).cast(pl.String) for name in reader.categorical)
    return frame(found, "body", reader, now, check)


def _npy(body: bytes, reader: RowReader, now: datetime, check: Check) -> Given:
    """Read an array as ``numpy.save`` writes it. Its header is read first: nothing is made room for that isn't there."""
    allowed = f"a .npy array of numbers, rows x {len(reader.direct)}"
    try:
        shape, fortran, kind, start = _npy_head(body)
    except (ValueError, SyntaxError, TypeError, LookupError, MemoryError, RecursionError) as error:
        raise InvalidInput("the body is no array", where="body", allowed=allowed) from error
    rest = memoryview(body)[start:]
    size = math.prod(shape)
    if kind.kind not in "biuf" or kind.itemsize > 8 or size * kind.itemsize != len(rest):
        raise InvalidInput("the array has another type, or another size than it says", where="body", allowed=allowed)
    held = np.frombuffer(rest, dtype=kind).reshape(shape, order="F" if fortran else "C")
    columns_ = len(reader.direct)
    if held.ndim == 1 and columns_ == 1:
        held = held[:, None]
    if held.ndim < 2 or math.prod(held.shape[1:]) != columns_:
        raise InvalidInput("the array has another shape", where="body", allowed=allowed)
    check(held.shape[0])
    held = held.reshape(held.shape[0], columns_)
    if reader.categorical or columns_ != reader.width:
        rows = [dict(zip(reader.direct, row, strict=True)) for row in held.astype("<f8").tolist()]
        return named(rows, "body", reader, now)
    return _matrix(held, "body", reader, now)


def _npy_head(body: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Return the shape of an array, whether its columns come first, its type, and where its numbers begin.

    Source: NEP 1; the text after the magic and its length is a Python literal, which is read as one and never run.
    """
    major = body[6]
    start = 10 if major == 1 else 12
    size = int.from_bytes(body[8:start], "little")
    if body[:6] != b"\x93NUMPY" or major not in {1, 2, 3} or size > _LONGEST_HEAD or start + size > len(body):
        raise ValueError
    head = ast.literal_eval(body[start : start + size].decode("latin-1").strip())
    shape, kind = head["shape"], head["descr"]
    if type(shape) is not tuple or any(type(one) is not int or one < 0 for one in shape) or type(kind) is not str:
        raise ValueError
    return shape, head["fortran_order"] is True, np.dtype(kind), start + size


def _arrow(body: bytes, reader: RowReader, now: datetime, check: Check) -> Given:
    entities = tuple(inputs.view.entity for inputs in reader.views)
    return frame(
        arrow.read(body, (*reader.direct, reader.key, reader.time, *entities), check), "body", reader, now, check
    )


def _matrix(held: np.ndarray[Any, Any], where: str, reader: RowReader, now: datetime) -> Given:
    values = np.ascontiguousarray(held, dtype="<f8")
    if np.isinf(values).any():
        row, place = np.argwhere(np.isinf(values))[0].tolist()
        raise InvalidInput(
            "a value is infinite", where=f"{where}[{row}].{reader.names[place]}", allowed="finite numbers"
        )
    return _unnamed(len(values), values.tobytes(), reader, now)


def _unnamed(count: int, matrix: bytes, reader: RowReader, now: datetime) -> Given:
    """Return rows without keys and times: they are routed together."""
    route, keys = made_up(count)
    return Given(count, keys, [now] * count, reader, matrix, route=route)


def _plain(column: pl.Series, where: str) -> pl.Series:
    """Return a column as JSON would have it: times as seconds since 1970."""
    kind = column.dtype
    if kind.is_decimal():
        return column.cast(pl.Float64)
    if kind.is_numeric() or kind in {pl.Boolean, pl.Null, pl.String}:
        return column
    if kind == pl.Date or kind == pl.Datetime:  # noqa: PLR1714 - a Datetime of any unit and zone is equal to the class
        moments = column.cast(pl.Datetime("us", getattr(kind, "time_zone", None)))
        zoned = moments if getattr(kind, "time_zone", None) else moments.dt.replace_time_zone("UTC")
        return zoned.dt.timestamp("us") / 1e6
    if isinstance(kind, pl.Categorical | pl.Enum):
        return column.cast(pl.String)
    raise InvalidInput(
        "the column is of a kind that no input has", where=where, allowed="numbers, text, booleans, times"
    )


def _by_place(names: object, reader: RowReader) -> bool:
    """Say whether a frame's columns are only counted: 0, 1, 2, as pandas names those of an array."""
    return type(names) is list and names == list(range(len(reader.direct)))


def _names(reader: RowReader) -> str:
    shown = reader.direct[:8]
    return ", ".join(shown) + (", ..." if len(reader.direct) > len(shown) else "")


def _flat(value: object) -> list[object]:
    """Return nested lists as one list."""
    found: list[object] = []
    left = [value]
    while left:
        one = left.pop()
        if type(one) is list:
            left.extend(reversed(one))
        else:
            found.append(one)
    return found


def _number(value: object, where: str) -> float:
    if value is None:
        return math.nan
    if (type(value) is float or type(value) is int or type(value) is bool) and abs(value) < 1 << 63:
        return float(value)
    raise InvalidInput("a value is no number", where=where, allowed="finite numbers, or null: missing")
