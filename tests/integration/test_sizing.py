"""``kilter bench`` measures a version on a front of its own, and plans for a load from what it measured."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import numpy as np
import pytest

import kilter
from kilter.cli.main import main
from kilter.core.errors import InvalidInput, NotFound
from kilter.loop.versions.sizing import Bench, bench, plan
from kilter.loop.workspace import Workspace
from kilter.serving.load import Point

sklearn = pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    from sklearn.linear_model import LogisticRegression

    folder = tmp_path_factory.mktemp("bench")
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(60, 3))
    model = LogisticRegression().fit(rows, rows.sum(axis=1) > 0)
    kilter.deploy(model, name="sums", example=rows, store=folder)
    return folder


def test_the_curve_of_a_version(store, capsys):
    given = ["bench", "sums", "--store", str(store), "--callers", "1,8", "--seconds", "0.3", "--rate", "10"]
    assert main([*given, "--p99", "10s", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [point["callers"] for point in found["points"]] == [1, 8]
    for point in found["points"]:
        assert point["requests_per_second"] > 0
        assert 0 < point["p50_ms"] <= point["p99_ms"]
        assert point["refused"] == 0
        assert point["cpu_us"] is None or point["cpu_us"] > 0
    assert found["capacity"]["machines"] == 1
    assert (found["model"], found["version"]) == ("sums", 1)
    with Workspace.open(store) as workspace:  # nothing of it is on record
        log = workspace.prediction_logs()
        assert not log.exists() or not list(log.glob("*/*.log"))


def test_many_rows_and_a_plan_that_cannot_be_kept(store, capsys):
    given = ["bench", "sums@v1", "--store", str(store), "--callers", "2", "--seconds", "0.2", "--rows", "50"]
    assert main([*given, "--rate", "1", "--p99", "1ms"]) in {0, 3}
    shown = capsys.readouterr()
    assert "sums@v1" in shown.out
    with Workspace.open(store) as workspace:
        measured = bench(workspace, "sums", callers=[2], rows=50, seconds=0.2)
    (point,) = measured.points
    assert point.rows_per_second == pytest.approx(50 * point.requests_per_second)


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"callers": []}, "callers"),
        ({"callers": [0]}, "callers"),
        ({"rows": 0}, "rows"),
        ({"rows": 10_001}, "rows"),
        ({"seconds": 0.0}, "seconds"),
        ({"seconds": float("nan")}, "seconds"),
        ({"replicas": 0}, "replicas"),
        ({"rate": float("inf")}, "rate"),
        ({"rate": 1.0, "p99_ms": 0.0}, "p99"),
    ],
)
def test_what_cannot_be_measured_is_refused(store, settings, where):
    with Workspace.open(store) as workspace, pytest.raises(InvalidInput) as caught:
        bench(workspace, "sums", **settings)
    assert caught.value.where == where


def test_a_version_that_is_not_there(store):
    with Workspace.open(store) as workspace, pytest.raises(NotFound):
        bench(workspace, "sums@v9")


def points(*measured):
    return tuple(
        Point(callers=callers, rows=2, requests_per_second=rate / 2, rows_per_second=rate, p50_ms=p99 / 2, p99_ms=p99,
              cpu_us=200.0, refused=refused)
        for callers, rate, p99, refused in measured
    )  # fmt: skip


def curve(*measured):
    return Bench(model="m", version=1, runtime="onnx", processors=2, replicas=1, points=points(*measured),
                 cpu_seconds_per_million=100.0)  # fmt: skip


def test_a_plan_takes_the_best_point_that_keeps_the_percentile():
    found = curve((1, 1_000.0, 2.0, 0), (8, 4_000.0, 9.0, 0), (64, 5_000.0, 40.0, 0), (128, 6_000.0, 8.0, 3))
    planned = plan(found, 10_000.0, 10.0)
    assert (planned.met, planned.rows_per_second, planned.machines) == (True, 4_000.0, 4)  # 10,000 / (4,000 * 0.7)
    assert planned.processor_share == pytest.approx(10_000 * 200e-6 / 2 / (4 * 2))
    assert plan(found, 10_000.0, 50.0).machines == 3
    assert plan(found, 1.0, 10.0).machines == 1
    assert not plan(found, 10_000.0, 1.0).met


def test_rows_that_are_looked_up_are_asked_by_their_entity(tmp_path):
    from kilter.data.declare import Table
    from kilter.data.encoding import Encoding
    from kilter.features.declare import features, mean
    from kilter.features.spec import spec_of
    from kilter.loop.versions.sizing import _requests
    from kilter.packaging.bundle import fetch, package
    from kilter.packaging.constant import Constant

    table = Table("flights", key="id", time="at")
    view = features(table, entity="origin", time="left", lag="1h", delay=mean("late", "3h"))
    encoding = Encoding(("carrier", "delay"), ("categorical", "numeric"), {"carrier": ("AA", "UA")})
    with Workspace.open(tmp_path) as workspace:
        bundle = package(Constant(0.5), encoding, np.array([[1.0, 2.0], [-1.0, 3.0]]), [spec_of(view)],
                         workspace.objects, table=table)  # fmt: skip
        parts = fetch(bundle.digest, workspace.objects)
    head, _, body = _requests(parts, "late", 2)[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /predict/late HTTP/1.1")
    first, second = json.loads(body)["rows"]
    assert (first["carrier"], second["carrier"]) == ("UA", None)
    assert first["origin"] == "bench"
    assert first["id"] != second["id"]
    assert datetime.fromisoformat(first["at"]).tzinfo == UTC
