"""Topics of Google Cloud Pub/Sub: a subscription per group, acknowledged after the answers, with the note in the store's folder.

A subscription with exactly-once delivery remembers what was acknowledged, and gives a message to nobody else while its lease lasts;
it has no place for a note. The note may be older than the acknowledgements, because an older one only makes the next reader look
further back: so it is a file, written after the acknowledgements were confirmed, and a reader that finds none looks at everything.

What was written is found through a subscription that is made for the look, and set back to the mark's time. Pub/Sub has no end that
one could ask for, so the look ends when nothing has come for a while (``settle``): of all engines this one alone has a guarantee
that hangs on a time. The ids of messages are in their attributes, so that a reader can tell.

Source: "Exactly-once delivery", "Order messages" and "Replay and purge messages" of the Pub/Sub documentation; google.pubsub.v1.
"""

from __future__ import annotations

import base64
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
from google.api_core import exceptions
from google.auth.exceptions import GoogleAuthError
from google.cloud import pubsub_v1  # type: ignore[import-untyped]
from google.pubsub_v1 import PublisherClient, types

from kilter.core.digests import digest
from kilter.core.errors import Conflict, Damaged, InvalidInput, KilterError, Unavailable
from kilter.engines.streams.port import Message, Outgoing, Taken
from kilter.engines.streams.pubsub_pull import Receiver, acknowledge

OPTIONS = {
    "start": "earliest or latest: where a new group begins; earliest is what the topic retains (default: earliest)",
    "lease": "seconds after which messages of a dead process are given again, 10 to 600 (default: 60)",
    "subscription": "the group's subscription; made if there is none (default: kilter-GROUP-TOPIC)",
    "settle": "seconds of silence after which a topic counts as read to its end (default: 5)",
    "endpoint": "a regional endpoint, without which order holds only within what one region gives",
    "credentials": "a file of a service account (default: what the environment says)",
}
_ID = "kilter-id"
_REASON = "kilter-reason"
_KEY = "kilter-key"
_WRITER = "kilter-writer"
_PATIENCE = 30.0
_MARGIN = 10.0
"""Seconds by which a mark lies before this machine's clock, which is not Pub/Sub's."""
_CALL_MESSAGES = 1_000
_CALL_BYTES = 8 << 20
_ATTRIBUTE_BYTES = 1_024
_ONCE: dict[str, Any] = {"retry": None, "timeout": _PATIENCE}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Kept(msgspec.Struct, frozen=True):
    """What a group's file says: the note, the messages of the last commit, whether all was set up, and whether its reader left."""

    note: str
    done: list[str] = []
    is_begun: bool = True
    is_closed: bool = False


class _Mark(msgspec.Struct, frozen=True, array_like=True):
    """How far a topic is: a time, and of one writer the messages that lie before the mark although they came behind that time."""

    at: float
    writer: str
    count: int


class PubSubSource:
    """A topic, read by a group of one.

    Args:
        project: The project.
        topic: The topic.
        group: Whose subscription it is.
        mark: Says how far the written streams are; noted where the group begins.
        options: See ``OPTIONS``.
        folder: The folder of the workspace's own streams, for the note.

    Raises:
        Conflict: When another process reads for the group, on this machine.
        InvalidInput: When the subscription is one that forgets acknowledgements or mixes up the order.
    """

    def __init__(
        self, project: str, topic: str, group: str, mark: Callable[[], str], options: Mapping[str, str], *, folder: Path
    ) -> None:
        self._topic = topic
        self._lease = _seconds(options, "lease", 60.0, 10.0, 600.0)
        self._settle = _seconds(options, "settle", 5.0, 0.1, 600.0)
        self._name = f"projects/{project}/topics/{topic}"
        named = options.get("subscription") or f"kilter-{group}-{topic}"
        self._subscription = f"projects/{project}/subscriptions/{named}"
        self._file = _File(folder, self._subscription, f"{topic}@{group}")
        try:
            with _calling(topic):
                self._client = _client(pubsub_v1.SubscriberClient, options)
                kept = self._begin(mark, latest=options.get("start") == "latest")
        except BaseException:
            self._file.close()
            raise
        self._note = kept.note
        self._gone = set(kept.done)
        self._taken: list[Any] = []
        self._silent_since = time.monotonic()
        # Until then messages may come that a reader before this one had, and nobody can say which.
        self._unsettled_until = self._silent_since + (0.0 if kept.is_closed else self._lease + 1.0)
        self._receiver = Receiver(self._client, self._subscription, self._lease)

    def _begin(self, mark: Callable[[], str], *, latest: bool) -> _Kept:
        """Make the subscription where there is none; return what the group's file says."""
        kept, self._notes, self._is_settled = self._file.read(), tuple[str, ...](), False
        try:
            found = self._client.get_subscription(subscription=self._subscription, **_ONCE)
        except exceptions.NotFound:
            self._is_settled = True
            kept = _Kept(mark(), is_begun=latest)
            self._file.write(kept)
            found = self._client.create_subscription(
                request=types.Subscription(
                    name=self._subscription,
                    topic=self._name,
                    ack_deadline_seconds=int(self._lease),
                    enable_exactly_once_delivery=True,
                    enable_message_ordering=True,
                    expiration_policy=types.ExpirationPolicy(),  # never
                ),
                **_ONCE,
            )
        else:
            self._notes = (kept.note if kept else "",)
        if not (found.enable_exactly_once_delivery and found.enable_message_ordering):
            raise InvalidInput(
                "the subscription has no exactly-once delivery, or no order", where=self._subscription,
                fix="make it with --enable-exactly-once-delivery --enable-message-ordering, or leave that to this program",
            )  # fmt: skip
        if kept is not None and not kept.is_begun:
            self._client.seek(request={"subscription": self._subscription, "time": _EPOCH}, **_ONCE)
        kept = msgspec.structs.replace(kept or _Kept(""), is_begun=True)
        self._file.write(msgspec.structs.replace(kept, is_closed=False))
        return kept

    def take(self, most: int, wait: float) -> Taken:
        """Return the next messages: at most ``most``, none when there are none within ``wait`` seconds."""
        if self._notes:
            notes, self._notes = self._notes, ()
            return Taken([], notes)
        with _calling(self._topic):
            found = self._receiver.take(most, wait)
        self._taken += found
        if not self._is_settled:
            self._gone.update(one.message.message_id for one in found)
            self._look(len(found))
        return Taken([_message(self._topic, one.message) for one in found])

    def commit(self, note: str | None) -> None:
        """Acknowledge, wait until that is confirmed, and write the note: an older note is as safe, a newer one is not.

        Raises:
            Conflict: When a lease was lost: the message may be with another reader by now.
        """
        leases = [one.ack_id for one in self._taken]
        with _calling(self._topic):
            acknowledge(self._client, self._subscription, leases)
        self._receiver.forget(leases)
        self._note = self._note if note is None else note
        self._file.write(_Kept(self._note, [one.message.message_id for one in self._taken]))
        self._taken = []

    def awaits(self, id: str) -> bool:  # noqa: A002 - a message's own word
        """Return whether the message of that id may still be taken here: for a while after a crash, every one that has not come."""
        topic, _, number = id.rpartition("/")
        if topic != self._topic:
            return False
        if not self._is_settled:
            return number not in self._gone
        return self._receiver.has(number)

    def lag(self) -> int:
        """Return how many messages have come and were not taken, and one where more may come of a reader that died."""
        count = self._receiver.count(self._settle)
        self._look(count)
        return count or int(not self._is_settled)

    def close(self) -> None:
        """Give back what was not acknowledged, at once."""
        is_given_back = self._receiver.stop()
        self._client.close()
        kept = self._file.read()
        if kept is not None and is_given_back:
            self._file.write(msgspec.structs.replace(kept, is_closed=True))
        self._file.close()

    def _look(self, count: int) -> None:
        """Find out whether all has come again that a reader before this one had: its leases are over, and nothing came for a while."""
        now = time.monotonic()
        self._silent_since = now if count else self._silent_since
        is_silent = now - self._silent_since >= self._settle or now - self._unsettled_until > 10 * self._lease
        if is_silent and now >= self._unsettled_until:
            self._is_settled = True
            self._gone.clear()


class _File:
    """The file of a group, held by one process of this machine."""

    def __init__(self, folder: Path, subscription: str, where: str) -> None:
        (folder / ".cursors").mkdir(parents=True, exist_ok=True)
        self._path = folder / ".cursors" / f"pubsub-{digest(subscription.encode())[:32]}.json"
        self._lock = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise Conflict("another process reads for that group", where=where,
                           fix="stop it, or choose another --group") from error  # fmt: skip

    def read(self) -> _Kept | None:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_Kept)
        except FileNotFoundError:
            return None
        except msgspec.MsgspecError as error:
            raise Damaged("the note can't be read", where=str(self._path), fix="remove it: all is looked at") from error

    def write(self, kept: _Kept) -> None:
        aside = self._path.with_suffix(".new")
        aside.write_bytes(msgspec.json.encode(kept))
        aside.replace(self._path)

    def close(self) -> None:
        os.close(self._lock)


class PubSubSink:
    """A topic to write; made if there is none, to be kept for a day.

    Args:
        project: The project.
        topic: The topic.
        options: ``settle``, ``endpoint`` and ``credentials``.

    Raises:
        InvalidInput: When the topic retains nothing: what was written could not be found again.
    """

    def __init__(self, project: str, topic: str, options: Mapping[str, str]) -> None:
        self._topic = topic
        self._project = project
        self._name = f"projects/{project}/topics/{topic}"
        self._options = dict(options)
        self._settle = _seconds(options, "settle", 5.0, 0.1, 600.0)
        self._writer = uuid4().hex
        self._count = 0
        self._waiting: list[Outgoing] = []
        with _calling(topic):
            self._client = _client(pubsub_v1.PublisherClient, options)
            try:
                found = self._client.get_topic(topic=self._name, **_ONCE)
            except exceptions.NotFound:
                found = self._client.create_topic(
                    request=types.Topic(name=self._name, message_retention_duration=timedelta(days=1)), **_ONCE
                )
        if not found.message_retention_duration:
            raise InvalidInput("the topic retains no messages, so nothing shows what was written before a crash",
                               where=topic, fix=f"gcloud pubsub topics update {topic} --message-retention-duration=1d")  # fmt: skip

    def send(self, messages: Sequence[Outgoing]) -> None:
        """Keep messages for the next flush."""
        self._waiting += messages

    def flush(self) -> None:
        """Publish what was sent; not tried again by itself: a call whose answer was lost may have been done."""
        call: list[Any] = []
        size = 0
        for one in self._waiting:
            self._count += 1
            message = _outgoing(one, f"{self._writer}/{self._count}")
            length = len(one.value) + len(one.id) + len(one.reason) + 2 * len(one.key) + 200
            if call and (len(call) == _CALL_MESSAGES or size + length > _CALL_BYTES):
                self._publish(call)
                call, size = [], 0
            call.append(message)
            size += length
        if call:
            self._publish(call)
        self._waiting = []

    def mark(self) -> str:
        """Return a time before now, and how many messages of this writer lie before the mark nevertheless."""
        return msgspec.json.encode(_Mark(time.time() - _MARGIN, self._writer, self._count)).decode()

    def since(self, mark: str) -> Iterator[str]:
        """Yield the ids of all messages behind a mark, and of others' from a few seconds before it."""
        begin = msgspec.json.decode(mark, type=_Mark) if mark else _Mark(0.0, "", 0)
        name = f"projects/{self._project}/subscriptions/kilter-look-{uuid4().hex}"
        with _calling(self._topic), _client(pubsub_v1.SubscriberClient, self._options) as client:
            look = types.Subscription(name=name, topic=self._name, ack_deadline_seconds=60,
                                      expiration_policy=types.ExpirationPolicy(ttl=timedelta(days=1)))  # fmt: skip
            client.create_subscription(request=look, **_ONCE)
            try:
                at = datetime.fromtimestamp(begin.at, UTC) if begin.at else _EPOCH
                client.seek(request={"subscription": name, "time": at}, **_ONCE)
                yield from self._look(client, name, begin)
            finally:
                client.delete_subscription(subscription=name, **_ONCE)

    def _look(self, client: Any, subscription: str, begin: _Mark) -> Iterator[str]:
        receiver = Receiver(client, subscription, 60.0)
        try:
            while found := receiver.take(_CALL_MESSAGES, self._settle):
                for one in found:
                    writer, _, count = one.message.attributes.get(_WRITER, "").partition("/")
                    is_ours = writer == begin.writer and count.isdecimal()
                    if _ID in one.message.attributes and not (is_ours and int(count) <= begin.count):
                        yield one.message.attributes[_ID]
                leases = [one.ack_id for one in found]
                receiver.forget(leases)
                acknowledge(client, subscription, leases)
        finally:
            receiver.stop()

    def close(self) -> None:
        """Close the connection."""
        self._client.transport.close()

    def _publish(self, messages: list[Any]) -> None:
        with _calling(self._topic):  # the client's own method would batch in a thread, and try again
            PublisherClient.publish(self._client, topic=self._name, messages=messages, **_ONCE)


def _message(topic: str, message: Any) -> Message:
    attributes = message.attributes
    key = base64.b64decode(attributes[_KEY]) if _KEY in attributes else message.ordering_key.encode()
    return Message(f"{topic}/{message.message_id}", key, message.data, attributes.get(_REASON, ""))


def _outgoing(message: Outgoing, place: str) -> Any:
    attributes = {_ID: message.id, _WRITER: place}
    if message.reason:
        attributes[_REASON] = message.reason.encode()[:_ATTRIBUTE_BYTES].decode("utf-8", "ignore")
    try:
        key = message.key.decode()
    except UnicodeDecodeError:
        key = ""
    if (message.key and not 0 < len(message.key) <= _ATTRIBUTE_BYTES) or (not key and message.key):
        attributes[_KEY], key = base64.b64encode(message.key).decode(), digest(message.key)[:32]
    return types.PubsubMessage(data=message.value, ordering_key=key, attributes=attributes)


def _client(kind: Any, options: Mapping[str, str]) -> Any:
    given = {"api_endpoint": options["endpoint"]} if options.get("endpoint") else None
    if not options.get("credentials"):
        return kind(client_options=given)
    try:
        return kind.from_service_account_file(options["credentials"], client_options=given)
    except (OSError, ValueError) as error:
        raise InvalidInput("the file is none of a service account", where="credentials") from error


def _seconds(options: Mapping[str, str], name: str, default: float, least: float, most: float) -> float:
    given = options.get(name, "")
    try:
        found = float(given) if given else default
    except ValueError:
        found = -1.0
    if not least <= found <= most:
        raise InvalidInput(f"{given!r}", where=name, allowed=f"{least:g} to {most:g} seconds")
    return found


@contextmanager
def _calling(topic: str) -> Iterator[None]:
    """Say what went wrong in the house's words."""
    try:
        yield
    except KilterError:
        raise
    except exceptions.InvalidArgument as error:
        raise InvalidInput(
            f"Pub/Sub: {error.message}", where=topic, allowed="what the service's limits allow"
        ) from error
    except (exceptions.GoogleAPICallError, exceptions.RetryError) as error:
        said = str(error).partition("\n")[0]
        raise Unavailable(f"Pub/Sub: {said}", where=topic, fix="check the project, the topic and the rights") from error
    except GoogleAuthError as error:
        said = str(error).partition("\n")[0]
        raise Unavailable(f"Pub/Sub: {said}", where=topic, fix="gcloud auth application-default login") from error
