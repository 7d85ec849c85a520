"""The prediction log: what was answered, written before the answer is sent.

One record holds all rows of one turn of the front's event loop, by column, so that one ``write`` makes them all survive a
``kill -9``. A prediction's id is the front, the record's position and the row: ``main-1f4a0-3``; looking it up is one read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import polars as pl

from kilter.core.errors import Damaged, Expired, InvalidInput, NotFound
from kilter.engines.streams.log import Log
from kilter.serving.recording.packing import PackedBatch, packed, unpacked
from kilter.serving.recording.redaction import Redactor
from kilter.serving.records import Item, Prediction, PredictionBatch, Record, Scalar, ShadowBatch

_ENCODER = msgspec.msgpack.Encoder(enc_hook=list)
"""A batch of the first layout may have its values in an array."""
_DECODER: msgspec.msgpack.Decoder[Record | PackedBatch] = msgspec.msgpack.Decoder(Record | PackedBatch)
PREDICTION_ID = re.compile(r"^([a-z0-9_]{1,64})-([0-9a-f]{1,14})-([0-9a-f]{1,8})$")
"""Front, position and row of a prediction."""
_TIME = pl.Datetime("us", "UTC")
_KEPT_BYTES = 1 << 20
"""How large a buffer is kept for the next record."""
_SPAN = timedelta(days=1)
"""How long a segment is written to, on the front's clock."""

FRONT_NAME = re.compile(r"^[a-z0-9_]{1,64}$")


class PredictionLog:
    """The log of one front.

    Args:
        log: The durable log underneath.
        front: The front's name; the first part of its predictions' ids.
    """

    def __init__(self, log: Log, front: str) -> None:
        self.front = front
        self.redactors: Mapping[str, Redactor] = {}
        """What may be recorded, by endpoint; of the others everything is."""
        self._log = log
        self._until: datetime | None = None
        self._buffer = bytearray()

    @classmethod
    def open(cls, root: Path, front: str = "main", *, readonly: bool = True) -> PredictionLog:
        """Open the log of a front.

        Args:
            root: The folder with one folder per front.
            front: Its name.
            readonly: Read beside the front; the front itself is the one writer.

        Raises:
            InvalidInput: When the name has other characters than a-z, 0-9 and the underscore.
            Conflict: When another front of that name is running.
        """
        if not FRONT_NAME.match(front):
            raise InvalidInput("that is no name for a front", where="front", allowed="1 to 64 of a-z, 0-9 and _")
        return cls(Log.open(root / front, readonly=readonly), front)

    def append(self, record: Record) -> int:
        """Write what may be recorded of a record; when this returns, it survives the death of the process.

        One thread writes: every record is put together in the same buffer.

        Returns:
            Its position.
        """
        redactor = self.redactors.get(record.loop)
        if redactor is not None:
            record = redactor.record(record)
        fresh = (self._until is None or record.at >= self._until) and self._lasted(record.at)
        written: Record | PackedBatch = record
        if isinstance(record, PredictionBatch) and len(record.keys) > 1:
            written = packed(record)
        _ENCODER.encode_into(written, self._buffer)
        position = self._log.append(self._buffer, fresh=fresh)
        if len(self._buffer) > _KEPT_BYTES:
            self._buffer = bytearray()
        return position

    def _lasted(self, at: datetime) -> bool:
        """Say whether the newest segment has lasted a day: a quiet one could not be removed for years."""
        if self._until is None:
            self._until = at + _SPAN
            newest = next((one.number for one in reversed(self._log.segments()) if one.size), None)
            if newest is not None:
                position, payload = self._log.first(newest)
                self._until = record_of(payload, position).at + _SPAN
        if at < self._until:
            return False
        self._until = at + _SPAN
        return True

    def read(self, after: int = -1) -> Iterator[tuple[int, Record]]:
        """Yield positions and records in order, up to the end as it is then.

        Args:
            after: The position of the last record that is already known; -1 for all.
        """
        for position, payload in self._log.read(after):
            yield position, record_of(payload, position)

    def get(self, position: int) -> Record:
        """Return the record at a position.

        Raises:
            NotFound: When no record begins there.
        """
        return record_of(self._log.get(position), position)

    def end(self) -> int:
        """Return the position of the last record, or -1."""
        return self._log.end()

    def close(self) -> None:
        """Close the log; another writer may have it then."""
        self._log.close()


def fronts(root: Path) -> tuple[str, ...]:
    """Return the names of the fronts that have a log, sorted."""
    return tuple(sorted(path.name for path in root.iterdir() if path.is_dir())) if root.is_dir() else ()


def prediction_id(front: str, position: int, row: int) -> str:
    """Return the id of a row of a record."""
    return f"{front}-{position:x}-{row:x}"


def parse_id(text: str) -> tuple[str, int, int]:
    """Return the front, position and row that an id names.

    Raises:
        NotFound: When the text is not an id.
    """
    found = PREDICTION_ID.match(text)
    if found is None:
        raise NotFound(
            "that is not the id of a prediction", where="id", allowed="front-position-row, like main-1f4a0-3"
        )
    return found.group(1), int(found.group(2), 16), int(found.group(3), 16)


def find(root: Path, text: str) -> Prediction:
    """Return a prediction by its id.

    Args:
        root: The folder with one folder per front.
        text: The id.

    Raises:
        NotFound: When there is no such prediction.
        Expired: When there was one, and its record was removed.
    """
    front, position, row = parse_id(text)
    if not (root / front).is_dir():
        raise NotFound("there is no such prediction", where="id")
    log = PredictionLog.open(root, front)
    try:
        record = log.get(position)
    except Expired as error:
        raise Expired(
            "the prediction has expired: its record was removed by the rule of retention",
            where="id",
            fix="look into the archive of its endpoint, if the store keeps one",
        ) from error
    except NotFound as error:
        raise NotFound("there is no such prediction", where="id") from error
    finally:
        log.close()
    if not isinstance(record, PredictionBatch) or row >= len(record.keys):
        raise NotFound("there is no such prediction", where="id")
    item, _ = _request_of(record, row)
    width = record.width
    return Prediction(
        id=text,
        loop=record.loop,
        at=record.at,
        key=record.keys[row],
        time=record.times[row],
        arm=record.arms[row],
        version=record.versions[row],
        value=record.values[row * width],
        share=record.share,
        generation=record.generation,
        inputs={name: values[row] for name, values in inputs_of(record).items()},
        values=tuple(record.values[row * width : (row + 1) * width]),
        client=item.client,
        trace=item.trace,
    )


def _request_of(batch: PredictionBatch, row: int) -> tuple[Item, int]:
    """Return the request that a row came in, and the row's place in it."""
    for item in batch.requests:
        if row < item.rows:
            return item, row
        row -= item.rows
    return Item(0), row


def inputs_of(batch: PredictionBatch) -> dict[str, list[Scalar]]:
    """Return what the answering models saw, by column; None where it was missing, or not recorded."""
    if batch.sampled is not None:
        return _spread(msgspec.structs.replace(batch, sampled=None), batch.sampled)
    if not batch.columns:
        return batch.inputs
    held = np.frombuffer(batch.matrix, dtype="<f4" if batch.single else "<f8").reshape(-1, len(batch.columns))
    missing = np.isnan(held).any(axis=0).tolist()
    found: dict[str, list[Scalar]] = {}
    for place, name in enumerate(batch.columns):
        values = held[:, place].tolist()
        found[name] = [None if math.isnan(value) else value for value in values] if missing[place] else values
    return found | batch.inputs


def _spread(batch: PredictionBatch, sampled: list[int]) -> dict[str, list[Scalar]]:
    """Return the inputs of a batch of which some rows are recorded, None in the others."""
    rows = len(batch.keys)
    found: dict[str, list[Scalar]] = {}
    for name, values in inputs_of(batch).items():
        column = found[name] = [None] * rows
        for row, value in zip(sampled, values, strict=True):
            column[row] = value
    return found


def to_frame(batches: Iterable[tuple[int, Record]], front: str = "main", loop: str | None = None) -> pl.DataFrame:
    """Return predictions as a frame, in the order of the log.

    Args:
        batches: Positions and records, as :meth:`PredictionLog.read` yields them; records of shadows are passed over.
        front: Whose log they are from.
        loop: Keep this endpoint's only; None for all.

    Returns:
        ``id, loop, at, key, time, version, arm, share, generation, value, latency_us`` and ``x_<name>`` per input. ``value`` is the first
        output; where there are several, ``values`` has the list of all. Where requests were routed as a whole, ``route`` has
        the key they were routed by. Where the inputs of a share of the rows are recorded, ``recorded`` says of which.
    """
    columns: dict[str, list[object]] = {name: [] for name in _SCHEMA}
    inputs: dict[str, list[Scalar]] = {}
    more = _Extras()
    total = 0
    for position, batch in batches:
        if not isinstance(batch, PredictionBatch) or (loop is not None and batch.loop != loop):
            continue
        rows = len(batch.keys)
        columns["id"] += [prediction_id(front, position, row) for row in range(rows)]
        columns["loop"] += [batch.loop] * rows
        columns["at"] += [_micros(batch.at)] * rows
        columns["key"] += batch.keys
        columns["time"] += [_micros(moment) for moment in batch.times]
        columns["version"] += batch.versions
        columns["arm"] += batch.arms
        columns["share"] += [batch.share] * rows
        columns["generation"] += [batch.generation] * rows
        columns["value"] += batch.values if batch.width == 1 else batch.values[:: batch.width]
        columns["latency_us"] += _latencies(batch, rows)
        _extend(inputs, inputs_of(batch), total, rows)
        more.add(batch, total)
        total += rows
    # Numbers become times far faster in a column than one by one.
    frame = pl.DataFrame(columns, schema={**_SCHEMA, "at": pl.Int64(), "time": pl.Int64()})
    return frame.with_columns(
        pl.col("at", "time").cast(_TIME),
        *(_series(name, values) for name, values in inputs.items()),
        *more.columns(total),
    )


class _Extras:
    """Columns that most frames don't need: all outputs, keys of whole requests, and which rows have their inputs."""

    def __init__(self) -> None:
        self._values: list[list[float] | None] = []
        self._routes: list[str | None] = []
        self._recorded: list[bool] = []

    def add(self, batch: PredictionBatch, before: int) -> None:
        if batch.width > 1:
            self._values += [None] * (before - len(self._values))
            width = batch.width
            self._values += [list(batch.values[row * width : (row + 1) * width]) for row in range(len(batch.keys))]
        if any(item.route for item in batch.requests):
            self._routes += [None] * (before - len(self._routes))
            for item in batch.requests:
                self._routes += [item.route or None] * item.rows
        if batch.sampled is not None:
            self._recorded += [True] * (before - len(self._recorded))
            kept = set(batch.sampled)
            self._recorded += [row in kept for row in range(len(batch.keys))]

    def columns(self, total: int) -> list[pl.Series]:
        found = []
        if self._values:
            held = self._values + [None] * (total - len(self._values))
            found.append(pl.Series("values", held, dtype=pl.List(pl.Float64)))
        if self._routes:
            keys = self._routes + [None] * (total - len(self._routes))
            found.append(pl.Series("route", keys, dtype=pl.String))
        if self._recorded:
            held_rows = self._recorded + [True] * (total - len(self._recorded))
            found.append(pl.Series("recorded", held_rows, dtype=pl.Boolean))
        return found


def _micros(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def shadows_to_frame(
    batches: Iterable[tuple[int, Record]], front: str = "main", loop: str | None = None
) -> pl.DataFrame:
    """Return what shadows answered.

    Args:
        batches: Positions and records; predictions themselves are passed over.
        front: Whose log they are from.
        loop: Keep this endpoint's only; None for all.

    Returns:
        ``id`` (of the prediction that was copied), ``shadow_version, shadow_value`` (of several outputs the first).
    """
    ids: list[str] = []
    versions: list[int] = []
    values: list[float] = []
    for _, batch in batches:
        if isinstance(batch, ShadowBatch) and (loop is None or batch.loop == loop):
            ids += [prediction_id(front, batch.position, row) for row in batch.rows]
            versions += [batch.version] * len(batch.rows)
            values += batch.values[:: batch.width]
    schema = {"id": pl.String, "shadow_version": pl.Int64, "shadow_value": pl.Float64}
    return pl.DataFrame({"id": ids, "shadow_version": versions, "shadow_value": values}, schema=schema)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_SCHEMA: dict[str, pl.DataType] = {
    "id": pl.String(),
    "loop": pl.String(),
    "at": _TIME,
    "key": pl.String(),
    "time": _TIME,
    "version": pl.Int64(),
    "arm": pl.String(),
    "share": pl.Int64(),
    "generation": pl.Int64(),
    "value": pl.Float64(),
    "latency_us": pl.Int64(),
}


def _latencies(batch: PredictionBatch, rows: int) -> list[int]:
    """Return how long each row's own version took; a row that another had to answer took as long as the batch."""
    if not batch.took_us:
        return [batch.latency_us] * rows
    own = batch.took_us
    return [
        batch.latency_us if arm == "fallback" else own.get(version, batch.latency_us)
        for arm, version in zip(batch.arms, batch.versions, strict=True)
    ]


def _extend(inputs: dict[str, list[Scalar]], found: dict[str, list[Scalar]], before: int, rows: int) -> None:
    """Add a batch's inputs; versions may have different ones, so every column is kept as long as the frame."""
    for name, values in found.items():
        inputs.setdefault(name, [None] * before).extend(values)
    for values in inputs.values():
        if len(values) < before + rows:
            values.extend([None] * rows)


def _series(name: str, values: list[Scalar]) -> pl.Series:
    text = any(isinstance(value, str) for value in values)
    if text:
        held = [value if value is None else str(value) for value in values]
        return pl.Series(f"x_{name}", held, dtype=pl.String)
    return pl.Series(f"x_{name}", [None if v is None else float(v) for v in values], dtype=pl.Float64)


def record_of(payload: bytes, position: int) -> Record:
    """Return the record that a payload of the log holds.

    Args:
        payload: The bytes.
        position: Where they were read, for the error.

    Raises:
        Damaged: When they hold none.
    """
    try:
        found = _DECODER.decode(payload)
    except msgspec.MsgspecError as error:
        raise Damaged(f"the record at {position} is no prediction", where="prediction log") from error
    return unpacked(found) if isinstance(found, PackedBatch) else found
