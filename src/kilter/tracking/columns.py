"""Points of metrics as columns: what a client packs, what the wire carries and what a block in the store holds.

A block of *n* points is ``steps | values | times``: *n* signed integers, *n* doubles and *n* signed integers (microseconds since 1970,
UTC), 8 bytes each, little-endian. The points of several metrics lie one metric after the other within each column.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from kilter.core.errors import InvalidInput

if TYPE_CHECKING:
    import numpy as np

WIDTH = 24
"""Bytes of a point."""

BLOCK = 64
"""From how many points of one metric on a batch is kept as columns: below that, a row for each costs little more to write, and is read
without unpacking."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST = 253_402_300_799_999_999
"""The last microsecond of the year 9999: later ones are no moment."""


class Points(NamedTuple):
    """Points of one metric in the order of writing, by column.

    Args:
        steps: Their steps.
        values: Their values; NaN is one.
        times: Their moments, in microseconds since 1970.
    """

    steps: list[int]
    values: list[float]
    times: list[int]


def packed(steps: Sequence[int], values: Sequence[float], times: Sequence[int]) -> bytes:
    """Return points as columns.

    Args:
        steps: Their steps.
        values: Their values.
        times: Their moments, in microseconds since 1970.
    """
    columns = array("q", steps), array("d", values), array("q", times)
    if sys.byteorder == "big":
        for column in columns:
            column.byteswap()
    return b"".join(column.tobytes() for column in columns)


def columns_of(data: bytes, points: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return steps, values and times of packed points.

    Raises:
        InvalidInput: When the bytes are not that many points.
    """
    import numpy as np  # noqa: PLC0415 - a run's own process packs without it

    if len(data) != points * WIDTH:
        raise InvalidInput(f"{len(data):,} bytes", where="data", allowed=f"{WIDTH} bytes for each of {points:,} points")
    steps = np.frombuffer(data, "<i8", points)
    values = np.frombuffer(data, "<f8", points, points * 8)
    times = np.frombuffer(data, "<i8", points, points * 16)
    if points and not 0 <= int(times.min()) <= int(times.max()) <= _LAST:
        raise InvalidInput("a time is none", where="data", allowed="microseconds from 1970 to the year 9999")
    return steps, values, times


def joined(*columns: np.ndarray[Any, Any]) -> bytes:
    """Return columns as bytes."""
    return b"".join(column.tobytes() for column in columns)


def moment(microseconds: int) -> datetime:
    """Return the moment that a time names."""
    return _EPOCH + timedelta(microseconds=microseconds)


def microseconds(at: datetime) -> int:
    """Return a moment as microseconds since 1970."""
    return (at - _EPOCH) // timedelta(microseconds=1)
