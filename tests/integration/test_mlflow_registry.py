"""MLflow's own client, unmodified, on the registry: models, versions, stages, aliases, tags and prompts, by its wire and by ours."""

from __future__ import annotations

import base64
import gc
import hashlib
import hmac
import http.client
import json
import os
import threading
import time
import warnings
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import ModuleType
from typing import Any, ClassVar
from urllib.parse import urlencode, urlsplit

import numpy as np
import pytest

from kilter.core.digests import digest
from kilter.core.errors import Conflict
from kilter.loop.workspace import Workspace, connect
from kilter.testing.server import RunningServer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:mlflow.*"),
    pytest.mark.filterwarnings("ignore:.*:FutureWarning:mlflow.*"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning:mlflow.*"),
    pytest.mark.filterwarnings("ignore:.*get_latest_versions.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*transition_model_version_stage.*:FutureWarning"),
    # the client leaves its kept connections to the garbage collector
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"),
]
LOOP = "flight-delay"


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
def server(tmp_path_factory):
    store = tmp_path_factory.mktemp("registry") / "store"
    with Workspace.open(str(store)) as workspace:  # a loop trained two versions before the server came up
        for place in range(2):
            workspace.models.register(
                LOOP,
                digest(b"%d" % place),
                run=f"run_{place}",
                spec=digest(b"spec"),
                data_digest=digest(b"data"),
                trigger="decay(log_loss)",
            )
        with workspace.database.transaction() as connection:
            workspace.models.mark(connection, LOOP, 1, "champion", "proved")
            workspace.models.set_alias(connection, LOOP, "champion", 1)
    with RunningServer(store, KILTER_VIEWER_TOKEN="viewer-of-the-test", KILTER_WEBHOOKS_LOCAL="1") as running:
        yield running.url, running.token


@pytest.fixture
def client(mlflow, server):
    mlflow.set_tracking_uri(server[0])
    mlflow.set_registry_uri(server[0])
    return mlflow.MlflowClient(server[0])


@pytest.fixture
def name(request) -> str:
    return f"{request.node.name} <b>é 'x'</b>".replace("/", "-")


def refused(mlflow: ModuleType, act: Any) -> tuple[str, str]:
    with pytest.raises(mlflow.exceptions.MlflowException) as caught:
        act()
    return caught.value.error_code, str(caught.value)


def call(server: tuple[str, str], method: str, path: str, said: dict[str, Any] | None = None) -> tuple[int, Any]:
    """Speak the wire by hand: what the client would not let through."""
    connection = http.client.HTTPConnection(urlsplit(server[0]).netloc, timeout=10)
    query, body = "", None
    if method == "GET" and said:
        query = f"?{urlencode(said)}"
    elif said is not None:
        body = json.dumps(said)
    connection.request(method, f"/api/2.0/mlflow{path}{query}", body=body, headers={"content-type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, json.loads(text) if text else None


def logged(mlflow: ModuleType, coefficients: list[float]) -> Any:
    """Log a model of a few numbers, which needs no framework to be loaded."""

    class Linear(mlflow.pyfunc.PythonModel):
        def __init__(self, weights: list[float]) -> None:
            self.weights = weights

        def predict(self, context: Any, model_input: np.ndarray, params: Any = None) -> np.ndarray:  # noqa: ARG002
            return np.asarray(model_input, dtype=float) @ np.asarray(self.weights)

    mlflow.set_experiment(experiment_id="0")  # another test's server may have had another one
    with mlflow.start_run() as run:
        return mlflow.pyfunc.log_model(name="linear", python_model=Linear(coefficients), pip_requirements=[]), run


def test_a_model_is_registered_and_loaded_by_number_alias_and_stage(mlflow, client, server):
    rows = np.array([[1.0, 0.1], [0.3, -7.25]])
    first, run = logged(mlflow, [0.1, 1 / 3])
    made = mlflow.register_model(first.model_uri, "house prices", tags={"team": "ops"})
    assert (made.name, str(made.version), made.status) == ("house prices", "1", "READY")
    assert made.run_id == run.info.run_id
    second, other = logged(mlflow, [0.2, 0.5])
    by_run = mlflow.register_model(f"runs:/{other.info.run_id}/linear", "house prices")
    assert str(by_run.version) == "2"
    assert second.model_id in by_run.source or by_run.source.startswith("runs:/")
    client.set_registered_model_alias("house prices", "best", "1")
    client.transition_model_version_stage("house prices", "2", "Staging")
    expected = {"/1": rows @ [0.1, 1 / 3], "@best": rows @ [0.1, 1 / 3], "/2": rows @ [0.2, 0.5]}
    expected |= {"/Staging": expected["/2"], "/latest": expected["/2"]}
    for reference, values in expected.items():
        loaded = mlflow.pyfunc.load_model(f"models:/house prices{reference}")
        assert loaded.predict(rows).tobytes() == values.tobytes(), reference
    said = json.loads(client.get_logged_model(first.model_id).tags["mlflow.modelVersions"])
    assert {(one["name"], str(one["version"])) for one in said} == {("house prices", "1")}
    copied = client.copy_model_version("models:/house prices@best", "copied prices")
    assert (str(copied.version), copied.source) == ("1", "models:/house prices/1")
    assert mlflow.pyfunc.load_model("models:/copied prices/1").predict(rows).tobytes() == expected["/1"].tobytes()
    # the same by our own operations
    with closing(connect(*server)) as kilter:
        native = kilter.models.registered_version("house prices", "best")
        changes = kilter.models.changes("house prices")
    assert (native.version, native.owner, native.logged_model, native.tags) == (
        1,
        "client",
        first.model_id,
        {"team": "ops"},
    )
    assert [change.sentence() for change in changes if change.what in {"alias", "stage"}] == [
        "alias best set to 1",
        "stage: None -> Staging",
    ]


def test_everything_that_the_client_can_do_with_models(mlflow, client, name):
    made = client.create_registered_model(name, tags={"a": "1"}, description="about it")
    assert (made.name, made.tags, made.description, made.latest_versions) == (name, {"a": "1"}, "about it", [])
    assert made.creation_timestamp == made.last_updated_timestamp > 1_600_000_000_000
    assert refused(mlflow, lambda: client.create_registered_model(name)) == (
        "RESOURCE_ALREADY_EXISTS",
        f"RESOURCE_ALREADY_EXISTS: Registered Model (name={name}) already exists.",
    )
    client.set_registered_model_tag(name, "b", "2" * 100_000)
    client.delete_registered_model_tag(name, "a")
    client.delete_registered_model_tag(name, "a")
    assert client.get_registered_model(name).tags == {"b": "2" * 100_000}
    assert client.update_registered_model(name, "new words").description == "new words"
    client.rename_registered_model(name, f"{name}2")
    renamed = client.get_registered_model(f"{name}2")
    assert (renamed.name, renamed.tags) == (f"{name}2", {"b": "2" * 100_000})
    client.create_registered_model(name)
    code, text = refused(mlflow, lambda: client.rename_registered_model(name, f"{name}2"))
    assert (code, f"Registered Model (name={name}2) already exists" in text) == ("RESOURCE_ALREADY_EXISTS", True)
    client.delete_registered_model(name)
    missing = ("RESOURCE_DOES_NOT_EXIST", f"RESOURCE_DOES_NOT_EXIST: Registered Model with name={name} not found")
    for act in (
        lambda: client.get_registered_model(name),
        lambda: client.delete_registered_model(name),
        lambda: client.update_registered_model(name, "x"),
        lambda: client.set_registered_model_tag(name, "a", "b"),
        lambda: client.get_latest_versions(name),
        lambda: client.delete_registered_model_alias(name, "a"),
    ):
        assert refused(mlflow, act) == missing
    client.delete_registered_model(f"{name}2")


def test_everything_that_the_client_can_do_with_versions(mlflow, client, name):
    run = client.create_run("0")
    root = run.info.artifact_uri
    client.create_registered_model(name)
    for place in range(3):
        made = client.create_model_version(
            name, f"{root}/model{place}", run.info.run_id, tags={"n": str(place)}, description=f"d{place}", run_link="l"
        )
        assert (str(made.version), made.source, made.run_id) == (
            str(place + 1),
            f"{root}/model{place}",
            run.info.run_id,
        )
        assert (made.description, made.tags, made.run_link) == (f"d{place}", {"n": str(place)}, "l")
        assert (made.current_stage, made.status, made.aliases) == ("None", "READY", [])
    assert client.get_model_version_download_uri(name, "2") == f"{root}/model1"
    assert client.update_model_version(name, "2", "better").description == "better"
    client.set_model_version_tag(name, "2", "m", "x")
    client.delete_model_version_tag(name, "2", "n")
    assert client.get_model_version(name, "2").tags == {"m": "x"}
    # aliases
    client.set_registered_model_alias(name, "blue", "1")
    client.set_registered_model_alias(name, "green", "1")
    client.set_registered_model_alias(name, "blue", "3")
    assert client.get_registered_model(name).aliases == {"blue": "3", "green": "1"}
    assert client.get_model_version(name, "1").aliases == ["green"]
    assert str(client.get_model_version_by_alias(name, "blue").version) == "3"
    assert str(client.get_model_version_by_alias(name, "Latest").version) == "3"
    client.delete_registered_model_alias(name, "green")
    client.delete_registered_model_alias(name, "green")
    assert refused(mlflow, lambda: client.get_model_version_by_alias(name, "green")) == (
        "INVALID_PARAMETER_VALUE",
        "INVALID_PARAMETER_VALUE: Registered model alias green not found.",
    )
    # stages
    client.transition_model_version_stage(name, "1", "production")
    client.transition_model_version_stage(name, "2", "Production", archive_existing_versions=True)
    client.transition_model_version_stage(name, "3", "Staging")
    stages = {str(one.version): one.current_stage for one in client.search_model_versions(f'name = "{name}"')}
    assert stages == {"1": "Archived", "2": "Production", "3": "Staging"}
    latest = {one.current_stage: str(one.version) for one in client.get_latest_versions(name)}
    assert latest == {"Archived": "1", "Production": "2", "Staging": "3"}
    assert [str(one.version) for one in client.get_latest_versions(name, ["staging"])] == ["3"]
    assert [str(one.version) for one in client.get_registered_model(name).latest_versions] == ["1", "2", "3"]
    _, text = refused(mlflow, lambda: client.transition_model_version_stage(name, "1", "Prod"))
    assert text.endswith("Invalid Model Version stage: Prod. Value must be one of None, Staging, Production, Archived.")
    _, text = refused(mlflow, lambda: client.transition_model_version_stage(name, "1", "None", True))
    assert "is not an Active stage" in text
    # numbers are not given again, and a name that is made again begins anew
    client.delete_model_version(name, "3")
    assert client.get_registered_model(name).aliases == {}
    missing = ("RESOURCE_DOES_NOT_EXIST", f"RESOURCE_DOES_NOT_EXIST: Model Version (name={name}, version=3) not found")
    for act in (
        lambda: client.get_model_version(name, "3"),
        lambda: client.delete_model_version(name, "3"),
        lambda: client.update_model_version(name, "3", "x"),
        lambda: client.set_model_version_tag(name, "3", "a", "b"),
        lambda: client.set_registered_model_alias(name, "a", "3"),
        lambda: client.get_model_version_download_uri(name, "3"),
        lambda: client.transition_model_version_stage(name, "3", "Staging"),
    ):
        assert refused(mlflow, act) == missing
    assert str(client.create_model_version(name, f"{root}/again", run.info.run_id).version) == "4"
    client.delete_registered_model(name)
    client.create_registered_model(name)
    assert str(client.create_model_version(name, f"{root}/again", run.info.run_id).version) == "1"
    assert client.get_registered_model(name).aliases == {}


def test_searches_speak_the_registrys_grammar(mlflow, client):
    run = client.create_run("0")
    for place, letter in enumerate("abcdef"):
        client.create_registered_model(
            f"search-{letter}", tags={"team": "ops" if place % 2 else "ml_Ops", "all": "yes"}
        )
        for number in range(place % 3):
            source = f"{run.info.artifact_uri}/{letter}{number}"
            client.create_model_version(f"search-{letter}", source, run.info.run_id, tags={"which": f"w{number}"})

    def names(text: str = "", **more: Any) -> str:
        found = client.search_registered_models(f"name LIKE 'search-%'{text}", **more)
        return "".join(one.name[7:] for one in found)

    assert names() == "abcdef"
    assert names(" and name != 'search-b'") == "acdef"
    assert names(" AND tags.team = 'ops'") == "bdf"
    assert names(" and tags.team != 'ops' and tag.`all` = 'yes'") == "ace"
    assert names(" and tags.team LIKE 'ml%'") == "ace"
    assert names(" and tags.team LIKE 'ML%'") == ""
    assert names(" and tags.team ILIKE 'ML_OPS'") == "ace"
    assert names(" and name IN ('search-a', 'search-f', 'none')") == "af"
    assert names(order_by=["name DESC"]) == "fedcba"
    assert names(order_by=["last_updated_timestamp DESC"])[0] == "f"
    pages, token = "", None
    while True:
        page = client.search_registered_models("name LIKE 'search-%'", max_results=4, page_token=token)
        pages += "".join(one.name[7:] for one in page)
        token = page.token
        if not token:
            break
    assert pages == "abcdef"

    def versions(text: str, **more: Any) -> list[str]:
        found = client.search_model_versions(f"run_id = '{run.info.run_id}'{text}", **more)
        return [f"{one.name[7:]}{one.version}" for one in found]

    assert sorted(versions("")) == ["b1", "c1", "c2", "e1", "f1", "f2"]
    assert sorted(versions(" and version_number > 1")) == ["c2", "f2"]
    assert sorted(versions(" and tags.which = 'w0'")) == ["b1", "c1", "e1", "f1"]
    assert versions(f" and source_path = '{run.info.artifact_uri}/c1'") == ["c2"]
    assert versions("", order_by=["name DESC", "version_number ASC"]) == ["f1", "f2", "e1", "c1", "c2", "b1"]
    assert versions("", order_by=["creation_timestamp ASC"], max_results=2) == ["b1", "c1"]
    for text in ("nonsense", "tags.a ~ 'b'", "color = 'x'", "name = 3", "tags.a > 'b'", "name = 'a' or name = 'b'"):
        assert refused(mlflow, lambda text=text: client.search_registered_models(text))[0] == "INVALID_PARAMETER_VALUE"
        assert refused(mlflow, lambda text=text: client.search_model_versions(text))[0] == "INVALID_PARAMETER_VALUE"
    for order in ("color ASC", "name ASC, name DESC", "tags.a"):
        act = lambda order=order: client.search_registered_models(order_by=[order])  # noqa: E731
        assert refused(mlflow, act)[0] == "INVALID_PARAMETER_VALUE"


def test_what_a_loop_owns_is_seen_and_not_moved(mlflow, client, server):
    found = client.get_model_version_by_alias(LOOP, "champion")
    assert (str(found.version), found.run_id, found.tags["kilter.stage"]) == ("1", "run_0", "champion")
    assert found.source == client.get_model_version_download_uri(LOOP, "1") == f"mlflow-artifacts:/models/{LOOP}/1"
    assert client.get_registered_model(LOOP).aliases == {"champion": "1"}
    assert [str(one.version) for one in client.search_model_versions("tags.`kilter.stage` = 'champion'")] == ["1"]
    for act, words in (
        (lambda: client.set_registered_model_alias(LOOP, "champion", "2"), "kilter promote"),
        (lambda: client.set_registered_model_alias(LOOP, "challenger", "2"), "kilter rollback"),
        (lambda: client.delete_registered_model_alias(LOOP, "champion"), "kilter promote"),
        (lambda: client.create_model_version(LOOP, "runs:/r/m", "r"), "belongs to a loop"),
        (lambda: client.delete_model_version(LOOP, "1"), "belongs to a loop"),
        (lambda: client.delete_registered_model(LOOP), "belongs to a loop"),
        (lambda: client.rename_registered_model(LOOP, "mine"), "belongs to a loop"),
        (lambda: client.set_model_version_tag(LOOP, "1", "kilter.stage", "retired"), "said by the loop"),
    ):
        code, text = refused(mlflow, act)
        assert (code, words in text) == ("INVALID_PARAMETER_VALUE", True), text
    client.set_registered_model_tag(LOOP, "team", "ops")
    client.set_model_version_tag(LOOP, "1", "seen", "yes")
    client.update_model_version(LOOP, "1", "the first")
    client.set_registered_model_alias(LOOP, "blessed", "2")
    with closing(connect(*server)) as kilter:
        assert kilter.models.get(LOOP, "blessed").version == 2
        history = kilter.models.history(LOOP, 1)
        with pytest.raises(Conflict, match="kilter promote"):
            kilter.models.assign_alias(LOOP, "champion", 2)
    assert [change.sentence() for change in history.changes] == [
        "registered",
        "alias champion set to 1",
        "tag seen set to yes",
        "description set to the first",
        "alias blessed set to 2",
    ]
    assert {change.by for change in history.changes} == {"loop", "editor (MLflow client)"}


def test_sources_lead_nowhere_else(mlflow, client, server, name):
    run = client.create_run("0")
    client.create_registered_model(name)
    host = urlsplit(server[0]).netloc
    model, _ = logged(mlflow, [1.0])
    at = f"{run.info.artifact_uri}/model"
    good = [
        {"source": at, "run_id": run.info.run_id},
        {"source": at.replace("mlflow-artifacts:/", f"mlflow-artifacts://{host}/"), "run_id": run.info.run_id},
        {"source": f"runs:/{run.info.run_id}/model", "run_id": run.info.run_id},
        {"source": f"models:/{model.model_id}", "model_id": model.model_id},
    ]
    for said in good:
        status, answer = call(server, "POST", "/model-versions/create", {"name": name, **said})
        assert status == 200, answer
    other = client.create_run("0").info.run_id
    bad = [
        *(
            {"source": text, "run_id": run.info.run_id}
            for text in (
                "file:///etc/passwd",
                "/etc/passwd",
                "relative/path",
                "C:\\windows",
                "http://169.254.169.254/latest",
                "https://example.org/model",
                "ftp://example.org/model",
                "mlflow-artifacts://example.org/0/x/artifacts/model",
                f"{run.info.artifact_uri}/../../../etc",
                f"{run.info.artifact_uri}/%2e%2e/%2e%2e/x",
                f"{run.info.artifact_uri}/%252e%252e/x",
                f"{run.info.artifact_uri}/a%00b",
                f"{run.info.artifact_uri}/a?x=1",
                f"{run.info.artifact_uri}/a#x",
                f"runs:/{run.info.run_id}/../x",
                f"runs://host/{run.info.run_id}/x",
                f"models:/{model.model_id}",
                "models:/a/b/c",
                "models://host/a/1",
                "models:/",
                "s3://bucket/../model",
                "s3://key:secret@bucket/model",
                "dbfs:/",
                "dummy-source",
                "mlflow-artifacts://[bad/x",
            )
        ),
        {"source": at, "run_id": other},
        {"source": at},
        {"source": f"runs:/{run.info.run_id}/model"},
        {"source": f"runs:/{run.info.run_id}/model", "model_id": model.model_id},
        {"source": f"models:/{model.model_id}", "model_id": "m-other"},
        {"source": at, "model_id": model.model_id},
        {"source": "anything", "tags": [{"key": "mlflow.prompt.is_prompt", "value": "true"}]},
    ]
    for said in bad:
        status, answer = call(server, "POST", "/model-versions/create", {"name": name, **said})
        assert (status, answer["error_code"]) == (400, "INVALID_PARAMETER_VALUE"), (said, answer)
        assert "source" in answer["message"]
    for said in ({"source": "models:/none/1"}, {"source": f"models:/{name}/99"}, {"source": f"models:/{name}@none"}):
        status, answer = call(server, "POST", "/model-versions/create", {"name": name, **said})
        assert (status, answer["error_code"]) == (404, "RESOURCE_DOES_NOT_EXIST"), answer


def test_bad_input_is_said_in_mlflows_words(server):
    long = "x" * 257
    cases: list[tuple[str, str, dict[str, Any], str]] = [
        ("POST", "/registered-models/create", {}, "Missing value for required parameter 'name'."),
        ("POST", "/registered-models/create", {"name": "  "}, "Missing value for required parameter 'name'."),
        ("POST", "/registered-models/create", {"name": 1}, "Invalid value 1 for parameter 'name' supplied"),
        ("POST", "/registered-models/create", {"name": "a/b"}, "Invalid model name 'a/b'. Names cannot contain '/' or ':'."),
        ("POST", "/registered-models/create", {"name": "a:b"}, "Names cannot contain '/' or ':'."),
        ("POST", "/registered-models/create", {"name": ".."}, "This name would resolve to '..'"),
        ("POST", "/registered-models/create", {"name": long}, "exceeds the maximum length of 256 characters"),
        ("POST", "/registered-models/create", {"name": "n\x00"}, "is not a model's name"),
        ("POST", "/registered-models/create", {"name": "n", "description": "\x00"}, "can't be kept"),
        ("POST", "/registered-models/create", {"name": "n", "tags": [{"key": "a!b"}]}, "Names may only contain"),
        ("POST", "/registered-models/create", {"name": "n", "tags": [{"key": "a", "value": "x" * 100_001}]}, "100000"),
        ("POST", "/registered-models/create", {"name": "n", "tags": {"a": "b"}}, "for parameter 'tags' supplied"),
        ("POST", "/registered-models/alias", {"name": "n", "alias": "a b", "version": "1"}, "Invalid alias name: 'a b'."),
        ("POST", "/registered-models/alias", {"name": "n", "alias": "LATEST", "version": "1"}, "(case insensitive) is reserved"),
        ("POST", "/registered-models/alias", {"name": "n", "alias": "v1", "version": "1"}, "Version alias name 'v1' is reserved."),
        ("POST", "/registered-models/alias", {"name": "n", "alias": "a", "version": "x"}, "Parameter 'version' must be an integer, got 'x'."),
        ("GET", "/registered-models/search", {"max_results": "1001"}, "It must be at most 1000, but got value 1001"),
        ("GET", "/registered-models/search", {"max_results": "0"}, "must be a positive integer"),
        ("GET", "/registered-models/search", {"page_token": "nonsense"}, "the cursor can't be read"),
        ("GET", "/model-versions/search", {"max_results": "200001"}, "It must be at most 200000, but got value 200001"),
        ("GET", "/model-versions/search", {"filter": "version_number = 1.5"}, "Invalid value for numeric attribute"),
        ("GET", "/model-versions/search", {"filter": "version_number = inf"}, "Invalid value for numeric attribute"),
    ]  # fmt: skip
    for method, path, said, words in cases:
        status, answer = call(server, method, path, said)
        assert (status, answer["error_code"]) == (400, "INVALID_PARAMETER_VALUE"), (said, answer)
        assert words in answer["message"], answer
    for version in ("99999999999999999999", "-1", "0"):
        status, answer = call(server, "GET", "/model-versions/get", {"name": LOOP, "version": version})
        assert (status, answer["error_code"]) == (404, "RESOURCE_DOES_NOT_EXIST"), version
    connection = http.client.HTTPConnection(urlsplit(server[0]).netloc, timeout=10)
    deep = "[" * 10_000 + "]" * 10_000
    connection.request(
        "POST",
        "/api/2.0/mlflow/registered-models/create",
        body=f'{{"name": "deep", "tags": {deep}}}',
        headers={"content-type": "application/json"},
    )
    answer = connection.getresponse()
    assert answer.status == 400
    assert b"nested too deep" in answer.read()
    connection.close()
    assert call(server, "PUT", "/registered-models/create", {})[0] == 405


def test_a_viewer_reads_the_registry_and_changes_nothing(server):
    connection = http.client.HTTPConnection(urlsplit(server[0]).netloc, timeout=10)
    for method, path, body, status in (
        ("GET", f"/registered-models/get?name={LOOP}", None, 200),
        ("POST", "/registered-models/get-latest-versions", {"name": LOOP}, 200),
        ("POST", "/registered-models/create", {"name": "viewers"}, 403),
        ("PATCH", "/registered-models/update", {"name": LOOP}, 403),
        ("DELETE", "/registered-models/delete", {"name": LOOP}, 403),
    ):
        connection.request(
            method,
            f"/api/2.0/mlflow{path}",
            body=None if body is None else json.dumps(body),
            headers={"content-type": "application/json", "authorization": "Bearer viewer-of-the-test"},
        )
        answer = connection.getresponse()
        answer.read()
        assert answer.status == status, path
    connection.close()


def test_prompts_are_registered_loaded_searched_and_deleted(mlflow, client):
    genai = pytest.importorskip("mlflow.genai")
    first = genai.register_prompt("greet", "Hello {{ name }}!", commit_message="first", tags={"lang": "en"})
    assert (first.version, first.template) == (1, "Hello {{ name }}!")
    second = genai.register_prompt("greet", [{"role": "user", "content": "Hi {{ name }}"}], commit_message="second")
    assert second.version == 2
    genai.set_prompt_alias("greet", "live", 1)
    assert genai.load_prompt("prompts:/greet@live").format(name="Ana") == "Hello Ana!"
    assert genai.load_prompt("greet", version=2).template == [{"role": "user", "content": "Hi {{ name }}"}]
    assert genai.load_prompt("prompts:/greet/1").commit_message == "first"
    assert genai.load_prompt("greet").version == 2
    genai.set_prompt_alias("greet", "live", 2)
    assert genai.load_prompt("prompts:/greet@live", cache_ttl_seconds=0).version == 2
    genai.delete_prompt_alias("greet", "live")
    genai.set_prompt_tag("greet", "team", "ops")
    assert [prompt.name for prompt in genai.search_prompts()] == ["greet"]
    assert [prompt.name for prompt in genai.search_prompts("tags.team = 'ops'")] == ["greet"]
    assert [prompt.name for prompt in genai.search_prompts("name = 'none'")] == []
    # prompts are no models
    assert "greet" not in {model.name for model in client.search_registered_models()}
    assert "greet" not in {version.name for version in client.search_model_versions()}
    code, text = refused(mlflow, lambda: client.create_registered_model("greet"))
    assert (code, "already taken by a prompt" in text) == ("RESOURCE_ALREADY_EXISTS", True)
    client.delete_prompt_version("greet", "1")
    client.delete_prompt_version("greet", "2")
    client.delete_prompt("greet")
    assert genai.search_prompts() == []
    assert genai.load_prompt("greet", allow_missing=True, cache_ttl_seconds=0) is None


class Receiver(BaseHTTPRequestHandler):
    """Keeps what it gets."""

    got: ClassVar[list[tuple[dict[str, str], bytes]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def test_webhooks_are_made_tried_told_changed_and_deleted(mlflow, client):
    listening = HTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        url = f"http://127.0.0.1:{listening.server_port}/hook"
        made = client.create_webhook(
            "mine", url, ["registered_model.created", "model_version_alias.created"], secret="s3cret", description="d"
        )
        assert (made.name, made.url, str(made.status), made.description) == ("mine", url, "ACTIVE", "d")
        assert {str(event) for event in made.events} == {"registered_model.created", "model_version_alias.created"}
        tried = client.test_webhook(made.webhook_id, "model_version_alias.created")
        assert (tried.success, tried.response_status, tried.response_body) == (True, 200, "ok")
        client.create_registered_model("told", tags={"a": "b"})
        deadline = time.monotonic() + 15
        while len(Receiver.got) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        headers, body = Receiver.got[1]
        said = json.loads(body)
        assert (said["entity"], said["action"]) == ("registered_model", "created")
        assert said["data"] == {"name": "told", "tags": {"a": "b"}, "description": ""}
        signed = f"{headers['x-mlflow-delivery-id']}.{headers['x-mlflow-timestamp']}.{body.decode()}"
        expected = base64.b64encode(hmac.new(b"s3cret", signed.encode(), hashlib.sha256).digest()).decode()
        assert headers["x-mlflow-signature"] == f"v1,{expected}"
        changed = client.update_webhook(made.webhook_id, name="other", status="DISABLED", events=["prompt.created"])
        assert (changed.name, str(changed.status), changed.url) == ("other", "DISABLED", url)
        assert [hook.webhook_id for hook in client.list_webhooks()] == [made.webhook_id]
        assert client.get_webhook(made.webhook_id).name == "other"
        client.delete_webhook(made.webhook_id)
        missing = f"RESOURCE_DOES_NOT_EXIST: Webhook with ID {made.webhook_id} not found."
        assert refused(mlflow, lambda: client.get_webhook(made.webhook_id)) == ("RESOURCE_DOES_NOT_EXIST", missing)
        code, text = refused(mlflow, lambda: client.create_webhook("x", "ftp://h/", ["prompt.created"]))
        assert (code, "Invalid webhook URL scheme" in text) == ("INVALID_PARAMETER_VALUE", True)
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()
