"""A call: from the parts of its messages to a message, and from answers to parts again.

A unary call is asked once and answered once. A stream is asked again and again, and answered in the order of its requests;
a client that asks faster than it is answered is not read meanwhile.
Source: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

from __future__ import annotations

import asyncio
import logging
import re
import struct
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple, Protocol

from kilter.core.errors import KilterError
from kilter.serving.front.compression import inflate
from kilter.serving.front.http import HttpError
from kilter.serving.grpc.status import CallError, Code, code_of
from kilter.serving.telemetry.tracing import Context

log = logging.getLogger("kilter.serving")

_PREFIX: Final = struct.Struct(">BI")
_TURNS = 64
"""Requests of one stream that wait for their answer; more are not read meanwhile."""
_OUT = 1 << 20
"""Bytes of answers that wait for the client of a stream."""
_TIMEOUT: Final = re.compile(rb"^([0-9]{1,8})([HMSmun])$")
_SECONDS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_LONGEST = 86_400.0
_INFLATING: Final = {413: Code.RESOURCE_EXHAUSTED, 415: Code.UNIMPLEMENTED}
_RETRIED: Final = frozenset({Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED})


class Guest(NamedTuple):
    """Who calls.

    Args:
        client: The caller, as the reception knows it; empty when anybody may call.
        context: The place of the call in a trace, or None.
    """

    client: str = ""
    context: Context | None = None


class Turn(Protocol):
    """One request and the place of its answer."""

    metadata: dict[bytes, bytes]
    arrived: float
    guest: Guest

    @property
    def open(self) -> bool:
        """Whether anybody still waits for the answer."""
        ...

    def answer(self, message: bytes) -> None:
        """Answer; only the first answer counts."""
        ...

    def fail(self, error: KilterError) -> None:
        """Answer with an error."""
        ...


class Method(NamedTuple):
    """What a path does.

    Args:
        handle: Answers a request, now or later.
        wrap: For a stream: makes an answer a message of the stream; None for a unary call.
        failure: For a stream: makes an error a message of the stream, given the request that it answers.
    """

    handle: Callable[[Turn, bytes], None]
    wrap: Callable[[bytes], bytes] | None = None
    failure: Callable[[KilterError, bytes], bytes] | None = None


class Wire(Protocol):
    """What a call needs from its connection."""

    clock: Callable[[], float]

    def send(self, call: Call, data: bytes, *, first: bool, last: bool) -> None:
        """Send a part of an answer."""
        ...

    def finish(self, call: Call, code: Code, message: str, *, retry: bool) -> None:
        """End a call with a status."""
        ...

    def acknowledge(self, call: Call) -> None:
        """Let the client send again."""
        ...


class Call:
    """One call.

    Args:
        wire: Its connection.
        stream: Its number there.
        arrived: When it began, on the loop's clock.
        most: Bytes of the largest message that is taken.
    """

    __slots__ = (
        "_advancing",
        "_buffer",
        "_message",
        "_most",
        "_since",
        "_timer",
        "_turns",
        "_wire",
        "arrived",
        "counted",
        "ended",
        "ending",
        "guest",
        "headed",
        "metadata",
        "method",
        "moved",
        "open",
        "out",
        "stream",
        "unacknowledged",
    )

    def __init__(self, wire: Wire, stream: int, arrived: float, most: int) -> None:
        self.stream = stream
        self.arrived = self.moved = self._since = arrived
        self.metadata: dict[bytes, bytes] = {}
        self.guest = Guest()
        self.method: Method | None = None
        self.open = True
        self.ended = False
        self.headed = False
        self.out = bytearray()
        self.ending: list[tuple[bytes, bytes]] | None = None
        self.unacknowledged = 0
        self.counted = 0
        self._wire = wire
        self._most = most
        self._advancing = False
        self._buffer = bytearray()
        self._message: bytes | None = None
        self._turns: deque[StreamTurn] | None = None
        self._timer: asyncio.TimerHandle | None = None

    # ------------------------------------------------------------ requests

    def begin(self, method: Method | None, admit: Callable[[dict[bytes, bytes]], Guest]) -> None:
        """Begin, or fail at once for what the head already says."""
        try:
            self.guest = admit(self.metadata)
            timeout = self.metadata.get(b"grpc-timeout")
            if timeout is not None:
                self._timer = asyncio.get_running_loop().call_later(seconds_of(timeout), self._expired)
        except KilterError as error:
            self.fail(error)
            return
        self.method = method
        if method is None:
            self.fail(CallError(Code.UNIMPLEMENTED, "there is no such method here"))
        elif method.wrap is not None:
            self._turns = deque()

    @property
    def held(self) -> int:
        """Bytes of requests that wait to be complete, or for their turn."""
        return len(self._buffer) + (len(self._message) if self._message is not None else 0)

    @property
    def busy(self) -> bool:
        """Whether the client of a stream is ahead of its answers by more than is kept for it."""
        return self._turns is not None and (len(self._turns) >= _TURNS or len(self.out) > _OUT)

    def feed(self, data: bytes) -> None:
        """Take a part of the messages."""
        if self._buffer:
            self._buffer += data
            self._advance(self._buffer)
        else:
            self._advance(data)

    def _advance(self, whole: bytes | bytearray) -> None:
        """Handle every message that is complete, and keep the rest."""
        if self._advancing:  # an answer was given at once: the loop below goes on by itself
            return
        self._advancing = True
        place = 0
        try:
            while self.open and not self.busy and (message := self._next(whole, place)) is not None:
                place += 5 + _PREFIX.unpack_from(whole, place)[1]
                self._take(message)
        except KilterError as error:
            self.fail(error)
        finally:
            self._advancing = False
        if whole is self._buffer:
            del self._buffer[:place]
        elif self.open and place < len(whole):
            self._buffer = bytearray(whole[place:])
            self._since = self._wire.clock()

    def _next(self, whole: bytes | bytearray, place: int) -> bytes | None:
        """Return the message that begins at a place, or None when it is not complete."""
        size = len(whole) - place
        if size < _PREFIX.size:
            return None
        compressed, length = _PREFIX.unpack_from(whole, place)
        if length > self._most:
            raise CallError(Code.RESOURCE_EXHAUSTED, "the message is too large", allowed=f"{self._most} bytes")
        if size < _PREFIX.size + length:
            return None
        message = bytes(whole[place + _PREFIX.size : place + _PREFIX.size + length])
        return self._inflated(message) if compressed else message

    def half_closed(self) -> None:
        """The client has sent everything."""
        self.ended = True
        if not self.open:
            return
        if self._buffer and not self.busy:
            self.fail(CallError(Code.INTERNAL, "the last message is cut"))
        elif self._turns is not None:
            self._end_of_stream()
        elif self._message is None:
            self.fail(CallError(Code.UNIMPLEMENTED, "the call has no message", allowed="one"))
        else:
            message, self._message = self._message, None
            self._handle(self, message)

    def late(self, now: float, seconds: float) -> bool:
        """Say whether a message has taken longer than ``seconds`` to arrive."""
        if self._turns is None:
            return not self.ended and now - self.arrived > seconds
        return bool(self._buffer) and not self.busy and now - self._since > seconds

    def _take(self, message: bytes) -> None:
        if self._turns is not None:
            turn = StreamTurn(self, message, self._wire.clock())
            self._turns.append(turn)
            self._handle(turn, message)
        elif self._message is None:
            self._message = message
        else:
            raise CallError(Code.UNIMPLEMENTED, "the call has a second message", allowed="one")

    def _handle(self, turn: Turn, message: bytes) -> None:
        method = self.method
        assert method is not None  # noqa: S101 - a call without one has failed
        try:
            method.handle(turn, message)
        except KilterError as error:
            turn.fail(error)
        except Exception:  # the edge: whatever it is, the caller gets an answer and the server goes on
            log.exception("a call failed")
            turn.fail(CallError(Code.INTERNAL, "the server made a mistake"))

    def _inflated(self, message: bytes) -> bytes:
        """Return a message as it was before it was compressed, if it is no larger than may be sent plain."""
        try:
            return inflate(message, self.metadata.get(b"grpc-encoding", b"none"), self._most)
        except HttpError as error:
            code = _INFLATING.get(error.http_status, Code.INTERNAL)
            raise CallError(code, error.message, where="grpc-encoding", allowed=error.allowed) from None

    # ------------------------------------------------------------ answers

    def answer(self, message: bytes) -> None:
        """Answer a unary call; only the first answer counts."""
        if self.open:
            self.open = False
            self._wire.send(self, b"\x00%b%b" % (len(message).to_bytes(4, "big"), message), first=True, last=True)

    def fail(self, error: KilterError) -> None:
        """End the call with an error."""
        if self.open:
            self.open = False
            code = code_of(error)
            self._wire.finish(self, code, str(error), retry=code in _RETRIED)

    def close(self) -> None:
        """Nobody waits any more."""
        self.open = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._buffer.clear()
        self._message = None

    def _expired(self) -> None:
        self._timer = None
        self.fail(CallError(Code.DEADLINE_EXCEEDED, "the deadline has passed"))

    # ------------------------------------------------------------ streams

    def answered(self) -> None:
        """Send every answer of the stream whose turn it is."""
        turns, wrap = self._turns, self.method.wrap if self.method is not None else None
        if not self.open or turns is None or wrap is None:
            return
        while turns and turns[0].message is not None:
            message = turns.popleft().message or b""
            first, self.headed = not self.headed, True
            self._wire.send(self, b"\x00%b%b" % (len(message).to_bytes(4, "big"), message), first=first, last=False)
        self.went_out()

    def went_out(self) -> None:
        """Go on with what was held back, if there is room again."""
        if self._advancing or not self.open or self.busy:
            return
        self._advance(self._buffer)
        if not self.busy:
            self._wire.acknowledge(self)
            self._end_of_stream()

    def _end_of_stream(self) -> None:
        if self.ended and self.open and not self._turns and not self.busy:
            if self._buffer:
                self.fail(CallError(Code.INTERNAL, "the last message is cut"))
            else:
                self.open = False
                self._wire.finish(self, Code.OK, "", retry=False)


class StreamTurn:
    """One request of a stream.

    Args:
        call: The stream.
        request: The request.
        arrived: When it arrived, on the loop's clock.
    """

    __slots__ = ("_call", "_request", "arrived", "guest", "message", "metadata")

    def __init__(self, call: Call, request: bytes, arrived: float) -> None:
        self._call = call
        self._request = request
        self.metadata = call.metadata
        self.guest = call.guest
        self.arrived = arrived
        self.message: bytes | None = None

    @property
    def open(self) -> bool:
        """Whether anybody still waits for the answer."""
        return self.message is None and self._call.open

    def answer(self, message: bytes) -> None:
        """Answer; only the first answer counts."""
        method = self._call.method
        if self.message is None and method is not None and method.wrap is not None:
            self.message = method.wrap(message)
            self._call.answered()

    def fail(self, error: KilterError) -> None:
        """Answer with an error; the stream goes on."""
        method = self._call.method
        if self.message is None and method is not None and method.failure is not None:
            self.message = method.failure(error, self._request)
            self._call.answered()


def read_head(call: Call, headers: Iterable[tuple[bytes, bytes]]) -> int:
    """Read a request's head; of repeated names the last counts.

    Returns:
        0, or the HTTP status that refuses what isn't gRPC.
    """
    call.metadata = metadata = dict(headers)
    if metadata.get(b":method") != b"POST":
        return 405
    kind = metadata.get(b"content-type", b"")
    if kind != b"application/grpc" and not kind.startswith((b"application/grpc+proto", b"application/grpc;")):
        return 415
    return 0


def seconds_of(timeout: bytes) -> float:
    """Return the seconds that ``grpc-timeout`` says.

    Raises:
        CallError: When it says none.
    """
    found = _TIMEOUT.match(timeout)
    if found is None:
        raise CallError(Code.INVALID_ARGUMENT, "that is no timeout", where="grpc-timeout", allowed="digits and a unit")
    return min(int(found[1]) * _SECONDS[found[2]], _LONGEST)
