"""Which flights will be late? The whole life of that model, as one value."""

from dataclasses import dataclass

import polars as pl
from lightgbm import LGBMClassifier

from kilter import (
    Canary,
    Dataset,
    Label,
    Loop,
    Retrain,
    Shadow,
    Table,
    Window,
    at_least,
    auc,
    beats_champion,
    calibration,
    count,
    decay,
    drift,
    fair,
    faster_than,
    features,
    log_loss,
    mean,
    recall,
)

flights = Table("flights", key="flight_id", time="sched_dep")
origin = features(  # one definition: point-in-time offline, live online
    flights,
    entity="origin",
    time="dep_time",
    lag="1h",
    delay_3h=mean("dep_delay", "3h"),
    departures_3h=count("3h"),
)


@dataclass(frozen=True)
class Params:
    trees: int = 80
    leaves: int = 31


def is_late() -> pl.Expr:
    return pl.col("arr_delay") > 15


def train(data: Dataset, p: Params) -> LGBMClassifier:
    return LGBMClassifier(n_estimators=p.trees, num_leaves=p.leaves, n_jobs=1).fit(data.X, data.y)


stale, biased = decay(log_loss, by=0.10), calibration(above=0.06)

loop = Loop(
    name="flight-delay",
    owner="ops-ml@example.org",
    purpose="warn passengers one hour before departure",
    inputs=[flights.columns("carrier", "dest", "hour", "weekday", "distance"), origin],
    label=Label(is_late, known_at="arr_time"),  # delayed truth: joined when the plane lands
    train=train,
    params=Params(),
    data=Window(train="120d", holdout="7d"),
    gates=[
        beats_champion(log_loss, confidence=0.95, resample="day"),
        at_least(auc, 0.65),
        fair(by="carrier", metric=recall, max_gap=0.15),
        faster_than(p99="20ms"),
    ],
    release=[Shadow(bake="14d"), Canary(steps=(5, 25, 50), bake="2d")],  # then 100 %; any breach rolls back
    monitors=[stale, biased, drift("psi", above=0.2)],
    retrain=Retrain(on=(stale, biased), every="30d", cooldown="7d", budget="10 cpu-min/day"),
    fallback=0.22,
    approve={"staging": "auto", "prod": "owner"},
)
