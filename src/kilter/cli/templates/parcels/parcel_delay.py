"""Which parcels will come late? The whole life of that model, as one value."""

from __future__ import annotations

import polars as pl
from lightgbm import LGBMClassifier

from kilter import Dataset, Label, Loop, Table

parcels = Table("parcels", key="parcel_id", time="sent_at")


def is_late() -> pl.Expr:
    return pl.col("hours") > 48


def train(data: Dataset) -> LGBMClassifier:
    model = LGBMClassifier(n_estimators=60, num_leaves=15, n_jobs=1, random_state=data.seed, verbose=-1)
    return model.fit(data.X, data.y)


# Everything else has a default: a time-ordered holdout, gates against the champion and a constant, shadow, then canary,
# monitors of decay, calibration and drift, retraining when the model decays, and the owner's approval in production.
loop = Loop(
    name="parcel-delay",
    owner="me@example.org",
    inputs=[parcels.columns("carrier", "weekday", "weight", "distance")],
    label=Label(is_late, known_at="delivered_at"),  # known late: when the parcel is there
    train=train,
)
