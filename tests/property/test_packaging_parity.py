"""Every runtime answers as the model's own framework does, on random rows with holes in them; and a bundle is what it says."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from functools import cache

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilter.core.errors import Damaged, InvalidInput, NotFound
from kilter.engines.objects.store import ObjectStore
from kilter.loop.versions.deploy import packaged
from kilter.packaging.bundle import Parts, Runtime, fetch, keep, load
from kilter.packaging.forms import _as_onnx, _folded

lightgbm = pytest.importorskip("lightgbm")
xgboost = pytest.importorskip("xgboost")
pytest.importorskip("skops")
pytest.importorskip("skl2onnx")

COLUMNS = 4
WITH_HOLES = ("lightgbm", "xgboost", "lightgbm, three classes", "xgboost, three classes", "imputed")
WITHOUT = ("scaled", "three classes", "targets", "poisson")


@cache
def model(name):
    """Return a fitted model, its parts as packaged, its answer for a matrix, and the tolerance of a float32 form."""
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MinMaxScaler, RobustScaler, StandardScaler

    random = np.random.default_rng(5)
    X = random.normal(size=(300, COLUMNS)) * [1, 10, 0.1, 100]
    y = (X[:, 0] + 0.3 * random.normal(size=300) > 0).astype(int)
    three = np.digitize(X[:, 0], [-0.5, 0.5])
    holes = np.where(random.random(X.shape) < 0.1, np.nan, X)
    light, extreme = (
        {"n_estimators": 12, "verbosity": -1, "n_jobs": 1},
        {"n_estimators": 12, "max_depth": 4, "n_jobs": 1},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = {
            "lightgbm": lambda: lightgbm.LGBMClassifier(**light).fit(holes, y),
            "lightgbm, three classes": lambda: lightgbm.LGBMClassifier(**light).fit(holes, three),
            "xgboost": lambda: xgboost.XGBClassifier(**extreme).fit(holes, y),
            "xgboost, three classes": lambda: xgboost.XGBClassifier(**extreme).fit(holes, three),
            "imputed": lambda: make_pipeline(
                SimpleImputer(strategy="median"), RobustScaler(), LogisticRegression(max_iter=1000)
            ).fit(holes, y),
            "scaled": lambda: make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y),
            "three classes": lambda: make_pipeline(MinMaxScaler(), LogisticRegression()).fit(X, three),
            "targets": lambda: make_pipeline(StandardScaler(), Ridge()).fit(X, X[:, :2] * [1.0, 5.0]),
            "poisson": lambda: make_pipeline(StandardScaler(), PoissonRegressor()).fit(X, np.exp(X[:, 0])),
        }[name]()
        parts = packaged(fitted, X if name in WITHOUT else holes)
    several = hasattr(fitted, "classes_") and len(fitted.classes_) > 2

    def answer(matrix):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if not hasattr(fitted, "predict_proba"):
                return np.asarray(fitted.predict(matrix), dtype=np.float64)
            found = fitted.predict_proba(matrix)
            return found if several else found[:, 1]

    return parts, answer


@cache
def runtime(name, form):
    parts, _ = model(name)
    return Runtime.of({"native": lambda p: p, "onnx": _as_onnx, "folded": _folded}[form](parts))


def rows(holes):
    """Draw matrices of float32 numbers (a graph sees no others), small and large, with holes if there may be any."""
    numbers = st.floats(-1e3, 1e3, width=32, allow_nan=False)
    cells = st.one_of(numbers, st.just(float("nan"))) if holes else numbers
    row = st.lists(cells, min_size=COLUMNS, max_size=COLUMNS)
    return st.lists(row, min_size=1, max_size=12).map(lambda found: np.array(found, dtype=np.float64))


def agree(name, form, matrix):
    _, answer = model(name)
    expected, got = answer(matrix), runtime(name, form).predict(matrix)
    scale = max(1.0, float(np.abs(expected).max())) if name in {"targets", "poisson"} else 1.0
    np.testing.assert_allclose(got / scale, expected / scale, rtol=0, atol=1e-9 if form == "folded" else 2e-5)


@pytest.mark.parametrize("form", ["native", "onnx"])
@pytest.mark.parametrize("name", WITH_HOLES)
@settings(max_examples=25, deadline=None)
@given(matrix=rows(holes=True))
def test_with_holes(name, form, matrix):
    agree(name, form, matrix)


@pytest.mark.parametrize("form", ["native", "onnx"])
@pytest.mark.parametrize("name", WITHOUT)
@settings(max_examples=15, deadline=None)
@given(matrix=rows(holes=False))
def test_without_holes(name, form, matrix):
    agree(name, form, np.clip(matrix, -50, 50))


@pytest.mark.parametrize("name", ["imputed", *WITHOUT])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_folded(name, data):
    agree(name, "folded", np.clip(data.draw(rows(holes=name == "imputed")), -50, 50))


@pytest.mark.parametrize("name", [*WITH_HOLES, *WITHOUT])
@settings(max_examples=10, deadline=None)
@given(matrix=rows(holes=False))
def test_a_row_is_answered_alike_alone_and_among_others(name, matrix):
    native = runtime(name, "native")
    together = native.predict(matrix)
    alone = np.concatenate([native.predict(row[None, :]) for row in matrix])
    np.testing.assert_allclose(together, alone, rtol=1e-12, atol=1e-12)


# ---------------------------------------------------------------- bundles


def test_the_same_model_has_the_same_digest_in_every_process():
    program = (
        "import numpy as np; from kilter.loop.versions.deploy import packaged; from kilter.core.digests import digest_json;"
        "from sklearn.linear_model import LogisticRegression; from sklearn.pipeline import make_pipeline;"
        "from sklearn.preprocessing import StandardScaler; import lightgbm; junk = [object() for _ in range({})];"
        "X = np.random.default_rng(0).normal(size=(60, 3)); y = (X[:, 0] > 0).astype(int);"
        "models = make_pipeline(StandardScaler(), LogisticRegression()), lightgbm.LGBMRegressor(n_estimators=3, verbosity=-1);"
        "print(*(digest_json(packaged(m.fit(X, y), X).manifest) for m in models))"
    )

    def digests(count):
        environment = {**os.environ, "PYTHONHASHSEED": str(count), "PYTHONWARNINGS": "ignore"}
        done = subprocess.run(
            [sys.executable, "-c", program.format(count)], capture_output=True, check=True, env=environment
        )
        return done.stdout

    assert digests(1) == digests(1000)


@settings(max_examples=40, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans(), which=st.integers(0, 3))
def test_a_bundle_with_a_changed_bit_or_a_cut_end_is_refused(tmp_path_factory, place, bit, cut, which):
    parts, _ = model("imputed")
    folder = tmp_path_factory.mktemp("bundle")
    objects = ObjectStore.open(str(folder))
    bundle = keep(parts, objects)
    manifest = bundle.manifest
    name = (bundle.digest, manifest.model.digest, manifest.example.digest, manifest.explainer.file.digest)[which]
    path = folder / name[:2] / name[2:]
    held = bytearray(path.read_bytes())
    at = int(place * len(held))
    path.chmod(0o644)
    if cut:
        del held[at:]
    else:
        held[at] ^= 1 << bit
    path.write_bytes(held)
    with pytest.raises(Damaged):
        load(bundle.digest, objects)
    path.unlink()
    with pytest.raises(NotFound):
        load(bundle.digest, objects)


def test_parts_that_are_not_those_of_the_manifest_are_not_kept(tmp_path):
    parts, _ = model("imputed")
    objects = ObjectStore.open(str(tmp_path))
    for field in ("model", "example", "explainer"):
        with pytest.raises(Damaged):
            keep(parts._replace(**{field: b"other"}), objects)
    assert fetch(keep(parts, objects).digest, objects) == parts


@pytest.mark.parametrize("name", ["imputed", "xgboost", "lightgbm"])
def test_nothing_unpickles(name, monkeypatch):
    import pickle

    parts, _ = model(name)

    def refuse(*_, **__):
        raise AssertionError("something was unpickled")

    for function in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, function, refuse)
    for form in (parts, _as_onnx(parts)):
        Runtime.of(form).predict(np.zeros((2, COLUMNS)))


def test_a_pickle_in_the_place_of_a_model_is_refused():
    parts, _ = model("imputed")
    evil = b"cos\nsystem\n(S'echo evil'\ntR."
    for flavor in ("skops", "linear", "onnx", "lightgbm-text", "constant"):
        manifest = parts.manifest.__class__(**{**_fields(parts), "flavor": flavor})
        with pytest.raises((Damaged, InvalidInput)):
            Runtime.of(Parts(manifest, evil, parts.example, parts.explainer))


def _fields(parts):
    return {name: getattr(parts.manifest, name) for name in parts.manifest.__struct_fields__}
