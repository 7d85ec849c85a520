"""CatBoost's own format: packaged, served and written as MLflow's, bit for bit; what is damaged is refused."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from kilter.core.errors import Damaged, InvalidInput
from kilter.loop.versions.deploy import packaged
from kilter.packaging.bundle import Runtime
from kilter.packaging.files import model_in
from kilter.packaging.mlmodel.files import Files
from kilter.packaging.mlmodel.loader import _load_pyfunc
from kilter.packaging.mlmodel.reading import read_mlmodel
from kilter.packaging.mlmodel.writing import mlmodel_folder, whole

catboost = pytest.importorskip("catboost")
pandas = pytest.importorskip("pandas")

FEW = {"iterations": 12, "verbose": False, "allow_writing_files": False, "thread_count": 1}


@pytest.fixture(scope="module")
def frame():
    random = np.random.default_rng(2)
    found = pandas.DataFrame(random.normal(size=(200, 3)), columns=["a", "b", "c"])
    found["carrier"] = np.array(["UA", "DL", "AA"])[random.integers(0, 3, 200)]
    return found


def back(parts, folder):
    """Write a bundle as an MLflow model, and return it as MLflow loads it, and as it is deployed again."""
    files = whole(mlmodel_folder(parts.manifest, lambda: parts.model, lambda: parts.example))
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    found = read_mlmodel(Files({name: len(data) for name, data in files.items()}, files.__getitem__, "here"))
    return _load_pyfunc(str(folder)), packaged(found.model, found.example)


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression", "poisson"])
def test_numbers_go_both_ways(frame, tmp_path, kind):
    X = frame[["a", "b", "c"]]
    match kind:
        case "binary":
            model = catboost.CatBoostClassifier(**FEW).fit(X, (X.a > 0).astype(int))
            expected = model.predict_proba(X)[:, 1]
        case "multiclass":
            model = catboost.CatBoostClassifier(**FEW).fit(X, (X.a > 0).astype(int) + (X.b > 1))
            expected = model.predict_proba(X)
        case _:
            loss = {"loss_function": "Poisson"} if kind == "poisson" else {}
            model = catboost.CatBoostRegressor(**FEW, **loss).fit(X, np.abs(X.a))
            expected = model.predict(X)
    parts = packaged(model, X[:20])
    assert (parts.manifest.flavor, parts.manifest.signature.encoding.names) == ("catboost-cbm", ("a", "b", "c"))
    np.testing.assert_array_equal(Runtime.of(parts).predict(X.to_numpy()), expected)
    loaded, again = back(parts, tmp_path)
    np.testing.assert_array_equal(loaded.predict(X), expected)
    np.testing.assert_array_equal(Runtime.of(again).predict(X.to_numpy()), expected)


def test_categories_are_text_again_inside(frame, tmp_path):
    model = catboost.CatBoostClassifier(**FEW, cat_features=["carrier"])
    model.fit(frame, ((frame.carrier == "UA") ^ (frame.a > 0)).astype(int))
    parts = packaged(model, frame[:50])
    encoding = parts.manifest.signature.encoding
    assert encoding.categories == {"carrier": ("AA", "DL", "UA")}
    rows = frame[:30].copy()
    rows.loc[0, "carrier"] = "never seen"
    expected = model.predict_proba(rows)[:, 1]
    np.testing.assert_array_equal(Runtime.of(parts).predict(encoding.rows(rows.to_dict("records"))), expected)
    loaded, again = back(parts, tmp_path)
    np.testing.assert_array_equal(loaded.predict(rows), expected)
    assert again.manifest.flavor == "catboost-cbm"
    example = json.loads((tmp_path / "input_example.json").read_text())
    assert example["data"][0][3] == frame.carrier[0]


@pytest.mark.filterwarnings("ignore::UserWarning")  # of the client
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_mlflow_model_of_catboost_is_read(frame, tmp_path):
    mlflow = pytest.importorskip("mlflow.catboost")
    X = frame[["a", "b", "c"]]
    model = catboost.CatBoostRegressor(**FEW).fit(X, X.a)
    mlflow.save_model(model, tmp_path / "model", input_example=X[:3], pip_requirements=[], signature=False)
    names = [file for file in (tmp_path / "model").iterdir() if file.is_file()]
    found = read_mlmodel(
        Files(
            {file.name: file.stat().st_size for file in names},
            lambda name: (tmp_path / "model" / name).read_bytes(),
            "x",
        )
    )
    np.testing.assert_array_equal(
        Runtime.of(packaged(found.model, found.example)).predict(X.to_numpy()), model.predict(X)
    )


def test_what_is_damaged_is_refused(frame, tmp_path):
    X = frame[["a", "b", "c"]]
    catboost.CatBoostRegressor(**FEW).fit(X, X.a).save_model(str(tmp_path / "model.cbm"))
    whole_file = (tmp_path / "model.cbm").read_bytes()
    for data in (b"", b"CBM1", os.urandom(400), whole_file[:200], whole_file[:-10], b"CBM1" + bytes(400)):
        with pytest.raises(Damaged, match="not a CatBoost model"):
            model_in("model.cbm", data)
    model_in("model.cbm", whole_file)


def test_numbers_where_the_model_takes_text_are_refused(frame):
    model = catboost.CatBoostClassifier(**FEW, cat_features=["carrier"])
    model.fit(frame, (frame.a > 0).astype(int))
    with pytest.raises(InvalidInput):
        packaged(model, np.zeros((2, 4)))
