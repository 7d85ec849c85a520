"""What a front answers to: the door, the routes of all protocols, and how the front is."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable
from functools import lru_cache, partial

import msgspec

from kilter.core.access import allowed_host, allowed_origin
from kilter.core.errors import Forbidden, KilterError
from kilter.serving.access.reception import Reception
from kilter.serving.answering.endpoint import Endpoint
from kilter.serving.front.compression import deflate, inflate, wish
from kilter.serving.front.http import Connection, HttpError, Limits, Request
from kilter.serving.front.intake import Intake
from kilter.serving.protocols.routes import Found, Route, Routes
from kilter.serving.protocols.table import all_routes
from kilter.serving.recording.predictions import PredictionLog
from kilter.serving.recording.replays import Replays
from kilter.serving.telemetry.dashboards import Dashboards
from kilter.serving.telemetry.metrics import Gauges, newest

log = logging.getLogger("kilter.serving")


class Faces:
    """The door and the routes of one front.

    Args:
        log: The prediction log.
        replays: The newest Idempotency-Keys.
        limits: What one client may ask.
        host: The address that is listened on.
        reception: Who comes, and whether they may.
        clock: The event loop's time.
        default: The endpoint that answers where a protocol names none; empty for the only one.
    """

    def __init__(
        self,
        log: PredictionLog,
        replays: Replays,
        limits: Limits,
        *,
        host: str,
        reception: Reception,
        clock: Callable[[], float],
        default: str = "",
    ) -> None:
        self.limits = limits
        self.draining = False
        self.connections: set[Connection] = set()
        self.measures: list[Callable[[Gauges], None]] = []
        self.intake = Intake(log, replays, limits, clock, default, reception)
        self.measures.append(Dashboards(self.intake).measure)
        self.endpoints = self.intake.endpoints
        self.routes = Routes(
            [
                Route(b"GET", "/livez", self._livez, open=True),
                Route(b"GET", "/readyz", self._readyz, open=True),
                Route(b"GET", "/metrics", self._metrics),
                Route(b"GET", "/models", self._models),
                *all_routes(self.intake, self.ready, os.environ),
            ]
        )
        self._host = host
        self._reception = reception

    def handle(self, request: Request) -> None:
        """Answer a request, now or later."""
        reply = request.reply
        try:
            found = self.routes.find(request.method, request.path)
            reply.shape = found.shape
            self._check_access(request, found)
            headers = request.headers
            if b"accept-encoding" in headers:
                reply.compress = partial(_compressed, headers[b"accept-encoding"])
            if b"content-encoding" in headers:
                request.body = inflate(request.body, headers[b"content-encoding"], self.limits.body)
            found.handle(request, *found.arguments)
        except KilterError as error:
            reply.fail(error)
        except Exception:  # the edge: whatever it is, the caller gets an answer and the server goes on
            log.exception("a request failed")
            reply.fail(HttpError(500, "the server made a mistake"))

    def _check_access(self, request: Request, found: Found) -> None:
        headers = request.headers
        host = headers.get(b"host")
        if not _host_allowed(host, self._host):
            raise Forbidden("the Host is not this server", where="Host", allowed="localhost, 127.0.0.1, [::1]")
        if b"origin" in headers and not allowed_origin(_text(headers[b"origin"]), _text(host)):
            raise Forbidden("the Origin is not this server", where="Origin", allowed="this server's own pages")
        reception = self._reception
        if reception.keys.locked and not found.open:
            sent = _text(headers.get(b"authorization")), _text(headers.get(b"x-api-key"))
            request.client = reception.keys.caller(*sent).name
        if b"traceparent" in headers or reception.exporter is not None:
            context = reception.trace(headers.get(b"traceparent"), headers.get(b"tracestate"))
            if context is not None and not found.open:
                request.context = context
                request.reply.headers = context.header()

    # ------------------------------------------------------------ how it is

    def _livez(self, request: Request) -> None:
        request.reply.send(200, b'{"live":true}')

    def ready(self) -> bool:
        """Return whether every endpoint can answer."""
        return not self.draining and bool(self.endpoints) and all(one.ready for one in self.endpoints.values())

    def _readyz(self, request: Request) -> None:
        ready = self.ready()
        request.reply.send(200 if ready else 503, b'{"ready":true}' if ready else b'{"ready":false}')

    def _models(self, request: Request) -> None:
        request.reply.send(200, msgspec.json.encode({"front": self.intake.front, "pid": os.getpid(),
                                                     "endpoints": [_described(one) for one in self.endpoints.values()]}))  # fmt: skip

    def _metrics(self, request: Request) -> None:
        gauges = Gauges()
        gauges.add("connections", "gauge", "Open connections.", len(self.connections))
        for name, endpoint in sorted(self.endpoints.items()):
            _measure(gauges, name, endpoint)
        for measure in self.measures:
            measure(gauges)
        request.reply.send(200, gauges.text(), b"text/plain; version=0.0.4; charset=utf-8")


def _compressed(accepts: bytes, body: bytes) -> tuple[bytes, bytes]:
    """Return an answer, compressed if the client wishes it, and the header lines that say so."""
    coding = wish(accepts, len(body))
    if not coding or not body:
        return body, b""
    return deflate(body, coding), b"content-encoding: %b\r\nvary: accept-encoding\r\n" % coding


def _described(endpoint: Endpoint) -> dict[str, object]:
    active = endpoint.active
    if active is None:
        return {"loop": endpoint.loop, "ready": False, "error": endpoint.error}
    plan = active.plan
    return {
        "loop": endpoint.loop,
        "ready": endpoint.ready,
        "generation": plan.generation,
        "mode": plan.mode,
        "champion": plan.champion,
        "challenger": plan.challenger,
        "share": plan.share,
        "warm": list(plan.warm),
        "error": endpoint.error,
        "versions": [
            {
                "version": model.version,
                "bundle": model.digest,
                "framework": model.manifest.framework,
                "ready": model.ready,
                "awake": model.pool.awake,
                "pids": model.pool.pids,
                "workers": model.pool.workers,
                "waiting": model.pool.waiting,
                "memory": model.memory,
                "restarts": model.pool.restarts,
                "start_seconds": round(model.pool.start_seconds, 4),
            }
            for model in active.models.values()
        ],
    }


def _measure(gauges: Gauges, name: str, endpoint: Endpoint) -> None:
    metrics = endpoint.metrics
    loop = (("loop", name),)
    for status, count in sorted(metrics.requests.items()):
        gauges.add("requests_total", "counter", "Requests answered, by status.", count, (*loop, ("status", status)))
    told = newest((version for _, version in metrics.rows), endpoint.active.models if endpoint.active else ())
    rows: Counter[tuple[str, str]] = Counter()
    for (arm, version), count in metrics.rows.items():
        rows[arm, str(version) if version in told else "older"] += count
    for (arm, label), count in sorted(rows.items()):
        gauges.add("rows_total", "counter", "Rows answered, by arm and version (0 is the constant).", count,
                   (*loop, ("arm", arm), ("version", label)))  # fmt: skip
    gauges.histogram(metrics, name)
    gauges.add("waiting_rows", "gauge", "Rows that wait for an answer.", endpoint.rows, loop)
    gauges.add(
        "retried_rows_total", "counter", "Rows asked again after a worker died or refused.", metrics.retried_rows, loop
    )
    gauges.add("input_errors_total", "counter", "Times that rows could not be read for a version, or features not be looked up.",
               metrics.input_errors, loop)  # fmt: skip
    gauges.add("replayed_total", "counter", "Requests answered again by their key.", metrics.replayed, loop)
    gauges.add("shadow_rows_total", "counter", "Rows scored by the shadow.", metrics.shadow_rows, loop)
    gauges.add("shadow_dropped_total", "counter", "Rows that the shadow did not score.", metrics.shadow_dropped, loop)
    gauges.add("ready", "gauge", "Whether the champion can answer.", float(endpoint.ready), loop)
    if endpoint.active is not None:
        gauges.add("generation", "gauge", "The plan that is served.", endpoint.active.plan.generation, loop)
        restarts = sum(model.pool.restarts for model in endpoint.active.models.values())
        gauges.add("worker_restarts", "gauge", "Restarts of the workers that are loaded now.", restarts, loop)


@lru_cache(maxsize=256)
def _host_allowed(header: bytes | None, bound: str) -> bool:
    return allowed_host(_text(header), bound)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")
