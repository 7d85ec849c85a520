"""The journal as a stream of server-sent events, with a heartbeat, from any place on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, Protocol

import msgspec
from litestar import Request
from litestar.handlers import HTTPRouteHandler
from litestar.response import Stream

from kilter.core.errors import InvalidInput, Unavailable
from kilter.journal.records import Event
from kilter.server.metrics import Metrics
from kilter.server.pool import Pool

HEARTBEAT = 10.0
POLL = 0.2
MOST_STREAMS = 64
_PAGE = 200


class EventSource(Protocol):
    """What a stream reads."""

    def events(
        self,
        after: int = 0,
        limit: int = 100,
        subject: str | None = None,
        kind: str | None = None,
        newest: bool = False,
    ) -> list[Event]:
        """Return events in order."""
        ...


class Tail:
    """Watches the end of the journal once for all streams, and only while there are any.

    Args:
        journal: The journal.
        pool: Where it is read.
        metrics: Counts the open streams.
        closing: Set when the server ends; streams end then, too.
    """

    def __init__(self, journal: EventSource, pool: Pool, metrics: Metrics, closing: asyncio.Event) -> None:
        self._journal = journal
        self._pool = pool
        self._metrics = metrics
        self._closing = closing
        self._moved = asyncio.Event()
        self._end = 0
        self._watcher: asyncio.Task[None] | None = None

    async def frames(self, after: int, subject: str | None) -> AsyncIterator[bytes]:
        """Yield the events after a place as frames of ``text/event-stream``, for as long as someone listens."""
        self._metrics.streams += 1
        if self._watcher is None or self._watcher.done():
            self._watcher = asyncio.create_task(self._watch())
        try:
            yield b"retry: 1000\n\n"
            beat = time.monotonic() + HEARTBEAT
            while not self._closing.is_set():
                moved = self._moved
                events = await self._pool.run(partial(self._journal.events, after=after, limit=_PAGE, subject=subject))
                for event in events:
                    yield _frame(event)
                if events:
                    after = events[-1].seq
                    beat = time.monotonic() + HEARTBEAT
                if len(events) == _PAGE:
                    continue
                if not await _happened(moved, beat - time.monotonic()):
                    yield b": still here\n\n"
                    beat = time.monotonic() + HEARTBEAT
        finally:
            self._metrics.streams -= 1

    async def newest(self) -> int:
        """Return the place of the newest event."""
        found = await self._pool.run(lambda: self._journal.events(limit=1, newest=True))
        return found[0].seq if found else 0

    async def _watch(self) -> None:
        while self._metrics.streams and not self._closing.is_set():
            try:
                end = await self.newest()
            except Unavailable:  # a busy store is asked again at the next poll
                end = self._end
            if end != self._end:
                self._end = end
                self._wake()
            await asyncio.sleep(POLL)
        self._wake()

    def _wake(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()


async def _happened(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(max(seconds, 0.0)):
            await event.wait()
    except TimeoutError:
        return False
    return True


def _frame(event: Event) -> bytes:
    # The data is JSON on one line, so nothing in an event can end a frame early.
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event.seq, _line(event.kind), msgspec.json.encode(event))


def _line(text: str) -> bytes:
    return "".join(letter for letter in text if letter.isprintable()).encode()


def route(path: str, tail: Tail, metrics: Metrics) -> HTTPRouteHandler:
    """Return the route of the stream.

    ``after`` is the last event that is known, ``new`` starts at the end; a browser that reconnects says
    ``Last-Event-ID``. ``subject`` narrows it to one loop or version.

    Args:
        path: Where it is: ``/api/v1/journal/stream``.
        tail: The watcher of the journal.
        metrics: Knows how many streams are open.
    """

    async def stream(request: Request[Any, Any, Any]) -> Stream:
        if metrics.streams >= MOST_STREAMS:
            raise Unavailable(
                "too many streams are open", allowed=str(MOST_STREAMS), fix="close one, or poll journal.events"
            )
        query = request.query_params
        said = str(request.headers.get("last-event-id") or query.get("after") or "0")
        if said == "new":
            after = await tail.newest()
        elif said.isdecimal() and len(said) < 18:
            after = int(said)
        else:
            raise InvalidInput("not a place in the journal", where="after", allowed='a whole number, or "new"')
        return Stream(
            tail.frames(after, query.get("subject")),
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )

    return HTTPRouteHandler(path, http_method="GET", status_code=200)(stream)
