"""The faces of a front behind somebody else's HTTP: an ASGI application over the same routes.

Whoever listens has the connections; the door (Host, Origin, keys), the protocols and everything behind them are the front's own.
Source: ASGI 3.0, HTTP and lifespan.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, NamedTuple, cast
from urllib.parse import quote

from kilter.serving.front.faces import Faces
from kilter.serving.front.http import JSON, Connection, HttpError, Limits, Reply, Request

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Said(NamedTuple):
    """An answer: status, media type, more header lines (each ending in CRLF), body."""

    status: int
    kind: bytes
    headers: bytes
    body: bytes


class Gone(Exception):
    """The client has hung up."""


class AsgiReply(Reply):
    """The place of one answer where somebody else has the connection.

    Args:
        said: Takes the answer.
    """

    __slots__ = ("_said",)

    def __init__(self, said: asyncio.Future[Said]) -> None:
        super().__init__(cast("Connection", None))  # what is done with a connection is in the method below
        self._said = said

    def send(self, status: int, body: bytes, kind: bytes = JSON, headers: bytes = b"") -> None:
        """Answer; only the first answer counts."""
        if self._said.done():
            return
        if self.compress is not None:
            body, encoding = self.compress(body)
            headers += encoding
        self.status = status
        self.data = body
        self._said.set_result(Said(status, kind, headers + self.headers, body))


class Application:
    """An ASGI application.

    Args:
        start: Called once when it starts; returns the faces.
        stop: Called once when it ends.
    """

    def __init__(self, start: Callable[[], Awaitable[Faces]], stop: Callable[[], Awaitable[None]]) -> None:
        self._start = start
        self._stop = stop
        self._faces: Faces | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's request, or the application's life."""
        match scope["type"]:
            case "http":
                await self._answer(scope, receive, send)
            case "lifespan":
                await self._live(receive, send)
            case _:
                await send({"type": "websocket.close"})

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            phase = (await receive())["type"].removeprefix("lifespan.")
            try:
                if phase == "startup":
                    self._faces = await self._start()
                else:
                    await self._stop()
            except Exception as error:  # noqa: BLE001 - the edge: the server is told why, and ends
                await send({"type": f"lifespan.{phase}.failed", "message": str(error)})
                return
            await send({"type": f"lifespan.{phase}.complete"})
            if phase == "shutdown":
                return

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self._faces is not None  # noqa: S101 - a server sends requests after the start
        said: asyncio.Future[Said] = asyncio.get_running_loop().create_future()
        request = Request(AsgiReply(said), time.monotonic())
        request.method = scope["method"].encode()
        request.path = _target(scope)
        request.headers = {name.lower(): value for name, value in scope["headers"]}
        try:
            request.body = await _body(receive, request.headers, self._faces.limits)
        except Gone:
            return
        except HttpError as error:
            request.reply.fail(error)
        else:
            self._faces.handle(request)
        answer = await said
        lines = [line.split(b": ", 1) for line in answer.headers.split(b"\r\n") if line]
        headers = [[b"content-type", answer.kind], [b"content-length", str(len(answer.body)).encode()], *lines]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})


def _target(scope: Scope) -> bytes:
    """Return the path as it was sent, with its query."""
    path: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    query: bytes = scope["query_string"]
    return b"%b?%b" % (path, query) if query else path


async def _body(receive: Receive, headers: Mapping[bytes, bytes], limits: Limits) -> bytes:
    """Return a request's body.

    Raises:
        HttpError: When it is too large, or does not arrive in time.
        Gone: When the client hangs up meanwhile.
    """
    length = headers.get(b"content-length", b"0")
    if not length.isdigit():
        raise HttpError(400, "the length is no number")
    left = limits.body
    if int(length) > left:
        raise _too_large(limits)
    held: list[bytes] = []
    try:
        async with asyncio.timeout(limits.read):
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Gone
                held.append(message.get("body", b""))
                left -= len(held[-1])
                if left < 0:
                    raise _too_large(limits)
                more = message.get("more_body", False)
    except TimeoutError:
        raise HttpError(408, "the request did not arrive in time") from None
    return b"".join(held)


def _too_large(limits: Limits) -> HttpError:
    return HttpError(413, "the body is too large", allowed=f"{limits.body} bytes")
