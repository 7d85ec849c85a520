"""Stream queues of RabbitMQ: an append-only queue that is read by offset, with cursor and note in a stream queue of the group's own.

A classic or quorum queue gives each message to one reader and forgets it: neither another group nor a look behind a mark would find
it again. A stream queue keeps what was written, and AMQP 0-9-1 reads and writes it with publisher confirms. The server keeps no
offsets for such readers, so the cursor is ours: one confirmed message moves it together with the note. Who opens a group writes a
claim first and reads the cursor's stream up to it, so that "there is no cursor" is never a matter of how long one waited; a queue
that only one connection can hold keeps a second reader out.

Source: "Streams" and "Exclusive queues" of RabbitMQ's documentation; AMQP 0-9-1 with its confirms.
"""

from __future__ import annotations

import asyncio
import secrets
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, TypeVar

import aio_pika
import msgspec
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractQueue, DeliveryMode
from aio_pika.exceptions import AMQPError, ChannelNotFoundEntity, ChannelPreconditionFailed
from aiormq.exceptions import ChannelInvalidStateError, ChannelLockedResource

from kilter.core.digests import digest
from kilter.core.errors import Conflict, InvalidInput, Unavailable
from kilter.engines.streams.port import Message, Outgoing, Taken

OPTIONS = {
    "start": "earliest or latest: where a new group begins (default: earliest)",
    "vhost": "the virtual host (default: /)",
    "credentials": "a file with one line, user:password (default: guest, whom RabbitMQ lets in from its own machine only)",
    "tls": "system, or a file of the authorities to trust (default: no TLS)",
}
_ID = "kilter-id"
_REASON = "kilter-reason"
_KEY = "key"
_OFFSET = "x-stream-offset"
_PATIENCE = 30.0
_CONNECT_SECONDS = 8.0
_LOCK_SECONDS = 2.0
"""How long the connection of a process that was killed may take to end."""
_QUIET_SECONDS = 2.0
"""How long a stream that was there before may keep silent until it counts as empty."""
_WINDOW = 512
_PREFETCH = 2_000
_LINGER = 0.01
_LOOK_SECONDS = 60.0
_NAME_BYTES = 200
_STREAM = {"x-queue-type": "stream"}
_CURSORS = {**_STREAM, "x-max-length-bytes": 2_000_000, "x-stream-max-segment-size-bytes": 500_000}
_OTHER_TYPE = ("x-queue-type", "durable", "exclusive", "auto_delete")
"""What the server finds different about a queue that is no stream."""
T = TypeVar("T")


class _Cursor(msgspec.Struct, frozen=True):
    """Where a group is. A claim has no offset: it says from where on its writer's cursors count."""

    reader: str
    offset: int | None = None
    note: str = ""


_CURSOR = msgspec.json.Decoder(_Cursor)


class _Link:
    """A connection whose event loop runs in a thread of its own, so that heartbeats are answered during long turns."""

    def __init__(self, servers: str, stream: str, options: Mapping[str, str]) -> None:
        self.stream = stream
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="kilter-rabbitmq", daemon=True)
        self._thread.start()
        try:
            self.made = self.run(self._open(servers, options))
        except BaseException:
            self.close()
            raise

    async def _open(self, servers: str, options: Mapping[str, str]) -> bool:
        self.connection = await _connect(servers, options)
        self.channel = await self.connection.channel()
        return await self.declare(self.stream, _STREAM)

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        """Wait for a call."""
        try:
            return asyncio.run_coroutine_threadsafe(call, self._loop).result()
        except (TimeoutError, AMQPError, ChannelInvalidStateError, OSError) as error:
            said = str(error) or type(error).__name__
            raise Unavailable(f"RabbitMQ: {said}", where=self.stream, fix="check the server and the rights") from error

    async def declare(self, name: str, arguments: Mapping[str, Any]) -> bool:
        """Make a stream queue where there is none; return whether it was made."""
        looking = await self.connection.channel()
        try:
            await looking.declare_queue(name, passive=True, timeout=_PATIENCE)
        except ChannelNotFoundEntity:  # the server has closed the channel with that answer
            await self._declare(name, arguments)
            return True
        await looking.close()
        await self._declare(name, arguments)
        return False

    async def _declare(self, name: str, arguments: Mapping[str, Any]) -> None:
        declaring = await self.connection.channel()
        try:
            await declaring.declare_queue(name, durable=True, arguments=dict(arguments), timeout=_PATIENCE)
        except ChannelPreconditionFailed as error:
            if any(f"'{one}'" in str(error) for one in _OTHER_TYPE):
                raise InvalidInput(
                    "the queue is no stream", where=name, allowed="a durable queue of type stream",
                    fix="bind a stream queue to the same exchange",
                ) from error  # fmt: skip
            return  # a stream of other settings is as good
        await declaring.close()

    async def publish(self, messages: Sequence[aio_pika.Message], queue: str) -> None:
        """Write messages and wait until the server has confirmed each."""
        for start in range(0, len(messages), _WINDOW):
            window = messages[start : start + _WINDOW]
            sending = [self.channel.default_exchange.publish(one, routing_key=queue) for one in window]
            await asyncio.wait_for(asyncio.gather(*sending), _PATIENCE)

    async def end(self, *, surely_new: bool = False) -> int:
        """Return the offset behind the last message; zero for a stream that keeps silent."""
        if surely_new:
            return 0
        async with _Reader(self, self.stream, "last", 0xFFFF) as reader:
            await reader.wait(_QUIET_SECONDS)
            if not reader.waiting:
                return 0
            # What lies in one chunk is sent at once: the answer to the next question comes behind all of it.
            await reader.channel.set_qos(prefetch_count=0xFFFF, timeout=_PATIENCE)
            return max(map(_offset, reader.waiting)) + 1

    def close(self) -> None:
        """Close the connection and the loop."""
        with suppress(Unavailable, AttributeError):  # a connection that never was, or that is gone
            self.run(self.connection.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class _Reader:
    """A consumer of a stream queue, on a channel of its own; what came and was not taken is bounded by the prefetch count."""

    def __init__(self, link: _Link, queue: str, begin: int | str, most: int = _PREFETCH) -> None:
        self._link = link
        self._queue = queue
        self._begin = begin
        self._most = most
        self._came = asyncio.Event()
        self.waiting: deque[AbstractIncomingMessage] = deque()

    async def __aenter__(self) -> Self:
        self.channel: AbstractChannel = await self._link.connection.channel(publisher_confirms=False)
        await self.channel.set_qos(prefetch_count=self._most, timeout=_PATIENCE)
        queue: AbstractQueue = await self.channel.get_queue(self._queue, ensure=False)
        await queue.consume(self._put, arguments={_OFFSET: self._begin}, timeout=_PATIENCE)
        return self

    async def __aexit__(self, *_: object) -> None:
        with suppress(AMQPError, ChannelInvalidStateError, OSError):  # a channel that is closed already
            await self.channel.close()

    async def _put(self, message: AbstractIncomingMessage) -> None:
        self.waiting.append(message)  # nothing is awaited here, so the order stays
        self._came.set()

    async def wait(self, seconds: float) -> None:
        """Wait for a message."""
        if self.waiting:
            return
        if self._link.connection.is_closed or self.channel.is_closed:
            raise ConnectionError("the connection was closed")
        self._came.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._came.wait(), max(seconds, _LINGER))

    async def take(self, most: int, seconds: float) -> list[AbstractIncomingMessage]:
        """Return the next messages, and let the server send as many others."""
        end = time.monotonic() + seconds
        await self.wait(seconds)
        found: list[AbstractIncomingMessage] = []
        while self.waiting and len(found) < most:
            while self.waiting and len(found) < most:
                found.append(self.waiting.popleft())
            await found[-1].ack(multiple=True)
            if len(found) < most and time.monotonic() < end:
                await self.wait(_LINGER)
        return found


class RabbitSource:
    """A stream queue, read by a group of one.

    Args:
        servers: ``host:port``, several joined by commas; the first that answers is taken.
        stream: The queue.
        group: Whose cursor it is.
        mark: Says how far the written streams are; noted where the group begins.
        options: See ``OPTIONS``.

    Raises:
        Conflict: When another process reads for the group.
    """

    def __init__(
        self, servers: str, stream: str, group: str, mark: Callable[[], str], options: Mapping[str, str] | None = None
    ) -> None:
        given = dict(options or {})
        self._stream = stream
        self._name = f"{stream}.{group}"
        if len(self._name.encode()) > _NAME_BYTES:
            self._name = digest(self._name.encode())[:32]
        self._token = secrets.token_hex(12)
        self._notes: tuple[str, ...] = ()
        self._link = _Link(servers, stream, given)
        try:
            self._link.run(self._lock())
            cursor = self._link.run(self._claim())
            if cursor is None:
                at = self._link.run(self._link.end(surely_new=self._link.made)) if given.get("start") == "latest" else 0
                cursor = _Cursor(self._token, at, mark())
            else:
                self._notes = (cursor.note,)
            self._offset, self._note = cursor.offset or 0, cursor.note
            self._save()
            self._reader = self._link.run(_Reader(self._link, stream, self._offset).__aenter__())
        except BaseException:
            self._link.close()
            raise

    def take(self, most: int, wait: float) -> Taken:
        """Return the next messages: at most ``most``, none when there are none within ``wait`` seconds."""
        if self._notes:
            notes, self._notes = self._notes, ()
            return Taken([], notes)
        messages = []
        for one in self._link.run(self._reader.take(most, wait)):
            offset = _offset(one)
            if offset < self._offset:
                continue  # a chunk is sent from its beginning on
            self._offset = offset + 1
            headers = one.headers
            key, reason = _bytes(headers.get(_KEY)), _bytes(headers.get(_REASON)).decode("utf-8", "replace")
            messages.append(Message(f"{self._stream}/{offset}", key, one.body, reason))
        return Taken(messages)

    def commit(self, note: str | None) -> None:
        """Move the cursor and the note, in one message that the server has confirmed."""
        self._note = self._note if note is None else note
        self._save()

    def awaits(self, id: str) -> bool:  # noqa: A002 - a message's own word
        """Return whether the message of that id may still be taken here."""
        stream, _, offset = id.rpartition("/")
        return stream == self._stream and int(offset) >= self._offset

    def lag(self) -> int:
        """Return how many messages come behind the last one taken."""
        return max(self._link.run(self._link.end()) - self._offset, 0)

    def close(self) -> None:
        """Close the connection, and with it the lock."""
        self._link.close()

    async def _lock(self) -> None:
        """Hold the queue that only one connection can hold, and that ends with it."""
        end = time.monotonic() + _LOCK_SECONDS
        while True:
            channel = await self._link.connection.channel()
            try:
                await channel.declare_queue(f"kilter.reader.{self._name}", exclusive=True, timeout=_PATIENCE)
            except ChannelLockedResource as error:
                if time.monotonic() > end:
                    raise Conflict(
                        "another process reads for that group",
                        where=self._stream,
                        fix="stop it, or choose another --group",
                    ) from error
            else:
                return
            await asyncio.sleep(0.1)

    async def _claim(self) -> _Cursor | None:
        """Say that this process reads from now on, and return the last cursor of whoever read before."""
        name = f"kilter.cursor.{self._name}"
        await self._link.declare(name, _CURSORS)
        await self._link.publish([_record(_Cursor(self._token))], name)
        reader, last = "", None
        async with _Reader(self._link, name, "first") as cursors:
            end = time.monotonic() + _PATIENCE
            while True:
                for one in await cursors.take(_PREFETCH, 1.0):
                    found = _CURSOR.decode(one.body)
                    if found.reader == self._token:
                        return last
                    if found.offset is None:
                        reader = found.reader
                    elif found.reader == reader or not reader:  # else one that had lost the group already
                        last = found
                if time.monotonic() > end:
                    raise TimeoutError("the group's cursor can't be read")

    def _save(self) -> None:
        cursor = _record(_Cursor(self._token, self._offset, self._note))
        self._link.run(self._link.publish([cursor], f"kilter.cursor.{self._name}"))


class RabbitSink:
    """A stream queue to write.

    Args:
        servers: ``host:port``, several joined by commas.
        stream: The queue.
        options: ``vhost``, ``credentials`` and ``tls``.
    """

    def __init__(self, servers: str, stream: str, options: Mapping[str, str] | None = None) -> None:
        self._link = _Link(servers, stream, options or {})
        self._stream = stream
        self._waiting: list[Outgoing] = []
        try:
            self._end = self._link.run(self._link.end(surely_new=self._link.made))
        except BaseException:
            self._link.close()
            raise
        self._looked = time.monotonic()

    def send(self, messages: Sequence[Outgoing]) -> None:
        """Keep messages for the next flush."""
        self._waiting += messages

    def flush(self) -> None:
        """Publish what was sent, many at once, and wait for the server's confirm of each."""
        if self._waiting:
            self._link.run(self._link.publish([_outgoing(one) for one in self._waiting], self._stream))
            # Others may have written as well: then the mark lies too early, which is safe, until the next look.
            self._end += len(self._waiting)
            self._waiting = []

    def mark(self) -> str:
        """Return the offset behind the last message, as this writer knows it; now and then it looks what others wrote."""
        if time.monotonic() - self._looked > _LOOK_SECONDS:
            self._looked = time.monotonic()
            self._end = max(self._link.run(self._link.end()), self._end)
        return str(self._end)

    def since(self, mark: str) -> Iterator[str]:
        """Yield the ids of all messages behind a mark."""
        after, end = int(mark or 0), self._link.run(self._link.end(surely_new=self._link.made and not self._end))
        if after >= end:
            return
        reader = self._link.run(_Reader(self._link, self._stream, after).__aenter__())
        try:
            last = time.monotonic()
            while after < end:
                found = self._link.run(reader.take(_PREFETCH, 1.0))
                for one in found:
                    if _offset(one) >= after:
                        after = _offset(one) + 1
                        yield _bytes(one.headers.get(_ID)).decode("utf-8", "replace")
                last = time.monotonic() if found else last
                if time.monotonic() - last > _PATIENCE:
                    raise Unavailable("the stream's end can't be read", where=self._stream, fix="check the server")
        finally:
            self._link.run(reader.__aexit__())

    def close(self) -> None:
        """Close the connection."""
        self._link.close()


async def _connect(servers: str, options: Mapping[str, str]) -> aio_pika.abc.AbstractConnection:
    """Return a connection to the first server that answers; it is not made again when it breaks: the lock went with it."""
    user, password = _credentials(options.get("credentials"))
    trusted, context = options.get("tls"), None
    if trusted:
        try:
            context = ssl.create_default_context(cafile=None if trusted == "system" else trusted)
        except OSError as error:
            raise InvalidInput(f"the file can't be read: {error}", where="tls", allowed="system, or a file") from error
    failed: Exception = ConnectionError("no server")
    for server in servers.split(","):
        host, mark, port = server.partition(":")
        if not host or (mark and not port.isdecimal()):
            raise InvalidInput(f"{server!r} is no server", where="rabbitmq", allowed="host or host:port")
        try:
            return await aio_pika.connect(
                host=host,
                port=int(port) if mark else 5671 if trusted else 5672,
                login=user,
                password=password,
                virtualhost=options.get("vhost", "/"),
                ssl=bool(trusted),
                ssl_context=context,
                timeout=_CONNECT_SECONDS,
            )
        except (AMQPError, OSError, TimeoutError) as error:
            failed = error
    raise failed


def _credentials(path: str | None) -> tuple[str, str]:
    if not path:
        return "guest", "guest"
    try:
        line = Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise InvalidInput(f"the file can't be read: {error.strerror}", where="credentials") from error
    user, mark, password = line.partition(":")
    if not mark or "\n" in line:
        raise InvalidInput("the file is not understood", where="credentials", allowed="one line: user:password")
    return user, password


def _outgoing(message: Outgoing) -> aio_pika.Message:
    headers: dict[str, Any] = {_ID: message.id}
    if message.key:
        headers[_KEY] = bytearray(message.key)  # a table's type of bytes
    if message.reason:
        headers[_REASON] = message.reason
    return aio_pika.Message(message.value, headers=headers, delivery_mode=DeliveryMode.PERSISTENT)


def _record(cursor: _Cursor) -> aio_pika.Message:
    return aio_pika.Message(msgspec.json.encode(cursor), delivery_mode=DeliveryMode.PERSISTENT)


def _offset(message: AbstractIncomingMessage) -> int:
    offset = message.headers.get(_OFFSET)
    if not isinstance(offset, int):
        raise InvalidInput("the queue is no stream", where=str(message.routing_key), allowed="a queue of type stream")
    return offset


def _bytes(value: object) -> bytes:
    return bytes(value) if isinstance(value, bytes | bytearray) else str(value).encode() if value is not None else b""
