"""From the rows of a request to the numbers that a model takes.

A row is a JSON object. The table's key and time columns and every direct input must be there (null is a value: missing);
what is wrong is answered with the row and the column, never with the value. Columns that the model doesn't know are
passed over, so that a caller may send whole rows of a table. An entity column that is absent, null or unknown gives empty
features.
"""

from __future__ import annotations

import itertools
import math
import secrets
from array import array
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from kilter.core.clock import utc
from kilter.core.errors import InvalidInput
from kilter.features.declare import FeatureView
from kilter.packaging.native import Buffer
from kilter.packaging.records import Signature
from kilter.serving.records import Keys, Scalar, alike
from kilter.serving.workers.frames import wide

Row = Mapping[str, Any]
_NAN = math.nan
_LARGEST_INTEGER = (1 << 63) - 1
_views: dict[FeatureView, FeatureView] = {}
_layouts: dict[bytes, bytes] = {}


class ViewInputs(NamedTuple):
    """Inputs that come from one feature view.

    Args:
        view: The view; equal views are one object, so that versions that share a view share its look-ups.
        pick: Per input of the model its place among the view's features.
        places: Per input its column in the matrix.
        names: Per input its name.
    """

    view: FeatureView
    pick: tuple[int, ...]
    places: tuple[int, ...]
    names: tuple[str, ...]


class RowReader:
    """Reads rows for one model.

    Args:
        signature: The model's signature.

    Raises:
        InvalidInput: When a view's specification can't be read.
    """

    def __init__(self, signature: Signature) -> None:
        encoding = signature.encoding
        self.signature = signature
        self.key = signature.key
        self.time = signature.time
        self.names = encoding.names
        self.width = len(encoding.names)
        self.outputs = len(signature.outputs)
        place = {name: position for position, name in enumerate(encoding.names)}
        self.views = tuple(_inputs_of(_interned(view), place) for view in signature.views)
        looked_up = {name for inputs in self.views for name in inputs.names}
        self.direct = tuple(name for name in encoding.names if name not in looked_up)
        self._direct: tuple[tuple[int, str, dict[str, float] | None], ...] = tuple(
            (
                place[name],
                name,
                {value: float(code) for code, value in enumerate(encoding.categories[name])}
                if encoding.kinds[place[name]] == "categorical"
                else None,
            )
            for name in self.direct
        )
        self.categorical = {name: codes for _, name, codes in self._direct if codes is not None}
        self.numeric = tuple((place, name) for place, name, codes in self._direct if codes is None)
        # Matrices of one layout are good for every model that has it.
        layout = msgspec.json.encode((encoding, self.direct))
        self.layout = _layouts.setdefault(layout, layout)
        self._empty = [_NAN] * self.width

    def vector(self, row: Row, index: int) -> list[float]:
        """Return a row's direct inputs as numbers, NaN in the places of its features.

        Args:
            row: The row.
            index: Its number in the request, for the error.

        Raises:
            InvalidInput: When a column is absent or of the wrong type.
        """
        vector = self._empty.copy()
        for place, name, codes in self._direct:
            try:
                value = row[name]
            except KeyError:
                raise _absent(index, name) from None
            if value is None:
                continue
            kind = type(value)
            if codes is not None:
                if kind is not str:
                    raise _wrong(index, name, "a string or null")
                vector[place] = codes.get(value, _NAN)
            elif kind is float or kind is int or kind is bool:
                if kind is int and not -_LARGEST_INTEGER <= value <= _LARGEST_INTEGER:
                    raise _wrong(index, name, "a finite number, an integer of at most 64 bits")
                vector[place] = value
            else:
                raise _wrong(index, name, "a number, true, false or null")
        if math.inf in vector or -math.inf in vector:
            raise _wrong(index, self.names[[abs(value) for value in vector].index(math.inf)], "a finite number")
        return vector

    def read(self, rows: Sequence[Row], now: datetime, *, named: bool = True) -> Given:
        """Return a request's rows, read for this model.

        Args:
            rows: JSON objects.
            now: The time of rows that have none.
            named: Refuse rows without the key or the time that the model's table has. Otherwise keys are made up when no row
                has one, and the rows are routed together then.

        Raises:
            InvalidInput: When a column is absent or of the wrong type.
        """
        vector = self.vector
        matrix = b"".join([array("d", vector(row, index)).tobytes() for index, row in enumerate(rows)])
        route = ""
        keys: Sequence[str]
        if self.key and (named or any(self.key in row for row in rows)):
            keys = [self._key_of(row, index) for index, row in enumerate(rows)]
        else:
            stem, keys = made_up(len(rows))
            route = "" if named else stem
        if self.time and (named or any(self.time in row for row in rows)):
            times: Sequence[datetime] = [self._time_of(row, index) for index, row in enumerate(rows)]
        else:
            times = alike(now, len(rows))
        return Given(len(rows), keys, times, self, matrix, route, objects=rows)

    def identity(self, row: Row, index: int) -> tuple[str, datetime]:
        """Return a row's key, as text, and its time.

        Args:
            row: The row.
            index: Its number in the request, for the error.

        Raises:
            InvalidInput: When either is absent or of the wrong type.
        """
        return self._key_of(row, index), self._time_of(row, index)

    def _key_of(self, row: Row, index: int) -> str:
        try:
            key = row[self.key]
        except KeyError:
            raise _absent(index, self.key) from None
        if type(key) is str:
            return key
        if type(key) is not int:
            raise _wrong(index, self.key, "a string or an integer")
        return str(key)

    def _time_of(self, row: Row, index: int) -> datetime:
        try:
            time = row[self.time]
        except KeyError:
            raise _absent(index, self.time) from None
        return moment(time, index, self.time)


class Given(msgspec.Struct, eq=False):
    """What a request gives: its rows, read for one model, and all else that another model may need of them.

    Args:
        count: How many rows.
        keys: Their keys.
        times: Their times.
        reader: The model's reader; None when no model is loaded: then only the constant can answer.
        matrix: The direct inputs as that model takes them: row-major float64, or float32 when they came so (half the bytes);
            NaN in the places of its features.
        route: The key by which all rows are routed together; empty lets each be routed by its own.
        others: Named columns, when they came so: those whose values the matrix does not hold as they were sent.
        objects: The rows as JSON objects, when they came so, or somebody wanted them.
    """

    count: int
    keys: Sequence[str]
    times: Sequence[datetime]
    reader: RowReader | None
    matrix: Buffer
    route: str = ""
    others: Mapping[str, Sequence[Scalar]] = {}
    objects: Sequence[Row] | None = None

    @property
    def rows(self) -> Sequence[Row]:
        """The rows as objects; those that came as numbers are made into objects the first time they are wanted."""
        if self.objects is None:
            reader = self.reader
            assert reader is not None  # noqa: S101 - only rows of a reader come as numbers
            held = array("d", wide(self.matrix, self.count * reader.width))
            columns: dict[str, Sequence[Scalar]] = {}
            for place, name in reader.numeric:
                column = held[place :: reader.width]
                columns[name] = [None if value != value else value for value in column]  # noqa: PLR0124 - that is NaN
            columns |= self.others
            names = tuple(columns)
            self.objects = [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        return self.objects

    def column(self, name: str) -> list[Scalar]:
        """Return a column as it was sent; None where it is absent."""
        if self.objects is None and name in self.others:
            return list(self.others[name])
        return [row.get(name) for row in self.rows]


_SEED = secrets.token_hex(6)
_made = itertools.count()


def fresh_key() -> str:
    """Return a key for what has none: never the same twice, also not in another process."""
    return f"{_SEED}-{next(_made):x}"


def made_up(count: int) -> tuple[str, Sequence[str]]:
    """Return a fresh key for a request whose rows have none, and what its rows are called after it."""
    stem = fresh_key()
    return stem, [stem] if count == 1 else Keys([(stem, count)])


def moment(value: object, index: int, name: str) -> datetime:
    """Return the time that a JSON value says: RFC 3339 text, or seconds since 1970.

    Raises:
        InvalidInput: When it says none.
    """
    try:
        if type(value) is str:
            return utc(datetime.fromisoformat(value))
        if type(value) is int or type(value) is float:
            return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    raise _wrong(index, name, "an RFC 3339 time, or seconds since 1970")


def entities(values: Sequence[Scalar]) -> list[str | None]:
    """Return entities as text, None where they are absent or null."""
    return [value if value is None or type(value) is str else str(value) for value in values]


def _inputs_of(view: FeatureView, place: Mapping[str, int]) -> ViewInputs:
    used = [(position, name) for position, name in enumerate(view.names) if name in place]
    return ViewInputs(view, tuple(p for p, _ in used), tuple(place[n] for _, n in used), tuple(n for _, n in used))


def _interned(spec: Mapping[str, Any]) -> FeatureView:
    try:
        view = msgspec.convert(spec, FeatureView)
    except msgspec.ValidationError as error:
        raise InvalidInput("a feature view of the bundle can't be read", where="signature.views") from error
    return _views.setdefault(view, view)


def _absent(index: int, name: str) -> InvalidInput:
    return InvalidInput(
        "the column is missing", where=f"rows[{index}].{name}", fix="send it, or null where it is not known"
    )


def _wrong(index: int, name: str, allowed: str) -> InvalidInput:
    return InvalidInput("the value is of the wrong type", where=f"rows[{index}].{name}", allowed=allowed)
