"""What is kept of each day: sums per version and counts per feature. Pure, and the same however often it is computed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta

import numpy as np
import polars as pl

from kilter.evaluation.metrics import EPSILON
from kilter.monitoring.drift import feature_drift
from kilter.monitoring.profile import PREDICTION, Bins, Counts, ReferenceProfile, count, days_of
from kilter.monitoring.records import DailyRow, Histogram
from kilter.monitoring.rules import input_prefix
from kilter.monitoring.window import times_of, with_time

TRAILING_DAYS = 7
EPOCH = date(1970, 1, 1)
SHADOW = "shadow"


def daily_rows(loop: str, frame: pl.DataFrame) -> tuple[DailyRow, ...]:
    """Return counts and sums per version, role and UTC day of prediction.

    Args:
        loop: The loop.
        frame: Predictions with ``at, version, arm, value, label``, and ``shadow_version, shadow_value`` where a shadow ran.
    """
    if frame.height == 0:
        return ()
    parts = [frame.select("at", "version", "arm", "value", "label")]
    if "shadow_version" in frame.columns:
        shadow = frame.filter(pl.col("shadow_version").is_not_null())
        parts.append(
            shadow.select(
                "at",
                pl.col("shadow_version").alias("version"),
                pl.lit(SHADOW).alias("arm"),
                pl.col("shadow_value").alias("value"),
                "label",
            )
        )
    value, label = pl.col("value"), pl.col("label")
    inside = value.clip(EPSILON, 1.0 - EPSILON)
    known = label.is_not_null() & value.is_not_null()
    log_loss = -pl.when(label > 0.5).then(inside.log()).otherwise((1.0 - inside).log())
    found = (
        pl.concat(parts, how="vertical_relaxed")
        .group_by("version", "arm", pl.col("at").dt.date().alias("day"))
        .agg(
            pl.len().cast(pl.Int64).alias("rows"),
            known.sum().cast(pl.Int64).alias("labels"),
            value.sum().alias("value_sum"),
            value.filter(known).sum().alias("scored_sum"),
            label.filter(known).sum().alias("label_sum"),
            log_loss.filter(known).sum().alias("log_loss_sum"),
            ((value - label) ** 2).filter(known).sum().alias("brier_sum"),
        )
        .sort("day", "version", "arm")
    )
    return tuple(DailyRow(loop=loop, **row) for row in found.iter_rows(named=True))


def feature_days(
    loop: str, version: int, reference: ReferenceProfile, frame: pl.DataFrame, *, first: date, last: date
) -> tuple[Histogram, ...]:
    """Return, per feature and day, the day's counts and the drift of the seven days that end with it.

    Args:
        loop: The loop.
        version: The champion, whose reference it is; predictions are only its own.
        reference: Its profile.
        frame: Predictions of the loop with ``at, version, value`` and inputs, from six days before ``first``.
        first: The first day wanted.
        last: The last day wanted.
    """
    begin = first - timedelta(days=TRAILING_DAYS - 1)
    timed = with_time(frame)
    days = times_of(timed["at"]).astype("datetime64[D]")
    inside = (days >= np.datetime64(begin)) & (days <= np.datetime64(last))
    recent = timed.filter(pl.Series(inside))
    if recent.height == 0:
        return ()
    bins: dict[str, Bins] = {known.name: known for known in reference.inputs}
    counts = _by_day(bins, recent, begin, last, input_prefix(reference, recent))
    if reference.prediction is not None:
        own = recent.filter(pl.col("version") == version) if "version" in recent.columns else recent
        bins[PREDICTION] = reference.prediction
        counts[PREDICTION] = _by_day({"value": reference.prediction}, own, begin, last, "")["value"]
    wanted = (last - first).days + 1
    return tuple(
        found
        for name, counted in counts.items()
        for offset in range(wanted)
        if (
            found := _histogram(
                loop, version, bins[name], counted[offset : offset + TRAILING_DAYS], first + timedelta(days=offset)
            )
        )
        is not None
    )


def _by_day(bins: Mapping[str, Bins], frame: pl.DataFrame, begin: date, last: date, prefix: str) -> dict[str, Counts]:
    """Return counts with one row for every day from ``begin`` to ``last``, also for days without rows."""
    start = (begin - EPOCH).days
    size = (last - begin).days + 1
    days = days_of(frame["at"]) if frame.height else np.zeros(0, dtype=np.int64)
    present = np.unique(days) - start
    spread: dict[str, Counts] = {}
    for name, counted in count(bins, frame, days, prefix=prefix).items():
        whole = np.zeros((size, counted.shape[1]), dtype=np.int64)
        whole[present] = counted
        spread[name] = whole
    return spread


def _histogram(loop: str, version: int, bins: Bins, window: Counts, day: date) -> Histogram | None:
    if window[-1].sum() == 0:
        return None
    drift = feature_drift(bins, window[window.sum(axis=1) > 0])
    return Histogram(
        loop=loop,
        feature=bins.name,
        day=day,
        version=version,
        labels=bins.labels(),
        reference=bins.counts,
        counts=tuple(window[-1].tolist()),
        trailing=tuple(window.sum(axis=0).tolist()),
        psi=drift.psi,
        excess=drift.excess,
    )
