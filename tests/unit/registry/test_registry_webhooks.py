"""Webhooks of the registry: what is told, how it is signed, and that nothing is lost, on every engine of the metadata."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from kilter.core.clock import ManualClock
from kilter.core.digests import digest
from kilter.core.errors import Forbidden, InvalidInput, NotFound
from kilter.engines import outward
from kilter.engines.sql.database import Database
from kilter.registry import events
from kilter.registry.delivery import ATTEMPTS, Courier
from kilter.registry.service import ModelService

SOURCE = "runs:/r/m"
ALL = tuple(f"{entity}.{action}" for entity, actions in events.EVENTS.items() for action in actions)
PROMPT = {"mlflow.prompt.is_prompt": "true"}


class Receiver(HTTPServer):
    """A server that keeps what it gets, and answers what it is told to."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook?a=b"

    def told(self) -> list[tuple[str, str, dict[str, Any]]]:
        bodies = [json.loads(body) for _, body in self.got]
        return [(body["entity"], body["action"], body["data"]) for body in bodies]


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(self.server.answers.pop(0) if self.server.answers else 200)
        self.send_header("location", "http://127.0.0.1:1/elsewhere")
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setenv(outward.LOCAL, "1")
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def models(database: Database, clock: ManualClock) -> ModelService:
    return ModelService(database, clock)


@pytest.fixture
def courier(database: Database, clock: ManualClock) -> Courier:
    return Courier(database, clock)


def test_every_event_is_told_as_mlflow_tells_it(models: ModelService, courier: Courier, receiver: Receiver) -> None:
    models.create("before")
    models.create_webhook("all", receiver.url, ALL)
    models.create("m", "about", {"a": "b"})
    models.add_version("m", SOURCE, run="r", description="first", tags={"c": "d"})
    models.tag("m", {"model": "tags"})
    models.tag("m", {"e": "f"}, 1)
    models.untag("m", "e", 1)
    models.assign_alias("m", "best", 1)
    models.drop_alias("m", "best")
    models.describe("m", "no event")
    models.set_stage("m", 1, "Staging")
    models.create("p", tags=PROMPT)
    models.add_version("p", "dummy-source", tags={**PROMPT, "mlflow.prompt.text": "Hi {{x}}", "lang": "en"})
    models.tag("p", {"team": "ops"})
    models.tag("p", {"n": "1"}, 1)
    models.assign_alias("p", "live", 1)
    models.delete("m")
    while courier.round():
        pass
    expected: list[tuple[str, str, dict[str, Any]]] = [
        ("registered_model", "created", {"name": "m", "tags": {"a": "b"}, "description": "about"}),
        (
            "model_version",
            "created",
            {
                "name": "m",
                "version": "1",
                "source": SOURCE,
                "run_id": "r",
                "tags": {"c": "d"},
                "description": "first",
            },
        ),
        ("model_version_tag", "set", {"name": "m", "version": "1", "key": "e", "value": "f"}),
        ("model_version_tag", "deleted", {"name": "m", "version": "1", "key": "e"}),
        ("model_version_alias", "created", {"name": "m", "alias": "best", "version": "1"}),
        ("model_version_alias", "deleted", {"name": "m", "alias": "best"}),
        ("prompt", "created", {"name": "p", "tags": {}, "description": ""}),
        (
            "prompt_version",
            "created",
            {"name": "p", "version": "1", "template": "Hi {{x}}", "tags": {"lang": "en"}, "description": None},
        ),
        ("prompt_tag", "set", {"name": "p", "key": "team", "value": "ops"}),
        ("prompt_version_tag", "set", {"name": "p", "version": "1", "key": "n", "value": "1"}),
        ("prompt_alias", "created", {"name": "p", "alias": "live", "version": "1"}),
    ]
    key = lambda told: json.dumps(told, sort_keys=True)  # noqa: E731
    assert sorted(receiver.told(), key=key) == sorted(expected, key=key)


def test_a_loops_versions_are_told_too(models: ModelService, courier: Courier, receiver: Receiver) -> None:
    models.create_webhook("w", receiver.url, ("model_version.created",))
    models.register("flight", digest(b"b"), run="r", spec=digest(b"s"), data_digest=digest(b"d"), trigger="t")
    assert courier.round() == 1
    ((_, _, data),) = receiver.told()
    assert (data["name"], data["version"], data["source"]) == ("flight", "1", "mlflow-artifacts:/models/flight/1")


def test_what_is_sent_is_signed(models: ModelService, courier: Courier, receiver: Receiver) -> None:
    hook = models.create_webhook("w", receiver.url, ("registered_model.created",), secret="s3cret")
    assert (hook.signed, "s3cret" in repr(models.webhook(hook.id))) == (True, False)
    models.create("m")
    courier.round()
    assert models.test_webhook(hook.id).success
    for headers, body in receiver.got:
        signed = f"{headers['x-mlflow-delivery-id']}.{headers['x-mlflow-timestamp']}.{body.decode()}"
        expected = base64.b64encode(hmac.new(b"s3cret", signed.encode(), hashlib.sha256).digest()).decode()
        assert headers["x-mlflow-signature"] == f"v1,{expected}"
    models.change_webhook(hook.id, secret="")
    models.create("n")
    courier.round()
    assert "x-mlflow-signature" not in receiver.got[-1][0]


def test_a_failed_delivery_is_tried_again_later_and_given_up_at_last(
    models: ModelService, courier: Courier, receiver: Receiver, clock: ManualClock
) -> None:
    hook = models.create_webhook("w", receiver.url, ("registered_model.created",))
    receiver.answers = [500, 302, 404]
    models.create("m")
    assert [courier.round() for _ in range(2)] == [1, 0]
    for _ in range(2):
        clock.advance(timedelta(hours=2))
        assert courier.round() == 1
    assert models.webhook(hook.id).error == "answered 404"
    clock.advance(timedelta(hours=2))
    assert [courier.round() for _ in range(2)] == [1, 0]
    assert len(receiver.got) == 4
    assert len({headers["x-mlflow-delivery-id"] for headers, _ in receiver.got}) == 1
    receiver.answers = [503] * ATTEMPTS
    models.create("n")
    for _ in range(ATTEMPTS + 3):
        clock.advance(timedelta(hours=2))
        courier.round()
    assert (models.webhook(hook.id).failed, len(receiver.got)) == (1, 4 + ATTEMPTS)


def test_a_delivery_that_a_dead_server_took_is_brought_by_another(
    models: ModelService, courier: Courier, receiver: Receiver, clock: ManualClock, database: Database
) -> None:
    models.create_webhook("w", receiver.url, ("registered_model.created",))
    models.create("m")
    (row,) = courier._due()
    assert courier._take(row)
    assert not courier._take(row)
    other = Courier(database, clock)
    assert other.round() == 0
    clock.advance(timedelta(seconds=61))
    assert other.round() == 1
    assert len(receiver.got) == 1


def test_a_change_that_is_undone_is_not_told(models: ModelService, courier: Courier, receiver: Receiver) -> None:
    models.create_webhook("w", receiver.url, ALL)
    models.create("m")
    models.add_version("m", SOURCE)
    courier.round()
    before = len(receiver.got)
    with pytest.raises(InvalidInput):
        models.assign_alias("m", "best", 1, by="x" * 201)  # noted after the alias was written
    assert courier.round() == 0
    assert (models.registered("m").aliases, len(receiver.got)) == ({}, before)


def test_a_full_outbox_counts_what_it_drops(
    models: ModelService, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "MOST_WAITING", 2)
    hook = models.create_webhook("w", receiver.url, ("registered_model.created",))
    for name in "abcd":
        models.create(name)
    assert models.webhook(hook.id).dropped == 2


def test_webhooks_are_listed_changed_disabled_and_deleted(
    models: ModelService, courier: Courier, receiver: Receiver, clock: ManualClock
) -> None:
    first = models.create_webhook("a", receiver.url, ALL)
    clock.advance(timedelta(seconds=1))
    second = models.create_webhook("b", receiver.url, ALL, description="second", status="DISABLED")
    assert [hook.id for hook in models.webhooks().webhooks] == [second.id, first.id]
    page = models.webhooks(1)
    assert [hook.id for hook in models.webhooks(1, page.cursor).webhooks] == [first.id]
    changed = models.change_webhook(first.id, name="c", events=("prompt.created",))
    assert (changed.name, changed.events, changed.url) == ("c", ("prompt.created",), receiver.url)
    models.create("m")
    assert courier.round() == 0
    models.delete_webhook(first.id)
    for act in (
        lambda: models.webhook(first.id),
        lambda: models.delete_webhook(first.id),
        lambda: models.change_webhook(first.id, name="x"),
        lambda: models.test_webhook(first.id),
    ):
        with pytest.raises(NotFound):
            act()


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://169.254.169.254/latest",
        "https://10.0.0.1/",
        "https://localhost/",
        "https://0.0.0.0/",
        "https://2130706433/",
        "https://nobody.invalid/",
        "https://user:pass@example.org/",
        "https://exa mple.org/",
        "https:///x",
        "ftp://example.org/",
        "https://[bad",
        "https://h:99999999/",
        "",
        "x" * 2001,
    ],
)
def test_a_url_that_leads_into_this_network_is_refused(
    models: ModelService, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(outward.LOCAL, raising=False)
    with pytest.raises(InvalidInput):
        models.create_webhook("w", url, ("prompt.created",))


def test_a_name_that_means_another_address_by_now_leads_nowhere(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(outward.LOCAL)
    monkeypatch.setattr(outward, "_parts", outward.urlsplit)
    with pytest.raises(Forbidden, match="not a public address"):
        outward.post(receiver.url, b"{}", {})
    assert receiver.got == []


def test_names_and_events_that_are_none(models: ModelService, receiver: Receiver) -> None:
    for name in ("", "A", "-a", "a-", "x" * 64, "a b"):
        with pytest.raises(InvalidInput):
            models.create_webhook(name, receiver.url, ("prompt.created",))
    for wrong in ((), ("prompt.deleted",), ("x",)):
        with pytest.raises(InvalidInput, match="no event"):
            models.create_webhook("w", receiver.url, wrong)


def test_an_address_is_public_or_not() -> None:
    assert [outward.public(one) for one in ("8.8.8.8", "2001:4860:4860::8888")] == [True, True]
    inner = ("10.0.0.1", "127.1", "::1", "fe80::1%eth0", "::ffff:192.168.0.1", "2002:a00:1::", "64:ff9b::a00:1")
    assert not any(outward.public(one) for one in (*inner, "100.64.0.1", "224.0.0.1", "nonsense", ""))
