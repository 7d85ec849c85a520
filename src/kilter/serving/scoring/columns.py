"""From the columns of a frame to the numbers that a model takes: the rules of ``rows.py``, a column at a time.

The same row gives the same bits here and at an endpoint (a property test compares them). What would be refused there is
refused here, with the row and the column.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from kilter.core.errors import InvalidInput
from kilter.packaging.formats import Matrix
from kilter.packaging.records import Signature
from kilter.serving.answering.rows import RowReader, ViewInputs, moment

if TYPE_CHECKING:
    from kilter.serving.answering.group import Lookup

_LARGEST_INTEGER = (1 << 63) - 1


class FrameReader:
    """Reads frames for one model.

    Args:
        signature: The model's signature.
        lookup: Looks features up; None when there is no online store.

    Raises:
        InvalidInput: When the model needs features and there is nowhere to look them up.
    """

    def __init__(self, signature: Signature, lookup: Lookup | None = None) -> None:
        reader = RowReader(signature)
        encoding = signature.encoding
        if reader.views and lookup is None:
            raise InvalidInput(
                f"the model looks features up by {reader.views[0].view.entity!r}, and there are none here",
                where="features",
                fix="score in the store where the features are served",
            )
        self.key = signature.key
        self.time = signature.time
        self.direct = reader.direct
        self.needed = tuple(dict.fromkeys((*reader.direct, *(one.view.entity for one in reader.views))))
        self._names = encoding.names
        self._views = reader.views
        self._lookup = lookup
        place = {name: position for position, name in enumerate(encoding.names)}
        self._numeric = tuple((place[name], name) for name in reader.direct if name not in encoding.categories)
        self._categorical = tuple(
            (place[name], name, pl.Enum(encoding.categories[name]))
            for name in reader.direct
            if name in encoding.categories
        )

    def kinds(self) -> dict[str, pl.DataType]:
        """Return the types that text is to be read as: numbers where the model takes numbers."""
        return {name: pl.Float64() for _, name in self._numeric}

    def matrix(self, frame: pl.DataFrame, start: int = 0) -> tuple[Matrix, dict[int, str]]:
        """Return a frame's rows as the model's matrix, and what is wrong with rows that can't be used.

        Args:
            frame: The rows.
            start: The number of the first row, for the errors.

        Returns:
            (n, d) float64, row-major; and by position the reason why a row can't be used, which holds no value of it.

        Raises:
            InvalidInput: When a column is absent or of a type that the model can't take.
        """
        matrix = np.full((frame.height, len(self._names)), np.nan)
        for place, name in self._numeric:
            matrix[:, place] = _numbers(_column(frame, name))
        for place, name, known in self._categorical:
            matrix[:, place] = _codes(_column(frame, name), known)
        if self._views:
            self._look_up(frame, matrix, start)
        return matrix, self._unusable(matrix, frame)

    def _unusable(self, matrix: Matrix, frame: pl.DataFrame) -> dict[int, str]:
        found: dict[int, str] = {}
        infinite = np.isinf(matrix)
        if infinite.any():
            for row, place in np.argwhere(infinite).tolist():
                found.setdefault(row, f"{self._names[place]}: not a finite number")
        for _, name in self._numeric:
            for row in _too_wide(frame[name]):
                found.setdefault(row, f"{name}: an integer of more than 64 bits")
        return found

    def _look_up(self, frame: pl.DataFrame, matrix: Matrix, start: int) -> None:
        times = _moments(_column(frame, self.time), start)
        for inputs in self._views:
            self._fill(inputs, frame, times, matrix)

    def _fill(self, inputs: ViewInputs, frame: pl.DataFrame, times: Sequence[datetime], matrix: Matrix) -> None:
        assert self._lookup is not None  # noqa: S101 - the constructor has refused that
        entity = inputs.view.entity
        whose = frame[entity].cast(pl.String).to_list() if entity in frame.columns else [None] * frame.height
        found = self._lookup(inputs.view, whose, times)
        for pick, place in zip(inputs.pick, inputs.places, strict=True):
            matrix[:, place] = found[:, pick]


def _column(frame: pl.DataFrame, name: str) -> pl.Series:
    if name not in frame.columns:
        raise InvalidInput("the column is missing", where=name, allowed=", ".join(frame.columns))
    return frame[name]


def _numbers(column: pl.Series) -> np.ndarray:
    kind = column.dtype
    if not (kind.is_numeric() or kind in (pl.Boolean, pl.Null)):
        raise InvalidInput(f"the column is {kind}", where=column.name, allowed="numbers or booleans")
    return column.cast(pl.Float64).to_numpy()


def _too_wide(column: pl.Series) -> list[int]:
    """Return the rows whose integer has more bits than JSON's readers agree on."""
    if not column.dtype.is_integer() or column.null_count() == column.len():
        return []
    least, most = column.min(), column.max()
    assert isinstance(least, int)  # noqa: S101 - the column is one of integers, and one of them is there
    assert isinstance(most, int)  # noqa: S101
    if least >= -_LARGEST_INTEGER and most <= _LARGEST_INTEGER:
        return []
    wide = column.cast(pl.Int128)
    return ((wide > _LARGEST_INTEGER) | (wide < -_LARGEST_INTEGER)).fill_null(value=False).arg_true().to_list()


def _codes(column: pl.Series, known: pl.Enum) -> np.ndarray:
    kind = column.dtype
    if not (isinstance(kind, pl.Categorical | pl.Enum) or kind in (pl.String, pl.Null)):
        raise InvalidInput(f"the column is {kind}", where=column.name, allowed="strings")
    # A string that is no category becomes null, and null NaN, as an unknown value does at an endpoint.
    return column.cast(pl.String).cast(known, strict=False).to_physical().cast(pl.Float64).to_numpy()


def _moments(column: pl.Series, start: int) -> list[datetime]:
    if isinstance(column.dtype, pl.Datetime):
        zone = column.dtype.time_zone
        aware = column.dt.replace_time_zone("UTC") if zone is None else column.dt.convert_time_zone("UTC")
        found = aware.to_list()
        if None not in found:
            return [value.astimezone(UTC) for value in found]
    return [moment(value, start + row, column.name) for row, value in enumerate(column.to_list())]
