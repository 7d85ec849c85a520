"""What a batch's rows look like beside those that the model was trained on, and what of it is too much.

Three things are counted per column: values that are missing, categories that the model does not know, and numbers far outside of
what it was trained on. A limit is a share of the rows, and holds for each column by itself.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np
import polars as pl

from kilter.core.errors import InvalidInput
from kilter.packaging.formats import Matrix

Kind = Literal["nulls", "unknown", "outside"]
KINDS: tuple[Kind, ...] = ("nulls", "unknown", "outside")
_WORDS: dict[Kind, str] = {
    "nulls": "missing",
    "unknown": "a category that the model does not know",
    "outside": "far outside of what the model was trained on",
}


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How much of a column may be wrong before a batch is refused; None for any share.

    Args:
        nulls: Share of missing values, 0 to 1.
        unknown: Share of categories that the model does not know.
        outside: Share of numbers far outside of the training rows.
    """

    nulls: float | None = None
    unknown: float | None = None
    outside: float | None = None

    def checked(self) -> Limits:
        """Return the limits.

        Raises:
            InvalidInput: When one is no share.
        """
        for kind in KINDS:
            given = getattr(self, kind)
            if given is not None and not (isinstance(given, int | float) and 0 <= given <= 1):
                raise InvalidInput(f"{given!r} is no share", where=f"limits.{kind}", allowed="a number from 0 to 1")
        return self

    @property
    def declared(self) -> bool:
        """Whether there is any."""
        return any(getattr(self, kind) is not None for kind in KINDS)


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """What the reference profile says of an input.

    Args:
        nulls: Share of missing values among the training rows.
        low: Below it a number is far outside; None when that can't be said.
        high: Above it.
    """

    nulls: float | None = None
    low: float | None = None
    high: float | None = None


class ColumnSeen(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of an input.

    Args:
        name: The column.
        nulls: Rows where it is missing.
        unknown: Rows with a category that the model does not know.
        outside: Rows with a number far outside of the training rows; None when the profile can't say.
        expected_nulls: Share of missing values among the training rows; None without a profile.
    """

    name: str
    nulls: int
    unknown: int
    outside: int | None
    expected_nulls: float | None


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of a batch.

    Args:
        rows: The rows that were looked at.
        columns: Each input.
    """

    rows: int
    columns: tuple[ColumnSeen, ...]

    def over(self, limits: Limits) -> tuple[tuple[str, Kind, float, float], ...]:
        """Return which limits are passed: column, what, the share, the limit."""
        found: list[tuple[str, Kind, float, float]] = []
        for column in self.columns:
            for kind in KINDS:
                limit, count = getattr(limits, kind), getattr(column, kind)
                if limit is not None and count and count / self.rows > limit:
                    found.append((column.name, kind, count / self.rows, limit))
        return tuple(found)


class Quality:
    """Counts what is wrong with rows; several threads may count at once.

    Args:
        names: The model's columns, in the order of its matrix.
        categorical: Those that are categories.
        expected: What the profile says, by column; empty without a profile.
    """

    def __init__(self, names: Sequence[str], categorical: Iterable[str], expected: Mapping[str, Expected]) -> None:
        self._names = tuple(names)
        self._words = np.isin(self._names, list(categorical))
        self._expected = [expected.get(name, Expected()) for name in self._names]
        ranged = [one.low is not None and one.high is not None for one in self._expected]
        self._ranged = np.array(ranged, dtype=bool)
        self._low = np.array([-np.inf if one.low is None else one.low for one in self._expected])
        self._high = np.array([np.inf if one.high is None else one.high for one in self._expected])
        self._counts = np.zeros((len(KINDS), len(self._names)), dtype=np.int64)
        self._rows = 0
        self._guard = threading.Lock()

    @classmethod
    def like(cls, other: Quality) -> Quality:
        """Return one that counts the same, and has counted nothing."""
        categorical = [name for name, word in zip(other._names, other._words, strict=True) if word]
        return cls(other._names, categorical, dict(zip(other._names, other._expected, strict=True)))

    def count(self, matrix: Matrix, frame: pl.DataFrame) -> None:
        """Count the rows of a frame.

        Args:
            matrix: (n, d) float64, as the reader made it of the frame.
            frame: The frame.
        """
        nulls = np.count_nonzero(np.isnan(matrix), axis=0)
        unknown = np.zeros_like(nulls)
        for place in np.flatnonzero(self._words & (nulls > 0)).tolist():
            if self._names[place] in frame.columns:
                # An unknown category is no number either: what was not null in the frame is one.
                unknown[place] = nulls[place] - frame[self._names[place]].null_count()
        outside = np.zeros_like(nulls)
        if self._ranged.any():
            outside = np.count_nonzero(self._outside(matrix), axis=0)
        found = np.stack([nulls - unknown, unknown, outside])
        with self._guard:
            self._counts += found
            self._rows += len(matrix)

    def seen(self) -> Seen:
        """Return what was counted so far."""
        nulls, unknown, outside = self._counts.tolist()
        return Seen(
            rows=self._rows,
            columns=tuple(
                ColumnSeen(
                    name=name,
                    nulls=nulls[place],
                    unknown=unknown[place],
                    outside=outside[place] if self._ranged[place] else None,
                    expected_nulls=self._expected[place].nulls,
                )
                for place, name in enumerate(self._names)
            ),
        )

    def reasons(self, matrix: Matrix, frame: pl.DataFrame, over: Iterable[tuple[str, Kind]]) -> dict[int, str]:
        """Return, by position, why a row is to be left out: it has in a column what that column has too much of."""
        found: dict[int, str] = {}
        for name, kind in over:
            flags = self._flags(matrix[:, self._names.index(name)], name, kind, frame)
            for row in np.flatnonzero(flags).tolist():
                found.setdefault(row, f"{name}: {_WORDS[kind]}")
        return found

    def _flags(self, column: np.ndarray, name: str, kind: Kind, frame: pl.DataFrame) -> np.ndarray:
        """Return which rows of a column have something."""
        place = self._names.index(name)
        if kind == "outside":
            found: np.ndarray = (column < self._low[place]) | (column > self._high[place])
            return found
        missing: np.ndarray = np.isnan(column)
        if not self._words[place] or name not in frame.columns:
            return missing if kind == "nulls" else np.zeros_like(missing)
        given = frame[name].is_not_null().to_numpy()
        both: np.ndarray = missing & (given if kind == "unknown" else ~given)
        return both

    def _outside(self, matrix: Matrix) -> np.ndarray:
        found: np.ndarray = (matrix < self._low) | (matrix > self._high)
        return found


def refuse(seen: Seen, limits: Limits) -> None:
    """Refuse a batch that is over a limit.

    Raises:
        InvalidInput: When there is a column with too much of something; it says which, and how much.
    """
    over = seen.over(limits)
    if not over:
        return
    name, kind, share, limit = over[0]
    rest = f" (and {len(over) - 1} more)" if len(over) > 1 else ""
    raise InvalidInput(
        f"{share:.2%} of {seen.rows:,} rows are {_WORDS[kind]}{rest}",
        where=name,
        allowed=f"at most {limit:.2%}",
        fix="mend the rows, raise the limit, or give a place for bad rows: nothing was written",
    )
