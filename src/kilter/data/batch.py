"""Rows that arrived together: the unit of the row log, column by column."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec
import polars as pl

Kind = str
"""``boolean``, ``integer``, ``float``, ``string`` or ``time``."""

Scalar = bool | int | float | str | None

TYPES: dict[str, pl.DataType] = {
    "boolean": pl.Boolean(),
    "integer": pl.Int64(),
    "float": pl.Float64(),
    "string": pl.String(),
    "time": pl.Datetime("us", "UTC"),
}

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Batch(msgspec.Struct, frozen=True, array_like=True):
    """Parts of rows, one per key, as one append brought them.

    Args:
        table: The table.
        at: When they arrived, microseconds since 1970 UTC.
        columns: The values by column, all of one length; null says nothing about a column; times are microseconds.
        request: The caller's id of the append, or empty.
        bulk: How many rows went to the table's files directly instead of being here; 0 for an append.
        position: Where the log has it; not part of the bytes.
    """

    table: str
    at: int
    columns: dict[str, list[Scalar]]
    request: str = ""
    bulk: int = 0
    position: int = -1

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Batch)


def encode(batch: Batch) -> bytes:
    """Return the batch as the payload of a log record."""
    return _ENCODER.encode(batch)


def decode(position: int, payload: bytes) -> Batch:
    """Return the batch of a log record, with its position."""
    return msgspec.structs.replace(_DECODER.decode(payload), position=position)


def micros(moment: datetime) -> int:
    """Return a moment as microseconds since 1970 UTC; a naive one is UTC already."""
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return (aware - _EPOCH) // _MICROSECOND


def moment_of(stamp: int) -> datetime:
    """Return microseconds since 1970 as a moment in UTC."""
    return _EPOCH + timedelta(microseconds=stamp)


def parts_frame(batches: Sequence[Batch], schema: dict[str, str]) -> pl.DataFrame:
    """Return batches as one frame of parts with the hidden columns ``_at`` and ``_position``.

    Args:
        batches: Of one table, in order.
        schema: The kinds of the table's columns; all of them are in the frame, null where a batch says nothing.
    """
    lengths = [len(batch) for batch in batches]
    data: dict[str, pl.Series] = {}
    for name, kind in schema.items():
        values: list[Scalar] = []
        for batch, length in zip(batches, lengths, strict=True):
            values.extend(batch.columns.get(name) or [None] * length)
        data[name] = series(name, values, kind)
    counts = pl.Series(lengths, dtype=pl.UInt32)
    for name, stamps, dtype in (
        ("_at", [batch.at for batch in batches], TYPES["time"]),
        ("_position", [batch.position for batch in batches], TYPES["integer"]),
    ):
        whole = pl.Series(name, stamps, dtype=pl.Int64).to_frame()
        data[name] = whole.select(pl.col(name).repeat_by(counts).explode())[name].cast(dtype).alias(name)
    return pl.DataFrame(data)


def series(name: str, values: Sequence[Scalar], kind: str) -> pl.Series:
    """Return stored values (times in microseconds) as a typed column."""
    if kind == "time":
        return pl.Series(name, values, dtype=pl.Int64).cast(TYPES["time"])
    return pl.Series(name, values, dtype=TYPES[kind])
