"""Windows: which rows a monitor looks at, and in which blocks it resamples them."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kilter.core.clock import utc
from kilter.core.errors import InvalidInput
from kilter.core.evidence import Finding
from kilter.core.statistics import block_codes
from kilter.monitoring.profile import as_floats

DAY = timedelta(days=1)
LEAST_ROWS = 30
DAY_US = 86_400_000_000
UTC_TIME = pl.Datetime("us", "UTC")


class Window(NamedTuple):
    """The rows of ``since <= time < until`` with the block of each.

    Args:
        frame: The rows, in the order in which they came.
        codes: The block of each row, 0 to blocks - 1.
        blocks: How many blocks have rows.
        least_blocks: How many are needed before anything is said: half of those that the window could hold.
    """

    frame: pl.DataFrame
    codes: NDArray[np.int64]
    blocks: int
    least_blocks: int


def with_time(frame: pl.DataFrame) -> pl.DataFrame:
    """Return ``frame`` with a UTC column ``at``; a frame that only has ``day`` takes its midnight.

    Raises:
        InvalidInput: When there is neither.
    """
    if "at" in frame.columns:
        return frame if frame.schema["at"] == UTC_TIME else frame.with_columns(pl.col("at").cast(UTC_TIME))
    if "day" in frame.columns:
        return frame.with_columns(pl.col("day").cast(pl.Datetime("us")).dt.replace_time_zone("UTC").alias("at"))
    raise InvalidInput("a frame to be monitored has no time", where="frame", allowed='a column "at" (UTC) or "day"')


def cut(frame: pl.DataFrame, until: datetime, over: timedelta) -> Window:
    """Cut a window out of a frame.

    Days are the blocks of windows of four days and more, hours of shorter ones.

    Args:
        frame: Rows with a column ``at``.
        until: The window's end, exclusive.
        over: The window's length.
    """
    times = times_of(frame["at"])
    inside = (times >= moment(until - over)) & (times < moment(until))
    kept = frame if inside.all() else frame.filter(pl.Series(inside))
    daily = over >= 4 * DAY
    possible = over / DAY if daily else over / timedelta(hours=1)
    least = max(2, math.ceil(possible / 2))
    if kept.height == 0:
        return Window(kept, np.zeros(0, dtype=np.int64), 0, least)
    codes = block_codes(times[inside], "day" if daily else "hour")
    return Window(kept, codes, int(codes.max()) + 1, least)


def maturity_lag(frame: pl.DataFrame) -> timedelta:
    """Return how far a window of labels has to end before now, in whole days.

    Labels that come early are not like labels that come late (a late plane lands late), so days whose labels are still coming
    must not be judged by those that came. The lag is the 95 % quantile of prediction-to-label delay, rounded down to whole days; it is 0
    where labels come within the day, and where the frame does not tell (no column ``label_at``).
    """
    if "label_at" not in frame.columns or frame.height == 0:
        return timedelta(0)
    delays = times_of(frame["label_at"]) - times_of(frame["at"])
    delays = delays[~np.isnat(delays)].astype(np.int64)
    if delays.size == 0:
        return timedelta(0)
    days = int(np.quantile(delays, 0.95, method="lower")) // DAY_US
    return timedelta(days=max(0, days))


def times_of(column: pl.Series) -> NDArray[np.datetime64]:
    """Return a column of UTC times as datetime64[us]."""
    return column.to_numpy().astype("datetime64[us]", copy=False)


def moment(time: datetime) -> np.datetime64:
    """Return a moment as datetime64[us], UTC."""
    return np.datetime64(utc(time).replace(tzinfo=None), "us")


def too_little(name: str, allowed: str, rule: str, window: Window) -> Finding:
    """Return the finding of a window that holds too little to judge."""
    rows = window.frame.height
    why = f"{rows} rows on {window.blocks} blocks; {LEAST_ROWS} rows on {window.least_blocks} blocks are needed"
    return Finding(name, "inconclusive", None, allowed, rows, rule, {"why": why, "blocks": window.blocks})


def enough(window: Window) -> bool:
    """Return whether the window holds enough to judge."""
    return window.frame.height >= LEAST_ROWS and window.blocks >= window.least_blocks


def column(window: Window, name: str) -> NDArray[np.float64]:
    """Return a column of the window as floats."""
    return as_floats(window.frame[name])
