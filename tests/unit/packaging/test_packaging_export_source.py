"""Models as C and JavaScript: the same answers as the packaged model, or a refusal."""

import ctypes
import json
import os
import shutil
import subprocess
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")

import msgspec
import numpy as np
import pytest

from kilter.core.errors import Damaged, InvalidInput
from kilter.data.encoding import Encoding
from kilter.packaging.bundle import Runtime, build
from kilter.packaging.constant import Constant
from kilter.packaging.examples import Example
from kilter.packaging.export.c_source import c_files
from kilter.packaging.export.js_source import js_files
from kilter.packaging.export.source import Code, code_of, identifier
from kilter.packaging.export.source import test_vector as vector_of
from kilter.packaging.formats import label_of
from kilter.packaging.linear import Linear
from kilter.packaging.records import Signature

lightgbm = pytest.importorskip("lightgbm")
xgboost = pytest.importorskip("xgboost")
pytest.importorskip("skops")
linear_model = pytest.importorskip("sklearn.linear_model")

CITIES = tuple(f"city {number}" for number in range(70))
NAMES = ("a", "b", "city", "d", 'e "?\\ é')
KINDS = ("numeric", "numeric", "categorical", "numeric", "numeric")
ENCODING = Encoding(NAMES, KINDS, {"city": CITIES})
NUMBERS = Encoding(NAMES, ("numeric",) * 5, {})

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc on this machine")
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="no node on this machine")


def made(rows: int, seed: int):
    random = np.random.default_rng(seed)
    X = random.normal(size=(rows, 5))
    X[:, 2] = random.integers(0, len(CITIES), rows)
    X[:, 3] = np.where(random.random(rows) < 0.4, 0.0, X[:, 3])
    return random, X


def training():
    random, X = made(600, 0)
    kind = (X[:, 0] > 0).astype(int) + (X[:, 2] % 3 == 0)
    X[random.random(X.shape) < 0.1] = np.nan
    return X, kind


def odd_rows():
    """Return rows with all that production sends: missing, zeros, unknown categories, edges of ranges, extremes."""
    random, X = made(300, 1)
    X *= 2.0
    X[:, 2] = random.integers(-3, 140, 300)
    X[random.random(X.shape) < 0.2] = np.nan
    X[random.random(X.shape) < 0.1] = 0.0
    X[:8, 2] = (1e12, -0.5, 3.7, np.inf, -np.inf, 16777216.0, 2147483648.0, -1.0)
    X[8:16, 0] = (np.inf, -np.inf, 1e300, -1e300, 1e-36, -1e-36, 1e-35, 5e-324)
    return X


def grown(objective: str, rounds: int = 8, **parameters):
    X, kind = training()
    target = {"m": kind, "p": np.exp(np.nan_to_num(X[:, 0]))}.get(parameters.pop("of", ""), kind > 0)
    settings = {"objective": objective, "verbosity": -1, "num_leaves": 15, "num_threads": 1, **parameters}
    data = lightgbm.Dataset(X, target.astype(float), categorical_feature=[2])
    return lightgbm.train(settings, data, rounds)


def boosted(objective: str, rounds: int = 8, **parameters):
    X, kind = training()
    target = {"m": kind, "p": np.exp(np.nan_to_num(X[:, 0]))}.get(parameters.pop("of", ""), kind > 0)
    data = xgboost.DMatrix(X, target.astype(float), feature_types=["q", "q", "c", "q", "q"], enable_categorical=True)
    return xgboost.train(
        {"objective": objective, "max_depth": 5, "nthread": 1, "max_cat_to_onehot": 2, **parameters}, data, rounds
    )


TREES = {
    "lightgbm binary": lambda: grown("binary"),
    "lightgbm binary, another sigmoid, no missing values": lambda: grown("binary", sigmoid=0.7, use_missing=False),
    "lightgbm binary, zero is missing": lambda: grown("binary", zero_as_missing=True),
    "lightgbm binary, a forest": lambda: grown("binary", boosting="rf", bagging_freq=1, bagging_fraction=0.6),
    "lightgbm binary, dart": lambda: grown("binary", boosting="dart"),
    "lightgbm regression": lambda: grown("regression", of="p"),
    "lightgbm regression of roots": lambda: grown("regression", reg_sqrt=True, of="p"),
    "lightgbm poisson": lambda: grown("poisson", of="p"),
    "lightgbm cross_entropy_lambda": lambda: grown("cross_entropy_lambda"),
    "lightgbm multiclass": lambda: grown("multiclass", num_class=3, of="m"),
    "lightgbm multiclassova": lambda: grown("multiclassova", num_class=3, of="m"),
    "lightgbm without a split": lambda: grown("binary", 2, min_data_in_leaf=1000),
    "xgboost binary": lambda: boosted("binary:logistic"),
    "xgboost binary, parallel trees": lambda: boosted("binary:logistic", 4, num_parallel_tree=3, subsample=0.5),
    "xgboost regression": lambda: boosted("reg:squarederror", of="p"),
    "xgboost gamma": lambda: boosted("reg:gamma", of="p"),
    "xgboost hinge": lambda: boosted("binary:hinge"),
    "xgboost softprob": lambda: boosted("multi:softprob", num_class=3, of="m"),
}


IN_JAVASCRIPT = (
    "lightgbm binary",
    "lightgbm binary, zero is missing",
    "lightgbm regression of roots",
    "lightgbm cross_entropy_lambda",
    "lightgbm multiclass",
    "xgboost binary",
    "xgboost gamma",
    "xgboost hinge",
    "xgboost softprob",
)
"""Each dialect with each of its links; what differs otherwise is in the tables, which both languages share."""


def packaged(model, encoding=ENCODING, label=None):
    X = training()[0][:64]
    if encoding is NUMBERS:
        X = np.nan_to_num(X)
    signature = Signature(table="", key="", time="", encoding=encoding, label=label or label_of(model))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return build(model, signature, Example(encoding, X, X, ""))


def answered(parts, rows):
    return Runtime.of(parts).predict(rows).reshape(len(rows), -1)


def written(files, folder):
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def compiled(code: Code, folder):
    """Return the model as a function of rows, compiled with all warnings as errors; its own test has passed."""
    written(c_files(code), folder)
    strict = ["gcc", "-O2", "-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off"]
    files = [code.name + "_test.c", code.name + ".c", "-lm"]
    subprocess.run([*strict, "-shared", "-fPIC", "-o", "model.so", *files], cwd=folder, check=True)
    library = ctypes.CDLL(str(folder / "model.so"))
    assert library.main() == 0
    call = getattr(library, f"{code.name}_predict")
    call.argtypes = [ctypes.c_void_p, ctypes.c_void_p]

    def predict(rows):
        out = np.empty((len(rows), len(code.outputs)))
        for row, answer in zip(np.ascontiguousarray(rows), out, strict=True):
            call(row.ctypes.data, answer.ctypes.data)
        return out

    return predict, library


def asked_in_node(code: Code, folder, rows):
    written({**js_files(code), "test_vector.json": vector_of(code)}, folder)
    words = {"inf": "Infinity", "-inf": "-Infinity"}
    text = [
        ["NaN" if np.isnan(value) else words.get(repr(value), repr(value)) for value in row] for row in rows.tolist()
    ]
    script = (
        f'import "./{code.name}_test.mjs";\nimport {{ predict }} from "./{code.name}.mjs";\n'
        f"console.log(JSON.stringify([{','.join('[' + ','.join(row) + ']' for row in text)}].map(predict)));"
    )
    (folder / "ask.mjs").write_text(script)
    run = subprocess.run(["node", "ask.mjs"], cwd=folder, check=True, capture_output=True, text=True)
    told, answers = run.stdout.splitlines()  # its own test has said what it found
    assert "rows, largest difference" in told
    return np.array(json.loads(answers))


@needs_gcc
@pytest.mark.parametrize("kind", TREES)
def test_trees_in_c_answer_to_the_bit(kind, tmp_path):
    parts = packaged(TREES[kind]())
    predict, _ = compiled(code_of(parts, "trees", "trees@v1"), tmp_path)
    rows = odd_rows()
    np.testing.assert_array_equal(predict(rows), answered(parts, rows))


@needs_node
@pytest.mark.parametrize("kind", IN_JAVASCRIPT)
def test_trees_in_javascript_answer_the_same(kind, tmp_path):
    parts = packaged(TREES[kind]())
    code = code_of(parts, "trees", "trees@v1")
    rows = odd_rows()
    found, wanted = asked_in_node(code, tmp_path, rows), answered(parts, rows)
    # JavaScript's exp and log are its engine's own; what has none of them is equal to the bit
    exact = code.source.link in {"identity", "hinge", "signed-square"}
    np.testing.assert_allclose(found, wanted, rtol=0.0 if exact else code.tolerance, atol=0.0 if exact else 1e-15)


def forms():
    random = np.random.default_rng(5)
    several = tuple(map(tuple, random.normal(size=(3, 5)).tolist()))
    table = tuple(map(tuple, random.normal(size=(71, 3)).tolist()))
    for link in ("identity", "softmax", "one-vs-rest", "exp", "logit"):
        yield Linear(weights=several, intercept=(0.1, -0.2, 0.3), link=link, fill=(0.5, None, None, -1.0, None),
                     tables={"2": table})  # fmt: skip


@pytest.mark.parametrize("form", list(forms()), ids=lambda form: form.link)
def test_linear_models_fill_and_look_up(form, tmp_path):
    from kilter.packaging.linear import LinearModel
    from kilter.packaging.native import ModelSpec

    rows = odd_rows()
    rows = np.clip(rows[np.isfinite(np.nan_to_num(rows, nan=0.0)).all(axis=1)], -5.0, 200.0)
    model = LinearModel(ModelSpec(flavor="linear", columns=5, outputs=3), msgspec.json.encode(form))
    with np.errstate(invalid="ignore"):  # what stays missing is NaN in the answer
        wanted = np.frombuffer(model.predict(rows.tobytes(), *rows.shape)).reshape(len(rows), 3)
    code = Code("lin", "lin@v1", form, NAMES, {"city": CITIES}, ("x", "y", "z"), 1e-12, rows[:32], wanted[:32])
    if shutil.which("gcc"):
        predict, _ = compiled(code, tmp_path)
        np.testing.assert_allclose(predict(rows), wanted, rtol=1e-12, atol=1e-12)
    if shutil.which("node"):
        found = asked_in_node(finite(code), tmp_path, rows[~np.isnan(wanted).any(axis=1)])
        np.testing.assert_allclose(found, wanted[~np.isnan(wanted).any(axis=1)], rtol=1e-12, atol=1e-12)


def finite(code: Code) -> Code:
    whole = ~np.isnan(code.values).any(axis=1)
    return code._replace(rows=code.rows[whole], values=code.values[whole])


def test_a_pipeline_is_written_as_the_linear_model_that_it_is(tmp_path):
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    X, kind = training()
    model = make_pipeline(StandardScaler(), linear_model.LogisticRegression()).fit(np.nan_to_num(X), kind > 0)
    parts = packaged(model, NUMBERS)
    code = code_of(parts, "Late Flights!", "late-flights@v1")
    assert isinstance(code.source, Linear)
    assert code.name == "late_flights"
    rows = np.nan_to_num(odd_rows()[16:])
    if shutil.which("gcc"):
        predict, _ = compiled(code, tmp_path)
        np.testing.assert_allclose(predict(rows), answered(parts, rows), rtol=1e-9)


@needs_gcc
def test_categories_and_names_are_there_in_c(tmp_path):
    code = code_of(packaged(grown("binary")), "trees", "trees@v1 */")
    _, library = compiled(code, tmp_path)
    library.trees_category.argtypes, library.trees_category.restype = [ctypes.c_int, ctypes.c_char_p], ctypes.c_double
    assert library.trees_category(2, b"city 69") == 69.0
    assert all(
        np.isnan(library.trees_category(*asked)) for asked in ((2, b"town"), (0, b"city 1"), (9, b""), (-1, b""))
    )
    names = (ctypes.c_char_p * 5).in_dll(library, "trees_input_names")
    assert [name.decode() for name in names] == list(NAMES)


@needs_node
def test_javascript_makes_rows_of_records(tmp_path):
    code = code_of(packaged(grown("binary")), "trees", "trees@v1")
    written({**js_files(code), "test_vector.json": vector_of(code)}, tmp_path)
    script = (
        'import { encode, predict } from "./trees.mjs";\n'
        'const row = encode({ a: 1.5, b: true, city: "city 3", d: null });\n'
        'console.log(JSON.stringify([row.map(String), encode({ city: "constructor" }).map(String)]));\n'
        "for (const bad of [() => encode({ a: '1' }), () => predict([1])])\n"
        "  try { bad(); console.log('taken'); } catch (error) { console.log(error.name); }\n"
    )
    (tmp_path / "ask.mjs").write_text(script)
    run = subprocess.run(["node", "ask.mjs"], cwd=tmp_path, check=True, capture_output=True, text=True)
    rows, first, second = run.stdout.splitlines()
    assert json.loads(rows) == [["1.5", "1", "3", "NaN", "NaN"], ["NaN"] * 5]
    assert (first, second) == ("TypeError", "RangeError")


def test_early_stopping_counts(tmp_path):
    booster = boosted("binary:logistic", 12)
    booster.set_attr(best_iteration="4")
    parts = packaged(booster)
    assert parts.manifest.iterations == 5
    assert len(code_of(parts, "trees", "").source.trees) == 5


def test_what_has_no_source_code_is_refused():
    from sklearn.ensemble import RandomForestClassifier

    X, kind = training()
    refused = {
        "linear functions": lambda: packaged(grown("regression", linear_tree=True, of="p")),
        "booster 'dart'": lambda: packaged(boosted("binary:logistic", booster="dart")),
        "'survival:cox'": lambda: packaged(boosted("survival:cox", of="p")),
        "format skops": lambda: packaged(RandomForestClassifier(2).fit(np.nan_to_num(X), kind > 0), NUMBERS),
        "format constant": lambda: packaged(Constant(0.5), label="binary"),
    }
    for said, make in refused.items():
        with pytest.raises(InvalidInput, match=said):
            code_of(make(), "m", "")


def test_a_model_that_would_answer_differently_is_refused():
    parts = packaged(grown("binary"))
    text = parts.model.replace(b"sigmoid:1", b"sigmoid:2")
    with pytest.raises(InvalidInput, match="answers differently"):
        code_of(parts._replace(model=text), "m", "")
    with pytest.raises(Damaged):
        code_of(parts._replace(model=b"tree\nnothing"), "m", "")


def test_the_same_model_gives_the_same_bytes():
    one, two = (code_of(packaged(TREES["xgboost softprob"]()), "trees", "trees@v1") for _ in range(2))
    assert c_files(one) == c_files(two)
    assert js_files(one) == js_files(two)
    assert vector_of(one) == vector_of(two)
    assert [identifier(name) for name in ("churn", "3-d", "--x--y")] == ["churn", "model_3_d", "x_y"]
