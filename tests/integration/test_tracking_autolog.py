"""Fits are tracked by themselves, stay what they are, and everything is put back."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

import kilter
from kilter.core.clock import SystemClock
from kilter.core.errors import InvalidInput
from kilter.engines.objects.store import ObjectStore
from kilter.engines.sql.database import Database
from kilter.tracking.autolog import patches
from kilter.tracking.records import Run
from kilter.tracking.service import RunService

lightgbm = pytest.importorskip("lightgbm")
xgboost = pytest.importorskip("xgboost")
sklearn = pytest.importorskip("sklearn")

import joblib  # noqa: E402
from sklearn.ensemble import BaggingClassifier, RandomForestClassifier  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.model_selection import GridSearchCV  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402

DICE = np.random.default_rng(0)
X = DICE.normal(size=(200, 4))
Y = (X[:, 0] + DICE.normal(size=200) > 0).astype(int)


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("KILTER_SYSTEM_METRICS", "0")
    kilter.autolog(["sklearn", "lightgbm", "xgboost"], store=tmp_path / "store")
    yield tmp_path / "store"
    kilter.autolog(disable=True)


def runs(store: Path) -> list[Run]:
    service = RunService(
        Database.open(f"sqlite:///{store / 'kilter.db'}"), ObjectStore.open(str(store / "objects")), SystemClock()
    )
    return list(service.list(order="started").runs)


def names(run: Run) -> set[str]:
    return {kept.name for kept in run.artifacts}


def test_an_estimator_of_sklearn(store):
    model = LogisticRegression(C=0.5).fit(X, Y)
    (run,) = runs(store)
    assert (run.name, run.status, run.params["C"]) == ("LogisticRegression", "FINISHED", 0.5)
    assert run.metric("training_score") == model.score(X, Y)
    assert "models/model/model.skops" in names(run)
    assert len(run.inputs.models) == 1


def test_a_pipeline_and_a_search_are_one_run_each(store):
    make_pipeline(StandardScaler(), LogisticRegression(C=2.0)).fit(X, Y)
    search = GridSearchCV(RandomForestClassifier(n_estimators=3, random_state=0), {"max_depth": [1, 2]}, cv=2).fit(X, Y)
    pipeline, searched = runs(store)
    assert pipeline.params["logisticregression__C"] == 2.0
    assert searched.params["best.max_depth"] == search.best_params_["max_depth"]
    assert searched.metric("best_cv_score") == search.best_score_
    assert "cv_results.parquet" in names(searched)


def test_threads_that_work_for_a_fit_are_part_of_it(store):
    BaggingClassifier(LogisticRegression(), n_estimators=4, n_jobs=2).fit(X, Y)
    with joblib.parallel_backend("threading"):
        GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, cv=2, n_jobs=2).fit(X, Y)
    assert [run.name for run in runs(store)] == ["BaggingClassifier", "GridSearchCV"]


def test_boosters_log_each_iteration_and_keep_their_own_form(store):
    data = lightgbm.Dataset(X, Y)
    params = {"objective": "binary", "verbose": -1, "num_threads": 1, "metric": "auc"}
    lightgbm.train(params, data, 7, valid_sets=[data], valid_names=["train"])
    xgboost.train(
        {"objective": "binary:logistic", "nthread": 1},
        xgboost.DMatrix(X, Y),
        5,
        evals=[(xgboost.DMatrix(X, Y), "train")],
        verbose_eval=False,
    )
    xgboost.XGBClassifier(n_estimators=4, n_jobs=1).fit(X, Y, eval_set=[(X, Y)], verbose=False)
    lightgbm.LGBMClassifier(n_estimators=3, n_jobs=1, verbose=-1).fit(X, Y, eval_X=X, eval_y=Y)
    light, xg, xg_estimator, light_estimator = runs(store)
    assert light.params["num_boost_round"] == 7
    assert {metric.name: metric.count for metric in light.metrics} == {"train/auc": 7}
    assert {metric.name: metric.count for metric in xg.metrics} == {"train/logloss": 5}
    counts = {metric.name: metric.count for metric in xg_estimator.metrics}
    assert counts["validation_0/logloss"] == 4
    counts = {metric.name: metric.count for metric in light_estimator.metrics}
    assert counts["valid_0/binary_logloss"] == 3
    for run, name in (
        (light, "model.txt"),
        (xg, "model.ubj"),
        (xg_estimator, "model.ubj"),
        (light_estimator, "model.txt"),
    ):
        assert f"models/model/{name}" in names(run)
        assert run.status == "FINISHED"


def test_fits_within_a_run_belong_to_it(store):
    with kilter.run("study", store=store) as run:
        LogisticRegression(C=0.1).fit(X, Y)
        LogisticRegression(C=0.2).fit(X, Y)
    first, second = runs(store)
    assert (first.id, first.params["C"]) == (run.id, 0.1)
    assert (second.tags["mlflow.parentRunId"], second.params["C"]) == (run.id, 0.2)


def test_predictions_are_the_same_and_errors_pass(store, monkeypatch):
    with_us = RandomForestClassifier(n_estimators=5, random_state=0).fit(X, Y).predict_proba(X)
    with pytest.raises(ValueError, match="NaN"):
        LogisticRegression().fit(X * np.nan, Y)
    assert runs(store)[-1].status == "FAILED"
    monkeypatch.setattr(patches.Session, "params", lambda *_: 1 / 0)
    still = RandomForestClassifier(n_estimators=5, random_state=0).fit(X, Y).predict_proba(X)
    kilter.autolog(disable=True)
    without = RandomForestClassifier(n_estimators=5, random_state=0).fit(X, Y).predict_proba(X)
    assert (with_us == without).all()
    assert (still == without).all()


def test_everything_is_put_back():
    from sklearn.base import BaseEstimator

    before = (LogisticRegression.fit, lightgbm.train, xgboost.train, BaseEstimator.__init_subclass__)
    kilter.autolog()
    assert LogisticRegression.fit is not before[0]
    kilter.autolog()  # again changes nothing
    kilter.autolog(disable=True)
    assert (LogisticRegression.fit, lightgbm.train, xgboost.train, BaseEstimator.__init_subclass__) == before
    with pytest.raises(InvalidInput, match="lightgbm"):
        kilter.autolog(["catbost"])


def test_a_library_that_comes_later_is_prepared_then(tmp_path):
    import subprocess
    import sys

    program = (
        "import sys, kilter\n"
        f"kilter.autolog(store={str(tmp_path / 's')!r})\n"
        "assert 'sklearn' not in sys.modules and 'lightgbm' not in sys.modules\n"
        "from sklearn.dummy import DummyClassifier\n"
        "DummyClassifier().fit([[1], [2]], [0, 1])\n"
        "import importlib, sklearn.base\n"
        "assert type(sklearn.base.__loader__).__name__ == 'SourceFileLoader'\n"
    )
    with warnings.catch_warnings():
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [run.name for run in runs(tmp_path / "s")] == ["DummyClassifier"]
