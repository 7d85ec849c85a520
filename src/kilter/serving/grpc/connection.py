"""One client's HTTP/2 connection: h2 keeps the protocol's state, this keeps calls, limits and the order of leaving.

h2 validates frames, headers and flow control. What it leaves to the application is here: bounds on what may be held for
a client and on frames that cost something and ask for nothing, a graceful end, and calls whose answer comes later.
Source: RFC 9113; https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Callable
from typing import Any, Final, Protocol

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    PingAckReceived,
    PingReceived,
    PriorityUpdated,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    UnknownFrameReceived,
    WindowUpdated,
)
from h2.exceptions import H2Error
from h2.settings import SettingCodes, Settings

from kilter.serving.front.http import Limits
from kilter.serving.grpc.calls import Call, Guest, Method, read_head
from kilter.serving.grpc.status import CallError, Code, percent_encoded

log = logging.getLogger("kilter.serving")

STREAMS: Final = 256
"""Calls of one connection at a time. A client's channel queues what is beyond."""
_FRAME = 1 << 20
_STREAM_WINDOW = 1 << 20
_CONNECTION_WINDOW = 4 << 20
_IDLE_FRAMES = 1_000
"""Frames in a row that ask for nothing (resets, pings, settings, empty data) before the client is hung up on."""
_HELD = 4
"""How many of the largest messages may be held incomplete for one connection."""
_GOAWAY = b"\x00\x00\x08\x07\x00\x00\x00\x00\x00"
_LAST = (1 << 31) - 1
_DRAIN_PING = b"drain me"
_ALIVE_PING = b"alive?.."
_HEADERS: Final = [(b":status", b"200"), (b"content-type", b"application/grpc")]
_OK: Final = [(b"grpc-status", b"0")]
_IDLE_EVENTS: Final = frozenset(
    {PingReceived, PriorityUpdated, RemoteSettingsChanged, StreamReset, UnknownFrameReceived, WindowUpdated}
)


class Application(Protocol):
    """What a connection needs from the server."""

    limits: Limits
    draining: bool
    connections: set[Connection]

    def method(self, path: str) -> Method | None:
        """Return what answers to a path."""
        ...

    def admit(self, metadata: dict[bytes, bytes]) -> Guest:
        """Return who calls, by the call's metadata.

        Raises:
            KilterError: It says why.
        """
        ...


class Connection(asyncio.Protocol):
    """One client's connection.

    Args:
        application: What answers.
        clock: The monotonic time: the event loop's ``time``.
    """

    def __init__(self, application: Application, clock: Callable[[], float]) -> None:
        self._application = application
        self._limits = application.limits
        self._running = asyncio.get_running_loop()
        self.clock = clock
        self._transport: asyncio.Transport | None = None
        self._h2 = H2Connection(
            H2Configuration(
                client_side=False,
                header_encoding=None,
                # What is sent is ours and right; checking it again would cost a third of all the work.
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self._calls: dict[int, Call] = {}
        self._blocked: dict[int, Call] = {}
        self._held = 0
        self._idle_frames = 0
        self._full = False
        self._full_since = 0.0
        self._flushing = False
        self._leaving = False
        self._closed = False
        self._last = _LAST
        self._pinged: float | None = None
        self.since = clock()

    @property
    def waiting(self) -> int:
        """How many calls wait for their answer."""
        return len(self._calls)

    @property
    def leaving(self) -> bool:
        """Whether the client has been asked to go elsewhere, and may not have heard it yet."""
        return self._leaving and self._last == _LAST

    # ------------------------------------------------------------ asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say what is allowed."""
        self._transport = transport  # type: ignore[assignment]
        connection = self._h2
        connection.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.INITIAL_WINDOW_SIZE: _STREAM_WINDOW,
                SettingCodes.MAX_FRAME_SIZE: _FRAME,
                SettingCodes.MAX_HEADER_LIST_SIZE: self._limits.header,
            },
        )
        connection.max_inbound_frame_size = _FRAME
        connection.decoder.max_header_list_size = self._limits.header
        connection.initiate_connection()
        # In a second frame: h2 enforces it once it is acknowledged, so that a client's first calls are not a mistake.
        connection.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: STREAMS})
        connection.increment_flow_control_window(_CONNECTION_WINDOW - 65_535)
        self.flush()
        connections = self._application.connections
        connections.add(self)
        if self._application.draining or len(connections) > self._limits.connections:
            self._goodbye(ErrorCodes.NO_ERROR if self._application.draining else ErrorCodes.ENHANCE_YOUR_CALM)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """End; answers still to come are dropped."""
        self._transport = None
        self._closed = True
        self._application.connections.discard(self)
        calls, self._calls = self._calls, {}
        self._blocked = {}
        for call in calls.values():
            call.close()

    def data_received(self, data: bytes) -> None:
        """Take bytes."""
        if self._closed:
            return
        try:
            for event in self._h2.receive_data(data):
                self._happened(event)
            self.flush()
        except H2Error:
            self.flush()  # h2 has said what was wrong
            self._close()
        except Exception:  # the edge: whatever it is, the server goes on
            log.exception("a connection failed")
            self._goodbye(ErrorCodes.INTERNAL_ERROR)
            return
        if self._idle_frames > _IDLE_FRAMES and not self._closed:
            self._goodbye(ErrorCodes.ENHANCE_YOUR_CALM)

    def pause_writing(self) -> None:
        """Stop reading while the client doesn't read."""
        self._full, self._full_since = True, self.clock()
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on."""
        self._full = False
        if self._transport is not None and not self._closed:
            self._transport.resume_reading()
            self._unblock()
            self.flush()

    # ------------------------------------------------------------ what the client does

    def _happened(self, event: Event) -> None:
        kind = type(event)
        handle = _HANDLERS.get(kind)
        if handle is not None:
            handle(self, event)
        if kind in _IDLE_EVENTS:
            self._idle_frames += 1

    def _ended(self, event: Any) -> None:
        call = self._calls.get(event.stream_id)
        if call is not None:
            call.half_closed()
            self._count(call)

    def _given_up(self, event: Any) -> None:
        call = self._calls.get(event.stream_id)
        if call is not None:
            self._done(call)

    def _request(self, event: Any) -> None:
        stream, now = event.stream_id, self.clock()
        self.since = now
        if stream > self._last or len(self._calls) >= STREAMS:
            self._idle_frames += 1
            self._h2.reset_stream(stream, ErrorCodes.REFUSED_STREAM)
            return
        call = Call(self, stream, now, self._limits.body)
        self._calls[stream] = call
        refused = read_head(call, event.headers)
        if refused:
            self._trailers(call, [(b":status", b"%d" % refused)])
            return
        call.begin(self._application.method(call.metadata[b":path"].decode("latin-1")), self._application.admit)

    def _data(self, event: Any) -> None:
        data: bytes = event.data
        size: int = event.flow_controlled_length
        call = self._calls.get(event.stream_id)
        if not data:
            self._idle_frames += 1
        if call is None:  # it has been answered already
            if size:
                self._h2.acknowledge_received_data(size, event.stream_id)
            return
        if call.busy:
            call.unacknowledged += size
        elif size:
            self._h2.acknowledge_received_data(size, event.stream_id)
        call.feed(data)
        self._count(call)
        if self._held > _HELD * self._limits.body:
            call.fail(CallError(Code.RESOURCE_EXHAUSTED, "too much of this connection's messages is incomplete"))

    def _count(self, call: Call) -> None:
        """Keep account of what is held for a call."""
        if call.open and call.held != call.counted:
            self._held += call.held - call.counted
            call.counted = call.held

    def _pong(self, event: Any) -> None:
        self._pinged = None
        if event.ping_data == _DRAIN_PING and self._last == _LAST:
            # Everything that the client sent before it knew has arrived by now.
            self._last = self._h2.highest_inbound_stream_id
            self._say_goodbye(ErrorCodes.NO_ERROR)
            self._leave()

    # ------------------------------------------------------------ answers

    def send(self, call: Call, data: bytes, *, first: bool, last: bool) -> None:
        """Send a part of an answer: its headers before the first, its trailers after the last."""
        stream, connection = call.stream, self._h2
        if self._closed:
            return
        if first:
            connection.send_headers(stream, _HEADERS)
        if not call.out and not self._full and self._window(stream) >= len(data):
            connection.send_data(stream, data)
            if last:
                connection.send_headers(stream, _OK, end_stream=True)
                self._done(call)
        else:
            call.out += data
            call.ending = _OK if last else None
            self._blocked[stream] = call
            self._pump(call)
        self._idle_frames = 0
        self._flush_soon()

    def finish(self, call: Call, code: Code, message: str, *, retry: bool) -> None:
        """End a call with a status; what is queued before it goes out first."""
        if self._closed:
            return
        trailers = [(b"grpc-status", b"%d" % code)]
        if message:
            trailers.append((b"grpc-message", percent_encoded(message)))
        if retry:
            trailers.append((b"grpc-retry-pushback-ms", b"1000"))
        if call.out:
            call.ending = trailers
            return
        self._trailers(call, trailers if call.headed else [*_HEADERS, *trailers])

    def _trailers(self, call: Call, headers: list[tuple[bytes, bytes]]) -> None:
        self._h2.send_headers(call.stream, headers, end_stream=True)
        stream = self._h2.streams.get(call.stream)
        if stream is not None and not stream.closed:  # the client still sends: it needn't
            self._h2.reset_stream(call.stream, ErrorCodes.NO_ERROR)
        self._done(call)
        self._flush_soon()

    def _done(self, call: Call) -> None:
        if self._calls.pop(call.stream, None) is not None:
            self._held -= call.counted
            self._blocked.pop(call.stream, None)
            call.close()
            self.since = self.clock()
            if self._leaving:
                self._leave()

    def acknowledge(self, call: Call) -> None:
        """Let a client go on that sent faster than it was answered."""
        size, call.unacknowledged = call.unacknowledged, 0
        if size and not self._closed:
            self._h2.acknowledge_received_data(size, call.stream)
            self._flush_soon()

    # ------------------------------------------------------------ flow control

    def _window(self, stream: int) -> int:
        connection = self._h2
        return min(connection.local_flow_control_window(stream), connection.max_outbound_frame_size)

    def _unblock(self, _: Any = None) -> None:
        for call in tuple(self._blocked.values()):
            self._pump(call)

    def _pump(self, call: Call) -> None:
        """Send as much of a call's queue as the client has room for."""
        stream, out = call.stream, call.out
        while out and not self._full and not self._closed:
            size = min(self._window(stream), len(out))
            if size <= 0:
                return
            self._h2.send_data(stream, bytes(memoryview(out)[:size]))
            del out[:size]
            call.moved = self.clock()
        if out:
            return
        self._blocked.pop(stream, None)
        if call.ending is not None:
            self._trailers(call, call.ending)
        else:
            call.went_out()

    # ------------------------------------------------------------ bytes

    def flush(self) -> None:
        """Write what h2 has to say."""
        self._flushing = False
        if self._transport is not None:
            data = self._h2.data_to_send()
            if data:
                self._transport.write(data)

    def _flush_soon(self) -> None:
        """Write at the end of this turn of the loop: all answers of a batch leave together."""
        if not self._flushing:
            self._flushing = True
            self._running.call_soon(self.flush)

    # ------------------------------------------------------------ the end

    def drain(self) -> None:
        """Ask the client to go elsewhere, and close once every call that it has begun is answered."""
        if self._leaving or self._closed:
            return
        self._leaving = True
        self._say_goodbye(ErrorCodes.NO_ERROR)
        self._h2.ping(_DRAIN_PING)
        self.flush()

    def hang_up(self) -> None:
        """Close without waiting for anything."""
        if not self._closed:
            self._goodbye(ErrorCodes.NO_ERROR)

    def sweep(self, now: float) -> None:
        """End what has lasted too long: silence, a request under way, an answer that the client doesn't take."""
        if self._closed or self._transport is None:
            return
        limits = self._limits
        if self._full and now - self._full_since > limits.idle:
            self._transport.abort()
            return
        for call in tuple(self._calls.values()):
            if call.late(now, limits.read):
                call.fail(CallError(Code.DEADLINE_EXCEEDED, "the request did not arrive in time"))
            elif call.out and now - call.moved > limits.idle:
                self._h2.reset_stream(call.stream, ErrorCodes.CANCEL)
                self._done(call)
        if self._pinged is not None and now - self._pinged > limits.idle:
            self._transport.abort()
        elif not self._calls and (self._leaving or now - self.since > limits.idle):
            self._close() if self._leaving else self.drain()
        elif self._calls and self._pinged is None and now - self.since > limits.idle:
            self._pinged = now
            self._h2.ping(_ALIVE_PING)
        self.flush()

    def _say_goodbye(self, code: ErrorCodes) -> None:
        """Write a GOAWAY past h2, which would take it for the end of every call that is under way."""
        self.flush()
        if self._transport is not None:
            self._transport.write(_GOAWAY + struct.pack(">II", self._last, code))

    def _goodbye(self, code: ErrorCodes) -> None:
        """Hang up now."""
        self._last = self._h2.highest_inbound_stream_id
        self._say_goodbye(code)
        self._close()

    def _leave(self) -> None:
        if not self._calls and self._last != _LAST:
            self._running.call_soon(self._close)

    def _close(self, _: Any = None) -> None:
        self.flush()
        self._closed = True
        if self._transport is not None:
            self._transport.close()


_HANDLERS: Final[dict[type[Event], Callable[[Connection, Any], None]]] = {
    ConnectionTerminated: Connection._close,  # noqa: SLF001 - its own
    DataReceived: Connection._data,  # noqa: SLF001
    PingAckReceived: Connection._pong,  # noqa: SLF001
    RemoteSettingsChanged: Connection._unblock,  # noqa: SLF001
    RequestReceived: Connection._request,  # noqa: SLF001
    StreamEnded: Connection._ended,  # noqa: SLF001
    StreamReset: Connection._given_up,  # noqa: SLF001
    WindowUpdated: Connection._unblock,  # noqa: SLF001
}
"""What each event of h2 does; of trailers nothing is wanted, and the end of a stream is an event of its own."""
