"""Who comes to a front: keys, consumers, trace context and spans, and what of their inputs is recorded."""

import gzip
import struct
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import polars as pl
import pytest

from kilter.core.access import new_secret
from kilter.core.clock import SystemClock
from kilter.core.errors import NotFound
from kilter.serving.access.consumers import ConsumerService
from kilter.serving.access.keys import KeyService
from kilter.serving.recording.predictions import PredictionLog, inputs_of, to_frame
from kilter.serving.recording.redaction import Recording, RecordingService
from kilter.serving.records import TrafficPlan
from kilter.testing.front import RunningFront

AT = "2013-03-01T10:00:00Z"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


def row(key, **columns):
    return {"id": str(key), "at": AT, "x": 1.0, **columns}


@pytest.fixture
def front(tmp_path):
    with RunningFront(tmp_path) as running:
        bundle = running.constant(0.1, ("x", "y"))
        for loop in ("one", "two"):
            running.plan(TrafficPlan(loop=loop, champion=1, bundles={1: bundle}))
        running.keys = KeyService(running.database, SystemClock())
        running.consumers = ConsumerService(running.database, SystemClock())
        running.recording = RecordingService(running.database, SystemClock())
        yield running


def frame(front, loop):
    log = PredictionLog.open(front.folder / "log")
    found = to_frame(log.read(), loop=loop)
    log.close()
    return found


# ---------------------------------------------------------------- keys and consumers


def test_keys_open_the_door_and_name_the_caller(front):
    key, digest = new_secret("kk_")
    short, short_digest = new_secret("kk_")
    front.start()
    assert front.predict("one", [row(1, y=1.0)]).status_code == 200
    front.keys.create("billing", digest, ["one"])
    front.keys.create("trial", short_digest, (), datetime.now(UTC) + timedelta(seconds=3))
    front.until(lambda: front.predict("one", [row(1, y=1.0)]).status_code == 401)
    refused = front.predict("one", [row(1, y=1.0)], authorization="Bearer kk_wrong")
    assert refused.status_code == 401
    assert "kk_wrong" not in refused.text
    answer = front.predict("one", [row(2, y=1.0)], authorization=f"Bearer {key}")
    assert answer.status_code == 200
    assert front.predict("one", [row(3, y=1.0)], x_api_key=key).status_code == 200
    assert front.predict("two", [row(4, y=1.0)], authorization=f"Bearer {key}").status_code == 403
    assert front.predict("two", [row(5, y=1.0)], authorization=f"Bearer {short}").status_code == 200
    assert front.client.get("/livez").status_code == 200
    front.until(lambda: front.predict("two", [row(6, y=1.0)], authorization=f"Bearer {short}").status_code == 401)
    found = front.endpoints.prediction(answer.json()["predictions"][0]["id"])
    assert found.client == "billing"
    front.keys.revoke("billing")
    front.until(lambda: front.predict("one", [row(7, y=1.0)], authorization=f"Bearer {key}").status_code == 401)
    front.stop()  # the counts that wait are told
    called = {(one.loop, one.client): one for one in front.consumers.all()}
    assert called["one", "billing"].requests >= 2
    assert called["one", "billing"].agent == "python-httpx"
    assert called["one", "billing"].protocol == "predict"
    assert ("one", "anonymous") in called
    assert ("two", "billing") not in called


def test_a_front_that_starts_later_knows_the_keys(front):
    key, digest = new_secret("kk_")
    front.keys.create("app", digest)
    front.start()
    assert front.predict("one", [row(1, y=1.0)]).status_code == 401
    assert front.predict("one", [row(1, y=1.0)], authorization=f"Bearer {key}").status_code == 200
    assert front.client.get("/metrics").status_code == 401


def test_the_fronts_own_token_stays_good_beside_keys(front):
    front.config = type(front.config)(
        **{f: getattr(front.config, f) for f in front.config.__struct_fields__} | {"token": "s3cret"}
    )
    front.keys.create("app", new_secret("kk_")[1])
    front.start()
    assert front.predict("one", [row(1, y=1.0)], authorization="Bearer s3cret").status_code == 200
    assert front.predict("one", [row(1, y=1.0)], x_api_key="s3cret").status_code == 200
    assert front.predict("one", [row(1, y=1.0)], authorization="Bearer other").status_code == 401


# ---------------------------------------------------------------- what is recorded


def test_inputs_are_dropped_hashed_and_sampled_while_ids_and_values_stay(front):
    front.recording.set("one", Recording(drop=("y",), hash=("x",)))
    front.start()
    front.predict("one", [row(number, y=2.0, x=float(number % 2)) for number in range(4)])
    held = frame(front, "one")
    assert "x_y" not in held.columns
    assert held["x_x"].dtype == pl.String
    assert held["x_x"][0] == held["x_x"][2] != held["x_x"][1]
    assert held["value"].to_list() == [0.1] * 4
    raw = b"".join(path.read_bytes() for path in (front.folder / "log" / "main").glob("*.log"))
    assert struct.pack(">d", 2.0) not in raw
    assert struct.pack("<d", 2.0) not in raw
    front.recording.set("one", Recording(sample=0.3))

    def sampled():
        front.predict("one", [row(f"key-{number}", y=2.0) for number in range(200)])
        return "recorded" in frame(front, "one").columns

    front.until(sampled)
    last = frame(front, "one").tail(200)
    assert 30 <= last["recorded"].sum() <= 90
    assert last.filter("recorded")["x_y"].to_list() == [2.0] * last["recorded"].sum()
    assert last.filter(~pl.col("recorded"))["x_y"].null_count() == 200 - last["recorded"].sum()
    assert last["value"].to_list() == [0.1] * 200
    again = frame(front, "one")
    front.predict("one", [row(f"key-{number}", y=2.0) for number in range(200)])
    assert frame(front, "one").tail(200)["recorded"].equals(last["recorded"])  # the same keys
    assert again.height + 200 == frame(front, "one").height
    log = PredictionLog.open(front.folder / "log")
    *_, (position, record) = log.read()
    log.close()
    assert len(inputs_of(record)["y"]) == 200
    found = front.endpoints.prediction(f"main-{position:x}-{record.sampled[0]:x}")
    assert found.inputs["y"] == 2.0


# ---------------------------------------------------------------- traces


@pytest.mark.parametrize("state", ["", "vendor=a:1,other@sys=b"])
def test_a_trace_is_taken_over_recorded_and_handed_on(front, state):
    front.start()
    sent = {"traceparent": f"00-{TRACE}-{PARENT}-01"} | ({"tracestate": state} if state else {})
    answer = front.predict("one", [row(1, y=1.0)], **sent)
    version, trace, span, flags = answer.headers["traceparent"].split("-")
    assert (version, trace, flags) == ("00", TRACE, "01")
    assert span != PARENT
    assert answer.headers.get("tracestate", "") == state
    assert front.endpoints.prediction(answer.json()["predictions"][0]["id"]).trace == TRACE
    plain = front.predict("one", [row(2, y=1.0)])
    assert "traceparent" not in plain.headers
    assert front.endpoints.prediction(plain.json()["predictions"][0]["id"]).trace == ""
    wrong = front.predict("one", [row(3, y=1.0)], traceparent=f"00-{'0' * 32}-{PARENT}-01", tracestate="a=1")
    assert wrong.status_code == 200
    assert "traceparent" not in wrong.headers


class Collector:
    """An OTLP/HTTP receiver that reads what it gets with OpenTelemetry's own messages."""

    def __init__(self):
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        self.spans = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                request = ExportTraceServiceRequest.FromString(body)
                for resource in request.resource_spans:
                    names = {one.key: one.value.string_value for one in resource.resource.attributes}
                    for scope in resource.scope_spans:
                        outer.spans += [(self.path, names, span) for span in scope.spans]
                self.send_response(200)
                self.end_headers()

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def test_spans_reach_a_collector(tmp_path):
    pytest.importorskip("opentelemetry.sdk")
    pytest.importorskip("opentelemetry.proto")
    collector = Collector()
    try:
        with RunningFront(tmp_path, otlp=collector.url) as front:
            front.plan(TrafficPlan(loop="one", champion=1, bundles={1: front.constant(0.1)}))
            front.start()
            answer = front.predict("one", [row(1), row(2)], traceparent=f"00-{TRACE}-{PARENT}-01")
            assert answer.status_code == 200
            mine = answer.headers["traceparent"].split("-")[2]
            unsampled = front.predict("one", [row(3)], traceparent=f"00-{'ab' * 16}-{PARENT}-00")
            assert unsampled.headers["traceparent"].endswith("-00")
            own = front.predict("one", [row(4)]).headers["traceparent"].split("-")[1]
            front.stop()
    finally:
        collector.close()
    spans = {span.name: (path, names, span) for path, names, span in collector.spans if span.trace_id.hex() == TRACE}
    assert sorted(spans) == ["lookup", "predict", "predict one"]
    path, names, request = spans["predict one"]
    assert path == "/v1/traces"
    assert names["service.name"] == "kilter"
    assert (request.parent_span_id.hex(), request.span_id.hex(), request.kind) == (PARENT, mine, 2)
    held = {one.key: one.value for one in request.attributes}
    assert held["kilter.rows"].int_value == 2
    assert held["http.response.status_code"].int_value == 200
    for name in ("lookup", "predict"):
        step = spans[name][2]
        assert step.parent_span_id == request.span_id
        assert request.start_time_unix_nano <= step.start_time_unix_nano <= step.end_time_unix_nano
        assert step.end_time_unix_nano <= request.end_time_unix_nano
    assert abs(request.start_time_unix_nano / 1e9 - time.time()) < 300
    traces = {span.trace_id.hex() for _, _, span in collector.spans}
    assert own in traces
    assert "ab" * 16 not in traces


def test_a_collector_that_is_gone_changes_nothing(tmp_path):
    pytest.importorskip("opentelemetry.sdk")
    with RunningFront(tmp_path, otlp="http://127.0.0.1:9") as front:
        front.plan(TrafficPlan(loop="one", champion=1, bundles={1: front.constant(0.1)}))
        front.start()
        for number in range(50):
            assert front.predict("one", [row(number)]).status_code == 200
        front.until(lambda: front.client.get("/readyz").status_code == 200)
        assert front.stop() == 0


def test_a_forgotten_prediction_is_not_found(front):
    front.start()
    with pytest.raises(NotFound):
        front.endpoints.prediction("main-ffffff-0")
