"""From the rows of a request to the numbers that a model takes.

A row is a JSON object. The table's key and time columns and every direct input must be there (null is a value: missing);
what is wrong is answered with the row and the column, never with the value. Columns that the model doesn't know are
passed over, so that a caller may send whole rows of a table. An entity column that is absent, null or unknown gives empty
features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from kilter.core.clock import utc
from kilter.core.errors import InvalidInput
from kilter.features.declare import FeatureView
from kilter.packaging.records import Signature
from kilter.serving.records import Scalar

Row = Mapping[str, Any]
_NAN = math.nan
_LARGEST_INTEGER = (1 << 63) - 1
_views: dict[FeatureView, FeatureView] = {}


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
        self.key = signature.key
        self.time = signature.time
        self.names = encoding.names
        self.width = len(encoding.names)
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

    def identity(self, row: Row, index: int) -> tuple[str, datetime]:
        """Return a row's key, as text, and its time.

        Args:
            row: The row.
            index: Its number in the request, for the error.

        Raises:
            InvalidInput: When either is absent or of the wrong type.
        """
        try:
            key = row[self.key]
        except KeyError:
            raise _absent(index, self.key) from None
        if type(key) is not str:
            if type(key) is not int:
                raise _wrong(index, self.key, "a string or an integer")
            key = str(key)
        try:
            time = row[self.time]
        except KeyError:
            raise _absent(index, self.time) from None
        return key, moment(time, index, self.time)


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


def entities(rows: Sequence[Row], column: str) -> list[str | None]:
    """Return each row's entity as text, None where it is absent or null."""
    found = [row.get(column) for row in rows]
    return [value if value is None or type(value) is str else str(value) for value in found]


def columns(reader: RowReader, rows: Sequence[Row]) -> dict[str, list[Scalar]]:
    """Return the direct inputs of rows by column, as they were sent."""
    if len(rows) == 1:
        row = rows[0]
        return {name: [row.get(name)] for name in reader.direct}
    return {name: [row.get(name) for row in rows] for name in reader.direct}


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
