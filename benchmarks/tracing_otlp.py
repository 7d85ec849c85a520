"""Spans over OpenTelemetry's protocol: batches of 100, one connection, beside a real ``mlflow server`` where there is one.

    python benchmarks/tracing_otlp.py [--mlflow /path/to/venv/bin/mlflow] [--batches 300] [--rounds 3] [--json]

Each batch is ten traces of ten spans as an instrumented application on a language model sends them: a request, retrievals, tool calls
and model calls with their messages and tokens, about 900 bytes a span. CPU is user and system time of all the server's processes; the
rate per core is what one core would take if it did nothing else. Times are medians over rounds that take turns; what was sent is
counted again by search in the end.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
TICK = os.sysconf("SC_CLK_TCK")
TRACES, SPANS = 10, 10
QUESTION = "What is the refund policy for a parcel that arrived three weeks late and was opened by the neighbour?"


def batch(start: int) -> bytes:
    """Return ten traces of ten spans each, as bytes of an export request."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    request = ExportTraceServiceRequest()
    recorded = request.resource_spans.add()
    _say(recorded.resource.attributes, {"service.name": "assistant", "service.version": "1.4.2", "host.name": "node-7"})
    scoped = recorded.scope_spans.add()
    scoped.scope.name = "assistant.instrumentation"
    for _ in range(TRACES):
        trace, root = secrets.token_bytes(16), secrets.token_bytes(8)
        for place in range(SPANS):
            span = scoped.spans.add()
            span.trace_id, span.span_id = trace, root if place == 0 else secrets.token_bytes(8)
            if place:
                span.parent_span_id = root
            span.name = "POST /ask" if place == 0 else f"chat gpt-4o {place}"
            span.kind = 2 if place == 0 else 3
            span.start_time_unix_nano = start + place * 1_000_000
            span.end_time_unix_nano = start + 40_000_000
            _say(span.attributes, _model(place) if place else {"http.request.method": "POST", "session.id": "s-1"})
            event = span.events.add()
            event.name, event.time_unix_nano = "gen_ai.choice", start + place * 1_000_000 + 500
    return bytes(request.SerializeToString())


def _model(place: int) -> dict[str, Any]:
    asked = [{"role": "user", "parts": [{"type": "text", "content": QUESTION}]}]
    answered = [
        {"role": "assistant", "parts": [{"type": "text", "content": f"{QUESTION} {place}"}], "finish_reason": "stop"}
    ]
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.response.model": "gpt-4o-2024-11-20",
        "gen_ai.request.temperature": 0.2,
        "gen_ai.request.max_tokens": 512,
        "gen_ai.response.id": f"chatcmpl-{place}",
        "gen_ai.usage.input_tokens": 311 + place,
        "gen_ai.usage.output_tokens": 42,
        "gen_ai.input.messages": json.dumps(asked),
        "gen_ai.output.messages": json.dumps(answered),
    }


def _say(attributes: Any, given: dict[str, Any]) -> None:
    for name, value in given.items():
        one = attributes.add()
        one.key = name
        kind = {str: "string_value", int: "int_value", float: "double_value"}[type(value)]
        setattr(one.value, kind, value)


class Server:
    """A server under measure."""

    def __init__(self, name: str, command: list[str], folder: Path) -> None:
        self.name = name
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        folder.mkdir(parents=True)
        self._process = subprocess.Popen(
            [part.format(port=self.port, folder=folder) for part in command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 300
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.send("GET", "/health", b"", "text/plain")[0] == 200:
                    return
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise SystemExit(f"{name} did not answer")
            time.sleep(0.1)

    def send(self, method: str, path: str, body: bytes, kind: str, connection: Any = None) -> tuple[int, bytes]:
        """Send one request and return its answer."""
        used = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        headers = {"Content-Type": kind, "x-mlflow-experiment-id": "0"}
        try:
            used.request(method, path, body, headers)
            answer = used.getresponse()
        except (http.client.RemoteDisconnected, ConnectionResetError):  # a kept connection that the server has closed
            used.close()
            used.request(method, path, body, headers)
            answer = used.getresponse()
        found = answer.status, answer.read()
        if connection is None:
            used.close()
        return found

    def cpu(self) -> float:
        """Return the user and system seconds of all its processes."""
        total = 0.0
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with contextlib.suppress(OSError, IndexError, ValueError):
                    parts = (entry / "stat").read_text().rpartition(")")[2].split()
                    if int(parts[3]) == self._process.pid:
                        total += sum(int(value) for value in parts[11:15]) / TICK
        return total

    def count(self) -> int:
        """Return how many traces it has, page by page."""
        place = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "0"}}
        total, token = 0, None
        while True:
            asked = {"locations": [place], "max_results": 500, **({"page_token": token} if token else {})}
            status, answer = self.send(
                "POST", "/api/3.0/mlflow/traces/search", json.dumps(asked).encode(), "application/json"
            )
            assert status == 200, answer
            page = json.loads(answer)
            total += len(page.get("traces", ()))
            token = page.get("next_page_token")
            if not token:
                return total

    def stop(self) -> None:
        """End it with all its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def measured(server: Server, bodies: list[bytes]) -> dict[str, float]:
    """Send batches one after the other, and return what they took."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    began, cpu, times = time.perf_counter(), server.cpu(), []
    for body in bodies:
        at = time.perf_counter()
        status, answer = server.send("POST", "/v1/traces", body, "application/x-protobuf", connection)
        assert status == 200, answer
        times.append(time.perf_counter() - at)
    wall, spent, spans = time.perf_counter() - began, server.cpu() - cpu, len(bodies) * TRACES * SPANS
    connection.close()
    return {
        "spans_per_second": spans / wall,
        "cpu_us_per_span": spent / spans * 1e6,
        "spans_per_core_second": spans / max(spent, 1e-9),
        "batch_ms_median": statistics.median(times) * 1e3,
        "load": os.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mlflow", help="the command of an environment that has MLflow")
    parser.add_argument("--batches", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        own = [sys.executable, "-m", "kilter.cli.main", "server", "--store", "{folder}", "--port", "{port}"]
        servers = [Server("kilter", own, base / "kilter")]
        if options.mlflow:
            store = ["--backend-store-uri", "sqlite:///{folder}/m.db", "--artifacts-destination", "{folder}/a"]
            servers.append(Server("mlflow", [options.mlflow, "server", "--port", "{port}", *store], base / "mlflow"))
        found: dict[str, list[dict[str, float]]] = {server.name: [] for server in servers}
        size = len(batch(1))
        try:
            for server in servers:  # what is done once per process is no part of a rate
                measured(server, [batch(1_700_000_000_000_000_000)])
            for round_ in range(options.rounds):
                for server in servers:
                    bodies = [
                        batch(1_700_000_001_000_000_000 + (round_ * 10_000 + n) * 1_000_000_000)
                        for n in range(options.batches)
                    ]
                    found[server.name].append(measured(server, bodies))
            sent = (options.rounds * options.batches + 1) * TRACES
            for server in servers:
                assert server.count() == sent, (server.name, server.count(), sent)
        finally:
            for server in servers:
                server.stop()
    medians = {
        name: {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        for name, rounds in found.items()
    }
    if options.json:
        print(json.dumps({"bytes_per_span": size / TRACES / SPANS, "medians": medians, "rounds": found}))
        return
    print(
        f"batches of {TRACES * SPANS} spans, {size / TRACES / SPANS:.0f} bytes a span, {options.batches} batches, {options.rounds} rounds"
    )
    for name, values in medians.items():
        print(
            f"{name:8} {values['spans_per_second']:9,.0f} spans/s  {values['cpu_us_per_span']:7.1f} us CPU/span  "
            f"{values['spans_per_core_second']:9,.0f} spans/s/core  {values['batch_ms_median']:7.1f} ms/batch  load {values['load']:.1f}"
        )


if __name__ == "__main__":
    main()
