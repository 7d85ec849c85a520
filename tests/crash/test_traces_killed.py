"""An exporter sends spans while the server is killed again and again: what was acknowledged is there, once and whole."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import random
import threading
import time

import pytest

from kilter.loop.workspace import Workspace
from kilter.testing.server import RunningServer

KILLS = int(os.environ.get("KILTER_KILLS", "4"))
SPANS = 20
START = 1_700_000_000_000_000_000

pytestmark = pytest.mark.slow


def batch(number: int) -> bytes:
    """A trace of its own: a root, and spans with tokens below it; one value is long and lies beside the row."""

    def one(place: int) -> dict[str, object]:
        text = f"{number}/{place} " * (20_000 if place == 1 and number % 5 == 0 else 1)
        return {
            "traceId": f"{number + 1:032x}",
            "spanId": f"{place + 1:016x}",
            "parentSpanId": "" if place == 0 else f"{1:016x}",
            "name": f"span {place}",
            "startTimeUnixNano": str(START + number * 10**9 + place),
            "endTimeUnixNano": str(START + number * 10**9 + 10**8),
            "attributes": [
                {"key": "text", "value": {"stringValue": text}},
                *([] if place == 0 else [{"key": "gen_ai.usage.input_tokens", "value": {"intValue": "1"}}]),
            ],
        }

    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [one(place) for place in range(SPANS)]}]}]}).encode()


def export(port: int, body: bytes) -> bool:
    """Send a batch, and say whether it was acknowledged."""
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("POST", "/v1/traces", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
    except (OSError, http.client.HTTPException):
        return False
    assert answer.status in {200, 503}, content
    return answer.status == 200


def test_no_acknowledged_span_is_lost_and_none_is_there_twice(tmp_path):
    server = RunningServer(tmp_path / "store")
    server.start()
    over = threading.Event()
    acknowledged: list[int] = []

    def send() -> None:
        for number in itertools.count():
            body = batch(number)
            while not export(server.port, body):  # as exporters do: the same again until it is answered
                if over.is_set():
                    return
                time.sleep(0.05)
            acknowledged.append(number)
            if over.is_set():
                return
            if number % 3 == 0:  # its answer was lost on the way: it is sent once more
                export(server.port, body)

    dice = random.Random(KILLS)
    sender = threading.Thread(target=send)
    sender.start()
    for _ in range(KILLS):
        time.sleep(dice.uniform(0.3, 1.0))
        server.kill()
        server.start()
    time.sleep(0.5)
    over.set()
    sender.join()
    server.kill()
    with Workspace.open(server.store) as workspace:
        assert len(acknowledged) > KILLS
        for number in acknowledged:
            trace = workspace.traces.get(f"tr-{number + 1:032x}")
            assert len(trace.spans) == trace.info.spans == SPANS
            assert (trace.info.state, trace.info.usage["input_tokens"], trace.info.duration_ms) == (
                "OK",
                SPANS - 1,
                100,
            )
            assert {span.attributes["text"].split()[0] for span in trace.spans} == {
                f"{number}/{n}" for n in range(SPANS)
            }
        counts = {one.spans for one in workspace.traces.list(limit=500).traces}
        assert counts == {SPANS}, "a batch is half there"
