"""Topics of Kafka, through librdkafka: batches in, an idempotent producer out, notes beside the group's offsets.

Source: KIP-98 (idempotent producer), KIP-345 (static members), and the offset commit's ``metadata`` of the Kafka protocol. A
transaction is not needed: what a killed reader had written already is found behind the mark of its last commit.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # public, and not said to be

from kilter.core.errors import Conflict, InvalidInput, KilterError, Unavailable
from kilter.engines.streams.port import Message, Outgoing, Taken

OPTIONS = {
    "start": "earliest or latest: where a new group begins (default: earliest)",
    "partitions": "all: read every partition without asking the group, when this process is its only member",
    "instance": "the name of this member: it is back at once after a restart",
    "session": "seconds after which a silent member loses its partitions (default: 45)",
    "config": "a file of librdkafka's settings, NAME=VALUE per line: security, secrets",
}
_ID = "kilter-id"
_REASON = "kilter-reason"
_PATIENCE = 30.0
_NOTE_BYTES = 4000
_LOOK_SECONDS = 60.0
_OURS = {"bootstrap.servers", "group.id", "enable.auto.commit", "enable.idempotence", "auto.offset.reset", "acks"}
_LOST = {
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.REBALANCE_IN_PROGRESS,
}
_HOPELESS = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError._AUTO_OFFSET_RESET,  # noqa: SLF001 - its name for messages that expired before they were read
    KafkaError._FENCED,  # noqa: SLF001
}
_MARKS = msgspec.json.Decoder(dict[int, int])


class KafkaSource:
    """A topic, read by a group.

    Args:
        servers: ``host:port``, several joined by commas.
        topic: The topic.
        group: The group.
        mark: Says how far the written streams are; noted where the group begins to read a partition.
        options: See ``OPTIONS``.
    """

    def __init__(
        self, servers: str, topic: str, group: str, mark: Callable[[], str], options: Mapping[str, str] | None = None
    ) -> None:
        given = dict(options or {})
        self._topic = topic
        self._mark = mark
        self._latest = given.get("start", "earliest") == "latest"
        settings = _settings(servers, given) | {
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "enable.partition.eof": True,
            "queued.max.messages.kbytes": 16_384,
            "session.timeout.ms": int(float(given.get("session", "45")) * 1000),
        }
        if given.get("instance"):
            settings["group.instance.id"] = given["instance"]
        self._alone = given.get("partitions") == "all"
        self._group = group
        self._asked = _Admin(servers, topic, given)
        self._consumer = Consumer(settings)
        self._notes: list[str] = []
        self._next: dict[int, int] = {}
        self._kept: dict[int, str] = {}
        try:
            if self._alone:
                self._assigned(self._consumer, self._places())
            else:
                self._consumer.subscribe([topic], on_assign=self._assigned, on_revoke=self._revoked)
        except (KafkaException, KilterError) as error:
            self._consumer.close()
            raise (error if isinstance(error, KilterError) else _failed(error, topic)) from error

    def take(self, most: int, wait: float) -> Taken:
        """Return the next messages; a batch is taken when it is full or has waited a moment."""
        try:
            found = self._consumer.consume(most, wait)
        except KafkaException as error:
            raise _failed(error, self._topic) from error
        messages = []
        topic, behind = self._topic, self._next
        for one in found:
            wrong, partition, offset = one.error(), one.partition() or 0, one.offset() or 0
            if wrong is not None:
                if wrong.fatal() or wrong.code() in _HOPELESS:
                    raise _error(wrong, topic)
                if wrong.code() == KafkaError._PARTITION_EOF and partition in behind:  # noqa: SLF001 - its name
                    behind[partition] = max(offset, behind[partition])  # the markers of transactions are behind us too
                continue  # a broker that is away comes back, and librdkafka goes on by itself
            if partition not in behind:
                continue  # another member's since the last commit failed, or this one's again from that commit on
            behind[partition] = offset + 1
            headers = one.headers()
            reason = _text(dict(headers).get(_REASON)) if headers else ""
            messages.append(Message(f"{topic}/{partition}/{offset}", one.key() or b"", one.value() or b"", reason))
        notes, self._notes = tuple(self._notes), []
        return Taken(messages, notes)

    def commit(self, note: str | None) -> None:
        """Commit the group's offsets with a note, or with those that the partitions have.

        Raises:
            InvalidInput: When the note is longer than a broker takes: the written topics have too many partitions.
        """
        if note is not None and len(note) > _NOTE_BYTES:
            raise InvalidInput(f"a note of {len(note):,} bytes", where=self._topic, allowed=f"{_NOTE_BYTES:,}",
                               fix="write to topics of fewer partitions")  # fmt: skip
        if not self._next:
            return
        if note is not None:
            self._kept = dict.fromkeys(self._next, note)
        offsets = [TopicPartition(self._topic, part, offset, self._kept[part]) for part, offset in self._next.items()]
        self._commit(offsets)

    def awaits(self, id: str) -> bool:  # noqa: A002 - a message's own word
        """Return whether the message of that id may still be taken here."""
        topic, partition, offset = id.rsplit("/", 2)
        return topic == self._topic and int(offset) >= self._next.get(int(partition), 1 << 63)

    def lag(self) -> int:
        """Return how many messages of the topic the group has not read, those of other members among them."""
        places = self._places()
        lows, highs = self._asked.first(places), self._asked.last(places)
        behind = dict(self._next)
        others = [one for one in places if one.partition not in behind]
        for part, offset in (self._asked.committed(self._group, others) if others else {}).items():
            unread = highs if self._latest and offset < 0 else lows
            behind[part] = max(offset, unread[part])
        return sum(max(highs[part] - offset, 0) for part, offset in behind.items() if part in highs)

    def close(self) -> None:
        """Leave the group."""
        self._consumer.close()

    def _commit(self, offsets: list[TopicPartition]) -> None:
        try:
            for one in self._consumer.commit(offsets=offsets, asynchronous=False) or ():
                if one.error is not None:
                    raise _error(one.error, self._topic)
        except KafkaException as error:
            reason = error.args[0]
            if isinstance(reason, KafkaError) and reason.code() in _LOST:
                if self._alone:  # nobody would give the partitions back, and the next reader would begin too early
                    raise Conflict(
                        "other processes are members of that group", where=self._topic,
                        fix="stop them, leave out ?partitions=all, or choose another --group",
                    ) from error  # fmt: skip
                # The partitions are another member's now: it reads on from the last commit, and finds what was written since.
                self._next.clear()
                return
            raise _failed(error, self._topic) from error

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Begin at the last commits; where there are none, commit the beginning with a mark before reading anything."""
        found = consumer.committed(partitions, timeout=_PATIENCE)
        new = [TopicPartition(one.topic, one.partition) for one in found if one.error is None and one.offset < 0]
        begins_at = (self._asked.last(new) if self._latest else self._asked.first(new)) if new else {}
        fresh = []
        for one in found:
            if one.error is not None:
                raise _error(one.error, self._topic)
            if one.offset < 0:
                fresh.append(TopicPartition(one.topic, one.partition, begins_at[one.partition], self._mark()))
            else:
                self._notes.append(one.metadata or "")
        if fresh:
            self._commit(fresh)
        begins = [
            TopicPartition(one.topic, one.partition, one.offset)
            for one in (*(o for o in found if o.offset >= 0), *fresh)
        ]
        self._next.update({one.partition: one.offset for one in begins})
        self._kept.update({one.partition: one.metadata or "" for one in (*found, *fresh)})
        consumer.assign(begins)

    def _revoked(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        for one in partitions:
            self._next.pop(one.partition, None)

    def _places(self) -> list[TopicPartition]:
        return [TopicPartition(self._topic, one) for one in _partitions(self._consumer, self._topic)]


class KafkaSink:
    """A topic to write.

    Args:
        servers: ``host:port``, several joined by commas.
        topic: The topic.
        options: ``config``.
    """

    def __init__(self, servers: str, topic: str, options: Mapping[str, str] | None = None) -> None:
        self._topic = topic
        self._settings = _settings(servers, options or {})
        self._producer = Producer(
            self._settings | {"enable.idempotence": True, "linger.ms": 5, "compression.type": "lz4"}
        )
        self._failed: KafkaError | None = None
        self._asked = _Admin(servers, topic, options or {})
        self._ends = self._asked.last(self._places(), IsolationLevel.READ_UNCOMMITTED)
        self._looked = time.monotonic()

    def send(self, messages: Sequence[Outgoing]) -> None:
        """Hand messages to the producer, which keeps their order and writes each once."""
        produce, topic, told = self._producer.produce, self._topic, self._told
        for message in messages:
            headers: list[tuple[str, str | bytes | None]] = [(_ID, message.id)]
            if message.reason:
                headers.append((_REASON, message.reason))
            while True:
                try:
                    produce(topic, message.value, message.key or None, headers=headers, on_delivery=told)
                    break
                except BufferError:  # as many wait as may: let some go first
                    self._producer.poll(0.1)
                except KafkaException as error:
                    raise _failed(error, topic) from error
        self._producer.poll(0)

    def flush(self) -> None:
        """Wait until the brokers have confirmed everything."""
        left = self._producer.flush(_PATIENCE)
        if self._failed is not None or left:
            failed, self._failed = self._failed, None
            raise (
                _error(failed, self._topic)
                if failed
                else Unavailable(f"{left} messages are not confirmed", where=self._topic, fix="check the brokers")
            )

    def mark(self) -> str:
        """Return the ends of all partitions, as this writer knows them; now and then it looks what others wrote."""
        if time.monotonic() - self._looked > _LOOK_SECONDS:
            self._looked = time.monotonic()
            self._ends = self._asked.last(self._places(), IsolationLevel.READ_UNCOMMITTED)
        return msgspec.json.encode(self._ends).decode()

    def since(self, mark: str) -> Iterator[str]:
        """Yield the ids of all messages behind a mark."""
        begins = _MARKS.decode(mark) if mark else {}
        places = self._places()
        lows, ends = self._asked.first(places), self._asked.last(places, IsolationLevel.READ_UNCOMMITTED)
        left = {}
        for part, end in ends.items():
            begin = max(begins.get(part, 0), lows[part])
            if begin < end:
                left[part] = begin
        if not left:
            return
        reader = Consumer(
            self._settings
            | {
                "group.id": f"kilter-read-back-{os.getpid()}",
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "enable.partition.eof": True,
                "isolation.level": "read_uncommitted",  # an open transaction of somebody else must hide nothing of ours
            }
        )
        try:
            reader.assign([TopicPartition(self._topic, part, begin) for part, begin in left.items()])
            yield from self._read(reader, {part: ends[part] for part in left})
        finally:
            reader.close()

    def _read(self, reader: Consumer, ends: dict[int, int]) -> Iterator[str]:
        """Yield the ids of the messages of the assigned partitions up to their ends, which may be transactions' markers."""
        patience = time.monotonic() + _PATIENCE
        while ends:
            for one in reader.consume(1000, 0.05):
                wrong, part = one.error(), one.partition() or 0
                if wrong is not None:
                    if wrong.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its name
                        ends.pop(part, None)
                    elif wrong.fatal() or wrong.code() in _HOPELESS:
                        raise _error(wrong, self._topic)
                    continue
                headers = dict(one.headers() or ())
                if part in ends and _ID in headers:
                    yield _text(headers[_ID])
                if (one.offset() or 0) + 1 >= ends.get(part, 0):
                    ends.pop(part, None)
                patience = time.monotonic() + _PATIENCE
            if time.monotonic() > patience:
                raise Unavailable("the topic's end can't be read", where=self._topic, fix="check the brokers")

    def close(self) -> None:
        """Let go of the topic."""
        self._producer.flush(_PATIENCE)

    def _told(self, error: KafkaError | None, message: Any) -> None:
        if error is not None:
            self._failed = error
        else:
            self._ends[message.partition()] = message.offset() + 1

    def _places(self) -> list[TopicPartition]:
        return [TopicPartition(self._topic, one) for one in _partitions(self._producer, self._topic)]


class _Admin:
    """Asks where partitions begin and end, and where a group is: all at once, where no fetch and no rebalance is waited for."""

    def __init__(self, servers: str, topic: str, options: Mapping[str, str]) -> None:
        self._admin = AdminClient(_settings(servers, options))
        self._topic = topic

    def first(self, places: Sequence[TopicPartition]) -> dict[int, int]:
        earliest = OffsetSpec.earliest()  # type: ignore[no-untyped-call]  # its author left the annotation out
        return self._ask(places, earliest, IsolationLevel.READ_COMMITTED)

    def last(
        self, places: Sequence[TopicPartition], isolation: IsolationLevel = IsolationLevel.READ_COMMITTED
    ) -> dict[int, int]:
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]  # its author left the annotation out
        return self._ask(places, latest, isolation)

    def committed(self, group: str, places: Sequence[TopicPartition]) -> dict[int, int]:
        asked = ConsumerGroupTopicPartitions(group, list(places))
        try:
            answers = self._admin.list_consumer_group_offsets([asked], request_timeout=_PATIENCE)
            return {one.partition: int(one.offset) for one in answers[group].result().topic_partitions}
        except KafkaException as error:
            raise _failed(error, self._topic) from error

    def _ask(self, places: Sequence[TopicPartition], spec: OffsetSpec, isolation: IsolationLevel) -> dict[int, int]:
        asked = dict.fromkeys(places, spec)
        try:
            found = self._admin.list_offsets(asked, isolation_level=isolation, request_timeout=_PATIENCE)
            return {place.partition: int(one.result().offset) for place, one in found.items()}
        except KafkaException as error:
            raise _failed(error, self._topic) from error


def _settings(servers: str, options: Mapping[str, str]) -> dict[str, Any]:
    """Return librdkafka's settings: those of the file, and where the brokers are."""
    found: dict[str, Any] = {}
    if options.get("config"):
        path = Path(options["config"])
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise InvalidInput(f"the file can't be read: {error.strerror}", where=f"config={path.name}") from error
        for number, line in enumerate(lines, 1):
            name, mark, value = (part.strip() for part in line.partition("="))
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            if not mark or name in _OURS:
                raise InvalidInput("the line is no setting of yours", where=f"{path.name}:{number}",
                                   allowed=f"NAME=VALUE, but not {', '.join(sorted(_OURS))}")  # fmt: skip
            found[name] = value
    # Errors come back through the calls; the library's own lines on standard error would double them.
    return found | {"bootstrap.servers": servers, "log_level": 0, "allow.auto.create.topics": True}


def _partitions(client: Consumer | Producer, topic: str) -> list[int]:
    """Return a topic's partitions; asking makes the topic where the brokers allow that."""
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            known = client.list_topics(topic, timeout=_PATIENCE).topics.get(topic)
        except KafkaException as error:
            raise _failed(error, topic) from error
        if known is not None and known.partitions and known.error is None:
            return sorted(known.partitions)
        if time.monotonic() > end:
            raise Unavailable("there is no such topic", where=topic, fix="make the topic")
        time.sleep(0.1)


def _text(value: str | bytes | None) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value or ""


def _failed(error: KafkaException, where: str) -> KilterError:
    reason = error.args[0] if error.args else None
    return _error(reason, where) if isinstance(reason, KafkaError) else Unavailable(str(error), where=where)


def _error(reason: KafkaError, where: str) -> KilterError:
    if reason.code() in {KafkaError.FENCED_INSTANCE_ID, KafkaError._FENCED}:  # noqa: SLF001
        return Conflict(
            "another member of that name has taken over", where=where, fix="give each member its own instance"
        )
    return Unavailable(f"Kafka: {reason.str()}", where=where, fix="check the brokers and the rights")
