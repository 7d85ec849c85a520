"""A server that is killed owes its webhooks nothing: what was changed is told by the next one, once each."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, ClassVar

import pytest
import sqlalchemy as sa

from kilter.loop.workspace import Workspace, connect
from kilter.registry.tables import deliveries
from kilter.testing.server import RunningServer

pytestmark = [pytest.mark.crash, pytest.mark.slow]

MODELS = 12


class Receiver(BaseHTTPRequestHandler):
    """Keeps what it gets; says no as long as it is told to."""

    got: ClassVar[list[tuple[str, str]]] = []
    open: ClassVar[threading.Event] = threading.Event()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.open.is_set():
            self.got.append((self.headers["x-mlflow-delivery-id"], body["data"]["name"]))
        self.send_response(200 if self.open.is_set() else 503)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def test_what_a_killed_server_did_not_tell_is_told_by_the_next(tmp_path):
    listening = HTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        server = RunningServer(tmp_path / "store", KILTER_WEBHOOKS_LOCAL="1").start()
        kilter = connect(server.url, server.token)
        kilter.models.create_webhook(
            "w", f"http://127.0.0.1:{listening.server_port}/", ("registered_model.created",), secret="s"
        )
        for place in range(MODELS):
            kilter.models.create(f"m{place}")
        kilter.close()
        tried = sa.select(sa.func.count()).where(deliveries.c.attempts > 0)
        with Workspace.open(str(tmp_path / "store")) as workspace:
            deadline = time.monotonic() + 20
            while True:
                with workspace.database.reading() as connection:
                    if connection.execute(tried).scalar_one() == MODELS:
                        break
                assert time.monotonic() < deadline
                time.sleep(0.02)
        server.kill()
        Receiver.open.set()
        server.start()
        deadline = time.monotonic() + 25
        while len({name for _, name in Receiver.got}) < MODELS:
            assert time.monotonic() < deadline, Receiver.got
            time.sleep(0.05)
        server.stop()
        assert {name for _, name in Receiver.got} == {f"m{place}" for place in range(MODELS)}
        assert len(Receiver.got) == MODELS, "one that was answered with yes was sent again"
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()
