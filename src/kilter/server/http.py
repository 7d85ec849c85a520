"""HTTP/1.1 for an ASGI application, on the event loop itself: httptools parses, this keeps order, limits and the connection.

A call that is answered in a tenth of a millisecond can't afford to be handed from a thread that reads the socket to the one that answers
and back. Source: RFC 9110, 9112; the ASGI specification 3.0 (HTTP 2.4).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any, Protocol
from urllib.parse import unquote

import httptools
import msgspec

from kilter.server.edge import App
from kilter.server.exchange import CLOSE, STATUS, Exchange, Refusal, dated

log = logging.getLogger("kilter.server")

_READ = 256 << 10
"""How much a turn of the loop may bring: the end of one request, and the begin of the next."""

_LINGER = 0.5
_ASGI = {"version": "3.0", "spec_version": "2.4"}


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one client may ask of the connection itself; what it may send in a body, the edge says.

    Args:
        head: Bytes of a request's head.
        buffered: Bytes of a body that wait for the application; more are not read meanwhile.
        discarded: Bytes of a body that are still read after its request was answered, so that the client sees the answer.
        pipelined: Requests of one connection that wait for their turn; more are not read meanwhile.
        connections: Connections in all.
        idle: Seconds that a connection may be silent between requests.
        read: Seconds that a head may take to arrive.
        stuck: Seconds for which a body may be silent, or a client not read its answer.
    """

    head: int = 64 << 10
    buffered: int = 256 << 10
    discarded: int = 64 << 20
    pipelined: int = 8
    connections: int = 2_000
    idle: float = 75.0
    read: float = 30.0
    stuck: float = 120.0


class Service(Protocol):
    """What a connection needs from the server."""

    app: App
    limits: Limits
    draining: bool
    connections: set[Connection]


class Connection(asyncio.Protocol):
    """One client's connection; its requests are answered one after the other.

    Args:
        service: The server.
        loop: The event loop.
        scheme: ``http`` or ``https``.
    """

    def __init__(self, service: Service, loop: asyncio.AbstractEventLoop, scheme: str) -> None:
        self.loop = loop
        self.service = service
        self._limits = service.limits
        self._scheme = scheme
        self._parser = httptools.HttpRequestParser(self)
        self.transport: asyncio.Transport | None = None
        self._client: tuple[str, int] | None = None
        self._server: tuple[str, int] | None = None
        self._reading: Exchange | None = None
        self._answering: Exchange | None = None
        self._waiting: deque[Exchange] = deque()
        self._paused = False
        self._refused = False
        self._drained: asyncio.Future[None] | None = None
        self.since = self._stuck = loop.time()

    @property
    def draining(self) -> bool:
        """Whether the server takes no more requests."""
        return self.service.draining

    # ------------------------------------------------------------ asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport = transport  # type: ignore[assignment]  # uvloop's transports are no asyncio.Transport
        self._client, self._server = (
            None if not isinstance(found, tuple) else (str(found[0]), int(found[1]))
            for found in (transport.get_extra_info("peername"), transport.get_extra_info("sockname"))
        )
        self.service.connections.add(self)
        if len(self.service.connections) > self._limits.connections:
            self._refuse(503)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """End; whoever waits for the client is told."""
        self.transport = None
        self.service.connections.discard(self)
        self.resume_writing()
        if self._answering is not None:
            self._answering.lost()
        self._waiting.clear()

    def data_received(self, data: bytes) -> None:
        """Take bytes."""
        if self._refused:
            return
        self.since = self.loop.time()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(400)  # no other protocol is spoken here; a request that only offers one is answered as it is
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            if not isinstance(cause, Refusal):
                log.exception("a request could not be read")
            self._refuse(cause.status if isinstance(cause, Refusal) else 400)
        except httptools.HttpParserError:
            self._refuse(400)
        else:
            reading = self._reading
            if reading is not None and not reading.scope and reading.fed(len(data)) > self._limits.head + _READ:
                self._refuse(431)  # a line without an end is not handed on, and yet it is kept

    def eof_received(self) -> bool:
        """Keep the way back open while whole requests wait for their answers: a client may end its side when it has asked.

        A request that is cut off in the middle gets no answer, and an endless stream has no end that could be waited for: for its
        reader, and where TLS closes both ways at once, this is the end.
        """
        reading, self._reading = self._reading, None
        if reading is not None and reading in self._waiting:
            self._waiting.remove(reading)
        last = self._waiting[-1] if self._waiting else self._answering
        if last is None or last is reading or last.answered or last.endless or self._scheme == "https":
            return False
        last.closing = self._refused = True  # nothing comes any more, and behind the last answer is the end
        return True

    def pause_writing(self) -> None:
        """Let the application wait while the client doesn't read."""
        if self._drained is None:
            self._drained = self.loop.create_future()
            self._stuck = self.loop.time()

    def resume_writing(self) -> None:
        """Go on."""
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    async def drained(self) -> None:
        """Wait until the client has read enough."""
        if self._drained is not None:
            await asyncio.shield(self._drained)

    # ------------------------------------------------------------ httptools

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._reading = Exchange(self)

    def on_url(self, url: bytes) -> None:
        """Take the target; long ones come in parts."""
        assert self._reading is not None  # noqa: S101
        self._reading.target += url
        self._reading.counts(len(url), self._limits.head)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; those behind a body say nothing to anybody."""
        reading = self._reading
        assert reading is not None  # noqa: S101
        reading.counts(len(name) + len(value) + 4, self._limits.head)
        if not reading.scope:
            reading.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Hand a request on: its body comes when it is asked for."""
        reading, parser = self._reading, self._parser
        assert reading is not None  # noqa: S101
        path, query = _parts(reading.target)
        version = parser.get_http_version()
        reading.closing = not parser.should_keep_alive()
        reading.old = version == "1.0"
        reading.scope = {
            "type": "http",
            "asgi": _ASGI,
            "http_version": version,
            "method": parser.get_method().decode("ascii"),
            "scheme": self._scheme,
            "path": unquote(path) if "%" in path else path,
            "raw_path": path.encode("ascii"),
            "query_string": query,
            "root_path": "",
            "headers": reading.headers,
            "client": self._client,
            "server": self._server,
            "state": {},
        }
        if self._answering is None:
            self._begin(reading)
        else:
            self._waiting.append(reading)
            self.flow()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        assert self._reading is not None  # noqa: S101
        self._reading.take(body, self._limits.discarded)

    def on_message_complete(self) -> None:
        """Note that a request is whole."""
        reading, self._reading = self._reading, None
        assert reading is not None  # noqa: S101
        reading.end()
        if self._paused:  # by its own last bytes
            self.flow()
        if reading.answered:  # the answer was there before the request was
            self._follow(reading)

    # ------------------------------------------------------------ turns

    def _begin(self, exchange: Exchange) -> None:
        self._answering = exchange
        exchange.task = self.loop.create_task(exchange.run(self.service.app))

    def done(self, exchange: Exchange, *, whole: bool) -> None:
        """Go on behind an answer.

        Args:
            exchange: What was answered.
            whole: The answer went out whole; otherwise the connection is cut, so that nobody takes it as such.
        """
        if self.transport is None or self._answering is not exchange:
            return
        self.since = self.loop.time()
        if not whole:
            self._refused = True
            self.transport.close()
        elif exchange.complete or self._refused:
            self._follow(exchange)
        else:
            self.flow()  # what is left of the body is read, and forgotten

    def _follow(self, exchange: Exchange) -> None:
        self._answering = None
        if self.transport is None:
            return
        if exchange.closing or self.service.draining:
            self._refused = True
            self.transport.close()
        elif self._waiting:
            self._begin(self._waiting.popleft())
            self.flow()

    def flow(self) -> None:
        """Read or don't, as those who wait allow."""
        reading = self._reading
        full = reading is not None and not reading.answered and len(reading.body) > self._limits.buffered
        pause = full or len(self._waiting) >= self._limits.pipelined
        if pause != self._paused and self.transport is not None:
            self._paused = pause
            if pause:
                self.transport.pause_reading()
            else:
                self.since = self.loop.time()
                self.transport.resume_reading()

    def sweep(self, now: float) -> None:
        """Close the connection when its client has been silent for too long."""
        if self.transport is not None and self._drained is not None and now - self._stuck > self._limits.stuck:
            self.transport.abort()
        if self.transport is None or self._paused:
            return
        silent, reading = now - self.since, self._reading
        if reading is not None and not reading.scope:
            if now - reading.began > self._limits.read:
                self._refuse(408)
        elif reading is not None:
            if silent > self._limits.stuck:
                self.transport.abort()
        elif self._answering is None and (self.service.draining or silent > self._limits.idle):
            self.transport.close()

    def _refuse(self, status: int) -> None:
        """Say what HTTP refuses, where no answer is under way, and close."""
        self._refused = True
        self._reading = None
        transport = self.transport
        if transport is None:
            return
        answering = self._answering
        if answering is not None and not answering.answered:
            answering.closing = True
            answering.cut()
            self._waiting.clear()
            return
        if answering is None:
            transport.write(b"%bcontent-length: 0\r\n%b%b\r\n" % (STATUS[status], dated(), CLOSE))
        if transport.can_write_eof():
            transport.write_eof()
        # Closed at once, what is still coming would be answered with a reset, and the client might not see why.
        self.loop.call_later(_LINGER, transport.close)


def _parts(target: bytes) -> tuple[str, bytes]:
    """Return the path and the query of a request's target."""
    try:
        if not target.startswith(b"/"):  # a proxy's form: with the name of the server
            url: Any = httptools.parse_url(target)
            if not url.schema:
                raise Refusal(400)
            return (url.path or b"/").decode("ascii"), url.query or b""
        path, _, query = target.partition(b"#")[0].partition(b"?")
        return path.decode("ascii"), query
    except (httptools.HttpParserInvalidURLError, UnicodeDecodeError):
        raise Refusal(400) from None
