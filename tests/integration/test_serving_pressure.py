"""A front under pressure: too much at once, nonsense, and a store that goes away."""

import json
import os
import signal
import threading

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kilter.serving.records import TrafficPlan
from kilter.testing.front import RunningFront

ROW = {"id": "a", "at": "2013-03-01T10:00:00Z", "x": 1.0}


@pytest.fixture(scope="module")
def front(tmp_path_factory):
    with RunningFront(tmp_path_factory.mktemp("pressure"), waiting_rows=100, stall=20.0, deadline=20.0) as running:
        running.plan(TrafficPlan(loop="late", champion=1, bundles={1: running.constant(0.5)}, fallback=0.9))
        running.plan(TrafficPlan(loop="other", champion=1, bundles={1: running.constant(0.5)}, fallback=0.9))
        yield running.start()


def test_what_does_not_fit_is_refused_at_once_and_what_was_taken_is_answered(front):
    workers = [front.pids(loop, 1)[0] for loop in ("late", "other")]
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    taken = []

    def ask(loop, rows):
        with httpx.Client(base_url=front.client.base_url, timeout=30) as client:
            taken.append(client.post(f"/predict/{loop}", json={"rows": [ROW] * rows}).status_code)

    threads = [threading.Thread(target=ask, args=(loop, 50)) for loop in ("late", "other")]
    threads[0].start()
    front.until(lambda: front.metric("waiting_rows", loop="late") == 50)
    refused = front.predict("late", [ROW])
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    threads[1].start()
    front.until(lambda: front.metric("waiting_rows", loop="other") == 50)
    refused = front.predict("other", [ROW])
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert front.client.get("/livez").status_code == 200
    for worker in workers:
        os.kill(worker, signal.SIGCONT)
    for thread in threads:
        thread.join()
    assert taken == [200, 200]
    assert front.predict("late", [ROW]).status_code == 200
    assert front.metric("requests_total", loop="late", status="429") == 1


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
rows = st.fixed_dictionaries({}, optional={"id": scalars, "at": scalars, "x": scalars, "more": values})


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.fixed_dictionaries({"rows": st.lists(rows, max_size=3)}) | values)
def test_no_body_makes_a_server_error_or_goes_unanswered(front, body):
    content = json.dumps(body).encode()
    answer = front.client.post("/predict/late", content=content, headers={"content-type": "application/json"})
    assert answer.status_code in {200, 400, 413, 422}
    if answer.status_code == 200:
        assert len(answer.json()["predictions"]) == len(body["rows"])


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(head=st.binary(max_size=200))
def test_no_bytes_make_a_server_error(front, head):
    import socket

    url = front.client.base_url
    with socket.create_connection((url.host, url.port), timeout=10) as connection:
        connection.sendall(head + b"\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        data = b""
        while chunk := connection.recv(65536):
            data += chunk
    assert b"HTTP/1.1 5" not in data
    assert front.client.get("/livez").status_code == 200
