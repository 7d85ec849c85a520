"""Vertex AI's model registry: Google's own client, unmodified, where it is installed, and its requests without it."""

from __future__ import annotations

import http.client
import json
import os
import random
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from kilter.core.access import secret_digest
from kilter.core.digests import digest
from kilter.loop.workspace import Workspace, connect
from kilter.testing.server import RunningServer

VIEWER = "viewer-of-the-test"
EDITOR = "editor-of-the-test"
OWNER = "owner-of-the-test-0123456789"
FRAUD = "token-of-bo-who-edits-fraud-only-0123456789"
PLACE = "/v1/projects/p/locations/l"


def flight(store: Path) -> None:
    """A loop's model with two versions, the second of which is its champion."""
    with Workspace.open(str(store)) as workspace:
        for bundle in (b"1", b"2"):
            workspace.models.register(
                "flight", digest(bundle), run="r", spec=digest(b"s"), data_digest=digest(b"d"), trigger="decay"
            )
        with workspace.database.transaction() as connection:
            workspace.models.set_alias(connection, "flight", "champion", 2)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    store = tmp_path_factory.mktemp("vertex") / "store"
    flight(store)
    tokens = {"KILTER_TOKEN": OWNER, "KILTER_VIEWER_TOKEN": VIEWER, "KILTER_EDITOR_TOKEN": EDITOR}
    with RunningServer(store, **tokens) as server:
        url = server.url
        yield url, OWNER


# ---------------------------------------------------------------- Google's own client


def client_says(server: tuple[str, str], scenario: str) -> Any:
    """Run calls with the client where it is installed: KILTER_PEERS_PYTHON may name an interpreter that has it."""
    peers = os.environ.get("KILTER_PEERS_PYTHON", sys.executable)
    has = subprocess.run([peers, "-c", "import google.cloud.aiplatform_v1"], capture_output=True, check=False)
    if has.returncode:
        pytest.skip(f"google-cloud-aiplatform is not installed in {peers}")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [peers, "-W", "ignore", str(Path(__file__).parent / "vertex_calls.py"), *server, scenario],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_versions_and_aliases_with_googles_client(server):
    found = client_says(server, "versions_and_aliases")
    name = "projects/team-7/locations/europe-west4/models/churn"
    assert (found["done at once"], found["asked again"]) == (True, True)
    assert (found["uploaded"], found["second"]) == ([name, "1"], "2")
    assert found["default"] == [name, "1", ["default"], "churn", "who leaves"]
    assert found["kept"] == "gs://bucket/churn/1"
    assert found["times"]
    assert found["golden"] == [f"{name}@2", "2", ["golden"], {"team": "ops", "trees": "900"}]
    assert found["versions"] == [["churn@2", ["golden"]], ["churn@1", ["default"]]]
    assert found["merged"] == found["both"] == ["blue", "default"]
    assert found["moved"] == ["2", []]
    assert found["updated"] == ["Churn", "who left", {"team": "ml", "trees": "900"}, name]
    assert found["version updated"] == ["the first", {"team": "ml", "kind": "old"}, f"{name}@1"]
    assert found["refused"] == {
        "stale": [409, "ABORTED"],
        "mixed": [400, "FAILED_PRECONDITION"],
        "default taken": [400, "FAILED_PRECONDITION"],
        "default deleted": [400, "FAILED_PRECONDITION"],
        "none": [404, "NOT_FOUND"],
        "no version": [404, "NOT_FOUND"],
        "no alias": [404, "NOT_FOUND"],
        "taken": [409, "ALREADY_EXISTS"],
        "file": [400, "INVALID_ARGUMENT"],
        "copy": [501, "UNIMPLEMENTED"],
    }
    assert found["description"] == "who left"
    assert found["last"][1] == "FAILED_PRECONDITION"
    assert found["gone"][1] == "NOT_FOUND"
    # the same by our own operations: who changed what is kept
    with closing(connect(*server)) as kilter:
        changes = kilter.models.changes("churn", 2)
    assert ("alias default: 1 -> 2", "admin (Vertex AI client)") in [(one.sentence(), one.by) for one in changes]


def test_pages_filters_and_orders_with_googles_client(server):
    found = client_says(server, "pages")
    assert found["all"] == ["page-4", "page-3", "page-2", "page-1", "page-0"]
    assert found["first"] == 2
    assert found["by name"] == ["page-4", "page-2", "page-0"]
    assert found["display"] == ["page-1"]
    assert found["other"] == ["page-0", "page-2", "page-3", "page-4"]
    assert (found["model"], found["label"], found["none"]) == (["page-3"], ["page-3", "page-1"], [])
    assert (found["versions"], found["oldest"]) == (list("54321"), list("12345"))
    assert found["labelled"] == list("5432")
    assert found["masked"] == [["Page 1", ""]]
    for refused in ("bad filter", "bad order", "bad token"):
        assert found[refused] == [400, "INVALID_ARGUMENT"]


def test_the_sdk_uploads_lists_aliases_updates_and_deletes(server):
    found = client_says(server, "high_level")
    name = "projects/team-7/locations/europe-west4/models/fraud"
    assert found["uploaded"] == [name, "1", ["default"], "gs://bucket/f/1"]
    assert found["quiet"] == ["2", ["canary"], f"{name}@2"]
    assert found["same name"] == ["fraud", True, True]
    assert found["listed"] == [[True, "1"], [False, "1"]]
    assert found["info"] == ["2", "second", ["blue"]]
    assert found["versions"] == [["2", ["blue", "default"]], ["1", []]]
    assert found["default"] == "2"
    assert found["old"] == ["first", {"kind": "old"}]
    assert found["updated"] == ["Fraud of cards", "cards", {"team": "ops", "kind": "old"}, "1"]
    assert found["left"] == ["2"]
    assert found["gone"] == [404, "NOT_FOUND"]


def test_a_loops_champion_is_the_default_and_moved_by_its_loop_alone(server):
    found = client_says(server, "of_a_loop")
    assert found["champion"] == ["2", ["champion", "default"], "mlflow-artifacts:/models/flight/2"]
    assert (found["by alias"], found["first"], found["nothing happened"]) == ("2", [[]], [[]])
    refused = [400, "FAILED_PRECONDITION"]
    assert found["refused"] == [refused] * 5
    for act in ("half", "upload", "delete version", "delete"):
        assert found[act] == refused, act
    assert found["mine"] == ["mine"]
    assert found["stage"] == [400, "INVALID_ARGUMENT"]
    assert (found["described"], found["beside"]) == ("delays", True)


def test_a_token_has_its_role_with_googles_client(server):
    nothing, denied = ["nothing"], [403, "PERMISSION_DENIED"]
    found = client_says((server[0], VIEWER), "role")
    assert (found["list"], found["upload"], found["alias"]) == (nothing, denied, denied)
    found = client_says((server[0], EDITOR), "role")
    assert (found["list"], found["upload"], found["alias"]) == (nothing, nothing, nothing)
    stranger = client_says((server[0], "wrong"), "role")
    assert (stranger["list"], stranger["upload"]) == (["refresh"], ["refresh"])


def test_on_ones_own_machine_the_client_comes_without_a_token(tmp_path):
    flight(tmp_path / "store")
    with RunningServer(tmp_path / "store") as server:
        url = server.url
        nothing = ["nothing"]
        assert client_says((url, ""), "role") == {"list": nothing, "upload": nothing, "alias": nothing}


# ---------------------------------------------------------------- its requests, without it


def call(
    url: str, method: str, path: str, body: Any = None, token: str = OWNER, **headers: str
) -> tuple[int, dict[str, Any]]:
    """Send a request as curl would; return the status and the JSON."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    fields = {"authorization": f"Bearer {token}"} if token else {}
    if body is not None:
        fields["content-type"] = "application/json"
        body = body if isinstance(body, bytes) else json.dumps(body)
    connection.request(method, path if path.startswith("/v1") else PLACE + path, body, {**fields, **headers})
    answer = connection.getresponse()
    data = answer.read()
    kind = answer.headers["content-type"]
    connection.close()
    assert kind.startswith("application/json"), (path, data)
    return answer.status, json.loads(data)


def test_the_shapes_on_the_wire(server):
    url, _ = server
    model = {"display_name": "Shapes", "containerSpec": {"imageUri": "i", "ports": [{"containerPort": 1}]}}
    status, operation = call(url, "POST", "/models:upload", {"modelId": "shapes", "model": model})
    assert (status, operation["done"]) == (200, True)
    kind = "type.googleapis.com/google.cloud.aiplatform.v1"
    assert operation["response"] == {
        "@type": f"{kind}.UploadModelResponse",
        "model": "projects/p/locations/l/models/shapes",
        "modelVersionId": "1",
    }
    assert operation["metadata"]["@type"] == f"{kind}.UploadModelOperationMetadata"
    assert operation["name"].startswith("projects/p/locations/l/models/shapes/operations/")
    assert call(url, "GET", f"/v1/{operation['name']}") == (200, operation)
    number = operation["name"].rpartition("/")[2]
    assert call(url, "GET", f"/operations/{number}") == (200, operation)
    assert call(url, "GET", f"/models/flight/operations/{number}")[0] == 404
    assert call(url, "GET", "/operations/999999999")[1]["error"]["status"] == "NOT_FOUND"
    status, found = call(url, "GET", "/models/shapes?$alt=json;enum-encoding%3Dint")
    assert status == 200
    times = {name: found.pop(name) for name in list(found) if name.endswith("Time")}
    assert sorted(times) == ["createTime", "updateTime", "versionCreateTime", "versionUpdateTime"]
    assert all(time.endswith("Z") and "T" in time for time in times.values())
    assert len(found.pop("etag")) == 33
    assert found == {
        "name": "projects/p/locations/l/models/shapes",
        "versionId": "1",
        "versionAliases": ["default"],
        "displayName": "Shapes",
        "containerSpec": {"imageUri": "i", "ports": [{"containerPort": 1}]},
    }
    for at in ("shapes@1", "shapes%401", "shapes@default"):
        assert call(url, "GET", f"/models/{at}")[1]["name"] == "projects/p/locations/l/models/shapes@1"
    assert call(url, "PATCH", "/models/shapes@-?updateMask=description", {"description": "d"})[1]["description"] == "d"
    status, gone = call(url, "DELETE", "/models/shapes")
    assert gone["response"] == {"@type": "type.googleapis.com/google.protobuf.Empty"}
    assert call(url, "GET", f"/v1/{gone['name']}") == (200, gone)
    assert call(url, "GET", f"/v1/{operation['name']}") == (200, operation)
    assert call(url, "GET", "/models?filter=model%3Dshapes") == (200, {})


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/models:upload", {}, 400, "INVALID_ARGUMENT"),
        ("POST", "/models:upload", {"model": {}}, 400, "INVALID_ARGUMENT"),
        ("POST", "/models:upload", {"model": []}, 400, "INVALID_ARGUMENT"),
        ("POST", "/models:upload", {"model": {"displayName": 1}}, 400, "INVALID_ARGUMENT"),
        ("POST", "/models:upload", {"model": {"displayName": "x" * 129}}, 400, "INVALID_ARGUMENT"),
        ("POST", "/models:upload", {"model": {"displayName": "x", "colour": 1}}, 400, "INVALID_ARGUMENT"),
        ("POST", "/models:upload", {"model": {"displayName": "x"}, "modelId": "A/b"}, 400, "INVALID_ARGUMENT"),
        ("POST", "/models:upload", {"model": {"displayName": "x"}, "modelId": "7up"}, 400, "INVALID_ARGUMENT"),
        ("POST", "/models:upload", {"model": {"displayName": "x"}, "parentModel": "flight"}, 400, "INVALID_ARGUMENT"),
        ("POST", "/models:upload", {"model": {"displayName": "x", "labels": {"A": "b"}}}, 400, "INVALID_ARGUMENT"),
        ("POST", "/models:upload", {"model": {"displayName": "x", "labels": {"a": 1}}}, 400, "INVALID_ARGUMENT"),
        ("POST", "/models:upload", {"model": {"displayName": "x", "labels": 3}}, 400, "INVALID_ARGUMENT"),
        ("POST", "/models:upload", {"model": {"displayName": "x", "versionAliases": ["7"]}}, 400, "INVALID_ARGUMENT"),
        ("POST", "/models:upload", {"model": {"displayName": "x", "versionAliases": ["v7"]}}, 400, "INVALID_ARGUMENT"),
        ("POST", "/models:upload", {"model": {"displayName": "x", "versionAliases": "aa"}}, 400, "INVALID_ARGUMENT"),
        ("POST", "/models:upload", {"model": {"displayName": "x", "containerSpec": "i"}}, 400, "INVALID_ARGUMENT"),
        ("POST", "/models:upload", {"model": {"displayName": "x", "containerSpec": {}}}, 400, "INVALID_ARGUMENT"),
        ("POST", "/models:upload", b'{"model": ', 400, "INVALID_ARGUMENT"),
        ("POST", "/models:upload", b"[" * 5000, 400, "INVALID_ARGUMENT"),
        ("POST", "/models/flight@1:mergeVersionAliases", {}, 400, "INVALID_ARGUMENT"),
        ("POST", "/models/flight@1:mergeVersionAliases", {"versionAliases": ["A_"]}, 400, "INVALID_ARGUMENT"),
        ("POST", "/models/flight:mergeVersionAliases", {"versionAliases": ["aa"]}, 400, "INVALID_ARGUMENT"),
        ("POST", "/models/none@1:mergeVersionAliases", {"versionAliases": ["aa"]}, 404, "NOT_FOUND"),
        ("PATCH", "/models/flight", {"description": "x"}, 400, "INVALID_ARGUMENT"),
        ("PATCH", "/models/flight?updateMask=etag", {"description": "x"}, 400, "INVALID_ARGUMENT"),
        ("PATCH", "/models/flight?updateMask=displayName", {}, 400, "INVALID_ARGUMENT"),
        ("PATCH", "/models/flight?updateMask=versionDescription", {}, 400, "FAILED_PRECONDITION"),
        ("PATCH", "/models/flight@1?updateMask=description", {}, 400, "FAILED_PRECONDITION"),
        ("PATCH", "/models/flight?updateMask=description", {"description": "x", "etag": "x"}, 409, "ABORTED"),
        ("DELETE", "/models/flight@1", None, 400, "INVALID_ARGUMENT"),
        ("DELETE", "/models/flight:deleteVersion", None, 400, "INVALID_ARGUMENT"),
        ("DELETE", "/models/flight@1:deleteVersion", None, 400, "FAILED_PRECONDITION"),
        ("GET", "/models/flight@0", None, 404, "NOT_FOUND"),
        ("GET", "/models/flight@99999999999999999999", None, 404, "NOT_FOUND"),
        ("GET", "/models/..%2f..%2fetc", None, 501, "UNIMPLEMENTED"),
        ("GET", "/models?pageSize=-1", None, 400, "INVALID_ARGUMENT"),
        ("GET", "/models?pageSize=%D9%A1", None, 400, "INVALID_ARGUMENT"),
        ("GET", "/models?pageToken=AAAA", None, 400, "INVALID_ARGUMENT"),
        ("GET", "/models?filter=model%3Dflight&pageToken=AAAA", None, 400, "INVALID_ARGUMENT"),
        ("GET", "/models?filter=displayName%3D%22a%22%20OR%20model%3Db", None, 400, "INVALID_ARGUMENT"),
        ("GET", "/models?filter=model%3Dflight%20AND", None, 400, "INVALID_ARGUMENT"),
        ("GET", "/models?filter=labels.a!%3Db", None, 400, "INVALID_ARGUMENT"),
        ("GET", "/models?filter=baseModelName%3Db", None, 400, "INVALID_ARGUMENT"),
        ("GET", "/models?orderBy=displayName,display_name", None, 400, "INVALID_ARGUMENT"),
        ("GET", "/models?colour=red", None, 400, "INVALID_ARGUMENT"),
        ("GET", "/models?alt=proto", None, 400, "INVALID_ARGUMENT"),
        ("GET", "/models?filter=a&filter=b", None, 400, "INVALID_ARGUMENT"),
        ("GET", "/models/flight/evaluations", None, 501, "UNIMPLEMENTED"),
        ("GET", "/endpoints", None, 501, "UNIMPLEMENTED"),
        ("PUT", "/models/flight", {}, 501, "UNIMPLEMENTED"),
        ("GET", "/v1/projects/p", None, 400, "INVALID_ARGUMENT"),
        ("GET", "/v1/projects/%00/locations/l/models", None, 400, "INVALID_ARGUMENT"),
    ],
)
def test_what_cant_be_is_said_in_googles_codes_and_changes_nothing(server, method, path, body, status, code):
    url, _ = server
    before = [call(url, "GET", f"/models/{name}")[1] for name in ("flight", "flight@1")]
    names = call(url, "GET", "/models?readMask=name")
    found, said = call(url, method, path, body)
    assert (found, said["error"]["status"], said["error"]["code"]) == (status, code, status), said
    assert said["error"]["message"]
    assert [call(url, "GET", f"/models/{name}")[1] for name in ("flight", "flight@1")] == before
    assert call(url, "GET", "/models?readMask=name") == names


@pytest.mark.parametrize(
    "uri",
    ["/etc/passwd", "file:///etc", "http://h/x", "s3://b/x", "gs://", "gs://b/../x", "runs:/none", "mlflow-artifacts:/0/r",
     "mlflow-artifacts://elsewhere/0/none/artifacts/m", "models:/m-none", "runs:/../x", "models:/none/1"],
)  # fmt: skip
def test_only_this_servers_files_and_words_about_a_bucket_are_taken(server, uri):
    status, said = call(server[0], "POST", "/models:upload", {"model": {"displayName": "u", "artifactUri": uri}})
    assert (status, said["error"]["status"]) in {(400, "INVALID_ARGUMENT"), (404, "NOT_FOUND")}
    assert call(server[0], "GET", "/models/u")[0] == 404


def test_a_version_by_reference_to_this_servers_own_files(server):
    url, _ = server
    with closing(connect(*server)) as kilter:
        run = kilter.runs.start("e1")
    source = f"runs:/{run.id}/model"
    for uri in (
        source,
        "models:/flight/2",
        f"mlflow-artifacts:/{_experiment(server, run.id)}/{run.id}/artifacts/model",
    ):
        body = {"model": {"displayName": "refers", "artifactUri": uri}, "modelId": "refers"}
        assert call(url, "POST", "/models:upload", body)[0] == 200, uri
        with closing(connect(*server)) as kilter:
            made = kilter.models.registered_version("refers", 1)
        assert made.source == uri
        assert made.run == ("r" if uri.startswith("models") and made.run == "r" else made.run)
        assert call(url, "GET", "/models/refers")[1]["artifactUri"].startswith(("runs:/", "mlflow-artifacts:/"))
        assert call(url, "DELETE", "/models/refers")[0] == 200


def _experiment(server: tuple[str, str], run: str) -> int:
    with closing(connect(*server)) as kilter:
        return kilter.runs.get(run).experiment_number


def test_what_others_registered_is_seen_with_a_default(server):
    url, _ = server
    with closing(connect(*server)) as kilter:
        kilter.models.create("House prices@home", "what it sells for", {"team": "ops", "mlflow.note": "X y"})
        assert call(url, "GET", "/models/House%20prices@home")[0] == 404  # a model has a version
        for _ in range(3):
            kilter.models.add_version("House prices@home", "model-package")
        kilter.models.delete_version("House prices@home", 1)
        found = call(url, "GET", "/models/House%20prices@home")[1]
        assert (found["name"].rpartition("/")[2], found["displayName"]) == ("House prices@home",) * 2
        assert (found["versionId"], found["versionAliases"], found["labels"]) == ("2", ["default"], {"team": "ops"})
        call(url, "PATCH", "/models/House%20prices@home?updateMask=labels", {"labels": {"a": "b"}})
        assert kilter.models.registered("House prices@home").tags == {"a": "b", "mlflow.note": "X y"}
        call(url, "POST", "/models/House%20prices@home@3:mergeVersionAliases", {"versionAliases": ["default"]})
        assert kilter.models.registered("House prices@home").aliases == {"default": 3}
        kilter.models.tag("House prices@home", {"vertex.containerSpec": '"rubbish"'}, 3)
        assert "containerSpec" not in call(url, "GET", "/models/House%20prices@home")[1]
        kilter.models.delete("House prices@home")


def test_the_door_speaks_googles_words_too(server):
    url, _ = server
    for token, headers, status, code in (
        ("", {}, 401, "UNAUTHENTICATED"),
        ("wrong", {}, 401, "UNAUTHENTICATED"),
        (OWNER, {"origin": "https://evil.example"}, 403, "PERMISSION_DENIED"),
        (OWNER, {"host": "evil.example"}, 403, "PERMISSION_DENIED"),
    ):
        found, said = call(url, "GET", "/models", None, token, **headers)
        assert (found, said["error"]["status"]) == (status, code)
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        fields = {"authorization": f"Bearer {OWNER}", "content-type": kind}
        connection.request("POST", f"{PLACE}/models:upload", b"{}", fields)
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["error"]["status"]) == (400, "INVALID_ARGUMENT")
    connection.close()


def test_an_upload_that_was_acknowledged_outlives_the_server_and_its_operation_is_found(tmp_path):
    with RunningServer(tmp_path / "store", KILTER_TOKEN=OWNER) as server:
        url = server.url
        body = {"model": {"displayName": "kept", "artifactUri": "gs://bucket/kept", "versionAliases": ["gold"]}}
        _, operation = call(url, "POST", "/models:upload", body)
        server.kill()
        server.start()
        assert call(url, "GET", f"/v1/{operation['name']}") == (200, operation)
        found = call(url, "GET", "/models/kept@gold")[1]
        assert (found["artifactUri"], found["versionAliases"]) == ("gs://bucket/kept", ["default", "gold"])


def test_persons_come_with_their_own_tokens_and_projects(tmp_path):
    store = tmp_path / "store"
    flight(store)
    with RunningServer(store, KILTER_TOKEN=OWNER) as server:
        url = server.url
        with closing(connect(url, OWNER)) as kilter:
            kilter.people.add("root", "admin")
            kilter.people.add("bo")
            kilter.people.role("bo", "editor", "fraud-*")
            kilter.people.token(secret_digest(FRAUD), "bo")
        upload = "/models:upload"
        assert call(url, "POST", upload, {"model": {"displayName": "fraud-cards"}}, FRAUD)[0] == 200
        for path, body in (
            (upload, {"model": {"displayName": "churn"}}),
            (
                upload,
                {"model": {"displayName": "fraud-cards"}},
            ),  # another of that name would be no model of the project
            ("/models/flight@1:mergeVersionAliases", {"versionAliases": ["mine"]}),
        ):
            status, said = call(url, "POST", path, body, FRAUD)
            assert (status, said["error"]["status"]) == (403, "PERMISSION_DENIED")
        assert call(url, "GET", "/models/flight", None, FRAUD)[0] == 200
        assert call(url, "DELETE", "/models/flight", None, FRAUD)[0] == 403
        with closing(connect(url, OWNER)) as kilter:
            assert {one.by for one in kilter.models.changes("fraud-cards")} == {"bo"}


VALUES: list[Any] = [
    None,
    "",
    "a",
    "\x00",
    "\ud800",
    "é" * 300,
    0,
    -1,
    1e308,
    True,
    [],
    ["a"],
    [None],
    {},
    {"a": {}},
    {"a": "b"},
]
FIELDS = (
    *("displayName", "description", "versionDescription", "versionAliases", "labels", "artifactUri", "containerSpec"),
    *("predictSchemata", "metadataSchemaUri", "etag", "name", "display_name", "colour"),
)
ABOUT = [
    "flight",
    "flight@1",
    "flight@champion",
    "flight@-",
    "none",
    "@",
    "a@",
    "@a",
    "%00",
    "%ff",
    "%F0%9F%98%80",
    "x" * 3000,
]
MASKS = ["", "labels", "description,labels", "version_description", "displayName", "*", "%00"]
ASKED = ["%00", "%27", "%22", "%22%5C", "a=%22", "labels.a:*", "%ff", "1e9", "W10=", "bnVsbA==", "%F0%9F%98%80"]


def request_by(chance: random.Random) -> tuple[str, str, Any]:
    """A request that is nearly one."""
    model: Any = {chance.choice(FIELDS): chance.choice(VALUES) for _ in range(chance.randrange(5))}
    model = model if chance.random() < 0.9 else chance.choice(VALUES)
    name = chance.choice(ABOUT)
    match chance.randrange(4):
        case 0:
            body = {"model": model, **({"modelId": chance.choice(VALUES)} if chance.random() < 0.3 else {})}
            if chance.random() < 0.3:
                body["parentModel"] = chance.choice([*VALUES, "projects/p/locations/l/models/flight"])
            return "POST", "/models:upload", body
        case 1:
            return "PATCH", f"/models/{name}?updateMask={chance.choice(MASKS)}", model
        case 2:
            aliases = chance.choice([*VALUES, ["-a", "-"], ["b" * 200], ["champion"]])
            return "POST", f"/models/{name}:mergeVersionAliases", {"versionAliases": aliases}
        case _:
            field = chance.choice(["filter", "orderBy", "pageToken", "pageSize", "readMask", "alt"])
            return "GET", f"/models?{field}={chance.choice(ASKED)}", None


def test_no_request_makes_the_server_fail(tmp_path):
    flight(tmp_path / "store")
    chance = random.Random(7)
    with RunningServer(tmp_path / "store", KILTER_TOKEN=OWNER) as server:
        url = server.url
        for _ in range(500):
            asked = request_by(chance)
            status, said = call(url, *asked)
            assert status in {200, 400, 404, 409, 501}, (asked, said)
        assert call(url, "GET", "/models/flight")[1]["versionAliases"] == ["default", "champion"]
        assert call(url, "GET", "/models?pageSize=1000")[0] == 200
