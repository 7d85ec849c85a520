"""A bundle as an MLflow model: the same bytes for the same bundle, and a loader that takes rows as the endpoint does."""

from __future__ import annotations

import json
import math

import msgspec
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kilter.core.errors import InvalidInput
from kilter.data.encoding import Encoding
from kilter.packaging.bundle import Parts, build
from kilter.packaging.constant import Constant
from kilter.packaging.examples import Example
from kilter.packaging.mlmodel.document import read_document
from kilter.packaging.mlmodel.loader import Model, _load_pyfunc
from kilter.packaging.mlmodel.writing import mlmodel_folder, whole
from kilter.packaging.records import Signature
from kilter.packaging.skops_types import trusted_types

ENCODING = Encoding(("a", "hour", "carrier"), ("numeric", "numeric", "categorical"), {"carrier": ("UA", "DL")})


def constant() -> Parts:
    rows = np.array([[0.5, 3.0, 1.0], [np.nan, 4.0, np.nan]])
    signature = Signature(table="", key="", time="", encoding=ENCODING, label="regression")
    return build(Constant(0.25), signature, Example(ENCODING, rows, rows, ""))


def files_of(parts: Parts, **more: str) -> dict[str, bytes]:
    return whole(mlmodel_folder(parts.manifest, lambda: parts.model, lambda: parts.example, **more))


def test_the_folder_says_what_the_bundle_is():
    files = files_of(constant(), reference="churn@v3")
    assert files == files_of(constant(), reference="churn@v3")
    document = read_document(files["MLmodel"])
    assert document.inputs is not None
    assert [(one.name, one.type) for one in document.inputs] == [
        ("a", "double"),
        ("hour", "any"),
        ("carrier", "string"),
    ]
    assert yaml.safe_load(files["MLmodel"])["metadata"]["kilter_version"] == "churn@v3"
    assert json.loads(files["input_example.json"]) == {
        "columns": ["a", "hour", "carrier"],
        "data": [[0.5, 3.0, "DL"], [None, 4.0, None]],
    }
    (code,) = [path for path in files if path.startswith("code/")]
    assert document.flavors["python_function"]["loader_module"] == code.removeprefix("code/").removesuffix(".py")
    assert b"import kilter" not in files[code]
    assert b"from kilter" not in files[code]
    assert "numpy" in files["requirements.txt"].decode()
    assert b"kilter" not in files["requirements.txt"]
    assert yaml.safe_load(files["python_env.yaml"])["dependencies"] == ["-r requirements.txt"]


@pytest.mark.parametrize("flavor", ["remote", "graph", "torch-export"])
def test_what_reaches_elsewhere_has_no_such_form(flavor):
    parts = constant()
    manifest = msgspec.structs.replace(parts.manifest, flavor=flavor)
    with pytest.raises(InvalidInput, match="can't be an MLflow model"):
        mlmodel_folder(manifest, lambda: b"", lambda: parts.example)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Model:
    folder = tmp_path_factory.mktemp("model")
    for path, data in files_of(constant()).items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(data)
    return _load_pyfunc(str(folder))


def test_rows_in_any_form_are_the_same_matrix(model):
    pandas = pytest.importorskip("pandas")
    rows = [{"a": 1.5, "hour": 3, "carrier": "DL"}, {"a": None, "hour": True, "carrier": "ZZ"}, {"carrier": None}]
    expected = ENCODING.rows(rows)
    columns = {name: [row.get(name) for row in rows] for name in ENCODING.names}
    frame = pandas.DataFrame(columns)
    forms = [
        rows,
        columns,
        frame,
        frame.assign(carrier=frame.carrier.astype("category")),
        frame[["carrier", "hour", "a"]],
    ]
    for form in forms:
        np.testing.assert_array_equal(model._matrix(form), expected)
    np.testing.assert_array_equal(model._matrix(expected), expected)
    np.testing.assert_array_equal(model.predict(frame), [0.25] * 3)
    assert model.predict(frame[:0]).shape == (0,)
    with pytest.raises(TypeError, match="input 'a' holds text"):
        model.predict([{"a": "5"}])


ROW = st.fixed_dictionaries(
    {},
    optional={
        "a": st.none() | st.floats() | st.integers(-(2**53), 2**53) | st.booleans(),
        "hour": st.none() | st.floats(),
        "carrier": st.none() | st.sampled_from(["UA", "DL", "", "ua"]) | st.text(max_size=3),
    },
)


@settings(max_examples=100, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=5))
def test_the_loader_codes_rows_as_the_bundle_does(model, rows):
    np.testing.assert_array_equal(model._matrix(rows), ENCODING.rows(rows))


def test_the_types_that_a_reader_is_told_are_those_that_it_asks_for():
    skops, ensemble = pytest.importorskip("skops.io"), pytest.importorskip("sklearn.ensemble")
    X = np.arange(20.0).reshape(10, 2)
    data = skops.dumps(ensemble.RandomForestRegressor(2, random_state=0).fit(X, X[:, 0]))
    told = trusted_types(data)
    assert set(skops.get_untrusted_types(data=data)) <= set(told)
    assert all(name.startswith("sklearn.") or name == "numpy.dtype" for name in told)
    assert not math.isnan(skops.loads(data, trusted=told).predict(X)[0])
