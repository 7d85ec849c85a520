"""ONNX graphs for devices: equal to the packaged model on its rows, with what one has to know to ask them."""

import json

import numpy as np
import pytest

import kilter
from kilter.cli.main import main

pytest.importorskip("skl2onnx")
pytest.importorskip("skops")
onnxruntime = pytest.importorskip("onnxruntime")
xgboost = pytest.importorskip("xgboost")
neural_network = pytest.importorskip("sklearn.neural_network")


@pytest.fixture(scope="module")
def data():
    X = np.random.default_rng(1).normal(size=(300, 20))
    return X, (X[:, 0] * X[:, 1] > 0).astype(int)


def exported(model, rows, folder):
    kilter.deploy(model, name="tiny", example=rows, store=folder / "store")
    out = folder / "out"
    code = main(["export", "tiny", "--target", "edge", "--out", str(out), "--store", str(folder / "store")])
    return code, out


def asked(file, vector):
    """Return what a graph answers to the rows of a test vector."""
    session = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    kind = np.float32 if given.type == "tensor(float)" else np.float64
    rows = np.array([[np.nan if value is None else value for value in row] for row in vector["rows"]], dtype=kind)
    return session.run(None, {given.name: rows})[-1][:, -1]


def test_a_booster_becomes_a_graph(data, tmp_path):
    X, y = data
    code, out = exported(xgboost.XGBClassifier(n_estimators=5, max_depth=3, n_jobs=1).fit(X, y), X[:40], tmp_path)
    assert code == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "graphs.json",
        "kilter_edge",
        "manifest.json",
        "test_vector.json",
        "tiny.onnx",
    ]
    arguments = ["export", "tiny", "--target", "edge", "--store", str(tmp_path / "store"), "--out"]
    assert main([*arguments, str(tmp_path / "again")]) == 0
    for path in (one for one in out.rglob("*") if one.is_file()):
        assert (tmp_path / "again" / path.relative_to(out)).read_bytes() == path.read_bytes()
    vector = json.loads((out / "test_vector.json").read_text())
    np.testing.assert_allclose(asked(out / "tiny.onnx", vector), np.ravel(vector["answers"]), atol=1e-5)
    (graph,) = json.loads((out / "graphs.json").read_text())["graphs"]
    assert graph["difference"] <= graph["tolerance"] == vector["tolerance"] == 1e-5
    assert graph["inputs"][0]["shape"][-1] == 20


def test_a_network_gets_eight_bits_where_they_agree(data, tmp_path):
    X, y = data
    model = neural_network.MLPClassifier((64,), max_iter=300, tol=0.1, random_state=0).fit(X, y)
    code, out = exported(model, X[:40], tmp_path)
    assert code == 0
    vector = json.loads((out / "test_vector.json").read_text())
    graphs = {one["file"]: one for one in json.loads((out / "graphs.json").read_text())["graphs"]}
    assert set(graphs) == {"tiny.onnx", "tiny.int8.onnx"}
    for file, graph in graphs.items():
        wanted = np.ravel(vector["answers"])
        np.testing.assert_allclose(asked(out / file, vector), wanted, atol=graph["tolerance"])
    assert (out / "tiny.int8.onnx").stat().st_size < (out / "tiny.onnx").stat().st_size


def test_what_has_no_graph_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KILTER_TRUST", str(tmp_path / "trusted"))
    code, out = exported(first, np.ones((2, 2)), tmp_path)
    assert code == 2
    assert "no form in ONNX" in capsys.readouterr().err
    assert not out.exists()


def first(X):
    return X[:, 0]
