"""What a front answers to: its routes, from bytes to rows and back to bytes."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import partial

import msgspec

from kilter.core.access import allowed_host, allowed_origin, check_token
from kilter.core.digests import digest
from kilter.core.errors import Forbidden, InvalidInput, KilterError, NotFound
from kilter.serving.endpoint import Endpoint
from kilter.serving.group import Ask
from kilter.serving.http import Connection, HttpError, Limits, Reply, Request, status_of
from kilter.serving.metrics import Gauges
from kilter.serving.recording import PredictionLog
from kilter.serving.records import Item, PredictionBatch
from kilter.serving.replays import Answered, Replays

Handler = Callable[[Request], None]
log = logging.getLogger("kilter.serving")

_LONGEST_KEY = 200


class Body(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a prediction request."""

    rows: list[dict[str, str | int | float | bool | None]]


_BODY = msgspec.json.Decoder(Body)


class Faces:
    """The routes of one front.

    Args:
        log: The prediction log.
        replays: The newest Idempotency-Keys.
        limits: What one client may ask.
        host: The address that is listened on.
        token: The bearer token that clients must send, or None.
        clock: The event loop's time.
    """

    def __init__(
        self,
        log: PredictionLog,
        replays: Replays,
        limits: Limits,
        *,
        host: str,
        token: str | None,
        clock: Callable[[], float],
    ) -> None:
        self.limits = limits
        self.draining = False
        self.connections: set[Connection] = set()
        self.endpoints: dict[str, Endpoint] = {}
        self.routes: dict[bytes, dict[bytes, Handler]] = {
            b"/livez": {b"GET": self._livez},
            b"/readyz": {b"GET": self._readyz},
            b"/metrics": {b"GET": self._metrics},
            b"/models": {b"GET": self._models},
        }
        self.open_routes = frozenset({b"/livez", b"/readyz"})
        self._log = log
        self._replays = replays
        self._host = host
        self._token = token
        self._clock = clock

    def handle(self, request: Request) -> None:
        """Answer a request, now or later."""
        try:
            self._check_access(request)
            self._route(request)(request)
        except KilterError as error:
            request.reply.fail(error)
        except Exception:  # the edge: whatever it is, the caller gets an answer and the server goes on
            log.exception("a request failed")
            request.reply.fail(HttpError(500, "the server made a mistake"))

    def _route(self, request: Request) -> Handler:
        path = request.path.partition(b"?")[0]
        if path.startswith(b"/predict/"):
            return self._allow(request, {b"POST": self._predict})
        routes = self.routes.get(path)
        if routes is None:
            raise NotFound("there is no such path", allowed="/predict/<loop>, /models, /metrics, /livez, /readyz")
        return self._allow(request, routes)

    def _check_access(self, request: Request) -> None:
        headers = request.headers
        host = _text(headers.get(b"host"))
        if not allowed_host(host, self._host):
            raise Forbidden("the Host is not this server", where="Host", allowed="localhost, 127.0.0.1, [::1]")
        if not allowed_origin(_text(headers.get(b"origin")), host):
            raise Forbidden("the Origin is not this server", where="Origin", allowed="this server's own pages")
        if self._token and request.path not in self.open_routes:
            check_token(_text(headers.get(b"authorization")), self._token)

    @staticmethod
    def _allow(request: Request, handlers: dict[bytes, Handler]) -> Handler:
        handler = handlers.get(request.method)
        if handler is None:
            allowed = b", ".join(sorted(handlers))
            raise HttpError(
                405, "the path has other methods", headers=b"allow: %b\r\n" % allowed, allowed=allowed.decode()
            )
        return handler

    # ------------------------------------------------------------ predictions

    def _predict(self, request: Request) -> None:
        loop = request.path[len(b"/predict/") :].partition(b"?")[0].decode("ascii", "replace")
        endpoint = self.endpoints.get(loop)
        if endpoint is None:
            raise NotFound("there is no such endpoint", where="/predict/<loop>", fix="GET /models lists them")
        try:
            self._submit(endpoint, request)
        except KilterError as error:
            endpoint.metrics.requests[status_of(error)] += 1
            raise

    def _submit(self, endpoint: Endpoint, request: Request) -> None:
        kind = request.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind != b"application/json":
            raise HttpError(415, "the body is not declared as JSON", allowed="content-type: application/json")
        key = _text(request.headers.get(b"idempotency-key")) or ""
        body = b""
        if key:
            if len(key) > _LONGEST_KEY:
                raise InvalidInput("the key is too long", where="Idempotency-Key", allowed=f"{_LONGEST_KEY} characters")
            body = bytes.fromhex(digest(request.body)[:16])
            if self._replayed(endpoint, request.reply, key, body):
                return
        ask = self._read(endpoint, request, Item(0, key, body))
        endpoint.submit(ask)
        if key:
            self._replays.begin(endpoint.loop, key, body)

    def _replayed(self, endpoint: Endpoint, reply: Reply, key: str, body: bytes) -> bool:
        """Answer a request that was sent before; say whether it was."""
        known = self._replays.find(endpoint.loop, key, body)
        if known is None:
            return False
        endpoint.metrics.replayed += 1
        if isinstance(known, Answered):
            record = self._log.get(known.position)
            assert isinstance(record, PredictionBatch)  # noqa: S101 - only those have keys
            reply.send(200, render(self._log.front, record, known.position, known.start, known.rows))
        else:
            known.others.append((partial(reply.send, 200), reply.fail))
        return True

    def _read(self, endpoint: Endpoint, request: Request, item: Item) -> Ask:
        try:
            rows = _BODY.decode(request.body).rows
        except msgspec.ValidationError as error:
            where = str(error).rpartition(" - at `")[2].rstrip("`") if " - at `" in str(error) else "body"
            # The path holds indexes and "[...]" only, never a name that was sent.
            raise InvalidInput(
                "the body has another form", where=where, allowed='{"rows": [{column: value}]}'
            ) from error
        except msgspec.DecodeError as error:
            raise HttpError(400, "the body is not JSON") from error
        if not 0 < len(rows) <= self.limits.rows:
            raise HttpError(
                413 if rows else 422, f"the request has {len(rows)} rows", allowed=f"1 to {self.limits.rows}"
            )
        active = endpoint.active
        champion = active.champion if active is not None else None
        count = len(rows)
        reply, arrived = request.reply, request.arrived
        item = Item(count, item.key, item.body)

        def answer(position: int, start: int, batch: PredictionBatch) -> None:
            self._answer(endpoint, reply, item, arrived, position, start, batch)

        def fail(error: KilterError) -> None:
            self._fail(endpoint, reply, item, error)

        if champion is None:
            now = endpoint.now()
            return Ask(rows, [""] * count, [now] * count, [], None, item, arrived, answer, fail)  # type: ignore[arg-type]
        reader = champion.reader
        identities = [reader.identity(row, index) for index, row in enumerate(rows)]
        vectors = [reader.vector(row, index) for index, row in enumerate(rows)]
        keys = [key for key, _ in identities]
        times = [time for _, time in identities]
        return Ask(rows, keys, times, vectors, reader, item, arrived, answer, fail)  # type: ignore[arg-type]

    def _answer(
        self,
        endpoint: Endpoint,
        reply: Reply,
        item: Item,
        arrived: float,
        position: int,
        start: int,
        batch: PredictionBatch,
    ) -> None:
        body = render(self._log.front, batch, position, start, item.rows)
        reply.send(200, body)
        endpoint.metrics.requests[200] += 1
        endpoint.metrics.observe(self._clock() - arrived)
        if item.key:
            waiting = self._replays.find(endpoint.loop, item.key, item.body)
            self._replays.end(endpoint.loop, item.key, Answered(item.body, position, start, item.rows))
            if waiting is not None and not isinstance(waiting, Answered):
                for send, _ in waiting.others:
                    send(body)

    def _fail(self, endpoint: Endpoint, reply: Reply, item: Item, error: KilterError) -> None:
        endpoint.metrics.requests[status_of(error)] += 1
        reply.fail(error)
        if item.key:
            waiting = self._replays.find(endpoint.loop, item.key, item.body)
            self._replays.end(endpoint.loop, item.key, None)
            if waiting is not None and not isinstance(waiting, Answered):
                for _, fail in waiting.others:
                    fail(error)

    # ------------------------------------------------------------ how it is

    def _livez(self, request: Request) -> None:
        request.reply.send(200, b'{"live":true}')

    def _readyz(self, request: Request) -> None:
        ready = not self.draining and bool(self.endpoints) and all(one.ready for one in self.endpoints.values())
        request.reply.send(200 if ready else 503, b'{"ready":true}' if ready else b'{"ready":false}')

    def _models(self, request: Request) -> None:
        request.reply.send(200, msgspec.json.encode({"front": self._log.front, "pid": os.getpid(),
                                                     "endpoints": [_described(one) for one in self.endpoints.values()]}))  # fmt: skip

    def _metrics(self, request: Request) -> None:
        gauges = Gauges()
        gauges.add("connections", "gauge", "Open connections.", len(self.connections))
        for name, endpoint in sorted(self.endpoints.items()):
            _measure(gauges, name, endpoint)
        request.reply.send(200, gauges.text(), b"text/plain; version=0.0.4; charset=utf-8")


def render(front: str, batch: PredictionBatch, position: int, start: int, count: int) -> bytes:
    """Return the answer to a request as JSON.

    Args:
        front: The front's name, for the ids.
        batch: The record that holds the request's rows.
        position: The record's position.
        start: The request's first row in it.
        count: How many rows it has.
    """
    values, versions, arms = batch.values, batch.versions, batch.arms
    rows = ",".join(
        [
            f'{{"id":"{front}-{position:x}-{row:x}","value":{values[row]!r},"version":{versions[row]},"arm":"{arms[row]}"}}'
            for row in range(start, start + count)
        ]
    )
    return f'{{"model":"{batch.loop}","predictions":[{rows}]}}'.encode()


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
                "ready": model.pool.ready,
                "pids": model.pool.pids,
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
    for (arm, version), count in sorted(metrics.rows.items()):
        gauges.add("rows_total", "counter", "Rows answered, by arm and version (0 is the constant).", count,
                   (*loop, ("arm", arm), ("version", version)))  # fmt: skip
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


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")
