"""The prediction log: what was answered, written before the answer is sent.

One record holds all rows of one turn of the front's event loop, by column, so that one ``write`` makes them all survive a
``kill -9``. A prediction's id is the front, the record's position and the row: ``main-1f4a0-3``; looking it up is one read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import polars as pl

from kilter.core.errors import Damaged, InvalidInput, NotFound
from kilter.engines.streams.log import Log
from kilter.serving.records import Prediction, PredictionBatch, Record, Scalar, ShadowBatch

_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)
PREDICTION_ID = re.compile(r"^([a-z0-9_]{1,64})-([0-9a-f]{1,14})-([0-9a-f]{1,8})$")
"""Front, position and row of a prediction."""
_TIME = pl.Datetime("us", "UTC")

FRONT_NAME = re.compile(r"^[a-z0-9_]{1,64}$")


class PredictionLog:
    """The log of one front.

    Args:
        log: The durable log underneath.
        front: The front's name; the first part of its predictions' ids.
    """

    def __init__(self, log: Log, front: str) -> None:
        self.front = front
        self._log = log

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
        """Write a record; when this returns, it survives the death of the process.

        Returns:
            Its position.
        """
        return self._log.append(_ENCODER.encode(record))

    def read(self, after: int = -1) -> Iterator[tuple[int, Record]]:
        """Yield positions and records in order, up to the end as it is then.

        Args:
            after: The position of the last record that is already known; -1 for all.
        """
        for position, payload in self._log.read(after):
            yield position, _decode(payload, position)

    def get(self, position: int) -> Record:
        """Return the record at a position.

        Raises:
            NotFound: When no record begins there.
        """
        return _decode(self._log.get(position), position)

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
    """
    front, position, row = parse_id(text)
    if not (root / front).is_dir():
        raise NotFound("there is no such prediction", where="id")
    log = PredictionLog.open(root, front)
    try:
        record = log.get(position)
    except NotFound as error:
        raise NotFound("there is no such prediction", where="id") from error
    finally:
        log.close()
    if not isinstance(record, PredictionBatch) or row >= len(record.values):
        raise NotFound("there is no such prediction", where="id")
    return Prediction(
        id=text,
        loop=record.loop,
        at=record.at,
        key=record.keys[row],
        time=record.times[row],
        arm=record.arms[row],
        version=record.versions[row],
        value=record.values[row],
        share=record.share,
        generation=record.generation,
        inputs={name: values[row] for name, values in record.inputs.items()},
    )


def to_frame(batches: Iterable[tuple[int, Record]], front: str = "main", loop: str | None = None) -> pl.DataFrame:
    """Return predictions as a frame, in the order of the log.

    Args:
        batches: Positions and records, as :meth:`PredictionLog.read` yields them; records of shadows are passed over.
        front: Whose log they are from.
        loop: Keep this endpoint's only; None for all.

    Returns:
        ``id, loop, at, key, time, version, arm, share, generation, value`` and ``x_<name>`` per input.
    """
    columns: dict[str, list[object]] = {name: [] for name in _SCHEMA}
    inputs: dict[str, list[Scalar]] = {}
    total = 0
    for position, batch in batches:
        if not isinstance(batch, PredictionBatch) or (loop is not None and batch.loop != loop):
            continue
        rows = len(batch.values)
        columns["id"] += [prediction_id(front, position, row) for row in range(rows)]
        columns["loop"] += [batch.loop] * rows
        columns["at"] += [_micros(batch.at)] * rows
        columns["key"] += batch.keys
        columns["time"] += [_micros(moment) for moment in batch.times]
        columns["version"] += batch.versions
        columns["arm"] += batch.arms
        columns["share"] += [batch.share] * rows
        columns["generation"] += [batch.generation] * rows
        columns["value"] += batch.values
        _extend(inputs, batch.inputs, total, rows)
        total += rows
    # Numbers become times far faster in a column than one by one.
    frame = pl.DataFrame(columns, schema={**_SCHEMA, "at": pl.Int64(), "time": pl.Int64()})
    return frame.with_columns(
        pl.col("at", "time").cast(_TIME), *(_series(name, values) for name, values in inputs.items())
    )


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
        ``id`` (of the prediction that was copied), ``shadow_version, shadow_value``.
    """
    ids: list[str] = []
    versions: list[int] = []
    values: list[float] = []
    for _, batch in batches:
        if isinstance(batch, ShadowBatch) and (loop is None or batch.loop == loop):
            ids += [prediction_id(front, batch.position, row) for row in batch.rows]
            versions += [batch.version] * len(batch.rows)
            values += batch.values
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
}


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


def _decode(payload: bytes, position: int) -> Record:
    try:
        return _DECODER.decode(payload)
    except msgspec.MsgspecError as error:
        raise Damaged(f"the record at {position} is no prediction", where="prediction log") from error
