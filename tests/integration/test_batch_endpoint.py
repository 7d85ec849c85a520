"""A file's predictions and the endpoint's answers to the same rows are the same bits."""

import numpy as np
import polars as pl
import pytest

from kilter.data.declare import Table
from kilter.data.encoding import Encoding
from kilter.packaging.bundle import fetch, package
from kilter.serving.records import TrafficPlan
from kilter.serving.scoring.model import Scorer
from kilter.testing.front import RunningFront

lightgbm = pytest.importorskip("lightgbm")
xgboost = pytest.importorskip("xgboost")

NAMES = ("carrier", "distance", "hour", "night")


def table(count):
    random = np.random.default_rng(7)
    carriers = ["AA", "B6", "DL", "UA", "Ünknown", None]
    return pl.DataFrame(
        {
            "flight_id": [f"f{n}" for n in range(count)],
            "sched_dep": ["2013-03-01T10:00:00Z"] * count,
            "carrier": pl.Series([carriers[n] for n in random.integers(0, 6, count)], dtype=pl.String),
            "distance": [None if n % 11 == 0 else value for n, value in enumerate(random.normal(size=count).tolist())],
            "hour": random.integers(0, 24, count),
            "night": random.integers(0, 2, count).astype(bool),
        }
    )


def lightgbm_model(X, y):
    return lightgbm.LGBMClassifier(n_estimators=12, verbosity=-1, n_jobs=1).fit(X, y, categorical_feature=[0])


def xgboost_model(X, y):
    return xgboost.XGBClassifier(n_estimators=12, max_depth=4, n_jobs=1).fit(X, y)


@pytest.mark.parametrize("fit", [lightgbm_model, xgboost_model])
def test_the_same_bits(fit, tmp_path):
    frame = table(700)
    encoding = Encoding.fit(frame.filter(pl.col("carrier") != "Ünknown"), NAMES)
    X = encoding.matrix(frame)
    y = np.nan_to_num(X[:, 1]) + X[:, 3] > 0.5
    with RunningFront(tmp_path) as front:
        bundle = package(fit(X, y), encoding, X, [], front.objects, table=Table("flights", "flight_id", "sched_dep"))
        front.plan(TrafficPlan(loop="late", champion=1, bundles={1: bundle.digest}), wait=False)
        front.start()
        front.until(lambda: front.client.get("/readyz").status_code == 200)
        online = []
        for start in range(0, 700, 350):
            answer = front.predict("late", frame.slice(start, 350).to_dicts())
            assert answer.status_code == 200, answer.text
            online += [one["value"] for one in answer.json()["predictions"]]
        scorer = Scorer(fetch(bundle.digest, front.objects))
        assert scorer.score(frame)[0].to_list() == online
