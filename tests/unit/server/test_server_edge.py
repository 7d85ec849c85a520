from __future__ import annotations

import asyncio

import msgspec
import pytest

from kilter.server.api import methods_of
from kilter.server.edge import BODY_LIMIT

from .conftest import TOKEN, VIEWER

OPEN = {"/livez", "/readyz"}
READABLE = OPEN | {"/metrics", "/events"}
STREAMS = {"/events", "/api/v1/journal/stream"}
VERBS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND")


def walk(client):
    """Return every (path, verb) of the route table, the routed verbs and all others."""
    operations = {found.path: methods_of(found) for found in client.application.registry}
    for route in client.application.router.routes:
        for verb in VERBS:
            yield route.path, verb, verb in operations.get(route.path, getattr(route, "methods", ()))


def test_the_route_table_is_known(client):
    paths = {route.path for route in client.application.router.routes}
    derived = {f"/api/v1/notes/{verb}" for verb in ("list", "get", "add", "judge", "explode")}
    assert paths == derived | READABLE | {"/openapi.json", "/api/v1/journal/stream"}


@pytest.mark.parametrize(
    ("who", "token", "headers"),
    [
        ("no token", None, {}),
        ("wrong token", "wrong", {}),
        ("empty token", "", {}),
        ("basic", None, {"authorization": f"Basic {TOKEN}"}),
        ("foreign host", TOKEN, {"host": "evil.example:8700"}),
        ("host like ours", TOKEN, {"host": "127.0.0.1.evil.example"}),
        ("no host", TOKEN, {"host": ""}),
        ("foreign origin", TOKEN, {"origin": "http://evil.example"}),
        ("origin like ours", TOKEN, {"origin": "http://127.0.0.1:8700.evil.example"}),
        ("other port", TOKEN, {"origin": "http://127.0.0.1:9999"}),
        ("origin null", TOKEN, {"origin": "null"}),
        ("cross-site fetch", TOKEN, {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}),
    ],
)
def test_every_route_and_verb_refuses(client, who, token, headers):
    async def walk_all():
        seen = 0
        for path, verb, _ in walk(client):
            seen += 1
            if who == "no token" and verb in {"GET", "HEAD"} and path in READABLE:
                continue  # health is for everyone; pages, metrics and the page's stream may be read on this machine
            answer = await client.send(verb, path, token=token, headers=headers, body=b"{}" if verb == "POST" else None)
            if verb not in {"GET", "HEAD", "POST"}:
                expected = 405
            elif "host" in headers or "origin" in headers or "sec-fetch-site" in headers:
                expected = 403
            elif who == "no token" and path in OPEN:
                expected = 405  # health takes no POST
            else:
                expected = 401
            assert answer.status_code == expected, (who, verb, path, answer.status_code)
            if verb != "HEAD":
                document = answer.json()
                assert answer.headers["content-type"].startswith("application/problem+json")
                assert document["request"] == answer.headers["x-request-id"]
            assert "evil" not in answer.text
            assert TOKEN not in answer.text
        return seen

    assert asyncio.run(walk_all()) == len(client.application.router.routes) * len(VERBS)
    assert client.notes.calls == 0


def test_beyond_loopback_nothing_but_health_is_open(make_client):
    client = make_client(host="0.0.0.0", open_pages=False, tls=True)  # noqa: S104

    async def walk_all():
        for path, verb, _ in walk(client):
            if verb not in {"GET", "HEAD", "POST"}:
                continue
            headers = {"host": "kilter.example"}
            answer = await client.send(verb, path, token=None, headers=headers, body=b"{}" if verb == "POST" else None)
            if path in OPEN:
                assert answer.status_code == (200 if verb == "GET" else 405), (verb, path)
            else:
                assert answer.status_code == 401, (verb, path)

    asyncio.run(walk_all())


def test_what_is_allowed_works(client):
    async def check():
        for path in sorted(READABLE - STREAMS):
            assert (await client.send("GET", path, token=None)).status_code == 200
        assert (await client.send("GET", "/openapi.json")).json()["openapi"] == "3.1.0"
        assert (await client.send("GET", "/api/v1/notes/list")).json() == []
        body = msgspec.json.encode({"note": {"name": "a", "size": 1}})
        own = {"origin": "http://127.0.0.1:8700"}
        assert (await client.send("POST", "/api/v1/notes/add", body=body, headers=own)).json() == 1
        listed = await client.send("GET", "/api/v1/notes/list?limit=1&kind=short")
        assert listed.json() == [{"name": "a", "size": 1, "at": None}]
        assert listed.headers["x-content-type-options"] == "nosniff"
        assert listed.headers["cache-control"] == "no-store"
        localhost = await client.send("GET", "/api/v1/notes/list", headers={"host": "localhost:8700"})
        assert localhost.status_code == 200

    asyncio.run(check())


def test_a_viewer_reads_and_writes_nothing(client):
    async def check():
        assert (await client.send("GET", "/api/v1/notes/list", token=VIEWER)).status_code == 200
        body = msgspec.json.encode({"note": {"name": "a", "size": 1}})
        refused = await client.send("POST", "/api/v1/notes/add", token=VIEWER, body=body)
        assert refused.status_code == 403
        assert refused.json()["allowed"] == "editor"
        # An open page's reader has no more rights than a viewer, and no way to the API.
        assert (await client.send("POST", "/api/v1/notes/add", token=None, body=body)).status_code == 401
        assert (await client.send("GET", "/api/v1/notes/list", token=None)).status_code == 401

    asyncio.run(check())
    assert client.notes.calls == 0


def test_a_link_opens_one_session_and_forgets_its_key(client):
    async def check():
        key = client.application.sessions.link()
        answer = await client.send("GET", f"/runs?key={key}&tab=2", token=None)
        assert answer.status_code == 303
        assert answer.headers["location"] == "/runs?tab=2"
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        session = cookie.partition(";")[0]
        again = await client.send("GET", f"/?key={key}", token=None)
        assert again.status_code == 303
        assert "set-cookie" not in again.headers

        read = await client.send("GET", "/api/v1/notes/list", token=None, headers={"cookie": session})
        assert read.status_code == 200
        body = msgspec.json.encode({"note": {"name": "a", "size": 1}})
        headers = {"cookie": session, "origin": "http://127.0.0.1:8700"}
        assert (
            await client.send("POST", "/api/v1/notes/add", token=None, headers=headers, body=body)
        ).status_code == 200
        without = await client.send("POST", "/api/v1/notes/add", token=None, headers={"cookie": session}, body=body)
        assert without.status_code == 403
        foreign = {"cookie": session, "origin": "http://127.0.0.1:9999"}
        assert (
            await client.send("POST", "/api/v1/notes/add", token=None, headers=foreign, body=body)
        ).status_code == 403
        # A link is no session, a session is no link, and a changed one is neither.
        for wrong in (
            f"kilter_8700={client.application.sessions.link()}",
            f"{session}0",
            "kilter_8700=1.2.3",
            "kilter_8700=",
        ):
            assert (
                await client.send("GET", "/api/v1/notes/list", token=None, headers={"cookie": wrong})
            ).status_code == 401
        swapped = await client.send("GET", f"/?key={session.partition('=')[2]}", token=None)
        assert "set-cookie" not in swapped.headers

    asyncio.run(check())


@pytest.mark.parametrize("path", ["//evil.example/", "/\\evil.example", "/%0d%0aset-cookie:a=b", "/a%00b"])
def test_a_link_never_leads_to_another_server(client, path):
    answer = asyncio.run(client.send("GET", f"http://127.0.0.1:8700{path}?key={client.application.sessions.link()}"))
    target = answer.headers["location"]
    assert target.startswith("/")
    assert not target.startswith("//")
    assert "\\" not in target
    assert "\r" not in target


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"content-type": "text/plain"}, b"{}", 415),
        ({"content-type": "application/x-www-form-urlencoded"}, b"a=b", 415),
        ({"content-type": ""}, b"{}", 415),
        ({"content-encoding": "gzip"}, b"{}", 415),
        ({"content-length": "99999999999"}, b"{}", 413),
        ({"content-length": "-1"}, b"{}", 400),
        ({}, b"{", 400),
        ({}, b"\xff\xfe", 400),
        ({}, b"[]", 422),
        ({}, b"[" * 100_000, 422),
        ({}, b'{"a":' * 70 + b"1" + b"}" * 70, 422),
        ({}, b'{"nope": "<img src=x onerror=alert(1)>"}', 422),
        ({}, b'{"note": {"name": 3, "size": 1}}', 422),
        ({}, b"x" * (BODY_LIMIT + 1), 413),
    ],
)
def test_bad_bodies_are_refused_and_not_echoed(client, headers, body, status):
    answer = asyncio.run(client.send("POST", "/api/v1/notes/add", headers=headers, body=body))
    assert answer.status_code == status
    assert "onerror" not in answer.text
    assert len(answer.text) < 1000
    assert client.notes.calls == 0


def test_doubled_headers_are_refused(client):
    async def check():
        sent = []

        async def receive():
            return {"type": "http.request", "body": b""}

        async def send(message):
            sent.append(message)

        scope = {
            "type": "http",
            "method": "GET",
            "path": "/livez",
            "query_string": b"",
            "headers": [(b"host", b"127.0.0.1:8700"), (b"host", b"evil.example")],
        }
        await client.application.asgi(scope, receive, send)
        return sent[0]["status"]

    assert asyncio.run(check()) == 400


def test_an_unexpected_failure_says_nothing_of_the_inside(client, caplog):
    answer = asyncio.run(client.send("GET", "/api/v1/notes/explode"))
    assert answer.status_code == 500
    assert "secret-of-the-inside" not in answer.text
    assert answer.json()["request"] in caplog.text
    assert "secret-of-the-inside" in caplog.text


def test_unknown_paths_are_refused_before_they_are_looked_up(client):
    async def check():
        assert (await client.send("GET", "/api/v1/nothing/here", token=None)).status_code == 401
        found = await client.send("GET", "/api/v1/nothing/here")
        assert found.status_code == 404
        assert found.json()["type"] == "kilter:not-found"
        assert (await client.send("GET", "/api/v1/notes/add")).status_code == 405

    asyncio.run(check())


def test_metrics_count_answers(client):
    async def check():
        await client.send("GET", "/api/v1/notes/list")
        await client.send("GET", "/api/v1/notes/list", token="wrong")
        return (await client.send("GET", "/metrics")).text

    text = asyncio.run(check())
    assert 'kilter_server_requests_total{area="api",status="200"} 1' in text
    assert 'kilter_server_requests_total{area="refused",status="401"} 1' in text
    assert 'kilter_server_request_seconds_bucket{area="api",le="+Inf"} 1' in text
