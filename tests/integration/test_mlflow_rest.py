"""MLflow's REST calls by hand: those of its pages, of its older clients, and what its own REST tests ask of a server."""

from __future__ import annotations

import gc
import http.client
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from types import ModuleType
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

from kilter.operations.running import RunFolder

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:mlflow.*"),
    pytest.mark.filterwarnings("ignore:.*:FutureWarning:mlflow.*"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning:mlflow.*"),
    # the client leaves its kept connections to the garbage collector
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"),
]
PAGES = "/ajax-api/2.0/mlflow"
VIEWER = "viewer-of-the-test"


@pytest.fixture(scope="module")
def mlflow() -> ModuleType:
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    return pytest.importorskip("mlflow")


@pytest.fixture(autouse=True)
def _sockets():
    yield
    with warnings.catch_warnings():  # what the client left open is closed here, not in whatever test comes next
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Any:
    store = tmp_path_factory.mktemp("rest") / "store"
    process = subprocess.Popen(
        [sys.executable, "-m", "kilter.cli.main", "server", "--store", str(store), "--port", "0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "KILTER_VIEWER_TOKEN": VIEWER},
    )
    folder = RunFolder(store / "run")
    deadline = time.monotonic() + 60
    while (running := folder.read("server")) is None or running.pid != process.pid:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield running.url
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


@pytest.fixture
def client(mlflow, server):
    mlflow.set_tracking_uri(server)
    mlflow.set_registry_uri(server)
    return mlflow.MlflowClient(server)


def call(
    server: str,
    method: str,
    path: str,
    said: dict[str, Any] | None = None,
    query: dict[str, Any] | None = None,
    **headers: str,
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(urlsplit(server).netloc, timeout=30)
    body = None if said is None else json.dumps(said)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if body is not None:
        sent["Content-Type"] = "application/json"
    try:
        connection.request(method, f"{path}?{urlencode(query, doseq=True)}" if query else path, body, sent)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def refused(answer: tuple[int, dict[str, str], bytes]) -> tuple[int, str, str]:
    document = json.loads(answer[2])
    return answer[0], document["error_code"], document["message"]


def test_the_pages_address_is_the_same_wire(server, client):
    status, _, body = call(server, "POST", f"{PAGES}/experiments/create", {"name": "by the pages' address"})
    number = json.loads(body)["experiment_id"]
    assert (status, client.get_experiment(number).name) == (200, "by the pages' address")
    found = call(server, "GET", f"{PAGES}/experiments/get", query={"experiment_id": number})
    same = call(server, "GET", "/api/2.0/mlflow/experiments/get", query={"experiment_id": number})
    assert found[2] == same[2]
    assert call(server, "POST", "/ajax-api/3.0/mlflow/traces/search", {"locations": []})[0] == 200
    # who may, and from where, is asked there as well
    foreign = call(server, "GET", f"{PAGES}/experiments/search", Origin="https://foreign.example")
    assert foreign[0] == 403
    changing = ("POST", f"{PAGES}/experiments/create", {"name": "by a viewer"})
    assert call(server, *changing, Authorization=f"Bearer {VIEWER}")[0] == 403
    assert client.get_experiment_by_name("by a viewer") is None
    # our own operations have one address only
    assert call(server, "GET", "/ajax-api/v1/runs")[0] == 404


def test_points_of_several_runs_come_by_their_times(server, client):
    number = client.create_experiment("points of several")
    runs = sorted(client.create_run(number).info.run_id for _ in range(3))
    points = [(1, 2, 10.0), (1, 3, 11.0), (1, 3, 12.0), (2, 0, 12.0)]
    for run in runs[:2]:
        for at, step, value in points:
            client.log_metric(run, "a", value, timestamp=at, step=step)
    where = f"{PAGES}/metrics/get-history-bulk"
    expected = [
        {"key": "a", "value": value, "timestamp": at, "step": step, "run_id": run}
        for run in runs[:2]
        for at, step, value in points
    ]
    status, _, body = call(server, "GET", where, query={"run_id": [*reversed(runs), "gone"], "metric_key": "a"})
    assert (status, json.loads(body)["metrics"]) == (200, expected)
    limited = call(server, "GET", where, query={"run_id": runs, "metric_key": "a", "max_results": 2})
    assert json.loads(limited[2])["metrics"] == expected[:2]
    for query, words in (
        ({"metric_key": "a"}, "at least one run_id"),
        ({"run_id": ["r"] * 101, "metric_key": "a"}, "cannot specify more than 100"),
        ({"run_id": ["r"] * 3000, "metric_key": "a"}, "more than 2000 values"),
        ({"run_id": runs}, "must specify a metric_key"),
    ):
        status, code, message = refused(call(server, "GET", where, query=query))
        assert (status, code) == (400, "INVALID_PARAMETER_VALUE")
        assert words in message
    for query, words in (
        ({"start_step": 1, "end_step": 0}, "end_step must be greater than start_step"),
        ({"start_step": 1}, "both must be specified"),
        ({"max_results": 0}, "max_results must be between 1 and 2500"),
    ):
        asked = {"run_ids": runs, "metric_key": "a", **query}
        assert words in refused(call(server, "GET", f"{where}-interval", query=asked))[2]


def test_what_runs_read_is_found_by_experiment(mlflow, server, client):
    entities = mlflow.entities
    number, other = client.create_experiment("what was read"), client.create_experiment("what else was read")

    def read(experiment: str, name: str, context: str | None) -> None:
        tags = [] if context is None else [entities.InputTag("mlflow.data.context", context)]
        data = entities.Dataset(name=name, digest="d1", source_type="local", source="{}")
        client.log_inputs(client.create_run(experiment).info.run_id, [entities.DatasetInput(data, tags)])

    for experiment, name, context in (
        (number, "a", "training"), (number, "a", "training"), (number, "a", None), (other, "b", "training"),
    ):  # fmt: skip
        read(experiment, name, context)
    where = f"{PAGES}/experiments/search-datasets"
    status, _, body = call(
        server, "POST", where, {"experiment_ids": [number, "none"]}, Authorization=f"Bearer {VIEWER}"
    )
    plain = {"experiment_id": number, "name": "a", "digest": "d1"}
    assert (status, json.loads(body)) == (200, {"dataset_summaries": [{**plain, "context": "training"}, plain]})
    assert "at least one experiment_id" in refused(call(server, "POST", where, {"experiment_ids": []}))[2]
    assert "more than 20" in refused(call(server, "POST", where, {"experiment_ids": ["1"] * 21}))[2]


def test_the_order_of_what_began_at_once(client):
    number = client.create_experiment("at once")
    runs = sorted(client.create_run(number, start_time=1).info.run_id for _ in range(10))
    found, token = [], None
    while token is not None or not found:
        page = client.search_runs([number], max_results=4, page_token=token)
        found, token = [*found, *(run.info.run_id for run in page)], page.token
    assert found == runs
    assert [run.info.run_id for run in client.search_runs([number], order_by=["start_time ASC"])] == runs
    # experiments come as they were made, the newest first, whatever was changed since
    later = client.create_experiment("made later")
    client.set_experiment_tag(number, "changed", "since")
    listed = [one.experiment_id for one in client.search_experiments()]
    assert listed.index(later) < listed.index(number)


def test_logged_models_are_found_by_their_data(client):
    number = client.create_experiment("measured on")
    first, second, third = (client.create_logged_model(number, source_run_id="of another server") for _ in range(3))
    assert client.get_logged_model(first.model_id).source_run_id == "of another server"
    run = client.create_run(number).info.run_id
    for model, value, name, digest in (
        (first, 0.9, "test", "1"), (second, 0.5, "test", "2"), (second, 0.95, "train", "1"), (third, 0.9, None, None),
    ):  # fmt: skip
        client.log_metric(run, "auc", value, dataset_name=name, dataset_digest=digest, model_id=model.model_id)

    def found(filter_string: str | None, *datasets: dict[str, str]) -> set[str]:
        page = client.search_logged_models([number], filter_string=filter_string, datasets=list(datasets) or None)
        return {model.model_id for model in page}

    test = {"dataset_name": "test"}
    assert found(None, test) == {first.model_id, second.model_id}
    assert found(None, {**test, "dataset_digest": "2"}) == {second.model_id}
    assert found(None, {**test, "dataset_digest": "1"}, {"dataset_name": "train"}) == {first.model_id, second.model_id}
    assert found("metrics.auc > 0.8", test) == {first.model_id}
    assert found("metrics.auc > 0.8") == {first.model_id, second.model_id, third.model_id}
    assert found(None, {"dataset_name": "no such"}) == set()


def test_files_are_fetched_by_what_they_belong_to(mlflow, server, client, tmp_path):
    number = client.create_experiment("fetched")
    mlflow.set_experiment(experiment_id=number)
    with mlflow.start_run() as run:
        mlflow.log_text("hello", "notes/ä b.txt")
        mlflow.log_text("flavors: {}", "model/MLmodel")
    run_id = run.info.run_id
    model = client.create_logged_model(number)
    client.log_model_artifacts(model.model_id, str(_folder(tmp_path)))
    client.create_registered_model("fetched")
    for source, of in (
        (f"runs:/{run_id}/model", {"run_id": run_id}),
        (f"models:/{model.model_id}", {"model_id": model.model_id}),
    ):
        client.create_model_version("fetched", source, **of)
    said = json.loads(client.get_logged_model(model.model_id).tags["mlflow.modelVersions"])
    assert said == [{"name": "fetched", "version": 2}]
    for path, query, content, kind, name in (
        ("/get-artifact", {"run_id": run_id, "path": "notes/ä b.txt"}, b"hello", "text/plain", "*=UTF-8''%C3%A4%20b.txt"),
        ("/get-artifact", {"run_uuid": run_id, "path": "model/MLmodel"}, b"flavors: {}", "text/plain", "=MLmodel"),
        ("/model-versions/get-artifact", {"name": "fetched", "version": 1, "path": "MLmodel"}, b"flavors: {}", "text/plain", "=MLmodel"),
        ("/model-versions/get-artifact", {"name": "fetched", "version": 2, "path": "b.pkl"}, b"b", "application/octet-stream", "=b.pkl"),
        (f"{PAGES}/logged-models/{model.model_id}/artifacts/files", {"artifact_file_path": "b.pkl"}, b"b", "application/octet-stream", "=b.pkl"),
    ):  # fmt: skip
        status, headers, body = call(server, "GET", path, query=query)
        assert (status, body, headers["content-type"]) == (200, content, kind), path
        assert headers["content-disposition"] == f"attachment; filename{name}"
        assert headers["x-content-type-options"] == "nosniff"
    for path, query, status in (
        ("/get-artifact", {"run_id": run_id, "path": "../../x"}, 400),
        ("/get-artifact", {"run_id": run_id, "path": "%2e%2e/x"}, 400),
        ("/get-artifact", {"run_id": run_id}, 400),
        ("/get-artifact", {"run_id": run_id, "path": "gone"}, 404),
        ("/get-artifact", {"run_id": "gone", "path": "x"}, 404),
        ("/model-versions/get-artifact", {"name": "fetched", "version": 3, "path": "x"}, 404),
        ("/model-versions/get-artifact", {"name": "gone", "version": 1, "path": "x"}, 404),
        (f"{PAGES}/logged-models/m-gone/artifacts/files", {"artifact_file_path": "x"}, 404),
        (f"{PAGES}/logged-models/{model.model_id}/artifacts/files", {}, 400),
        (f"{PAGES}/get-trace-artifact", {}, 400),
        (f"{PAGES}/get-trace-artifact", {"request_id": "tr-gone"}, 404),
    ):
        assert call(server, "GET", path, query=query)[0] == status, (path, query)
    assert call(server, "DELETE", "/get-artifact", query={"run_id": run_id, "path": "notes"})[0] == 405
    assert [file.path for file in client.list_artifacts(run_id)] == ["model", "notes"]


def _folder(tmp_path):
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "b.pkl").write_bytes(b"b")
    return tmp_path / "files"


def test_traces_of_clients_before_mlflow_3(mlflow, server, client):
    number = client.create_experiment("traces of 2")
    at = "/api/2.0/mlflow/traces"

    def pairs(**said: str) -> list[dict[str, str]]:
        return [{"key": key, "value": value} for key, value in said.items()]

    def read(listed: list[dict[str, str]]) -> dict[str, str]:
        return {one["key"]: one["value"] for one in listed if not one["key"].startswith("mlflow.")}

    begun = {
        "experiment_id": number,
        "timestamp_ms": 1000,
        "request_metadata": pairs(a="1", b="2"),
        "tags": pairs(t="x"),
    }
    status, _, body = call(server, "POST", at, begun)
    made = json.loads(body)["trace_info"]
    assert (status, made["status"], made["timestamp_ms"], made["execution_time_ms"]) == (200, "IN_PROGRESS", 1000, 0)
    trace = made["request_id"]
    ended = {
        "timestamp_ms": "3000",
        "status": "OK",
        "request_metadata": pairs(a="9", c="3"),
        "tags": pairs(t="y", u="z"),
    }
    status, _, body = call(server, "PATCH", f"{at}/{trace}", ended)
    after = json.loads(body)["trace_info"]
    assert (status, after["status"], after["execution_time_ms"]) == (200, "OK", 2000)
    assert read(after["request_metadata"]) == {"a": "9", "b": "2", "c": "3"}
    assert read(after["tags"]) == {"t": "y", "u": "z"}
    assert json.loads(call(server, "GET", f"{at}/{trace}/info")[2])["trace_info"] == after
    listed = json.loads(call(server, "GET", at, query={"experiment_ids": [number], "filter": "status = 'OK'"})[2])
    assert listed == {"traces": [after]}
    # the spans come as a file, and newer clients read the whole
    spans = {
        "spans": [
            {
                "name": "root",
                "context": {"span_id": "0x" + "1" * 16, "trace_id": "0x" + "2" * 32},
                "parent_id": None,
                "start_time": 1_000_000_000,
                "end_time": 3_000_000_000,
                "status_code": "OK",
                "status_message": "",
                "attributes": {"mlflow.traceRequestId": json.dumps(trace)},
                "events": [],
            }
        ]
    }
    location = next(one["value"] for one in after["tags"] if one["key"] == "mlflow.artifactLocation")
    place = location.removeprefix("mlflow-artifacts:")
    assert call(server, "PUT", f"/api/2.0/mlflow-artifacts/artifacts{place}/traces.json", spans)[0] == 200
    found = client.get_trace(trace)
    assert ([span.name for span in found.data.spans], found.info.execution_duration) == (["root"], 2000)
    status, headers, body = call(server, "GET", f"{PAGES}/get-trace-artifact", query={"request_id": trace})
    assert (status, headers["content-disposition"]) == (200, "attachment; filename=traces.json")
    assert [span.name for span in mlflow.entities.TraceData.from_dict(json.loads(body)).spans] == ["root"]
    # what can't be is refused and changes nothing
    after = json.loads(call(server, "GET", f"{at}/{trace}/info")[2])["trace_info"]
    for method, path, said, status in (
        ("POST", at, {"experiment_id": "987654", "timestamp_ms": 1}, 404),
        ("PATCH", f"{at}/tr-gone", ended, 404),
        ("PATCH", f"{at}/{trace}", {**ended, "timestamp_ms": 5}, 400),
        ("PATCH", f"{at}/{trace}", {**ended, "status": "DONE"}, 400),
        ("GET", f"{at}/tr-gone/info", None, 404),
        ("GET", at, None, 400),
    ):
        assert call(server, method, path, said)[0] == status, (method, path, said)
    assert json.loads(call(server, "GET", f"{at}/{trace}/info")[2])["trace_info"] == after


def test_a_webhook_is_tried_with_mlflows_own_examples(mlflow):
    from kilter.registry.events import EVENTS, example

    types = pytest.importorskip("mlflow.webhooks.types")
    events = mlflow.entities.webhook.WebhookEvent
    for entity, actions in EVENTS.items():
        for action in actions:
            made = json.loads(example(f"{entity}.{action}"))
            theirs = types.get_example_payload_for_event(events(entity, action))
            assert (made["entity"], made["action"], made["data"]) == (entity, action, dict(theirs))


def test_a_webhooks_url_is_refused_in_mlflows_words(mlflow, client):
    created = mlflow.entities.webhook.WebhookEvent("model_version", "created")
    for url, words in (
        ("   ", "Webhook URL cannot be empty or just whitespace"),
        ("ftp://example.com", "Invalid webhook URL scheme"),
        ("http://[invalid", "Invalid webhook URL"),
    ):
        with pytest.raises(mlflow.exceptions.MlflowException, match=words.replace("[", r"\[")):
            client.create_webhook("refused", url, [created])
    assert client.list_webhooks() == []
