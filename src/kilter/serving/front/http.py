"""HTTP/1.1 on asyncio: httptools parses, this keeps the order, the limits and the connection.

Requests on one connection may be pipelined and are answered in order, whenever each answer is ready. Nothing that a client
sends is echoed. Source: RFC 9110, 9112; problem documents RFC 9457.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import NamedTuple, Protocol

import httptools
import msgspec

from kilter.core.errors import KilterError
from kilter.serving.telemetry.tracing import Context

JSON = b"application/json"
PROBLEM = b"application/problem+json"
_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one client may ask of a front.

    Args:
        header: Bytes of a request's head.
        body: Bytes of a request's body.
        rows: Rows of a request.
        pipelined: Requests of one connection that wait for their answer; more are not read meanwhile.
        connections: Connections in all.
        idle: Seconds that a connection may be silent between requests.
        read: Seconds that a request may take to arrive.
    """

    header: int = 16 << 10
    body: int = 8 << 20
    rows: int = 10_000
    pipelined: int = 64
    connections: int = 2_000
    idle: float = 75.0
    read: float = 15.0


class HttpError(KilterError):
    """A request that HTTP itself refuses.

    Args:
        status: The status code.
        message: What is wrong, without what was sent.
        headers: More header lines, each ending in CRLF.
    """

    code = "http"

    def __init__(self, status: int, message: str, *, headers: bytes = b"", allowed: str = "", fix: str = "") -> None:
        super().__init__(message, allowed=allowed, fix=fix)
        self.http_status = status
        self.headers = headers


def status_of(error: KilterError) -> int:
    """Return the status that an error is answered with."""
    return error.http_status if isinstance(error, HttpError) else error.status


class Request:
    """One request. Header names are lower-case; of repeated ones the last counts.

    The reception writes ``client`` and ``context``: who asks, and the place of the request in a trace. Both go on record.
    """

    __slots__ = ("arrived", "body", "client", "context", "headers", "method", "path", "reply")

    def __init__(self, reply: Reply, arrived: float) -> None:
        self.method = b""
        self.path = b""
        self.headers: dict[bytes, bytes] = {}
        self.body: bytes = b""
        self.reply = reply
        self.arrived = arrived
        self.client = ""
        self.context: Context | None = None


Shape = Callable[[int, dict[str, object]], tuple[int, object]]
"""How a protocol says an error: from a status and a problem document to a status and a JSON value."""


class Reply:
    """The place of one answer in its connection's order."""

    __slots__ = ("_connection", "closing", "compress", "data", "headers", "shape", "status")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.compress: Callable[[bytes], tuple[bytes, bytes]] | None = None
        self.shape: Shape | None = None
        self.headers = b""
        self.data: bytes | None = None
        self.status = 0
        self.closing = False

    def send(self, status: int, body: bytes, kind: bytes = JSON, headers: bytes = b"") -> None:
        """Answer; only the first answer counts."""
        if self.data is not None:
            return
        self.status = status
        if self.compress is not None:
            body, encoding = self.compress(body)
            headers += encoding
        if self.headers:
            headers += self.headers
        close = b"connection: close\r\n" if self.closing or self._connection.draining else b""
        self.data = b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n%b%b\r\n%b" % (
            status, _REASONS.get(status, b""), kind, len(body), headers, close, body,
        )  # fmt: skip
        if close:
            self.closing = True
        self._connection.answered()

    def fail(self, error: KilterError) -> None:
        """Answer with an error as a problem document."""
        problem = error.problem()
        status = status_of(error)
        headers = b""
        if isinstance(error, HttpError):
            headers = error.headers
            problem |= {"type": "about:blank", "title": _REASONS[status].decode(), "status": status}
        elif status == HTTPStatus.SERVICE_UNAVAILABLE:
            headers = b"retry-after: 1\r\n"
        if self.shape is None:
            self.send(status, msgspec.json.encode(problem), PROBLEM, headers)
        else:
            status, value = self.shape(status, problem)
            self.send(status, msgspec.json.encode(value), JSON, headers)


class Application(Protocol):
    """What a connection needs from the server."""

    limits: Limits
    draining: bool
    connections: set[Connection]

    def handle(self, request: Request) -> None:
        """Answer a request, now or later, through ``request.reply``."""
        ...


class _Before(NamedTuple):
    """The head of a request that came whole, and how many bytes it was with its body."""

    head: bytes
    size: int
    method: bytes
    path: bytes
    headers: dict[bytes, bytes]


class Connection(asyncio.Protocol):
    """One client's connection.

    Args:
        application: What answers.
        clock: The monotonic time: the event loop's ``time``.
    """

    def __init__(self, application: Application, clock: Callable[[], float]) -> None:
        self._application = application
        self._limits = application.limits
        self._clock = clock
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._queue: deque[Reply] = deque()
        self._request: Request | None = None
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._header_size = 0
        self._body_size = 0
        self._last: Request | None = None
        self._before: _Before | None = None
        self._refused = False
        self._paused = False
        self._blocked = False
        self.since = clock()

    @property
    def draining(self) -> bool:
        """Whether the server takes no more requests."""
        return self._application.draining

    @property
    def waiting(self) -> int:
        """How many requests wait for their answer."""
        return len(self._queue)

    # ------------------------------------------------------------ asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")  # noqa: S101 - narrows the type
        self._transport = transport  # type: ignore[assignment]
        self._application.connections.add(self)
        if len(self._application.connections) > self._limits.connections:
            self._refuse(HttpError(503, "too many connections", headers=b"retry-after: 1\r\n"))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """End; answers still to come are dropped."""
        self._transport = None
        self._application.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        """Take bytes."""
        if self._refused:
            return
        idle, before = self._request is None, self._before
        if idle and before is not None and len(data) == before.size and data.startswith(before.head):
            self._again(before, data[len(before.head) :])
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(HttpError(400, "no other protocol is spoken here"))
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, HttpError) else HttpError(400, "the request can't be read"))
        except httptools.HttpParserError:
            self._refuse(HttpError(400, "the request can't be parsed"))
        else:
            if self._request is not None and self._request.method == b"" and len(data) > self._limits.header:
                self._refuse(_head_too_large(self._limits))
            elif idle and self._request is None:
                self._remember(data)

    def _remember(self, data: bytes) -> None:
        """Keep the head of a request that came alone and whole: clients mostly send the same one again."""
        last, self._last = self._last, None
        if last is None or last.reply.closing or b"expect" in last.headers:
            return
        # A body as long as its head says, and nothing beside the two: bytes that begin like these, and are as many, are the same
        # head and a body as long.
        end = data.find(b"\r\n\r\n") + 4
        if last.headers.get(b"content-length") == b"%d" % (len(data) - end):
            self._before = _Before(data[:end], len(data), last.method, last.path, last.headers)

    def _again(self, before: _Before, body: bytes) -> None:
        """Take a request whose head is, byte for byte, that of one before."""
        reply = Reply(self)
        self._queue.append(reply)
        request = Request(reply, self._clock())
        self.since = request.arrived
        request.method, request.path, request.headers = before.method, before.path, before.headers
        request.body = body
        self._hand_on(request)

    def eof_received(self) -> bool:
        """Keep the other direction open while answers are due."""
        return bool(self._queue)

    def pause_writing(self) -> None:
        """Stop reading while the client doesn't read."""
        self._blocked = True
        self._throttle()

    def resume_writing(self) -> None:
        """Go on."""
        self._blocked = False
        self._throttle()

    # ------------------------------------------------------------ httptools

    def on_message_begin(self) -> None:
        """Begin a request."""
        reply = Reply(self)
        self._queue.append(reply)
        request = self._request = Request(reply, self._clock())
        self._headers = request.headers
        self.since = request.arrived
        self._body = []
        self._header_size = self._body_size = 0

    def on_url(self, url: bytes) -> None:
        """Take the target; long ones come in parts."""
        assert self._request is not None  # noqa: S101
        self._header_size += len(url)
        if self._header_size > self._limits.header:
            raise _head_too_large(self._limits)
        self._request.path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._header_size += len(name) + len(value) + 4
        if self._header_size > self._limits.header:
            raise _head_too_large(self._limits)
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """Refuse by the head what need not be read."""
        request, headers = self._request, self._headers
        assert request is not None  # noqa: S101
        request.method = self._parser.get_method()
        request.reply.closing = not self._parser.should_keep_alive()
        length = headers.get(b"content-length")
        if length is not None and int(length) > self._limits.body:
            raise HttpError(413, "the body is too large", allowed=f"{self._limits.body} bytes")
        expect = headers.get(b"expect")
        if expect is not None and expect.lower() == b"100-continue" and self._transport and len(self._queue) == 1:
            self._transport.write(_CONTINUE)

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._body_size += len(body)
        if self._body_size > self._limits.body:
            raise HttpError(413, "the body is too large", allowed=f"{self._limits.body} bytes")
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Hand the request on."""
        request, self._request = self._request, None
        assert request is not None  # noqa: S101
        request.body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body = []
        self._last = request
        self._hand_on(request)

    def _hand_on(self, request: Request) -> None:
        self._application.handle(request)
        if len(self._queue) >= self._limits.pipelined:
            self._throttle()

    # ------------------------------------------------------------ answers

    def answered(self) -> None:
        """Send every answer whose turn it is."""
        queue, transport = self._queue, self._transport
        if transport is None:
            queue.clear()
            return
        while queue and queue[0].data is not None:
            reply = queue.popleft()
            transport.write(reply.data or b"")
            if reply.closing:
                self._refused = True
                queue.clear()
                transport.close()
                return
        self.since = self._clock()
        if self._paused:
            self._throttle()

    def sweep(self, now: float) -> None:
        """Close the connection when it has been silent, or its request under way, for too long."""
        if self._transport is None:
            return
        if self._request is not None:
            if now - self._request.arrived > self._limits.read:
                self._refuse(HttpError(408, "the request did not arrive in time"))
        elif not self._queue and (self.draining or now - self.since > self._limits.idle):
            self._transport.close()

    def _refuse(self, error: HttpError) -> None:
        """Answer a request that can't be read, after those before it, and close."""
        self._refused = True
        reply = self._request.reply if self._request is not None else Reply(self)
        if self._request is None:
            self._queue.append(reply)
        self._request = None
        self._body = []
        reply.closing = True
        reply.fail(error)

    def _throttle(self) -> None:
        """Read or don't, as the client and its pipeline allow."""
        pause = self._blocked or len(self._queue) >= self._limits.pipelined
        if pause != self._paused and self._transport is not None:
            self._paused = pause
            if pause:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()


def _head_too_large(limits: Limits) -> HttpError:
    return HttpError(431, "the head is too large", allowed=f"{limits.header} bytes")
