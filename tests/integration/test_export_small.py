"""Smaller forms of a model: quantised, pruned, distilled; each is judged on size and loss, and refused with what was measured."""

import json

import numpy as np
import pytest

import kilter
from kilter.cli.main import main
from kilter.core.errors import GateRefused, InvalidInput
from kilter.loop.workspace import Workspace
from kilter.packaging.bundle import Runtime, fetch
from kilter.packaging.compression import Limits
from kilter.packaging.distillation import distil, munged
from kilter.packaging.export.graph import _as_graph as as_graph
from kilter.packaging.pruning import prune_module, pruned, sparsity
from kilter.packaging.quantisation import answers_of, judged, quantise

pytest.importorskip("skl2onnx")
pytest.importorskip("onnxmltools")
pytest.importorskip("skops")
onnx = pytest.importorskip("onnx")
lightgbm = pytest.importorskip("lightgbm")
neural_network = pytest.importorskip("sklearn.neural_network")


@pytest.fixture(scope="module")
def data():
    X = np.random.default_rng(1).normal(size=(600, 20)).astype(np.float32).astype(float)
    return X, (X[:, 0] * X[:, 1] + X[:, 2] > 0).astype(int)


@pytest.fixture(scope="module")
def store(tmp_path_factory, data):
    """A store with a network and with trees."""
    X, y = data
    store = tmp_path_factory.mktemp("store")
    net = neural_network.MLPClassifier((64, 32), max_iter=60, tol=0.01, random_state=0).fit(X, y)
    kilter.deploy(net, name="net", example=X[:200], store=store)
    trees = lightgbm.LGBMClassifier(n_estimators=150, num_leaves=31, n_jobs=1, verbose=-1).fit(X, y)
    kilter.deploy(trees, name="trees", example=X[:200], store=store)
    return store


@pytest.fixture(scope="module")
def bundles(store):
    """Their bundles."""
    with Workspace.open(store) as workspace:
        return {name: fetch(workspace.models.get(name).bundle, workspace.objects) for name in ("net", "trees")}


@pytest.fixture(scope="module")
def graph(bundles):
    """The network as a graph."""
    return as_graph(bundles["net"])


def export(store, model, out, *more):
    return main(["export", model, "--target", "edge", "--out", str(out), "--store", str(store), *more])


@pytest.mark.parametrize("method", ["dynamic", "static"])
def test_eight_bits_are_smaller_and_nearly_right(graph, data, method):
    rows = data[0][:200]
    made = quantise(graph, method, rows[:100])
    initializers = onnx.load_model_from_string(made).graph.initializer
    assert onnx.TensorProto.INT8 in {one.data_type for one in initializers}
    assert len(made) < 0.6 * len(graph.model)
    apart = np.abs(answers_of(graph, made, rows[100:]) - answers_of(graph, graph.model, rows[100:]))
    assert 0 < apart.max() < 0.1


def test_the_best_that_passed_comes_first(graph, data):
    rows = data[0][:200]
    wanted = np.array(graph.manifest.example_values).reshape(200, 1)
    found = judged(graph, wanted, rows, Limits(loss=0.2))
    assert {one.form for one, _ in found} == {"int8 dynamic", "int8 static"}
    assert all(one.passed and one.rows == 100 and one.size == len(made) for one, made in found)
    assert found[0][0].size <= found[1][0].size
    (strict, _), *_ = judged(graph, wanted, rows, Limits(loss=1e-9, flips=0.0, share=0.01, size=10, packed=10))
    assert len(strict.missed) >= 4


def test_the_command_line_writes_the_table_and_keeps_to_the_limits(store, tmp_path, capsys):
    assert export(store, "net", tmp_path / "out", "--quantise", "best", "--max-loss", "0.1", "--max-size", "60%") == 0
    said = capsys.readouterr().out
    assert "int8 dynamic" in said
    assert "passed" in said
    about = json.loads((tmp_path / "out" / "graphs.json").read_text())
    assert [one["file"] for one in about["graphs"]] == ["net.onnx", "net.int8.onnx"]
    assert {one["form"] for one in about["scores"]} == {"int8 dynamic", "int8 static"}
    assert (tmp_path / "out" / "net.int8.onnx").stat().st_size < 0.6 * (tmp_path / "out" / "net.onnx").stat().st_size
    assert export(store, "net", tmp_path / "again", "--quantise", "best", "--max-loss", "0.1", "--max-size", "60%") == 0
    for path in (tmp_path / "out").iterdir():
        if path.is_file():
            assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("limits", "missed"),
    [(["--max-loss", "0.0000001"], "a loss of 1e-07, with 0."), (["--max-size", "1kB"], "1,000 bytes, with ")],
)
def test_a_limit_that_is_missed_is_refused_with_the_figures(store, tmp_path, capsys, limits, missed):
    assert export(store, "net", tmp_path / "out", "--quantise", "dynamic", *limits) == 3
    said = capsys.readouterr().err
    assert missed in said
    assert "measured on 100 rows" in said
    assert not (tmp_path / "out").exists()


def test_trees_have_nothing_to_quantise(store, tmp_path, capsys):
    assert export(store, "trees", tmp_path / "out", "--quantise", "static") == 2
    assert "nothing in the graph to quantise" in capsys.readouterr().err
    assert export(store, "trees", tmp_path / "out") == 0
    assert json.loads((tmp_path / "out" / "graphs.json").read_text())["scores"] == []


def test_options_of_devices_belong_to_devices(store, tmp_path):
    arguments = ["export", "net", "--out", str(tmp_path / "out"), "--store", str(store), "--target"]
    for wrong in (
        ["c", "--quantise", "static"],
        ["browser", "--max-loss", "1"],
        ["edge", "--runtime-from", "x"],
        ["edge", "--publish"],
        ["edge", "--sign", "key", "--sequence", "0"],
        ["edge", "--max-size", "much"],
        ["edge", "--quantise", "dynamic", "--max-loss", "-1"],
    ):
        assert main([*arguments, *wrong]) == 2
    assert not (tmp_path / "out").exists()


def test_pruned_weights_are_zero_and_the_gate_holds(graph):
    data, judged_ = pruned(graph, 0.3, Limits(loss=0.5))
    assert sparsity(data) == pytest.approx(0.3, abs=0.01)
    assert judged_.packed < pruned(graph, 0.0, Limits(loss=0.5))[1].packed
    assert pruned(graph, 0.0)[1].loss < 1e-5
    with pytest.raises(GateRefused, match=r"pruned 90%: it missed a loss of 0.01.*decisions changed"):
        pruned(graph, 0.9)
    with pytest.raises(InvalidInput):
        pruned(graph, 1.0)


def test_trees_have_no_weights_to_prune(bundles):
    with pytest.raises(InvalidInput, match="no matrices of weights"):
        pruned(as_graph(bundles["trees"]), 0.5)


def test_a_torch_module_is_pruned_in_a_copy():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
    made = prune_module(module, 0.5)
    for before, after in zip(module.parameters(), made.parameters(), strict=True):
        if before.ndim > 1:
            assert (after == 0).float().mean() == 0.5
            assert before[after != 0].abs().min() >= before[after == 0].abs().max()
            assert (before[after != 0] == after[after != 0]).all()
        else:
            assert (before == after).all()
    assert not (next(module.parameters()) == 0).any()


@pytest.mark.parametrize(("teacher", "student"), [("trees", "trees"), ("trees", "net"), ("net", "net")])
def test_a_student_learns_the_teachers_answers(bundles, data, teacher, student):
    limits = Limits(loss=1.0, flips=0.2, share=0.6)
    large = bundles[teacher]
    made = distil(large, data[0], student=student, trees=40, hidden=(16,), made_up=2000, limits=limits)
    assert made.score.rows == 100
    assert len(made.parts.model) == made.score.size < 0.6 * len(large.model)
    assert made.parts.manifest.signature == large.manifest.signature
    wanted, found = (Runtime.of(one).predict(data[0][200:]) for one in (large, made.parts))
    assert np.corrcoef(wanted, found)[0, 1] > 0.8
    with pytest.raises(GateRefused, match=f"distilled {student}: it missed a loss of 0.0001"):
        distil(large, student=student, trees=1, hidden=(2,), made_up=100, limits=Limits(loss=1e-4))


def test_several_classes_and_values_are_distilled(tmp_path, data):
    X, _ = data
    y = np.digitize(X[:, 0] + X[:, 1], [-0.5, 0.5])
    trees = lightgbm.LGBMClassifier(n_estimators=60, n_jobs=1, verbose=-1).fit(X, y)
    kilter.deploy(trees, name="grades", example=X[:100], store=tmp_path / "store")
    values = lightgbm.LGBMRegressor(n_estimators=60, n_jobs=1, verbose=-1).fit(X, X[:, 0] * 3)
    kilter.deploy(values, name="prices", example=X[:100], store=tmp_path / "store")
    with Workspace.open(tmp_path / "store") as workspace:
        for name in ("grades", "prices"):
            parts = fetch(workspace.models.get(name).bundle, workspace.objects)
            made = distil(parts, X, trees=10, made_up=500, limits=Limits(loss=2.0, flips=0.3))
            assert made.parts.manifest.signature.outputs == parts.manifest.signature.outputs
            assert made.score.share < 0.5


def test_rows_are_made_up_between_the_given_ones():
    random = np.random.default_rng(0)
    rows = np.column_stack([random.normal(size=50), random.integers(0, 3, 50), random.integers(0, 9, 50)]).astype(float)
    rows[0, 0] = np.nan
    made = munged(rows, 200, {1}, seed=1)
    assert made.shape == (200, 3)
    assert set(made[:, 1]) <= {0.0, 1.0, 2.0}
    assert np.array_equal(made[:, 2], np.round(made[:, 2]))
    assert np.array_equal(made, munged(rows, 200, {1}, seed=1), equal_nan=True)
    assert not np.array_equal(made, munged(rows, 200, {1}, seed=2), equal_nan=True)
