"""Data streams of Amazon Kinesis: shards in their order, with the cursor of a group and its note in one item of DynamoDB.

Kinesis keeps no position for readers, and its own client library keeps them in DynamoDB; so does this one, for the same reason: it
is durable, and it writes on a condition. One item holds the positions in all shards and the note, so that both move in one write,
which succeeds only for the process that opened the group last. It is written after the answers were.

A record is bytes and a partition key: there are no headers for an id and a reason. What is written is a CloudEvent in JSON, with the
message as its ``data``; what is read may be anything. ``PutRecords`` may refuse some records and take others behind them, so one
call has no two records of a key, and what was refused is written again before the next call.

Source: the Kinesis and DynamoDB APIs; "Handle duplicate records" and "Resharding" of the developer guide.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any
from uuid import uuid4

import boto3  # type: ignore[import-untyped]  # its types are a package of their own
import msgspec
from botocore.config import Config  # type: ignore[import-untyped]
from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

from kilter.core.digests import digest
from kilter.core.errors import Conflict, InvalidInput, KilterError, Unavailable
from kilter.engines.streams.cloud_events import decode, encode
from kilter.engines.streams.port import Message, Outgoing, Taken

OPTIONS = {
    "start": "earliest or latest: where a new group begins (default: earliest)",
    "cursors": "the DynamoDB table of the groups' cursors; made if there is none (default: kilter-cursors)",
    "profile": "a profile of the AWS configuration (default: what the environment says)",
    "endpoint": "the address of another server that speaks these APIs",
}
_PATIENCE = 30.0
_PAUSE = 0.25
"""Between two reads of a shard that had nothing new: five reads per second and shard are allowed."""
_MARGIN = 10.0
"""Seconds by which a mark lies before the server's clock, which is told in whole seconds."""
_RECORDS = 500
_BYTES = 4 << 20
"""Per call; five are allowed."""
_PAGE = 5_000
_COUNTED = 1_000
_KEY_LENGTH = 256
_DONE = "done"
"""The position in a shard that was closed, behind its last record."""
_REFUSALS = ("ProvisionedThroughputExceeded", "LimitExceeded", "KMSThrottling", "Throttling")


class _Cursor(msgspec.Struct, frozen=True):
    """Where a group is: a position per shard, and since when a group reads that began at the latest."""

    shards: dict[str, str]
    note: str
    since: float = 0.0


class _Mark(msgspec.Struct, frozen=True, array_like=True):
    """How far a stream is: a time, and of shards that are known better the last sequence number."""

    at: float
    ends: dict[str, str]


_ENCODE = msgspec.json.Encoder().encode


class _Stream:
    """A stream's calls: those that read are tried again by the library, those that write are not."""

    def __init__(self, region: str, name: str, options: Mapping[str, str]) -> None:
        self.name = name
        self._region, self._options = region, options
        self._clients: list[Any] = []
        self.reads = self.client("kinesis", tries=5)
        self.shards: dict[str, tuple[str, ...]] = {}
        self.now = 0.0
        self.look()

    def client(self, service: str, tries: int) -> Any:
        """Return a client; the library asks so often before it gives up."""
        retries = {"mode": "standard", "total_max_attempts": tries}
        config = Config(connect_timeout=5, read_timeout=_PATIENCE, retries=retries, region_name=self._region)
        with _calling(self.name):
            session = _session(self._options.get("profile"))
            made = session.client(service, endpoint_url=self._options.get("endpoint"), config=config)
        self._clients.append(made)
        return made

    def look(self) -> None:
        """Learn which shards there are, with the parents of each that are there as well, and what time it is there."""
        parents: dict[str, list[str]] = {}
        asked: dict[str, Any] = {"StreamName": self.name}
        while asked:
            with _calling(self.name):
                page = self.reads.list_shards(**asked)
            for one in page["Shards"]:
                named = (one.get("ParentShardId"), one.get("AdjacentParentShardId"))
                parents[one["ShardId"]] = [parent for parent in named if parent]
            asked = {"NextToken": page["NextToken"]} if page.get("NextToken") else {}
        self.now = _now(page)
        self.shards = {shard: tuple(one for one in found if one in parents) for shard, found in parents.items()}

    def iterator(self, shard: str, after: str = "", since: float = 0.0) -> str:
        """Return where to read: behind a sequence number, else from a time on, else from the oldest record on."""
        given: dict[str, Any] = {"ShardIteratorType": "TRIM_HORIZON"}
        if after:
            given = {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "StartingSequenceNumber": after}
        elif since:
            given = {"ShardIteratorType": "AT_TIMESTAMP", "Timestamp": datetime.fromtimestamp(since, UTC)}
        with _calling(self.name):
            found = self.reads.get_shard_iterator(StreamName=self.name, ShardId=shard, **given)
        return str(found["ShardIterator"])

    def behind(self, shard: str, after: str = "", since: float = 0.0, page: int = _PAGE) -> Iterator[dict[str, Any]]:
        """Yield the records of a shard up to its present end."""
        place: str | None = self.iterator(shard, after, since)
        end = time.monotonic() + _PATIENCE
        while place:
            try:
                with _calling(self.name):
                    found = self.reads.get_records(ShardIterator=place, Limit=page)
            except _ThrottledError:
                if time.monotonic() > end:
                    raise
                time.sleep(_PAUSE)
                continue
            end = time.monotonic() + _PATIENCE
            yield from found["Records"]
            place = found.get("NextShardIterator")
            if not found.get("MillisBehindLatest") and len(found["Records"]) < page:
                return

    def close(self) -> None:
        """Close the connections."""
        for client in self._clients:
            client.close()


class KinesisSource:
    """A stream, read by a group of one.

    Args:
        region: The region.
        stream: The stream.
        group: Whose cursor it is.
        mark: Says how far the written streams are; noted where the group begins.
        options: See ``OPTIONS``.
    """

    def __init__(
        self, region: str, stream: str, group: str, mark: Callable[[], str], options: Mapping[str, str] | None = None
    ) -> None:
        given = dict(options or {})
        self._name = stream
        self._stream = _Stream(region, stream, given)
        self._cursors = _Cursors(self._stream, given.get("cursors", "kilter-cursors"), f"{group}/{stream}")
        cursor = self._cursors.open()
        if cursor is None:
            began = self._stream.now if given.get("start") == "latest" else 0.0
            cursor, self._notes = _Cursor({}, mark(), began), tuple[str, ...]()
            self._cursors.save(cursor)
        else:
            self._notes = (cursor.note,)
        self._since, self._note = cursor.since, cursor.note
        self._at = cursor.shards
        self._places: dict[str, str] = {}
        self._due: dict[str, float] = {}

    def take(self, most: int, wait: float) -> Taken:
        """Return the next messages; a shard that came of others is read when those have been."""
        if self._notes:
            notes, self._notes = self._notes, ()
            return Taken([], notes)
        end = time.monotonic() + wait
        messages: list[Message] = []
        while True:
            for shard in self._open_shards():
                if len(messages) < most and self._due.get(shard, 0.0) <= time.monotonic():
                    messages += self._read(shard, most - len(messages))
            now = time.monotonic()
            if messages or now >= end:
                return Taken(messages)
            time.sleep(max(min([end, *(self._due.get(one, 0.0) for one in self._open_shards())]) - now, 0.01))

    def commit(self, note: str | None) -> None:
        """Move the positions in all shards and the note, in one write."""
        self._note = self._note if note is None else note
        self._cursors.save(_Cursor(self._at, self._note, self._since))

    def awaits(self, id: str) -> bool:  # noqa: A002 - a message's own word
        """Return whether the message of that id may still be taken here."""
        stream, shard, number = id.rsplit("/", 2) if id.count("/") >= 2 else ("", "", "")
        if stream != self._name or shard not in self._stream.shards:
            return False
        at = self._at.get(shard, "")
        return at != _DONE and int(number) > int(at or 0)

    def lag(self) -> int:
        """Return how many messages come behind the last ones taken, counted up to a thousand by reading them."""
        self._stream.look()
        count = 0
        for shard in self._stream.shards:
            at = self._at.get(shard, "")
            if at == _DONE:
                continue
            for _ in self._stream.behind(shard, at, self._since, _COUNTED):
                count += 1
                if count >= _COUNTED:
                    return count
        return count

    def close(self) -> None:
        """Close the connections."""
        self._stream.close()

    def _open_shards(self) -> list[str]:
        """Return the shards that are to be read now, the one that was read longest ago first."""
        shards = self._stream.shards
        ready = [
            one
            for one, parents in shards.items()
            if self._at.get(one) != _DONE and all(self._at.get(parent) == _DONE for parent in parents)
        ]
        return sorted(ready, key=lambda one: self._due.get(one, 0.0))

    def _read(self, shard: str, most: int) -> list[Message]:
        at = self._at.get(shard, "")
        try:
            if shard not in self._places:
                self._places[shard] = self._stream.iterator(shard, at, self._since)
            with _calling(self._name):
                found = self._stream.reads.get_records(ShardIterator=self._places[shard], Limit=min(most, _PAGE))
        except _ThrottledError:
            self._due[shard] = time.monotonic() + 4 * _PAUSE
            return []
        except _ExpiredError:
            del self._places[shard]  # nobody read for five minutes
            return []
        records = found["Records"]
        self._due[shard] = time.monotonic() + (0.0 if records else _PAUSE)
        if records:
            self._at[shard] = records[-1]["SequenceNumber"]
        if found.get("NextShardIterator"):
            self._places[shard] = found["NextShardIterator"]
        else:
            self._finish(shard)
        return [_message(self._name, shard, one) for one in records]

    def _finish(self, shard: str) -> None:
        """Leave a shard that was split or merged, and learn which came of it."""
        self._stream.look()
        self._at[shard] = _DONE
        self._at = {one: at for one, at in self._at.items() if one in self._stream.shards}  # the others have expired
        self._places.pop(shard, None)


class _Cursors:
    """The item of a group, which belongs to whoever opened it last."""

    def __init__(self, stream: _Stream, table: str, group: str) -> None:
        self._client = stream.client("dynamodb", tries=5)
        self._stream = stream.name
        self._table = table
        self._key = {"group": {"S": group}}
        self._reader = uuid4().hex

    def open(self) -> _Cursor | None:
        """Become the reader, and return the cursor of the one before."""
        with _calling(self._stream):
            try:
                self._client.describe_table(TableName=self._table)
            except self._client.exceptions.ResourceNotFoundException:
                self._make()
            found = self._client.update_item(
                TableName=self._table,
                Key=self._key,
                UpdateExpression="SET reader = :reader",
                ExpressionAttributeValues={":reader": {"S": self._reader}},
                ReturnValues="ALL_NEW",
            )["Attributes"]
        return msgspec.json.decode(found["cursor"]["S"], type=_Cursor) if "cursor" in found else None

    def save(self, cursor: _Cursor) -> None:
        """Write the cursor, if this is still the reader; to write it twice is to write it once."""
        with _calling(self._stream):
            self._client.update_item(
                TableName=self._table,
                Key=self._key,
                UpdateExpression="SET #cursor = :cursor",
                ConditionExpression="reader = :reader",
                ExpressionAttributeNames={"#cursor": "cursor"},
                ExpressionAttributeValues={
                    ":cursor": {"S": _ENCODE(cursor).decode()},
                    ":reader": {"S": self._reader},
                },
            )

    def _make(self) -> None:
        with suppress(self._client.exceptions.ResourceInUseException):  # somebody else is making it
            self._client.create_table(
                TableName=self._table,
                KeySchema=[{"AttributeName": "group", "KeyType": "HASH"}],
                AttributeDefinitions=[{"AttributeName": "group", "AttributeType": "S"}],
                BillingMode="PAY_PER_REQUEST",
            )
        waiter = self._client.get_waiter("table_exists")
        waiter.wait(TableName=self._table, WaiterConfig={"Delay": 1, "MaxAttempts": int(_PATIENCE)})


class KinesisSink:
    """A stream to write.

    Args:
        region: The region.
        stream: The stream.
        options: ``profile`` and ``endpoint``.
    """

    def __init__(self, region: str, stream: str, options: Mapping[str, str] | None = None) -> None:
        self._stream = _Stream(region, stream, options or {})
        # A write whose answer was lost may have been done: to write it again would double it.
        self._writes = self._stream.client("kinesis", tries=1)
        self._waiting: list[Outgoing] = []
        self._now = self._stream.now
        self._ends: dict[str, str] = {}
        for shard in self._stream.shards:
            for one in self._stream.behind(shard, since=self._now - _MARGIN):
                self._ends[shard] = one["SequenceNumber"]

    def send(self, messages: Sequence[Outgoing]) -> None:
        """Keep messages for the next flush."""
        self._waiting += messages

    def flush(self) -> None:
        """Write what was sent, in calls that have no two records of a key."""
        waves: list[list[dict[str, Any]]] = []
        seen: dict[str, int] = {}
        for one in self._waiting:
            record = _record(one)
            wave = seen.get(record["PartitionKey"], 0)
            seen[record["PartitionKey"]] = wave + 1
            if wave == len(waves):
                waves.append([])
            waves[wave].append(record)
        for records in waves:
            for call in _calls(records):
                self._put(call)
        self._waiting = []

    def mark(self) -> str:
        """Return the last sequence numbers, as this writer knows them, and a time before all that it doesn't know."""
        return _ENCODE(_Mark(self._now - _MARGIN, self._ends)).decode()

    def since(self, mark: str) -> Iterator[str]:
        """Yield the ids of all messages behind a mark."""
        begin = msgspec.json.decode(mark, type=_Mark) if mark else _Mark(0.0, {})
        self._stream.look()
        for shard in self._stream.shards:
            for one in self._stream.behind(shard, begin.ends.get(shard, ""), begin.at):
                if (event := decode(one["Data"])) is not None:
                    yield event.id

    def close(self) -> None:
        """Close the connections."""
        self._stream.close()

    def _put(self, records: list[dict[str, Any]]) -> None:
        """Write records, and those that were refused again, until all are there."""
        end, pause, refused = time.monotonic() + _PATIENCE, 0.1, "ThrottlingException"
        while records:
            left = records
            try:
                with _calling(self._stream.name):
                    answers = self._writes.put_records(StreamName=self._stream.name, Records=records)
            except _ThrottledError:
                pass
            else:
                left = []
                self._now = _now(answers)
                for record, answer in zip(records, answers["Records"], strict=True):
                    if answer.get("ErrorCode"):
                        refused = answer["ErrorCode"]
                        left.append(record)
                    elif int(answer["SequenceNumber"]) > int(self._ends.get(answer["ShardId"], 0)):
                        self._ends[answer["ShardId"]] = answer["SequenceNumber"]
            records = left
            if records and time.monotonic() > end:
                raise Unavailable(
                    f"{len(records)} records were refused: {refused}",
                    where=self._stream.name,
                    fix="give the stream more shards",
                )
            if records:
                time.sleep(pause)
                pause = min(2 * pause, 2.0)


@cache
def _session(profile: str | None) -> Any:
    """Return the session of a profile: it reads the descriptions of the services once."""
    return boto3.Session(profile_name=profile)


def _calls(records: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Yield records in as few calls as are allowed."""
    call: list[dict[str, Any]] = []
    size = 0
    for one in records:
        length = len(one["Data"]) + len(one["PartitionKey"].encode())
        if call and (len(call) == _RECORDS or size + length > _BYTES):
            yield call
            call, size = [], 0
        call.append(one)
        size += length
    if call:
        yield call


def _record(message: Outgoing) -> dict[str, Any]:
    key = message.key.decode("utf-8", "replace")
    if not 0 < len(key) <= _KEY_LENGTH:  # a message without a key may lie in any shard
        key = digest(message.key or message.id.encode())[:32]
    return {"Data": encode(message), "PartitionKey": key}


def _message(stream: str, shard: str, record: dict[str, Any]) -> Message:
    place = f"{stream}/{shard}/{record['SequenceNumber']}"
    event = decode(record["Data"])
    if event is None:
        return Message(place, record["PartitionKey"].encode(), record["Data"])
    return Message(place, event.key, event.value, event.reason)


def _now(answer: dict[str, Any]) -> float:
    """Return what time it was where an answer was given."""
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    return parsedate_to_datetime(date).timestamp() if date else time.time()


class _ThrottledError(Unavailable):
    """Too many calls for now."""


class _ExpiredError(Unavailable):
    """The place in a shard is no longer known to the server."""


@contextmanager
def _calling(stream: str) -> Iterator[None]:
    """Say what went wrong in the house's words."""
    try:
        yield
    except KilterError:
        raise
    except ClientError as error:
        raise _error(error, stream) from error
    except BotoCoreError as error:
        raise Unavailable(f"AWS: {error}", where=stream, fix="check region, network and credentials") from error


def _error(error: ClientError, stream: str) -> KilterError:
    code, said = error.response["Error"].get("Code", ""), error.response["Error"].get("Message", "")
    if code.removesuffix("Exception") in _REFUSALS:
        return _ThrottledError(f"AWS: {code}", where=stream, fix="give the stream more shards")
    if code == "ExpiredIteratorException":
        return _ExpiredError(f"AWS: {code}", where=stream)
    if code == "ConditionalCheckFailedException":
        return Conflict("another process reads for that group", where=stream, fix="stop it, or choose another --group")
    if code == "ResourceNotFoundException":
        return Unavailable("there is no such stream", where=stream, fix="make it: aws kinesis create-stream")
    if code in {"ValidationException", "InvalidArgumentException", "SerializationException"}:
        return InvalidInput(f"AWS: {code}: {said}", where=stream, allowed="what the service's limits allow")
    return Unavailable(f"AWS: {code}: {said}", where=stream, fix="check the service and the rights")
