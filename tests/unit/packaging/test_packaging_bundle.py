import os
import subprocess
import sys
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")

import msgspec
import numpy as np
import pytest

from kilter.core.digests import canonical_json
from kilter.core.errors import Damaged, InvalidInput, NotFound
from kilter.data.declare import Table
from kilter.data.encoding import Encoding
from kilter.engines.objects.store import ObjectStore
from kilter.features.declare import count, features
from kilter.packaging.bundle import load, package
from kilter.packaging.constant import Constant

lightgbm = pytest.importorskip("lightgbm")
xgboost = pytest.importorskip("xgboost")
pytest.importorskip("skops")

TABLE = Table("flights", "flight_id", "sched_dep")
ENCODING = Encoding(("a", "b", "c", "d"), ("numeric",) * 4, {})


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(0)
    X = random.normal(size=(600, 4))
    y = (X[:, 0] + 0.3 * random.normal(size=600) > 0).astype(int)
    X[random.random(X.shape) < 0.1] = np.nan
    return X, y


@pytest.fixture
def store(tmp_path):
    return ObjectStore.open(str(tmp_path / "objects"))


def quietly(call, *arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*arguments)


def early_stopped(X, y):
    model = xgboost.XGBClassifier(n_estimators=50, max_depth=3, n_jobs=1, early_stopping_rounds=2, learning_rate=1.0)
    return model.fit(X[:400], y[:400], eval_set=[(X[400:], y[400:])], verbose=False)


MODELS = {
    "LGBMClassifier": lambda X, y: lightgbm.LGBMClassifier(n_estimators=20, verbosity=-1, n_jobs=1).fit(X, y),
    "lightgbm.Booster": lambda X, y: lightgbm.train(
        {"objective": "binary", "verbosity": -1}, lightgbm.Dataset(X, y), 5
    ),
    "XGBClassifier": lambda X, y: xgboost.XGBClassifier(n_estimators=20, max_depth=4, n_jobs=1).fit(X, y),
    "XGBClassifier, stopped early": early_stopped,
    "xgboost.Booster": lambda X, y: xgboost.train({"objective": "binary:logistic"}, xgboost.DMatrix(X, y), 5),
    "sklearn": lambda X, y: (
        __import__("sklearn.ensemble").ensemble.HistGradientBoostingClassifier(max_iter=5).fit(X, y)
    ),
    "Constant": lambda *_: Constant(0.25),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_packaged_model_answers_as_the_original(name, data, store):
    X, y = data
    model = quietly(MODELS[name], X, y)
    bundle = quietly(lambda: package(model, ENCODING, X, [], store, table=TABLE, reference={"base_rate": 0.5}))
    runtime = load(bundle.digest, store)
    if hasattr(model, "predict_proba"):
        expected = quietly(model.predict_proba, X)[:, 1]
    elif name == "xgboost.Booster":
        expected = model.predict(xgboost.DMatrix(X))
    else:
        expected = np.full(600, 0.25) if name == "Constant" else model.predict(X)
    for size in (1, 7, 8, 600):
        np.testing.assert_allclose(quietly(runtime.predict, X[:size]), expected[:size], atol=1e-6, rtol=0)
    assert runtime.predict(X[:0]).shape == (0,)
    assert runtime.manifest.reference == {"base_rate": 0.5}
    assert any(line.startswith("python==") for line in runtime.manifest.environment)


def test_regression(data, store):
    X, _ = data
    target = 1e6 * np.nan_to_num(X[:, 0])
    for model in (
        lightgbm.LGBMRegressor(n_estimators=20, verbosity=-1, n_jobs=1).fit(X, target),
        xgboost.XGBRegressor(n_estimators=20, max_depth=4, n_jobs=1).fit(X, target),
    ):
        bundle = quietly(lambda m=model: package(m, ENCODING, X, [], store, table=TABLE, label="regression"))
        np.testing.assert_allclose(load(bundle.digest, store).predict(X), quietly(model.predict, X), rtol=1e-6)


def test_the_same_model_is_the_same_bundle_and_the_signature_keeps_its_views(data, store):
    X, y = data
    model = MODELS["LGBMClassifier"](X, y)
    view = features(TABLE, entity="origin", time="dep_time", lag="1h", d=count("3h"))
    first, second = (quietly(lambda: package(model, ENCODING, X, [view], store, table=TABLE)) for _ in range(2))
    assert first.digest == second.digest
    assert first.manifest.signature.views[0]["entity"] == "origin"
    assert first.manifest.signature.key == "flight_id"
    assert any(line.startswith("lightgbm==") for line in first.manifest.environment)
    assert any(line.startswith("numpy==") for line in first.manifest.environment)


def test_what_cannot_be_packaged_is_refused_by_name(data, store):
    from sklearn.pipeline import make_pipeline

    X, y = np.nan_to_num(data[0]), data[1]

    def pack(model, label="binary"):
        return quietly(lambda: package(model, ENCODING, X, [], store, table=TABLE, label=label))

    with pytest.raises(InvalidInput, match=r"builtins\.dict"):
        pack({}, "regression")
    with pytest.raises(InvalidInput, match="not fitted"):
        pack(lightgbm.LGBMClassifier())
    with pytest.raises(InvalidInput, match="classes"):
        pack(lightgbm.LGBMClassifier(n_estimators=2, verbosity=-1).fit(X, np.arange(len(X)) % 3))
    with pytest.raises(InvalidInput, match=r"posix\.system"):
        pack(_pipeline_with_function(X, y))
    with pytest.raises(InvalidInput, match=r"lightgbm\.sklearn\.LGBMClassifier"):
        pack(make_pipeline(lightgbm.LGBMClassifier(n_estimators=2, verbosity=-1)).fit(X, y))
    with pytest.raises(InvalidInput, match="shape"):
        package(Constant(0.5), ENCODING, X[:, :2], [], store, table=TABLE)


def _pipeline_with_function(X, y):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    model = make_pipeline(FunctionTransformer(), LogisticRegression()).fit(X, y)
    model.steps[0][1].func = os.system
    return model


def test_a_model_that_answers_differently_when_packaged_is_refused(data, store):
    X, y = data

    class Doubled(lightgbm.LGBMClassifier):
        def predict_proba(self, X, **kwargs):
            return super().predict_proba(X, **kwargs) ** 2

    model = Doubled(n_estimators=5, verbosity=-1).fit(X, y)
    with pytest.raises(InvalidInput, match="differently"):
        quietly(lambda: package(model, ENCODING, X, [], store, table=TABLE))


def test_one_changed_byte_is_found(data, store, tmp_path):
    X, y = data
    bundle = quietly(lambda: package(MODELS["LGBMClassifier"](X, y), ENCODING, X, [], store, table=TABLE))
    path = next(
        p for p in (tmp_path / "objects").rglob("*") if p.is_file() and p.stat().st_size == bundle.manifest.model.size
    )
    broken = bytearray(path.read_bytes())
    broken[len(broken) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(broken)
    with pytest.raises(Damaged):
        load(bundle.digest, store)
    with pytest.raises(NotFound):
        load("0" * 64, store)


def test_rows_of_another_width_are_refused(data, store):
    X, y = data
    bundle = quietly(lambda: package(MODELS["LGBMClassifier"](X, y), ENCODING, X, [], store, table=TABLE))
    with pytest.raises(InvalidInput):
        load(bundle.digest, store).predict(X[:, :3])


def test_loading_a_native_model_imports_neither_numpy_nor_the_framework():
    code = (
        "import sys, kilter.serving.workers.worker; from kilter.packaging.lightgbm_native import open_library; open_library()\n"
        "assert not {'numpy', 'pandas', 'sklearn', 'lightgbm', 'polars'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def several(X, y):
    three = np.digitize(np.nan_to_num(X[:, 1]), [-0.5, 0.5])
    names = np.array(["low", "mid", "top"])[three]
    targets = np.nan_to_num(X[:, :2]) * [1.0, 100.0]
    plain = np.nan_to_num(X)
    linear = __import__("sklearn.linear_model").linear_model
    return {
        "LGBMClassifier": (
            lightgbm.LGBMClassifier(n_estimators=5, verbosity=-1, n_jobs=1).fit(X, names),
            "multiclass",
        ),
        "XGBClassifier": (xgboost.XGBClassifier(n_estimators=5, max_depth=3, n_jobs=1).fit(X, three), "multiclass"),
        "LogisticRegression": (linear.LogisticRegression().fit(plain, names), "multiclass"),
        "XGBRegressor": (xgboost.XGBRegressor(n_estimators=5, max_depth=3, n_jobs=1).fit(X, targets), "vector"),
        "XGBRegressor, one tree for all": (
            xgboost.XGBRegressor(n_estimators=5, max_depth=3, n_jobs=1, multi_strategy="multi_output_tree").fit(
                X, targets
            ),
            "vector",
        ),
        "LinearRegression": (linear.LinearRegression().fit(plain, targets), "vector"),
        "lightgbm.Booster": (
            lightgbm.train({"objective": "multiclass", "num_class": 3, "verbosity": -1}, lightgbm.Dataset(X, three), 5),
            "multiclass",
        ),
        "xgboost.Booster": (
            xgboost.train({"objective": "multi:softprob", "num_class": 3}, xgboost.DMatrix(X, three), 5),
            "multiclass",
        ),
    }


def test_models_with_several_outputs(data, store):
    X, y = data
    for name, (model, label) in quietly(several, X, y).items():
        rows = np.nan_to_num(X) if "Li" in name or "Log" in name else X
        bundle = quietly(lambda m=model, k=label, r=rows: package(m, ENCODING, r, [], store, table=TABLE, label=k))
        signature = bundle.manifest.signature
        runtime = load(bundle.digest, store)
        if name == "xgboost.Booster":
            expected = model.predict(xgboost.DMatrix(X))
        elif label == "multiclass" and hasattr(model, "predict_proba"):
            expected = quietly(model.predict_proba, rows)
            assert signature.outputs == tuple(str(one) for one in model.classes_)
        else:
            expected = quietly(model.predict, rows)
        for size in (1, 7, 8, 600):
            got = quietly(runtime.predict, rows[:size])
            np.testing.assert_allclose(got, expected[:size], atol=1e-4 if label == "vector" else 1e-6, rtol=0)
        assert runtime.predict(rows[:0]).shape == (0, expected.shape[1])
        assert bundle.manifest.spec().outputs == expected.shape[1] == len(signature.outputs)


def test_a_bundle_of_an_earlier_version_still_reads(data, store):
    # as it was written before models could have several outputs
    X, _ = data
    bundle = package(Constant(0.5), ENCODING, np.zeros((1, 4)), [], store, table=TABLE)
    old = msgspec.json.decode(store.get(bundle.digest))
    for name in ("outputs", "shape", "dtype", "deterministic"):
        del old["signature"][name]
    runtime = load(store.put(canonical_json(old)), store)
    assert runtime.predict(X[:3]).tolist() == [0.5] * 3
    assert runtime.manifest.signature.outputs == ("value",)


def test_a_model_without_a_table(store):
    bundle = package(Constant(0.5), ENCODING, np.zeros((1, 4)), [], store, table=None)
    signature = bundle.manifest.signature
    assert (signature.table, signature.key, signature.time) == ("", "", "")
