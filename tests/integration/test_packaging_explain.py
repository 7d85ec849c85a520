"""What each column adds to an answer, through the process that answers."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from kilter.core.errors import InvalidInput
from kilter.engines.objects.store import ObjectStore
from kilter.loop.versions.deploy import packaged
from kilter.packaging.bundle import Runtime, fetch, keep
from kilter.packaging.constant import Constant
from kilter.packaging.forms import choose
from kilter.serving.settings import Settings
from kilter.serving.workers.pool import Pool

lightgbm = pytest.importorskip("lightgbm")
xgboost = pytest.importorskip("xgboost")
pytest.importorskip("skops")


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(2)
    X = random.normal(size=(200, 4))
    y = np.digitize(X[:, 0] - X[:, 1], [-0.5, 0.5])
    X[random.random(X.shape) < 0.1] = np.nan
    return X, y


def log_odds(p):
    return np.log(p / (1 - p))


def test_boosters_explain_themselves_as_their_libraries_do(data):
    X, y = data
    for target in (y, (y > 0).astype(int)):
        light = lightgbm.LGBMClassifier(n_estimators=8, verbosity=-1, n_jobs=1).fit(X, target)
        runtime = Runtime.of(packaged(light, X))
        own = np.asarray(light.booster_.predict(X, pred_contrib=True)).reshape(runtime.contributions(X).shape)
        np.testing.assert_allclose(runtime.contributions(X), own, atol=1e-12)
        extreme = xgboost.XGBClassifier(n_estimators=8, max_depth=3, n_jobs=1).fit(X, target)
        runtime = Runtime.of(packaged(extreme, X))
        own = extreme.get_booster().predict(xgboost.DMatrix(X), pred_contribs=True)
        np.testing.assert_allclose(runtime.contributions(X), own, atol=1e-6)
    # they add up to the log odds of the answer
    np.testing.assert_allclose(runtime.contributions(X).sum(axis=1), log_odds(runtime.predict(X)), atol=1e-4)
    assert runtime.contributions(X[:0]).shape == (0, 5)


def test_linear_models_are_explained_exactly(data):
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    X, y = data
    model = make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression()).fit(X, (y > 0).astype(int))
    parts = packaged(model, X)
    assert parts.manifest.flavor == "skops"
    assert parts.manifest.explainer.flavor == "linear"
    runtime = Runtime.of(parts)
    found = runtime.contributions(X)
    np.testing.assert_allclose(found.sum(axis=1), log_odds(model.predict_proba(X)[:, 1]), atol=1e-9)
    np.testing.assert_allclose(found[:, :-1].mean(axis=0), 0, atol=1e-9)  # against the average over the example
    folded = choose(parts).best  # whatever form is kept, it explains itself in the same way
    np.testing.assert_allclose(Runtime.of(folded).contributions(X), found, atol=1e-9)


def test_a_graph_is_explained_by_what_it_was_made_from(data, tmp_path):
    pytest.importorskip("skl2onnx")
    from kilter.packaging.forms import _as_onnx

    X, y = data
    native = packaged(xgboost.XGBClassifier(n_estimators=8, n_jobs=1).fit(X, (y > 0).astype(int)), X)
    graph = _as_onnx(native)
    assert graph.manifest.flavor == "onnx"
    objects = ObjectStore.open(str(tmp_path))
    kept = fetch(keep(graph, objects).digest, objects)
    assert kept == graph
    np.testing.assert_array_equal(Runtime.of(kept).contributions(X), Runtime.of(native).contributions(X))


def test_what_cannot_be_explained_says_so(data):
    runtime = Runtime.of(packaged(Constant(0.5), data[0]))
    assert not runtime.explains
    with pytest.raises(InvalidInput, match="constant can't be explained"):
        runtime.contributions(data[0])


def test_through_the_worker(data):
    X, y = data
    parts = packaged(lightgbm.LGBMClassifier(n_estimators=8, verbosity=-1, n_jobs=1).fit(X, y), X)
    none = packaged(Constant(0.5), X)

    async def ask(bundle, rows):
        pool = Pool(Settings(), lambda: None)
        await pool.start(bundle, 30)
        try:
            answers = []
            for call in (pool.explain, pool.ask, pool.explain):
                done = asyncio.get_running_loop().create_future()
                call(rows.tobytes(), len(rows), lambda values, outcome, f=done: f.set_result((values, outcome)))
                answers.append(await asyncio.wait_for(done, 30))
        finally:
            await pool.stop()
        done = asyncio.get_running_loop().create_future()
        pool.explain(rows.tobytes(), len(rows), lambda values, outcome: done.set_result((values, outcome)))
        assert await done == (None, "gone")
        return answers

    first, values, second = asyncio.run(ask(parts, X[:9]))
    assert first == second
    assert first[1] == values[1] == "answered"
    runtime = Runtime.of(parts)
    np.testing.assert_array_equal(np.frombuffer(first[0]).reshape(9, 3, 5), runtime.contributions(X[:9]))
    np.testing.assert_array_equal(np.frombuffer(values[0]).reshape(9, 3), runtime.predict(X[:9]))
    assert [outcome for _, outcome in asyncio.run(ask(none, X[:9]))] == ["refused", "answered", "refused"]
