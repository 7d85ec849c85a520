"""Versions whose files lie in S3, as MLflow's own client, unmodified, registers, uses and loads them; and who is refused their bytes."""

from __future__ import annotations

import gc
import json
import os
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest

from kilter.cli.main import main
from kilter.core.errors import InvalidInput
from kilter.loop.workspace import connect
from kilter.testing.server import RunningServer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*:ResourceWarning"),
    # the clients leave their kept connections to the garbage collector
    pytest.mark.filterwarnings("ignore:Exception ignored in. <:pytest.PytestUnraisableExceptionWarning"),
]

WEIGHTS = [0.1, 1 / 3]


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    pytest.importorskip("boto3")
    return pytest.importorskip("mlflow")


@pytest.fixture
def server(tmp_path: Path, mlflow: ModuleType) -> Iterator[tuple[str, str, Path]]:
    store = tmp_path / "store"
    with RunningServer(store, KILTER_WEBHOOKS_LOCAL="1") as running:
        mlflow.set_tracking_uri(running.url)
        mlflow.set_registry_uri(running.url)
        mlflow.set_experiment(experiment_id="0")  # another test's server may have had another one
        yield running.url, running.token, store
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def bucket(s3_url: str, mlflow: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A place in S3 where a model of MLflow lies, which no server of ours has seen."""
    place = urlsplit(s3_url)
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", place.query.removeprefix("endpoint="))
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")

    class Linear(mlflow.pyfunc.PythonModel):
        def predict(self, context: Any, model_input: np.ndarray, params: Any = None) -> np.ndarray:  # noqa: ARG002
            return np.asarray(model_input, dtype=float) @ np.asarray(WEIGHTS)

    mlflow.pyfunc.save_model(tmp_path / "model", python_model=Linear(), pip_requirements=[])
    for file in (tmp_path / "model").rglob("*"):
        if file.is_file():
            at = f"models/linear/{file.relative_to(tmp_path / 'model')}"
            httpx.put(f"{os.environ['MLFLOW_S3_ENDPOINT_URL']}/{place.netloc}/{at}", content=file.read_bytes())
    return f"s3://{place.netloc}/models/linear"


class Receiver(BaseHTTPRequestHandler):
    """Keeps what it is told."""

    def do_POST(self) -> None:
        self.server.told.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def receiver() -> Iterator[HTTPServer]:
    listening = HTTPServer(("127.0.0.1", 0), Receiver)
    listening.told = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield listening
    listening.shutdown()
    thread.join()
    listening.server_close()


def test_a_version_in_a_bucket_is_one_like_any_other(mlflow, server, bucket, receiver):
    client = mlflow.MlflowClient(server[0])
    client.create_webhook(
        "mine", f"http://127.0.0.1:{receiver.server_port}/", ["model_version.created", "model_version_alias.created"]
    )
    client.create_registered_model("linear")
    made = client.create_model_version("linear", bucket, run_id="a" * 32, tags={"team": "ops"}, description="in S3")
    assert (made.version, made.source, made.run_id, made.status) == ("1", bucket, "a" * 32, "READY")
    assert client.get_model_version_download_uri("linear", "1") == bucket
    client.set_registered_model_alias("linear", "best", "1")
    client.set_model_version_tag("linear", "1", "seen", "yes")
    client.transition_model_version_stage("linear", "1", "Production")
    client.update_model_version("linear", "1", "still in S3")
    found = client.get_model_version_by_alias("linear", "best")
    assert (found.current_stage, found.description, found.source) == ("Production", "still in S3", bucket)
    assert (found.tags, found.aliases) == ({"team": "ops", "seen": "yes"}, ["best"])
    assert [one.version for one in client.search_model_versions(f"source_path = '{bucket}'")] == ["1"]
    assert [one.source for one in client.get_latest_versions("linear", ["Production"])] == [bucket]
    assert [one.source for one in client.search_registered_models()[0].latest_versions] == [bucket]

    rows = np.array([[1.0, 0.1], [0.3, -7.25]])
    for uri in ("models:/linear/1", "models:/linear@best", "models:/linear/Production"):
        assert mlflow.pyfunc.load_model(uri).predict(rows).tolist() == (rows @ WEIGHTS).tolist()

    copied = client.copy_model_version("models:/linear@best", "copied")
    assert (copied.source, copied.run_id) == ("models:/linear/1", "a" * 32)
    assert client.get_model_version_download_uri("copied", "1") == bucket
    assert mlflow.pyfunc.load_model("models:/copied/1").predict(rows).tolist() == (rows @ WEIGHTS).tolist()

    deadline = time.monotonic() + 15
    while len(receiver.told) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    told = sorted(receiver.told, key=lambda one: (one["entity"], one["data"]["name"]))  # several are sent at once
    assert [(one["entity"], one["action"], one["data"]["name"]) for one in told] == [
        ("model_version", "created", "copied"),
        ("model_version", "created", "linear"),
        ("model_version_alias", "created", "linear"),
    ]
    assert told[1]["data"] == {
        "name": "linear",
        "version": "1",
        "source": bucket,
        "run_id": "a" * 32,
        "tags": {"team": "ops"},
        "description": "in S3",
    }
    client.delete_model_version("linear", "1")
    assert client.search_model_versions("name = 'linear'") == []


def test_a_logged_model_may_name_files_in_a_bucket(mlflow, server, bucket):
    client = mlflow.MlflowClient(server[0])
    client.create_registered_model("linear")
    model = mlflow.initialize_logged_model(name="linear")
    made = client.create_model_version("linear", bucket, model_id=model.model_id)
    assert made.source == bucket
    assert json.loads(client.get_logged_model(model.model_id).tags["mlflow.modelVersions"]) == [
        {"name": "linear", "version": 1}
    ]
    with pytest.raises(mlflow.exceptions.MlflowException, match="RESOURCE_DOES_NOT_EXIST"):
        client.create_model_version("linear", bucket, model_id="m-none")
    # its files are what the source says, not those of the logged model
    assert main(["deploy", "models:/linear/1", "--name", "x", "--store", str(server[2])]) == 2
    assert len(client.search_model_versions("name = 'linear'")) == 1


def test_who_wants_its_bytes_is_told_that_they_lie_elsewhere(mlflow, server, capsys, tmp_path):
    url, token, store = server
    client = mlflow.MlflowClient(url)
    client.create_registered_model("linear")
    place = "s3://bucket/models/linear"
    client.create_model_version("linear", place)
    client.create_model_version("linear", "gs://bucket/models/linear")
    client.set_registered_model_alias("linear", "best", "1")
    at = ["--store", str(store)]
    for command in (
        ["deploy", "models:/linear/1", "--name", "x"],
        ["deploy", "models:/linear@best", "--name", "x"],
        ["export", "linear@v1", "--target", "mlflow", "--out", str(tmp_path / "out")],
        ["export", "linear@best", "--target", "c", "--out", str(tmp_path / "out")],
        ["models", "get", "linear@best"],
        ["models", "lineage", "linear@v1"],
        ["optimize", "linear@v1"],
        ["reproduce", "linear@v1"],
    ):
        assert main([*command, *at]) == 2, command
        said = capsys.readouterr().err
        assert "linear@v1 lie elsewhere" in said, (command, said)
        assert place in said
        assert "kilter deploy FOLDER" in said
    assert not (tmp_path / "out").exists()
    for command in (["models", "show", "linear@v1"], ["models", "versions", "linear"], ["models", "history", "linear@v1"],
                    ["models", "compare", "linear@v1", "linear@v2"]):  # fmt: skip
        assert main([*command, *at, "--json"]) == 0, command
        said = capsys.readouterr().out
        assert place in said or command[1] == "compare"
    with closing(connect(url, token)) as kilter:
        with pytest.raises(InvalidInput, match="lie elsewhere"):
            kilter.models.get("linear", 1)
        with pytest.raises(InvalidInput, match="lie elsewhere"):
            kilter.promotions.dossier("linear", 1)
        added = kilter.models.add_version("linear", "hdfs://namenode:8020/models/linear")
        assert (
            kilter.models.registered_version("linear", added.version).location == "hdfs://namenode:8020/models/linear"
        )

    answer = httpx.get(
        f"{url}/model-versions/get-artifact", params={"name": "linear", "version": "1", "path": "MLmodel"}
    )
    assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert "lie elsewhere" in answer.json()["message"]
    answer = httpx.get(f"{url}/api/2.0/mlflow-artifacts/artifacts/models/linear/1/MLmodel")
    assert answer.status_code == 400
    assert "lie elsewhere" in answer.text
    page = httpx.get(f"{url}/models/linear/1", headers={"authorization": f"Bearer {token}"})
    assert page.status_code == 200
    assert place in page.text
    assert "Its files lie elsewhere" in page.text


def test_places_that_mlflows_server_refuses_are_refused_in_its_words(mlflow, server):
    client = mlflow.MlflowClient(server[0])
    client.create_registered_model("linear")
    for place, words in (
        ("http://169.254.169.254/latest", "'source' cannot use the 'http' scheme"),
        ("https://host/model", "'source' cannot use the 'https' scheme"),
        ("ftp://host/model", "'source' cannot use the 'ftp' scheme"),
        ("s3://bucket/../model", "an absolute path must be provided"),
        ("s3://bucket/%2e%2e/model", "an absolute path must be provided"),
        ("s3://bucket/a?x=1", "a query or a fragment"),
        ("s3://key:secret@bucket/a", "Invalid model version source"),
        ("abfss://models@evil.example/a", "Invalid model version source"),
        ("s3://bucket/a\nb", "Invalid model version source"),
        ("s3://bucket/" + "x" * 9_000, "can't be kept"),
    ):
        with pytest.raises(mlflow.exceptions.MlflowException, match=words) as refused:
            client.create_model_version("linear", place)
        assert refused.value.error_code == "INVALID_PARAMETER_VALUE", place
    assert client.search_model_versions("name = 'linear'") == []
