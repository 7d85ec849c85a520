"""The bytes of the online store: keys, rows, buckets, chapters and the state of a view."""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import msgspec
import numpy as np
import polars as pl
from blake3 import blake3

from kilter.data.batch import Scalar
from kilter.features.plan import Plan
from kilter.features.windows import as_fields

_PACK = msgspec.msgpack.Encoder()
_UNPACK = msgspec.msgpack.Decoder(list)
_CHAPTER = msgspec.msgpack.Decoder(tuple[int, list[bytes]])
_HEADING = msgspec.msgpack.Decoder(tuple[int, msgspec.Raw])
_COUNT = struct.Struct("<Q")
_NUMBER = struct.Struct(">Q")
_SIGN = 1 << 63
_LONGEST_NAME = 400
_ROW, _BUCKET, _CHAPTERS, _STATE = b"r", b"b", b"c", b"s"
_BUCKETS_PER_WINDOW = 8
_LEAST_WIDTH = 1_000_000


def bucket_width(plan: Plan) -> int:
    """Return the length of a bucket in microseconds: an eighth of the longest window, so a lookup reads about ten."""
    return max(plan.longest // _BUCKETS_PER_WINDOW, _LEAST_WIDTH)


class Keys:
    """The keys of one view's entries.

    Args:
        plan: The compiled view; the first 16 bytes of its digest begin each key.
    """

    def __init__(self, plan: Plan) -> None:
        self._view = bytes.fromhex(plan.digest)[:16]
        self.width = bucket_width(plan)
        self.state = self._view + _STATE
        self._rows = self._view + _ROW

    def row(self, key: Scalar) -> bytes:
        """Return the key of a row's entry."""
        return self._rows + _named(key)

    def is_row(self, entry: bytes) -> bool:
        """Return whether an entry is a row."""
        return entry.startswith(self._rows)

    def entity(self, entity: str) -> bytes:
        """Return the prefix of an entity's buckets."""
        return self._view + _BUCKET + _named(entity)

    def bucket(self, entity: bytes, number: int) -> bytes:
        """Return the key of a bucket: the prefix of its entity, and its number."""
        return entity + _NUMBER.pack(number + _SIGN)

    def chapter(self, number: int) -> bytes:
        """Return the key of a chapter."""
        return self._view + _CHAPTERS + _NUMBER.pack(number)

    @staticmethod
    def pack_chapter(newest: int, entries: Sequence[bytes]) -> bytes:
        """Return a chapter: the time until which nothing of it is old, and the entries."""
        return _PACK.encode((newest, entries))

    @staticmethod
    def unpack_chapter(packed: bytes) -> tuple[int, list[bytes]]:
        """Return what :meth:`pack_chapter` was given."""
        return _CHAPTER.decode(packed)

    @staticmethod
    def newest_of(packed: bytes) -> int:
        """Return the time until which nothing of a chapter is old, without making its entries."""
        return _HEADING.decode(packed)[0]


def _named(key: Scalar) -> bytes:
    name = str(key).encode()
    return name if len(name) <= _LONGEST_NAME else b"\x00" + blake3(name).digest()


class State(msgspec.Struct, frozen=True, array_like=True):
    """How far a view has read its table.

    Args:
        position: Of the last batch in the row log that it holds.
        at: When that batch arrived, microseconds.
        newest: An upper bound of its newest event's time, microseconds.
        head: The number of the next chapter.
        tail: The number of the oldest chapter.
    """

    position: int
    at: int
    newest: int = 0
    head: int = 0
    tail: int = 0

    def pack(self) -> bytes:
        """Return the state as bytes."""
        return _PACK.encode(self)

    @staticmethod
    def unpack(packed: bytes) -> State:
        """Return the state that bytes hold."""
        return msgspec.msgpack.decode(packed, type=State)

    def advanced(self, position: int, at: int, newest: int | None, *, read: int) -> State:
        """Return the state after a batch, with ``read`` chapters forgotten."""
        later = self.newest if newest is None else max(self.newest, newest)
        return State(position, max(self.at, at), later, self.head, self.tail + read)

    def opened(self) -> State:
        """Return the state with one more chapter."""
        return State(self.position, self.at, self.newest, self.head + 1, self.tail)


class Row:
    """What is known of a row: its entity, its time and its values, each possibly null.

    Args:
        values: ``[entity, time, *columns]``.
        new: Whether the store did not have it.
    """

    __slots__ = ("new", "values")

    EMPTY: ClassVar[bytes] = _PACK.encode([])
    """A row of which nothing is known."""

    def __init__(self, values: list[Scalar], *, new: bool) -> None:
        self.values = values
        self.new = new

    @classmethod
    def unpack(cls, packed: bytes | None, width: int) -> Row:
        """Return a stored row, or an empty one of ``width`` values."""
        if packed is None or packed == cls.EMPTY:
            return cls([None] * width, new=packed is None)
        return cls(_UNPACK.decode(packed), new=False)

    def pack(self) -> bytes:
        """Return the row as bytes."""
        return _PACK.encode(self.values)

    def merged(self, part: Sequence[Scalar]) -> Row:
        """Return the row with a later part's values over its own; itself when the part says nothing new."""
        values = [old if new is None else new for new, old in zip(part, self.values, strict=True)]
        entity = values[0]
        if entity is not None and type(entity) is not str:
            values[0] = str(entity)
        return self if not self.new and values == self.values else Row(values, new=self.new)

    @property
    def has_time(self) -> bool:
        """Whether its time is known."""
        return self.values[1] is not None

    @property
    def time(self) -> int:
        """Its time in microseconds; only when it is known."""
        return int(self.values[1] or 0)

    def event(self, width: int) -> tuple[str, int] | None:
        """Return the entity and the bucket of the event that the row is, or None while it is none."""
        entity = self.values[0]
        return None if entity is None or not self.has_time else (str(entity), self.time // width)

    def fields(self, plan: Plan) -> tuple[int, ...]:
        """Return the event as its bucket keeps it: the time and each field's eight bytes as an integer."""
        found = [self.time]
        for field in plan.fields:
            value = self.values[2 + field.place]
            number = float(value) if isinstance(value, bool | int | float) and math.isfinite(value) else None
            if field.scale is not None:
                found.append(field.scale.quantise_one(number))
            else:
                found.append(_bits(number))
        return tuple(found)


def _bits(value: float | None) -> int:
    return int.from_bytes(struct.pack("<d", math.nan if value is None else value + 0.0), "little", signed=True)


class Bucket:
    """The events of one entity in one stretch of time.

    ``count (8) | times (8 each) | one array of 8 bytes each per field | keys (MessagePack)``, sorted by (time, key).
    """

    EMPTY: ClassVar[bytes] = _COUNT.pack(0) + _PACK.encode([])
    """A bucket without events."""

    @staticmethod
    def changed(plan: Plan, blob: bytes | None, changes: Mapping[Scalar, tuple[int, ...] | None]) -> bytes:
        """Return a bucket with events added, replaced, or (None) removed.

        Args:
            plan: The compiled view.
            blob: The bucket as it was, or None.
            changes: Per key of a row its event: the time and each field's eight bytes as an integer.
        """
        events: dict[Scalar, tuple[int, ...]] = {}
        if blob is not None:
            width = 1 + len(plan.fields)
            count = _COUNT.unpack_from(blob)[0]
            table = np.frombuffer(blob, "<i8", width * count, _COUNT.size).reshape(width, count)
            keys: list[Scalar] = _UNPACK.decode(memoryview(blob)[_COUNT.size * (1 + width * count) :])
            events = dict(zip(keys, zip(*table.tolist(), strict=True), strict=True))
        for key, event in changes.items():
            if event is None:
                events.pop(key, None)
            else:
                events[key] = event
        ordered = sorted(events.items(), key=lambda item: (item[1][0], item[0]))
        table = np.array([event for _, event in ordered], dtype="<i8")
        return _COUNT.pack(len(ordered)) + table.T.tobytes() + _PACK.encode([key for key, _ in ordered])

    @staticmethod
    def all_of(plan: Plan, events: pl.DataFrame, width: int) -> Iterator[tuple[str, int, bytes]]:
        """Yield the buckets of events: the entity, the number of the stretch of time, and the bucket.

        Args:
            plan: The compiled view.
            events: The view's columns, sorted by (entity, time, key).
            width: The length of a stretch in microseconds.
        """
        view = plan.view
        times = events[view.time].dt.epoch("us").to_numpy()
        fields = as_fields(plan, [events[name].cast(pl.Float64).to_numpy() for name in plan.columns])
        table = np.stack([times, *(values.view(np.int64) for values in fields)])
        names = events[view.table.key].to_list()
        entities = events[view.entity].cast(pl.String)
        numbers = times // width
        begins = (entities != entities.shift(1)).fill_null(value=True).to_numpy()
        begins[1:] |= numbers[1:] != numbers[:-1]
        edges = [*np.flatnonzero(begins).tolist(), len(names)]
        for start, stop in itertools.pairwise(edges):
            blob = _COUNT.pack(stop - start) + table[:, start:stop].tobytes() + _PACK.encode(names[start:stop])
            yield str(entities[start]), int(numbers[start]), blob

    @staticmethod
    def columns(plan: Plan, blobs: Sequence[bytes]) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return the times and the fields of consecutive buckets."""
        width = 1 + len(plan.fields)
        tables = []
        for blob in blobs:
            count = _COUNT.unpack_from(blob)[0]
            tables.append(np.frombuffer(blob, "<i8", width * count, _COUNT.size).reshape(width, count))
        table = tables[0] if len(tables) == 1 else np.concatenate(tables, axis=1)
        fields = [
            table[1 + place] if field.scale is not None else table[1 + place].view("<f8")
            for place, field in enumerate(plan.fields)
        ]
        return table[0], fields
