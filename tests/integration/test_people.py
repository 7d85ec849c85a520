"""A server that people share: tokens, roles and sessions, on operations, MLflow's wire and pages alike."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import time
import urllib.error
import urllib.parse
import urllib.request

import pytest

from kilter.cli.main import main
from kilter.core.errors import Forbidden, Unauthorized
from kilter.loop.workspace import connect
from kilter.testing.server import RunningServer


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with RunningServer(tmp_path_factory.mktemp("people") / "store") as running:
        yield running.url, running.token


def kilter(url: str, token: str, *arguments: str) -> dict:
    """Run the command line within this process: a process for each would be most of the test's time."""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setenv("KILTER_TOKEN", token)
        main(["people", *arguments, "--store", url, "--json"])
    found = json.loads(said.getvalue())
    return found if isinstance(found, dict) else {"list": found}


def ask(url: str, path: str, *, method: str = "GET", headers: dict[str, str] | None = None, body: object = None):
    address = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=10)
    given = {"content-type": "application/json"} if body is not None else {}
    connection.request(method, path, None if body is None else json.dumps(body), {**given, **(headers or {})})
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read().decode()
    connection.close()
    return found


@pytest.fixture
def empty(tmp_path):
    """A server that nobody was added to yet."""
    with RunningServer(tmp_path / "store") as running:
        yield running.url, running.token


def test_a_team(empty):
    url, token = empty
    # Before anybody was added, this machine tracks and reads without a word.
    assert ask(url, "/api/2.0/mlflow/experiments/create", method="POST", body={"name": "fraud-cards"})[0] == 200
    assert ask(url, "/")[0] == 200

    assert kilter(url, token, "add", "ana", "--role", "admin")["role"] == "admin"
    assert kilter(url, token, "add", "bo")["role"] == "viewer"
    assert kilter(url, token, "role", "bo", "editor", "--on", "fraud-*")["projects"] == {"fraud-*": "editor"}
    ana, bo = (kilter(url, token, "token", name, "--for", "test")["token"] for name in ("ana", "bo"))
    time.sleep(1.0)

    # From the first person on nobody comes in unnamed.
    assert ask(url, "/api/2.0/mlflow/experiments/create", method="POST", body={"name": "x"})[0] == 401
    status, headers, _ = ask(url, "/?all", headers={"accept": "text/html"})
    assert (status, headers["location"]) == (303, "/login?next=%2F%3Fall")
    assert ask(url, "/login", headers={"accept": "text/html"})[0] == 200
    assert ask(url, "/livez")[0] == 200

    assert kilter(url, bo, "me") == {"name": "bo", "role": "viewer", "projects": {"fraud-*": "editor"}}
    assert kilter(url, bo, "add", "cy")["status"] == 403
    # A person's own token, through the same call as everybody's.
    second = kilter(url, bo, "token", "--for", "script")
    assert kilter(url, second["token"], "me")["name"] == "bo"
    assert kilter(url, bo, "tokens", "ana")["status"] == 403
    assert kilter(url, bo, "revoke", str(second["id"]))["id"] == second["id"]

    theirs = connect(url, bo)
    run = theirs.runs.start("fraud-cards", params={"a": 1}).id
    theirs.runs.log_params(run, {"b": 2})
    with pytest.raises(Forbidden, match="bo is viewer on flights"):
        theirs.runs.start("flights")
    hers = connect(url, ana)
    flights = hers.runs.start("flights").id
    hers.close()
    with pytest.raises(Forbidden):
        theirs.runs.log_params(flights, {"b": 2})
    assert [one.experiment for one in theirs.runs.list().runs].count("flights") == 1
    theirs.close()

    kilter(url, ana, "disable", "bo")
    time.sleep(1.0)
    theirs = connect(url, bo)
    with pytest.raises(Unauthorized):
        theirs.runs.list()
    theirs.close()
    kilter(url, ana, "enable", "bo")
    assert kilter(url, ana, "role", "ana", "viewer")["status"] == 409


def test_mlflow_s_client_sends_a_token_or_a_name_with_it(server, monkeypatch):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow = pytest.importorskip("mlflow")
    url, token = server
    if not any(one["name"] == "dora" for one in kilter(url, token, "list")["list"]):
        kilter(url, token, "add", "dora")
    kilter(url, token, "role", "dora", "editor", "--on", "dora-*")
    mine = kilter(url, token, "token", "dora")["token"]
    time.sleep(1.0)
    client = mlflow.MlflowClient(url)
    with pytest.raises(mlflow.MlflowException, match=r"token is needed|401"):
        client.create_experiment("dora-a")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", mine)
    number = client.create_experiment("dora-a")
    run = client.create_run(number).info.run_id
    client.log_metric(run, "loss", 0.5)
    client.log_text(run, "hello", "a/b.txt")
    with pytest.raises(mlflow.MlflowException, match=r"dora is viewer"):
        client.create_experiment("other")
    # A field that a call doesn't know lends it no rights.
    fields = {"name": "models-of-others", "experiment_id": number, "run_id": run}
    headers = {"authorization": f"Bearer {mine}"}
    answer = ask(url, "/api/2.0/mlflow/registered-models/create", method="POST", headers=headers, body=fields)
    assert answer[0] in {403, 404}
    monkeypatch.delenv("MLFLOW_TRACKING_TOKEN")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "dora")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", mine)
    assert client.get_run(run).data.metrics == {"loss": 0.5}
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ana")
    with pytest.raises(mlflow.MlflowException):
        client.get_run(run)


def test_a_session_by_token(server):
    url, token = server
    origin = {"origin": url}
    assert ask(url, "/login/token", method="POST", headers=origin, body={"token": "kp_wrong"})[0] == 401
    assert ask(url, "/login/token", method="POST", headers=origin, body={"no": 1})[0] == 422
    assert ask(url, "/login/token", method="POST", headers={"origin": "http://evil"}, body={"token": token})[0] == 403
    if not any(one["name"] == "eva" for one in kilter(url, token, "list")["list"]):
        kilter(url, token, "add", "eva")
    mine = kilter(url, token, "token", "eva")["token"]
    time.sleep(1.0)
    status, headers, body = ask(url, "/login/token", method="POST", headers=origin, body={"token": mine})
    assert (status, json.loads(body)) == (200, {"name": "eva", "role": "viewer"})
    cookie = headers["set-cookie"].partition(";")[0]
    assert "HttpOnly" in headers["set-cookie"]
    assert "SameSite=Strict" in headers["set-cookie"]
    status, _, page = ask(url, "/account", headers={"cookie": cookie, "accept": "text/html"})
    assert status == 200
    assert "eva" in page
    # The name is within what is signed.
    forged = cookie.replace("eva", "ana")
    assert forged != cookie
    assert ask(url, "/account", headers={"cookie": forged, "accept": "text/html"})[0] == 303
    made = ask(url, "/api/v1/people/add", method="POST", headers={"cookie": cookie, **origin}, body={"name": "zoe"})
    assert made[0] == 403
    out = ask(url, "/login/out", method="POST", headers={"cookie": cookie, **origin}, body={})
    assert out[0] == 200, out
    assert "Max-Age=0" in out[1]["set-cookie"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_signing_in_through_a_provider(tmp_path):
    mock = pytest.importorskip("oidc_provider_mock")
    pytest.importorskip("jwt")
    with mock.run_server_in_thread() as provider:
        issuer = f"http://localhost:{provider.server_port}"
        user = {"email": "ana@example.org", "email_verified": True, "preferred_username": "ana", "groups": ["ml"]}
        assert ask(issuer, "/users/subject-1", method="PUT", body=user)[0] == 204
        with RunningServer(
            tmp_path / "store",
            KILTER_OIDC_ISSUER=issuer,
            KILTER_OIDC_CLIENT_ID="kilter",
            KILTER_OIDC_CLIENT_SECRET="secret",
            KILTER_OIDC_GROUPS="ml=approver",
        ) as running:
            _sign_in(running.url, issuer, running.token)


def _sign_in(url: str, issuer: str, token: str) -> None:
    html = {"accept": "text/html"}
    assert "Sign in with localhost" in ask(url, "/login", headers=html)[2]
    status, headers, _ = ask(url, "/login/provider?next=/endpoints", headers=html)
    assert status == 303
    bound = headers["set-cookie"].partition(";")[0]
    assert "SameSite=lax" in headers["set-cookie"]
    assert headers["location"].startswith(issuer)
    assert "code_challenge_method=S256" in headers["location"]

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_given):
            return None

    def sign(address: str) -> None:
        form = urllib.parse.urlencode({"sub": "subject-1"}).encode()
        urllib.request.build_opener(Stay).open(urllib.request.Request(address, form), timeout=10)  # noqa: S310 - the provider's

    with pytest.raises(urllib.error.HTTPError) as sent:
        sign(headers["location"])
    assert sent.value.code in {302, 303}
    back = urllib.parse.urlsplit(sent.value.headers["location"])
    sent.value.close()
    assert back.path == "/login/back"
    # Whoever has only the address, and not the browser that set out, gets nowhere; and the code is spent by that.
    path = f"{back.path}?{back.query}"
    stranger = ask(url, path, headers={**html, "cookie": f"{bound.partition('=')[0]}=other"})
    assert stranger[0] == 403
    assert "set-cookie" not in stranger[1]
    assert kilter(url, token, "list") == {"list": []}

    _, headers, _ = ask(url, "/login/provider?next=/endpoints", headers=html)
    bound = headers["set-cookie"].partition(";")[0]
    with pytest.raises(urllib.error.HTTPError) as sent:
        sign(headers["location"])
    back = urllib.parse.urlsplit(sent.value.headers["location"])
    sent.value.close()
    status, headers, page = ask(url, f"{back.path}?{back.query}", headers={**html, "cookie": bound})
    assert status == 200, page
    assert 'content="0;url=/endpoints"' in page
    cookie = headers["set-cookie"].partition(";")[0]
    (person,) = kilter(url, token, "list")["list"]
    assert (person["name"], person["role"], person["email"]) == ("ana@example.org", "approver", "ana@example.org")
    assert person["subject"] == f"{issuer} subject-1"
    time.sleep(0.6)
    assert "approver" in ask(url, "/account", headers={**html, "cookie": cookie})[2]
