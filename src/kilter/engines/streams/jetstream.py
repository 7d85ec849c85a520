"""Subjects of NATS JetStream: read by sequence number, with cursor and note in one key of a bucket.

The cursor is ours, not a durable consumer's: one put moves it together with the note, and only the process that wrote it last may
write it again, so that two readers of a group never both go on. Written messages carry ``Nats-Msg-Id``, by which the server
itself leaves out what comes twice within its window.

Source: the JetStream and key-value APIs of NATS 2.9.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import NoServersError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, Header
from nats.js.errors import BucketNotFoundError, KeyNotFoundError, KeyWrongLastSequenceError, NotFoundError

from kilter.core.digests import digest
from kilter.core.errors import Conflict, Unavailable
from kilter.engines.streams.port import Message, Outgoing, Taken

OPTIONS = {
    "stream": "the JetStream stream that holds the subject; made if there is none (default: from the subject)",
    "start": "earliest or latest: where a new group begins (default: earliest)",
    "credentials": "a file of credentials",
}
_BUCKET = "kilter-cursors"
_REASON = "Kilter-Reason"
_PATIENCE = 30.0
_CONNECT_SECONDS = 8.0
_WINDOW = 512
_IDLE_SECONDS = 600.0
"""How long the server remembers a reader that asks for nothing: longer than any turn."""
T = TypeVar("T")


class _Cursor(msgspec.Struct, frozen=True):
    sequence: int
    note: str


class _Link:
    """A connection with an event loop of its own, used from one thread."""

    def __init__(self, servers: str, subject: str, options: Mapping[str, str]) -> None:
        self.subject = subject
        self.loop = asyncio.new_event_loop()
        self.client = Client()
        self.stream = options.get("stream") or "".join(one if one.isalnum() else "_" for one in subject)
        addresses = [f"nats://{one}" for one in servers.split(",")]
        credentials = options.get("credentials")
        try:
            self.run(self._connect(addresses, credentials))
        except BaseException:
            self.loop.close()
            raise

    async def _connect(self, addresses: list[str], credentials: str | None) -> None:
        connecting = self.client.connect(
            addresses,
            connect_timeout=5,
            max_reconnect_attempts=2,
            reconnect_time_wait=0,
            error_cb=_quiet,
            user_credentials=credentials or None,
        )
        await asyncio.wait_for(connecting, _CONNECT_SECONDS)
        # Who was there once is waited for when it is away.
        self.client.options |= {"max_reconnect_attempts": 60, "reconnect_time_wait": 1}
        self.jetstream = self.client.jetstream(timeout=_PATIENCE)
        try:
            self.stream = await self.jetstream.find_stream_name_by_subject(self.subject)
        except NotFoundError:
            await self.jetstream.add_stream(name=self.stream, subjects=[self.subject])

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        """Wait for a call."""
        try:
            return self.loop.run_until_complete(call)
        except (TimeoutError, NatsError, NoServersError, OSError) as error:
            raise Unavailable(
                f"NATS: {str(error) or type(error).__name__}", where=self.subject, fix="check the server"
            ) from error

    def close(self) -> None:
        """Close the connection and the loop."""
        try:
            self.run(self.client.close())
        finally:
            self.loop.close()

    async def reader(self, after: int) -> Any:
        """Return a consumer that begins behind a sequence number and is forgotten with this process."""
        config = ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=after + 1,
            ack_policy=AckPolicy.NONE,
            inactive_threshold=_IDLE_SECONDS,
            filter_subject=self.subject,
        )
        return await self.jetstream.pull_subscribe(self.subject, stream=self.stream, config=config)


class JetStreamSource:
    """A subject, read by a group of one.

    Args:
        servers: ``host:port``, several joined by commas.
        subject: The subject.
        group: Whose cursor it is.
        mark: Says how far the written streams are; noted where the group begins.
        options: See ``OPTIONS``.
    """

    def __init__(
        self, servers: str, subject: str, group: str, mark: Callable[[], str], options: Mapping[str, str] | None = None
    ) -> None:
        given = dict(options or {})
        self._link = _Link(servers, subject, given)
        self._key = digest(f"{group}\n{subject}".encode())[:32]
        self._subject = subject
        self._consumer: Any = None
        self._sequence = 0
        self._revision = 0
        self._note = ""
        self._notes: tuple[str, ...] = ()
        try:
            self._link.run(self._begin(mark, latest=given.get("start") == "latest"))
        except BaseException:
            self._link.close()
            raise

    async def _begin(self, mark: Callable[[], str], *, latest: bool) -> None:
        jetstream = self._link.jetstream
        try:
            self._cursors = await jetstream.key_value(_BUCKET)
        except BucketNotFoundError:
            self._cursors = await jetstream.create_key_value(bucket=_BUCKET, history=1)
        try:
            entry = await self._cursors.get(self._key)
            cursor = msgspec.json.decode(entry.value or b"", type=_Cursor)
            self._sequence, self._revision = cursor.sequence, entry.revision or 0
            self._note, self._notes = cursor.note, (cursor.note,)
            # Whoever read for the group before finds the cursor moved, and stops.
            self._revision = await self._cursors.update(self._key, entry.value or b"", last=self._revision)
        except KeyNotFoundError:
            if latest:
                self._sequence = (await jetstream.stream_info(self._link.stream)).state.last_seq
            self._note = mark()
            value = msgspec.json.encode(_Cursor(self._sequence, self._note))
            self._revision = await self._cursors.create(self._key, value)
        self._consumer = await self._link.reader(self._sequence)

    def take(self, most: int, wait: float) -> Taken:
        """Return the next messages: at most ``most``, none when there are none within ``wait`` seconds."""
        if self._notes:
            notes, self._notes = self._notes, ()
            return Taken([], notes)
        found = self._link.run(_fetch(self._consumer, most, wait))
        messages = []
        for one in found:
            sequence = one.metadata.sequence.stream
            self._sequence = sequence
            headers = one.headers or {}
            key, reason = (headers.get("Key") or "").encode(), headers.get(_REASON) or ""
            messages.append(Message(f"{self._subject}/{sequence}", key, one.data, reason))
        return Taken(messages)

    def commit(self, note: str | None) -> None:
        """Move the cursor and the note."""
        self._note = self._note if note is None else note
        try:
            value = msgspec.json.encode(_Cursor(self._sequence, self._note))
            self._revision = self._link.loop.run_until_complete(
                self._cursors.update(self._key, value, last=self._revision)
            )
        except KeyWrongLastSequenceError as error:
            raise Conflict(
                "another process reads for that group", where=self._subject, fix="stop it, or choose another --group"
            ) from error
        except (TimeoutError, NatsError, OSError) as error:
            raise Unavailable(f"NATS: {error}", where=self._subject, fix="check the server") from error

    def awaits(self, id: str) -> bool:  # noqa: A002 - a message's own word
        """Return whether the message of that id may still be taken here."""
        subject, _, sequence = id.rpartition("/")
        return subject == self._subject and int(sequence) > self._sequence

    def lag(self) -> int:
        """Return how many messages of the subject come behind the last one taken."""
        return int(self._link.run(self._consumer.consumer_info()).num_pending or 0)

    def close(self) -> None:
        """Close the connection."""
        self._link.close()


class JetStreamSink:
    """A subject to write.

    Args:
        servers: ``host:port``, several joined by commas.
        subject: The subject.
        options: ``stream`` and ``credentials``.
    """

    def __init__(self, servers: str, subject: str, options: Mapping[str, str] | None = None) -> None:
        self._link = _Link(servers, subject, options or {})
        self._subject = subject
        self._waiting: list[Outgoing] = []
        self._last = self._link.run(self._link.jetstream.stream_info(self._link.stream)).state.last_seq

    def send(self, messages: Sequence[Outgoing]) -> None:
        """Keep messages for the next flush."""
        self._waiting += messages

    def flush(self) -> None:
        """Publish what was sent, many at once, and wait for the server's word on each."""
        if self._waiting:
            self._link.run(self._publish())
            self._waiting = []

    async def _publish(self) -> None:
        for start in range(0, len(self._waiting), _WINDOW):
            window = self._waiting[start : start + _WINDOW]
            futures = [
                await self._link.jetstream.publish_async(
                    self._subject, one.value, headers=_headers(one), wait_stall=_PATIENCE
                )
                for one in window
            ]
            for answer in await asyncio.wait_for(asyncio.gather(*futures), _PATIENCE):
                self._last = max(self._last, answer.seq)

    def mark(self) -> str:
        """Return the sequence number of the last message."""
        return str(self._last)

    def since(self, mark: str) -> Iterator[str]:
        """Yield the ids of all messages behind a mark."""
        after = int(mark or 0)
        end = self._link.run(self._link.jetstream.stream_info(self._link.stream)).state.last_seq
        consumer = self._link.run(self._link.reader(after))
        while after < end:
            found = self._link.run(_fetch(consumer, 1000, 1.0))
            for one in found:
                after = one.metadata.sequence.stream
                yield (one.headers or {}).get(Header.MSG_ID, "")
            if not found:
                break  # what is left of the stream is of other subjects

    def close(self) -> None:
        """Close the connection."""
        self._link.close()


def _headers(message: Outgoing) -> dict[str, str]:
    headers = {Header.MSG_ID.value: message.id}
    if message.key:
        headers["Key"] = message.key.decode("utf-8", "replace")
    if message.reason:
        headers[_REASON] = message.reason.replace("\n", " ")
    return headers


async def _fetch(consumer: Any, most: int, wait: float) -> list[Any]:
    try:
        return list(await consumer.fetch(most, timeout=max(wait, 0.05)))
    except TimeoutError:  # the client's own, or the plain one when its deadline passes between two questions
        return []


async def _quiet(_error: Exception) -> None:
    """Let errors come back through the calls alone."""
