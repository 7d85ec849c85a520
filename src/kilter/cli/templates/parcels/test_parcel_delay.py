"""Plain functions are tested as plain functions: ``python -m pytest``."""

from __future__ import annotations

from datetime import UTC, datetime

import polars as pl
from parcel_delay import is_late, loop, train
from sample_data import parcels

from kilter.data.dataset import dataset

NOW = datetime(2026, 1, 5, tzinfo=UTC)
INPUTS = ("carrier", "weekday", "weight", "distance")


def test_a_parcel_is_late_after_two_days() -> None:
    rows = pl.DataFrame({"hours": [47.0, 48.0, 49.0, None]})
    assert rows.select(is_late()).to_series().to_list() == [False, False, True, None]


def test_a_model_learns_from_a_month_of_parcels() -> None:
    known = parcels(NOW, days=30).with_columns(late=is_late()).drop_nulls("late")
    data = dataset(known, INPUTS, "late", key="parcel_id", time="sent_at")
    model = train(data)
    scores = model.predict_proba(data.X)[:, 1]
    assert scores[data.y == 1].mean() > scores[data.y == 0].mean() + 0.2


def test_the_loop_is_a_value() -> None:
    assert loop.name == "parcel-delay"
