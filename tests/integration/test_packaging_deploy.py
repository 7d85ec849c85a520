"""A model in a notebook or a file becomes an endpoint that answers, and the next one takes its place."""

from __future__ import annotations

import json

import numpy as np
import pytest

import kilter
from kilter.cli.main import main
from kilter.core.errors import Conflict, InvalidInput, NotFound
from kilter.loop.workspace import Workspace
from kilter.packaging.bundle import load
from kilter.testing.server import RunningServer

pytest.importorskip("skops")
lightgbm = pytest.importorskip("lightgbm")
xgboost = pytest.importorskip("xgboost")
linear_model = pytest.importorskip("sklearn.linear_model")


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(1)
    X = random.normal(size=(200, 3))
    return X, (X[:, 0] > 0).astype(int)


def logistic(X, y):
    return linear_model.LogisticRegression().fit(X, y)


def test_deploying_again_is_the_next_version(data, tmp_path):
    X, y = data
    told = []
    first = kilter.deploy(logistic(X, y), name="churn", example=X[:5], store=tmp_path, tell=told.append)
    assert (first.reference, first.generation, first.address) == ("churn@v1", 1, "")
    assert len(told) == 2
    assert "kilter up" in str(first)
    second = kilter.deploy(logistic(X, 1 - y), name="churn", example=X[:5], store=tmp_path, fallback=0.5)
    assert (second.version, second.generation) == (2, 2)
    with Workspace.open(tmp_path) as workspace:
        plan = workspace.endpoints.plan("churn")
        assert (plan.champion, plan.warm, plan.mode, plan.fallback) == (2, (1,), "solo", 0.5)
        assert workspace.models.get("churn").version == 2
        assert workspace.models.get("churn", 1).stage == "retired"
        events = workspace.journal.events(subject="churn")
        assert [event.kind for event in events] == ["Deployed", "Deployed"]
        np.testing.assert_allclose(
            load(second.bundle, workspace.objects).predict(X), logistic(X, 1 - y).predict_proba(X)[:, 1]
        )


@pytest.mark.parametrize("frame", [False, True])
def test_rows_of_32_bits_are_no_reason_to_refuse(data, tmp_path, frame):
    X, y = data[0].astype("float32"), data[1]
    pipeline = pytest.importorskip("sklearn.pipeline")
    model = pipeline.make_pipeline(pytest.importorskip("sklearn.preprocessing").StandardScaler(), logistic(X, y)).fit(
        X, y
    )
    example = pytest.importorskip("pandas").DataFrame(X, columns=list("abc")) if frame else X
    made = kilter.deploy(model.fit(example, y), name="single", example=example[:50], store=tmp_path)
    with Workspace.open(tmp_path) as workspace:
        answers = load(made.bundle, workspace.objects).predict(X.astype(float))
    np.testing.assert_allclose(answers, model.predict_proba(example)[:, 1], atol=1e-5)


def test_a_front_answers_with_what_was_deployed_and_swaps(data, tmp_path, house):
    X, y = data
    model = logistic(X, y)
    kilter.deploy(model, name="churn", example=X[:5], store=tmp_path)
    running = house(tmp_path)
    running.serve()
    running.until(lambda: running.workspace.endpoints.applied("churn") == 1)
    deployed = kilter.deploy(logistic(X, 1 - y), name="churn", example=X[:5], store=tmp_path)
    assert deployed.address.endswith("/predict/churn")
    assert deployed.address.startswith("http://127.0.0.1:")
    running.until(lambda: running.workspace.endpoints.applied("churn") == 2)


def test_a_loop_keeps_its_endpoint(data, tmp_path, shop):
    X, y = data
    with Workspace.open(tmp_path) as workspace:
        workspace.loops.apply(shop, "shop.py", by="test")
    with pytest.raises(Conflict, match="loop 'shop'"):
        kilter.deploy(logistic(X, y), name="shop", example=X[:5], store=tmp_path)


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (np.zeros((0, 3)), "shape"),
        (np.zeros(3), r"write \[row\]"),
        (np.zeros((2, 4)), "features"),
        ([["a", "b", "c"]], "other things than numbers"),
        ([{"x0": 1, "x1": "a", "x2": object()}], "input .x2. is a column of Object"),
    ],
)
def test_an_example_that_does_not_fit_is_refused(data, tmp_path, example, message):
    with pytest.raises(InvalidInput, match=message):
        kilter.deploy(logistic(*data), name="churn", example=example, store=tmp_path)
    with Workspace.open(tmp_path) as workspace, pytest.raises(NotFound):
        workspace.endpoints.plan("churn")


@pytest.mark.parametrize("name", ["Churn", "a b", "", "-"])
def test_a_name_that_is_none_is_refused(data, tmp_path, name):
    with pytest.raises(InvalidInput):
        kilter.deploy(logistic(*data), name=name, example=data[0][:5], store=tmp_path)


def test_classifiers_without_probabilities_are_told_what_to_do(data, tmp_path):
    from sklearn.svm import LinearSVC

    with pytest.raises(InvalidInput, match="CalibratedClassifierCV"):
        kilter.deploy(LinearSVC().fit(*data), name="churn", example=data[0][:5], store=tmp_path)


def test_frames_name_and_type_the_inputs(data, tmp_path):
    pandas = pytest.importorskip("pandas")
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    X, y = data
    frame = pandas.DataFrame(X, columns=["a", "b", "c"])
    frame["kind"] = np.where(X[:, 1] > 0, "wide", np.where(X[:, 2] > 0, "tall", "flat"))
    columns = ColumnTransformer([("n", StandardScaler(), ["a", "b"]), ("k", OneHotEncoder(), ["kind"])])
    model = make_pipeline(columns, linear_model.LogisticRegression()).fit(frame, y)
    deployed = kilter.deploy(model, name="churn", example=frame[:2], store=tmp_path)  # two rows don't show every kind
    with Workspace.open(tmp_path) as workspace:
        runtime = load(deployed.bundle, workspace.objects)
    assert runtime.encoding.names == ("a", "b", "c", "kind")
    assert runtime.encoding.categories == {"kind": ("flat", "tall", "wide")}
    rows = runtime.encoding.rows(frame.to_dict("records"))
    np.testing.assert_allclose(runtime.predict(rows), model.predict_proba(frame)[:, 1], atol=1e-12)

    plain = linear_model.LogisticRegression().fit(frame[["a", "b"]], y)
    deployed = kilter.deploy(plain, name="plain", example=frame[["a", "b"]][:2], store=tmp_path)
    with Workspace.open(tmp_path) as workspace:
        runtime = load(deployed.bundle, workspace.objects)
    assert runtime.manifest.frame == ""
    assert runtime.encoding.names == ("a", "b")
    np.testing.assert_allclose(runtime.predict(X[:, :2]), plain.predict_proba(frame[["a", "b"]])[:, 1], atol=1e-12)


def test_categories_of_a_booster_keep_their_order(data, tmp_path):
    pandas = pytest.importorskip("pandas")
    X, y = data
    frame = pandas.DataFrame({"a": X[:, 0], "kind": np.where(X[:, 1] > 0, "wide", "flat")})
    frame["kind"] = pandas.Categorical(frame["kind"], categories=["wide", "flat"])
    for model in (
        lightgbm.LGBMClassifier(n_estimators=5, n_jobs=1, verbosity=-1).fit(frame, y),
        xgboost.XGBClassifier(n_estimators=5, n_jobs=1, enable_categorical=True).fit(frame, y),
    ):
        deployed = kilter.deploy(model, name="churn", example=frame[:9], store=tmp_path)
        with Workspace.open(tmp_path) as workspace:
            runtime = load(deployed.bundle, workspace.objects)
        rows = runtime.encoding.rows(frame.astype({"kind": object}).to_dict("records"))
        np.testing.assert_allclose(runtime.predict(rows), model.predict_proba(frame)[:, 1], atol=1e-6)


def test_files_are_deployed_from_the_command_line(data, tmp_path, capsys):
    import skops.io

    X, y = data
    booster = xgboost.train({"objective": "binary:logistic"}, xgboost.DMatrix(X, y), 3)
    booster.save_model(tmp_path / "m.ubj")
    booster.save_model(tmp_path / "m.json")
    lightgbm.train({"objective": "binary", "verbosity": -1}, lightgbm.Dataset(X, y), 3).save_model(tmp_path / "m.txt")
    skops.io.dump(logistic(X, y), tmp_path / "m.skops")
    np.save(tmp_path / "rows.npy", X[:10])
    store = ["--store", str(tmp_path / "store"), "--json"]
    for number, name in enumerate(("m.ubj", "m.json", "m.txt", "m.skops"), 1):
        example = ["--example", str(tmp_path / "rows.npy")] if number % 2 else []
        assert main(["deploy", str(tmp_path / name), "--name", "churn", *example, *store]) == 0
        assert json.loads(capsys.readouterr().out)["version"] == number
    (tmp_path / "m.pkl").write_bytes(b"cos\nsystem\n")
    (tmp_path / "bad.ubj").write_bytes(b"nothing")
    for name, words in (
        ("m.pkl", "pickle"),
        ("m.h5", "no model's"),
        ("none.ubj", "no such file"),
        ("bad.ubj", "XGBoost"),
    ):
        assert main(["deploy", str(tmp_path / name), "--name", "churn", *store]) in {1, 2}
        assert words in capsys.readouterr().out


def test_through_a_server(data, tmp_path):
    X, y = data
    store = tmp_path / "store"
    with RunningServer(store) as running, kilter.connect(running.url, running.token) as remote:
        from kilter.loop.versions.deploy import deploy_to, packaged

        deployed = deploy_to(remote, logistic(X, y), name="churn", example=X[:5])
        assert deployed.reference == "churn@v1"
        parts = packaged(logistic(X, y), X[:5])
        assert remote.deployments.bundle(deployed.bundle) == parts.manifest
        assert remote.deployments.file(deployed.bundle, "model") == parts.model
        assert remote.deployments.file(deployed.bundle, "model", len(parts.model)) == b""
        with pytest.raises(InvalidInput, match="bytes"):
            remote.deployments.release("churn", parts.manifest, (), parts.example)
