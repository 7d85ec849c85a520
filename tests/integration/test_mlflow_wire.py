"""MLflow's own client, unmodified, against a running server: what it logs comes back, by its wire and by ours."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import math
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from kilter.loop.workspace import connect
from kilter.testing.server import RunningServer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:mlflow.*"),
    pytest.mark.filterwarnings("ignore:.*:FutureWarning:mlflow.*"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning:mlflow.*"),
    # the client leaves its kept connections to the garbage collector
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory) -> ModuleType:
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    return pytest.importorskip("mlflow")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    store = tmp_path_factory.mktemp("wire") / "store"
    with RunningServer(store, KILTER_VIEWER_TOKEN="viewer-of-the-test") as running:
        yield running.url, running.token


@pytest.fixture
def client(mlflow, server):
    mlflow.set_tracking_uri(server[0])
    return mlflow.MlflowClient(server[0])


@pytest.fixture
def experiment(client, request) -> str:
    return str(client.create_experiment(f"{request.node.name}"))


def code_of(mlflow: ModuleType, act: Any) -> tuple[str, str]:
    with pytest.raises(mlflow.exceptions.MlflowException) as caught:
        act()
    return caught.value.error_code, str(caught.value)


def test_a_run_is_logged_and_read(mlflow, client, server, experiment):
    mlflow.set_experiment(experiment_id=experiment)
    with mlflow.start_run(run_name="first", description="about it") as active:
        mlflow.log_params({"lr": 0.1, "trees": 80, "kind": "tree"})
        mlflow.log_metric("auc", 0.5, step=2**53 + 1)
        mlflow.log_metrics({"auc": 0.7, "loss": math.nan, "up": math.inf, "down": -math.inf}, step=2**62)
        mlflow.set_tags({"team": "ops", "gone": "x"})
        mlflow.delete_tag("gone")
        mlflow.log_text("grüße", "notes/a b.txt")
        mlflow.log_dict({"x": [1, 2]}, "d.json")
        with mlflow.start_run(nested=True) as child:
            mlflow.log_metric("auc", 0.1)
    run = client.get_run(active.info.run_id)
    assert (run.info.status, run.info.run_name, run.info.lifecycle_stage) == ("FINISHED", "first", "active")
    assert run.data.params == {"lr": "0.1", "trees": "80", "kind": "tree"}
    assert run.data.tags["mlflow.runName"] == "first"
    assert run.data.tags["team"] == "ops"
    assert "gone" not in run.data.tags
    assert run.data.metrics["auc"] == 0.7
    assert math.isnan(run.data.metrics["loss"])
    assert (run.data.metrics["up"], run.data.metrics["down"]) == (math.inf, -math.inf)
    points = client.get_metric_history(active.info.run_id, "auc")
    assert [(point.value, point.step) for point in points] == [(0.5, 2**53 + 1), (0.7, 2**62)]
    assert client.get_run(child.info.run_id).data.tags["mlflow.parentRunId"] == active.info.run_id
    listed = {file.path: file.file_size for file in client.list_artifacts(active.info.run_id)}
    assert listed == {"d.json": 29, "notes": None}
    assert [file.path for file in client.list_artifacts(active.info.run_id, "notes")] == ["notes/a b.txt"]
    assert mlflow.artifacts.load_text(f"{run.info.artifact_uri}/notes/a b.txt") == "grüße"
    assert mlflow.artifacts.load_dict(f"runs:/{active.info.run_id}/d.json") == {"x": [1, 2]}
    # the same run, by our own operations
    with connect(server[0], server[1]) as kilter:
        native = kilter.runs.get(active.info.run_id)
    assert native.params["trees"] == "80"
    assert native.metric("auc") == 0.7
    assert {file.name for file in native.artifacts} == {"d.json", "notes/a b.txt"}


def test_searches_speak_mlflows_grammar(mlflow, client, experiment):
    for place in range(6):
        run = client.create_run(experiment, run_name=f"run-{place}", tags={"team": "ops" if place % 2 else "ml_ops"})
        client.log_param(run.info.run_id, "depth", place)
        if place:
            client.log_metric(run.info.run_id, "m", place / 10)
        if place == 5:
            client.log_metric(run.info.run_id, "m", math.nan)
            client.set_tag(run.info.run_id, "only", "it's")
        client.set_terminated(run.info.run_id, "KILLED" if place == 4 else "FINISHED")

    def names(text: str = "", order: list[str] | None = None, **more: Any) -> list[str]:
        return [run.info.run_name[4:] for run in client.search_runs([experiment], text, order_by=order, **more)]

    assert names() == ["5", "4", "3", "2", "1", "0"]
    assert names("metrics.m > 0.15 and metrics.m <= 0.4") == ["4", "3", "2"]
    assert names("params.depth = '3'") == ["3"]
    assert names("params.depth != '3' AND tags.team = 'ops'") == ["5", "1"]
    assert names("tags.team LIKE 'ml%'") == ["4", "2", "0"]
    assert names("tags.team LIKE 'ML%'") == []
    assert names("tags.`team` ILIKE 'ML_ops'") == ["4", "2", "0"]
    assert names("tags.only IS NOT NULL") == ["5"]
    assert names('params."depth" IS NULL') == []
    assert names("attributes.status = 'KILLED'") == ["4"]
    assert names("attributes.run_name IN ('run-1', 'run-2')") == ["2", "1"]
    assert names(order=["metrics.m ASC"]) == ["1", "2", "3", "4", "5", "0"]
    assert names(order=["metrics.m DESC"], max_results=2) == ["4", "3"]
    assert names("metrics.m < 0.4", order=["metrics.m DESC"]) == ["3", "2", "1"]
    assert names("metrics.m < 0.4", order=["metrics.m DESC"], max_results=1) == ["3"]
    assert names(order=["tags.team ASC", "params.depth DESC"]) == ["4", "2", "0", "5", "3", "1"]
    assert names(order=["attributes.start_time ASC"]) == ["0", "1", "2", "3", "4", "5"]
    for order in (None, ["metrics.m DESC"], ["attributes.run_name ASC"]):
        pages, token = [], None
        while True:
            page = client.search_runs([experiment], order_by=order, max_results=4, page_token=token)
            pages += [run.info.run_name[4:] for run in page]
            token = page.token
            if not token:
                break
        assert pages == names(order=order)
    start = client.search_runs([experiment])[0].info.start_time
    assert len(names(f"attributes.start_time <= {start}")) == 6
    for text in (
        "nonsense",
        "metrics.m = 'x'",
        "tags.a ~ 'b'",
        "attributes.none = 'x'",
        "metrics.m > 0.1 or metrics.m < 2",
    ):
        assert code_of(mlflow, lambda text=text: client.search_runs([experiment], text))[0] == "INVALID_PARAMETER_VALUE"
    assert client.search_runs(["987654"]) == []


def test_experiments_and_runs_come_and_go(mlflow, client, experiment):
    run = client.create_run(experiment).info.run_id
    client.set_experiment_tag(experiment, "k", "v")
    client.rename_experiment(experiment, "renamed by its owner")
    found = client.get_experiment_by_name("renamed by its owner")
    assert (found.experiment_id, found.tags) == (experiment, {"k": "v"})
    assert client.get_run(run).info.experiment_id == experiment
    client.delete_run(run)
    assert client.get_run(run).info.lifecycle_stage == "deleted"
    assert client.search_runs([experiment]) == []
    assert [one.info.run_id for one in client.search_runs([experiment], run_view_type=2)] == [run]
    assert "must be in the 'active' state" in code_of(mlflow, lambda: client.log_metric(run, "m", 1))[1]
    client.restore_run(run)
    client.delete_experiment(experiment)
    assert client.get_run(run).info.lifecycle_stage == "deleted"
    assert code_of(mlflow, lambda: client.create_run(experiment))[0] == "INVALID_PARAMETER_VALUE"
    client.restore_experiment(experiment)
    assert client.get_run(run).info.lifecycle_stage == "active"
    assert client.get_experiment("0").name == "Default"
    assert {one.name for one in client.search_experiments(filter_string="name LIKE 'renamed%'")} == {
        "renamed by its owner"
    }
    assert experiment in {one.experiment_id for one in client.search_experiments(order_by=["name DESC"])}


def test_what_cannot_be_is_refused_in_mlflows_words(mlflow, client, experiment):
    run = client.create_run(experiment).info.run_id
    client.log_param(run, "lr", "0.1")
    entities = mlflow.entities
    missing, invalid = "RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"
    for code, words, act in (
        (invalid, "was already logged with value='0.1'", lambda: client.log_param(run, "lr", "0.2")),
        (missing, "Run with id=none not found", lambda: client.get_run("none")),
        (missing, "No Experiment with id=99999 exists", lambda: client.get_experiment("99999")),
        (missing, "No tag with name: x", lambda: client.delete_tag(run, "x")),
        (invalid, "Names may be treated as files", lambda: client.log_metric(run, "../x", 1)),
        (invalid, "Names may only contain", lambda: client.set_tag(run, "a\tb", "1")),
        (invalid, "exceeds the maximum length of 250", lambda: client.set_tag(run, "k" * 251, "1")),
        (
            invalid,
            "at most 1000 metrics",
            lambda: client._tracking_client.store.log_batch(
                run, [entities.Metric(f"m{place}", 1.0, 1, 0) for place in range(1001)], [], []
            ),
        ),
        (
            invalid,
            "Duplicate parameter keys",
            lambda: client._tracking_client.store.log_batch(
                run, [], [entities.Param("a", "1"), entities.Param("a", "2")], []
            ),
        ),
    ):
        found = code_of(mlflow, act)
        assert found[0] == code, found
        assert words in found[1], found
    name = client.get_experiment(experiment).name
    assert code_of(mlflow, lambda: client.create_experiment(name))[0] == "RESOURCE_ALREADY_EXISTS"
    # a batch with one bad entry leaves nothing behind
    store = client._tracking_client.store
    batch = [entities.Metric("good", 1.0, 1, 0)], [entities.Param("lr", "other")], [entities.RunTag("t", "1")]
    assert code_of(mlflow, lambda: store.log_batch(run, *batch))[0] == invalid
    data = client.get_run(run).data
    assert (data.metrics, data.params, "t" in data.tags) == ({}, {"lr": "0.1"}, False)


def test_a_model_is_logged_and_loaded(mlflow, client, experiment):
    linear = pytest.importorskip("sklearn.linear_model")
    pandas = pytest.importorskip("pandas")
    generator = np.random.default_rng(0)
    x = generator.random((60, 3))
    y = (x[:, 0] > 0.5).astype(int)
    mlflow.set_experiment(experiment_id=experiment)
    with mlflow.start_run() as active:
        model = linear.LogisticRegression().fit(x, y)
        data = mlflow.data.from_pandas(pandas.DataFrame(x, columns=list("abc")), name="rows", source="somewhere.csv")
        mlflow.log_input(data, context="training")
        info = mlflow.sklearn.log_model(
            model, name="clf", params={"c": 1}, serialization_format="skops", pip_requirements=["scikit-learn"]
        )
        mlflow.log_metric("acc", 0.9, model_id=info.model_id, dataset=data)
    for uri in (info.model_uri, f"runs:/{active.info.run_id}/clf"):
        again = mlflow.sklearn.load_model(uri)
        assert (again.predict_proba(x) == model.predict_proba(x)).all()
    run = client.get_run(active.info.run_id)
    [dataset] = run.inputs.dataset_inputs
    assert (dataset.dataset.name, {tag.key: tag.value for tag in dataset.tags}) == (
        "rows",
        {"mlflow.data.context": "training"},
    )
    assert [output.model_id for output in run.outputs.model_outputs] == [info.model_id]
    logged = client.get_logged_model(info.model_id)
    assert (logged.name, logged.status.value, logged.source_run_id) == ("clf", "READY", active.info.run_id)
    assert logged.params["c"] == "1"
    assert [(metric.key, metric.value, metric.dataset_name) for metric in logged.metrics] == [("acc", 0.9, "rows")]
    found = mlflow.search_logged_models(
        [experiment],
        "metrics.acc > 0.5 and name = 'clf'",
        order_by=[{"field_name": "metrics.acc", "ascending": False}],
        output_format="list",
    )
    assert [one.model_id for one in found] == [info.model_id]
    client.set_logged_model_tags(info.model_id, {"t": "1"})
    client.delete_logged_model_tag(info.model_id, "t")
    assert "t" not in client.get_logged_model(info.model_id).tags
    client.delete_logged_model(info.model_id)
    assert code_of(mlflow, lambda: client.get_logged_model(info.model_id))[0] == "RESOURCE_DOES_NOT_EXIST"


def test_autologging_tracks_a_fit(mlflow, client, experiment):
    linear = pytest.importorskip("sklearn.linear_model")
    pytest.importorskip("pandas")
    x = np.random.default_rng(1).random((60, 2))
    y = (x[:, 0] > 0.5).astype(int)
    mlflow.set_experiment(experiment_id=experiment)
    mlflow.sklearn.autolog(log_models=False, silent=True)
    try:
        model = linear.LogisticRegression().fit(x, y)
        score = model.score(x, y)
    finally:
        mlflow.sklearn.autolog(disable=True)
    [run] = client.search_runs([experiment])
    assert run.info.status == "FINISHED"
    assert run.data.params["C"] == "1.0"
    assert run.data.metrics["training_score"] == pytest.approx(score)


def test_large_files_pass_through(client, experiment, tmp_path):
    run = client.create_run(experiment).info.run_id
    big = tmp_path / "weights.bin"
    big.write_bytes(os.urandom(1 << 20) * 40)
    client.log_artifact(run, str(big), "model")
    client.log_artifact(run, str(big), "again")  # the same bytes once more cost a name
    back = client.download_artifacts(run, "model/weights.bin", str(tmp_path))
    assert Path(back).read_bytes() == big.read_bytes()
    client._tracking_client._get_artifact_repo(run).delete_artifacts("model")
    assert [file.path for file in client.list_artifacts(run)] == ["again"]


def test_curves_are_sampled(server, client, mlflow, experiment):
    run = client.create_run(experiment).info.run_id
    store = client._tracking_client.store
    for begin in range(0, 3000, 1000):
        store.log_batch(
            run, [mlflow.entities.Metric("m", float(step), step, step) for step in range(begin, begin + 1000)], [], []
        )
    points = json.loads(
        ask(
            server[0],
            "GET",
            f"/api/2.0/mlflow/metrics/get-history-bulk-interval?run_ids={run}&metric_key=m&max_results=100",
        )[1]
    )["metrics"]
    steps = [point["step"] for point in points]
    assert 90 <= len(steps) <= 110
    assert (steps[0], steps[-1], steps) == (0, 2999, sorted(steps))
    assert len(client.get_metric_history(run, "m")) == 3000


def test_batches_from_many_clients_are_all_there(mlflow, client, experiment):
    run = client.create_run(experiment).info.run_id
    store = client._tracking_client.store

    def log(worker: int) -> None:
        for batch in range(10):
            points = [mlflow.entities.Metric(f"w{worker}", float(batch), 1, batch * 10 + step) for step in range(10)]
            store.log_batch(run, points, [], [])

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(log, range(4)))
    again = [mlflow.entities.Metric("w0", float(batch), 1, batch * 10 + step) for batch in (0, 4) for step in range(10)]
    store.log_batch(run, again, [], [])  # a client whose answer was lost sends the same once more: it is there once
    for worker in range(4):
        assert [point.step for point in client.get_metric_history(run, f"w{worker}")] == list(range(100))


def ask(
    url: str, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    host, port = url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=20)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json", **(headers or {})})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_attacks_are_refused(server, client, experiment, tmp_path):
    run = client.create_run(experiment).info.run_id
    proxy = "/api/2.0/mlflow-artifacts/artifacts"
    for path in (
        f"{experiment}/{run}/artifacts/../../../../etc/passwd",
        f"{experiment}/{run}/artifacts/..%2f..%2fetc%2fpasswd",
        f"{experiment}/{run}/artifacts/%252e%252e/secret",
        f"{experiment}/{run}/artifacts/a%00b",
        f"{experiment}/{run}/artifacts/..\\..\\x",
        "../../x",
        "/etc/passwd",
        "file:///etc/passwd",
        f"{experiment}/{run}/elsewhere/x",
    ):
        for method in ("GET", "PUT"):
            status, body = ask(server[0], method, f"{proxy}/{path}", b"x" if method == "PUT" else None)
            assert 400 <= status < 500, (method, path, status, body)
            assert b"Traceback" not in body
    deep = b'{"run_id":' + b"[" * 10_000 + b"]" * 10_000 + b"}"
    for body in (
        deep,
        b"[1]",
        b"{",
        b'{"run_id": 5}',
        b'{"run_id": "x", "metrics": {}}',
        b'{"metrics": "no"}',
        b"\xff\xfe",
    ):
        status, answer = ask(server[0], "POST", "/api/2.0/mlflow/runs/log-batch", body)
        assert 400 <= status < 500, (body[:40], status)
        assert json.loads(answer)["error_code"]
    for value in ("1e999", '"x"', "null", "true", "[]"):
        given = f'{{"run_id": "{run}", "key": "m", "value": {value}, "timestamp": 1}}'.encode()
        status, answer = ask(server[0], "POST", "/api/2.0/mlflow/runs/log-metric", given)
        assert status == 400, (value, answer)
    assert client.get_run(run).data.metrics == {}
    for described in ("5", "[]", '"x"', "no", "{}", "[" * 100_000):
        given = json.dumps({"run_id": run, "model_json": described}).encode()
        assert ask(server[0], "POST", "/api/2.0/mlflow/runs/log-model", given)[0] == 400, described[:20]
    name = "<script>alert(1)</script>"
    assert client.get_experiment(client.create_experiment(name)).name == name  # kept as it is, and shown as text
    assert ask(server[0], "GET", "/api/2.0/mlflow/nothing")[0] == 404
    assert ask(server[0], "DELETE", "/api/2.0/mlflow/runs/create")[0] == 405
    assert ask(server[0], "POST", "/api/2.0/mlflow/runs/create", b"{}", {"Host": "evil.example"})[0] == 403
    assert ask(server[0], "POST", "/api/2.0/mlflow/runs/create", b"{}", {"Origin": "http://evil.example"})[0] == 403
    assert ask(server[0], "POST", "/api/2.0/mlflow/runs/create", b"a=b", {"Content-Type": "text/plain"})[0] == 415
    viewer = {"Authorization": "Bearer viewer-of-the-test"}
    assert ask(server[0], "POST", "/api/2.0/mlflow/runs/search", b'{"experiment_ids": ["0"]}', viewer)[0] == 200
    status, answer = ask(server[0], "POST", "/api/2.0/mlflow/runs/create", b"{}", viewer)
    assert (status, json.loads(answer)["error_code"]) == (403, "PERMISSION_DENIED")
    assert ask(server[0], "POST", "/api/2.0/mlflow/runs/create", b"{}", {"Authorization": "Bearer wrong"})[0] == 401
