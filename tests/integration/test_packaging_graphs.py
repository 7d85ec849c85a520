"""Several models and functions are one version: packaged, answered, swapped and recorded together."""

from __future__ import annotations

import json

import numpy as np
import pytest

import kilter
from kilter.core.errors import Damaged, Forbidden, InvalidInput
from kilter.loop.versions.deploy import packaged
from kilter.loop.workspace import Workspace
from kilter.packaging.bundle import Runtime, load
from kilter.packaging.graph import Graph, Step
from kilter.packaging.loading import load_model
from kilter.serving.records import TrafficPlan
from kilter.testing.front import RunningFront

lightgbm = pytest.importorskip("lightgbm")
pytest.importorskip("skops")

SCALE = 3.0


def scaled(matrix):
    return matrix / SCALE


def offer(risk, price):
    return price[:, 0] * (1.0 + risk[:, 0])


def widths(first, second):
    return np.column_stack([np.full(len(first), first.shape[1]), np.full(len(first), second.shape[1])])


def failing(matrix):
    raise ValueError(f"secret {matrix[0, 0]}")


@pytest.fixture(autouse=True)
def trusted(tmp_path_factory, monkeypatch):
    file = tmp_path_factory.mktemp("trust") / "trusted"
    monkeypatch.setenv("KILTER_TRUST", str(file))
    return file


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(5).normal(size=(80, 3))


@pytest.fixture(scope="module")
def models(rows):
    from sklearn.linear_model import LinearRegression

    options = {"n_estimators": 5, "num_leaves": 5, "n_jobs": 1, "verbosity": -1, "min_child_samples": 5}
    risk = lightgbm.LGBMClassifier(**options).fit(rows / SCALE, rows[:, 0] > 0)
    price = LinearRegression().fit(np.hstack([rows, rows / SCALE]), rows @ [1.0, 2.0, 3.0])
    kinds = lightgbm.LGBMClassifier(**options).fit(rows, np.digitize(rows[:, 1], [-0.5, 0.5]))
    return {"risk": risk, "price": price, "kinds": kinds}


def offers(models):
    return Graph(
        Step("scaled", scaled),
        Step("risk", models["risk"], of="scaled"),
        Step("price", models["price"], of=("rows", "scaled")),
        Step("offer", offer, of=("risk", "price")),
    )


def by_hand(models, rows):
    risk = models["risk"].predict_proba(rows / SCALE)[:, 1]
    return models["price"].predict(np.hstack([rows, rows / SCALE])) * (1.0 + risk)


def test_a_graph_answers_like_its_steps_one_after_the_other(models, rows, tmp_path):
    deployed = kilter.deploy(offers(models), name="offers", example=rows, store=tmp_path)
    with Workspace.open(tmp_path) as workspace:
        runtime = load(deployed.bundle, workspace.objects)
    np.testing.assert_allclose(runtime.predict(rows), by_hand(models, rows), rtol=1e-12)
    names = {line.partition("==")[0] for line in runtime.manifest.environment}
    assert {"lightgbm", "scikit-learn", "numpy"} <= names
    assert runtime.predict(rows[:0]).shape[0] == 0


def test_every_row_gets_its_own_answer_from_a_front(models, rows, tmp_path):
    with RunningFront(tmp_path) as front:
        from kilter.packaging.bundle import keep

        one = keep(packaged(offers(models), rows), front.objects).digest
        other = Graph(Step("third", scaled), Step("sum", offer, of=("third", "rows")))
        two = keep(packaged(other, rows), front.objects).digest
        front.plan(TrafficPlan(loop="offers", champion=1, bundles={1: one, 2: two}, warm=(2,)), wait=False)
        front.start()
        front.until(lambda: front.endpoints.applied("offers") >= 1)
        named = [dict(zip(("x0", "x1", "x2"), row, strict=True)) for row in rows.tolist()]
        answer = front.client.post("/predict/offers", json={"rows": named})
        assert answer.status_code == 200, answer.text
        values = [one["value"] for one in answer.json()["predictions"]]
        np.testing.assert_allclose(values, by_hand(models, rows), rtol=1e-12)
        front.plan(TrafficPlan(loop="offers", champion=2, bundles={1: one, 2: two}, warm=(1,)))
        answer = front.client.post("/predict/offers", json={"rows": named[:2]})
        expected = rows[:2, 0] * (1.0 + rows[:2, 0] / SCALE)
        np.testing.assert_allclose([one["value"] for one in answer.json()["predictions"]], expected, rtol=1e-12)


def test_several_outputs_and_arguments(models, rows):
    parts = packaged(Graph(Step("kinds", models["kinds"]), Step("count", widths, of=("rows", "kinds"))), rows)
    np.testing.assert_array_equal(Runtime.of(parts).predict(rows)[:1], [[3.0, 3.0]])
    assert parts.manifest.signature.label == "vector"
    parts = packaged(Graph(Step("scaled", scaled), Step("kinds", models["kinds"], of="scaled")), rows)
    assert (parts.manifest.signature.label, parts.manifest.signature.outputs) == ("multiclass", ("0", "1", "2"))


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([], "0 steps"),
        ([Step("rows", scaled)], "can't be a step's name"),
        ([Step("A", scaled)], "can't be a step's name"),
        ([Step("a", scaled), Step("a", scaled, of="a")], "can't be a step's name"),
        ([Step("a", scaled, of="b"), Step("b", scaled, of="a")], "no step b before it"),
        ([Step("a", scaled, of="a")], "no step a before it"),
        ([Step("a", scaled, of=())], "no step to take"),
        ([Step("a", offer, of=("rows", "rows"))], "named twice"),
        ([Step("a", scaled), Step("b", scaled)], "nobody takes what a gives"),
        ([Step(f"s{number}", scaled) for number in range(65)], "65 steps"),
    ],
)
def test_graphs_that_cannot_be_are_refused(steps, message):
    with pytest.raises(InvalidInput, match=message):
        Graph(*steps)


def test_a_step_that_cannot_be_packaged_is_named(models, rows):
    with pytest.raises(InvalidInput) as caught:
        packaged(Graph(Step("scaled", scaled), Step("odd", object(), of="scaled")), rows)
    assert caught.value.where == "graph.odd"
    with pytest.raises(InvalidInput, match="graph itself") as caught:
        Graph(Step("inner", offers(models)))
    assert caught.value.where == "graph.inner"
    with pytest.raises(InvalidInput) as caught:
        packaged(Graph(Step("bad", failing)), rows)
    assert caught.value.where == "graph.bad"


def test_functions_inside_are_run_only_where_they_are_trusted(models, rows, trusted):
    parts = packaged(offers(models), rows)
    trusted.unlink()
    with pytest.raises(Forbidden):
        Runtime.of(parts)


def test_bytes_that_are_no_graph_are_refused(models, rows):
    parts = packaged(offers(models), rows)
    spec = parts.manifest.spec()
    size = int.from_bytes(parts.model[:8], "little")
    head = json.loads(parts.model[8 : 8 + size])
    for data in (b"", b"\x00" * 8, parts.model[:-1], parts.model + b"x", parts.model[:40]):
        with pytest.raises(Damaged):
            load_model(spec, data)
    for change in ({"inputs": ["later"]}, {"digest": "0" * 64}, {"size": 3}):
        other = json.dumps([{**head[0], **change}, *head[1:]]).encode()
        with pytest.raises(Damaged):
            load_model(spec, len(other).to_bytes(8, "little") + other + parts.model[8 + size :])
