"""One request of HTTP/1.1 and its answer, as an ASGI application sees them."""

from __future__ import annotations

import asyncio
import logging
import time
from email.utils import formatdate
from http import HTTPStatus
from typing import Protocol

from kilter.server.edge import App, Message, Scope

log = logging.getLogger("kilter.server")

STATUS = {one.value: b"HTTP/1.1 %d %b\r\n" % (one.value, one.phrase.encode()) for one in HTTPStatus}
"""The first line of an answer."""

CLOSE = b"connection: close\r\n"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_LAST = b"0\r\n\r\n"
_EVENTS = b"text/event-stream"
_SOME = 64 << 10


class Refusal(Exception):
    """A request that HTTP itself refuses.

    Args:
        status: The status code.
    """

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Line(Protocol):
    """What an exchange needs from its connection."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport | None

    @property
    def draining(self) -> bool:
        """Whether the server takes no more requests."""
        ...

    def flow(self) -> None:
        """Read or don't, as those who wait allow."""
        ...

    async def drained(self) -> None:
        """Wait until the client has read enough."""
        ...

    def done(self, exchange: Exchange, *, whole: bool) -> None:
        """Go on behind an answer."""
        ...


class Exchange:
    """One request and its answer.

    Args:
        connection: Where it came.
    """

    __slots__ = (
        "_bodyless", "_chunked", "_connection", "_cut", "_fed", "_head", "_size", "_started", "_wanted", "answered", "began", "body", "closing", "complete",
        "headers", "old", "scope", "target", "task",
    )  # fmt: skip

    def __init__(self, connection: Line) -> None:
        self._connection = connection
        self.scope: Scope = {}
        self.headers: list[tuple[bytes, bytes]] = []
        self.target = b""
        self.body: bytes | bytearray = b""
        self.task: asyncio.Task[None] | None = None
        self.began = connection.loop.time()
        self.complete = self.answered = self.closing = self.old = False
        self._size = 0
        self._wanted: asyncio.Future[None] | None = None
        self._head: Message = {}
        self._started = self._chunked = self._cut = self._bodyless = False
        self._fed = 0

    # ------------------------------------------------------------ the request

    def counts(self, size: int, most: int) -> None:
        """Count the bytes of the head."""
        self._size += size
        if self._size > most:
            raise Refusal(431)

    def fed(self, size: int) -> int:
        """Count what came while the head was not whole, and return it all."""
        self._fed += size
        return self._fed

    def take(self, body: bytes, discarded: int) -> None:
        """Take a part of the body; what comes behind the answer is forgotten."""
        if self.answered:
            self._size += len(body)
            if self._size > discarded:
                raise Refusal(413)
            return
        if not self.body:
            self.body = body
        else:
            if isinstance(self.body, bytes):
                self.body = bytearray(self.body)
            self.body += body
        if len(self.body) > _SOME:
            self._connection.flow()
        self._wake()

    def end(self) -> None:
        """Note that there is no more."""
        self.complete = True
        self._wake()

    def cut(self) -> None:
        """Note that what follows can't be read: a body that isn't whole is none."""
        self._cut = True
        self._wake()

    def lost(self) -> None:
        """Note that the client has gone: an answer that is on its way to nobody ends, what is being done is done."""
        self._wake()
        if self._started and not self.answered and self.task is not None:
            self.task.cancel()

    @property
    def endless(self) -> bool:
        """Whether the answer is a stream of events that has begun: it goes on for as long as somebody reads it."""
        headers: list[tuple[bytes, bytes]] = self._head.get("headers", [])
        return any(name.lower() == b"content-type" and value.startswith(_EVENTS) for name, value in headers)

    def _wake(self) -> None:
        wanted, self._wanted = self._wanted, None
        if wanted is not None and not wanted.done():
            wanted.set_result(None)

    async def receive(self) -> Message:
        """Return what comes next of the body, or that nobody is there any more."""
        connection = self._connection
        while True:
            if connection.transport is None or self.answered or (self._cut and not self.complete):
                return {"type": "http.disconnect"}
            if self.body or (self.complete and self._size >= 0):
                body, self.body = bytes(self.body), b""
                if self.complete:
                    self._size = -1  # the end was handed over
                else:
                    connection.flow()
                return {"type": "http.request", "body": body, "more_body": not self.complete}
            if not (self.complete or self._started) and self._expects():
                connection.transport.write(_CONTINUE)
            self._wanted = connection.loop.create_future()
            await self._wanted

    def _expects(self) -> bool:
        wanted = any(name == b"expect" and value.lower() == b"100-continue" for name, value in self.headers)
        self.headers = [] if wanted else self.headers  # it is said once; the scope has the list itself
        return wanted and not self.old

    # ------------------------------------------------------------ the answer

    async def run(self, app: App) -> None:
        """Answer."""
        try:
            await app(self.scope, self.receive, self.send)
        except asyncio.CancelledError:
            if self._connection.transport is not None:
                raise
        except Exception:
            log.exception("an answer broke off")
        finally:
            self.task = None
            if not self.answered:
                if not self._started and self._connection.transport is not None:
                    self._connection.transport.write(b"%bcontent-length: 0\r\n%b%b\r\n" % (STATUS[500], dated(), CLOSE))
                self._connection.done(self, whole=False)

    async def send(self, message: Message) -> None:
        """Send what the application says."""
        if message["type"] == "http.response.start":
            self._head = message
            return
        connection = self._connection
        transport, body, more = connection.transport, message.get("body", b""), message.get("more_body", False)
        if transport is None or self.answered:
            return
        if not self._started:
            self._started = True
            head = self._headed(len(body), more=more)
            transport.write(head if self._bodyless or not body else head + self._framed(body))
        elif body and not self._bodyless:
            transport.write(self._framed(body))
        if more:
            await connection.drained()
            return
        if self._chunked:
            transport.write(_LAST)
        self.answered = True
        self.body = b""
        self._wake()  # who still listens is told that there is no more
        connection.done(self, whole=True)

    def _framed(self, body: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(body), body) if self._chunked else body

    def _headed(self, size: int, *, more: bool) -> bytes:
        """Return the head of the answer; behind some there is nothing, whatever the application says."""
        status: int = self._head["status"]
        headers: list[tuple[bytes, bytes]] = self._head.get("headers", [])
        self._bodyless = self.scope["method"] == "HEAD" or status in {204, 304} or status < 200
        lines = [STATUS.get(status) or b"HTTP/1.1 %d \r\n" % status]
        sized = False
        for name, value in headers:
            lines.append(b"%b: %b\r\n" % (name, value))
            sized = sized or name.lower() == b"content-length"
        if not (sized or self._bodyless):
            if not more:
                lines.append(b"content-length: %d\r\n" % size)
            elif self.old:
                self.closing = True
            else:
                self._chunked = True
                lines.append(b"transfer-encoding: chunked\r\n")
        lines.append(dated())
        if self.closing or self._connection.draining:
            self.closing = True
            lines.append(CLOSE)
        elif self.old:
            lines.append(b"connection: keep-alive\r\n")
        head = b"".join(lines)
        if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines):
            raise ValueError("a header of the answer has a line break")
        return head + b"\r\n"


_now: tuple[int, bytes] = (0, b"")


def dated() -> bytes:
    """Return the line that says what time it is."""
    global _now  # noqa: PLW0603 - one second has one text
    now = int(time.time())
    if _now[0] != now:
        _now = (now, f"date: {formatdate(now, usegmt=True)}\r\n".encode())
    return _now[1]
