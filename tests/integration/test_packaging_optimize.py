"""The fastest form of a version that gives the same answers becomes the next version."""

from __future__ import annotations

import json

import numpy as np
import pytest

import kilter
from kilter.cli.main import main
from kilter.loop.versions.optimizing import optimize
from kilter.loop.workspace import Workspace
from kilter.packaging.bundle import load

pytest.importorskip("skops")
pytest.importorskip("skl2onnx")
xgboost = pytest.importorskip("xgboost")
linear_model = pytest.importorskip("sklearn.linear_model")


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(1)
    X = random.normal(size=(200, 3))
    return X, (X[:, 0] > 0).astype(int)


def test_a_linear_pipeline_is_folded_and_deployed(data, tmp_path, capsys):
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    X, y = data
    model = make_pipeline(StandardScaler(), linear_model.LogisticRegression()).fit(X, y)
    kilter.deploy(model, name="churn", example=X[:50], store=tmp_path)
    store = ["--store", str(tmp_path)]
    assert main(["optimize", "churn", *store]) == 0
    shown = capsys.readouterr().out
    assert "kept" in shown
    assert "--apply" in shown
    assert main(["optimize", "churn@v1", "--apply", "--json", *store]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kept"] == "folded"  # half a millisecond against some microseconds
    assert [form["name"] for form in found["forms"]] == ["native", "folded", "onnx", "int8"]
    assert found["forms"][3]["note"] == "there are no matrices to quantise"
    with Workspace.open(tmp_path) as workspace:
        version = workspace.models.get("churn")
        assert version.reference == "churn@v2"
        assert version.lineage.params["made_from"] == "churn@v1"
        runtime = load(version.bundle, workspace.objects)
        assert runtime.manifest.flavor == "linear"
        np.testing.assert_allclose(runtime.predict(X), model.predict_proba(X)[:, 1], atol=1e-12)


def test_a_form_that_differs_is_not_kept(data, tmp_path):
    from sklearn.neural_network import MLPRegressor

    X, _ = data
    model = MLPRegressor(hidden_layer_sizes=(64, 64), max_iter=30, random_state=0, tol=1.0).fit(X, X[:, 0])
    kilter.deploy(model, name="churn", example=X[:50], store=tmp_path)
    with Workspace.open(tmp_path) as workspace:
        strict = optimize(workspace, "churn", tolerance=0.0)
        assert strict.kept == "native"
        assert [form.agrees for form in strict.forms] == [True, False, False, False]
        loose = optimize(workspace, "churn@v1", tolerance=0.5)
        assert loose.kept in {"onnx", "int8"}
        assert loose.forms[3].size < loose.forms[2].size
        assert workspace.models.get("churn").version == 1  # nothing was to be applied


def test_optimizing_while_deploying(data, tmp_path):
    X, y = data
    model = xgboost.XGBClassifier(n_estimators=20, n_jobs=1).fit(X, y)
    told = []
    deployed = kilter.deploy(model, name="churn", example=X[:50], store=tmp_path, optimize=True, tell=told.append)
    assert any(line.startswith("kept the") for line in told)
    with Workspace.open(tmp_path) as workspace:
        runtime = load(deployed.bundle, workspace.objects)
        np.testing.assert_allclose(runtime.predict(X), model.predict_proba(X)[:, 1], atol=1e-5)
