"""The archive: closed segments of the prediction logs as Delta tables, one per endpoint, each segment exactly once.

A segment is one commit per table, and the commit itself says which segment of which front it holds: whoever was killed in
between finds out what is there, and goes on with the rest. Source: transaction identifiers of the Delta protocol.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import polars as pl

from kilter.core.errors import NotFound
from kilter.engines.tables.store import TableStore
from kilter.serving.recording.predictions import to_frame
from kilter.serving.records import PredictionBatch, Record, ShadowBatch

_TEXT = "_text"


class Archive:
    """The tables ``predictions/<endpoint>`` and ``shadows/<endpoint>`` of a store.

    Args:
        url: Where they lie: a folder, or the URL of a bucket.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        head, mark, options = url.partition("?")
        self._stores = {
            kind: TableStore.open(f"{head.rstrip('/')}/{kind}{mark}{options}") for kind in ("predictions", "shadows")
        }

    def add(self, front: str, segment: int, records: Iterable[tuple[int, Record]]) -> int:
        """Copy a segment's records; what of them is there already is not copied again.

        Args:
            front: Whose log it is.
            segment: Its number.
            records: All of its records, with their positions.

        Returns:
            How many rows were added.

        Raises:
            Unavailable: When the tables can't be written; nothing is half there then.
        """
        predictions: dict[str, list[tuple[int, Record]]] = {}
        shadows: dict[str, list[tuple[int, Record]]] = {}
        for position, record in records:
            kept = shadows if isinstance(record, ShadowBatch) else predictions
            kept.setdefault(record.loop, []).append((position, record))
        added = 0
        for kind, found in (("predictions", predictions), ("shadows", shadows)):
            for loop, batches in sorted(found.items()):
                store = self._stores[kind]
                if store.parts(loop, front) >= segment:
                    continue
                frame = _predicted(batches, front, loop) if kind == "predictions" else _shadowed(batches, front)
                store.append(loop, _fitted(frame, _schema(store, loop)), (front, segment))
                added += frame.height
        return added

    def scan(self, loop: str) -> pl.LazyFrame:
        """Return the predictions of an endpoint that are in the archive, lazily.

        Args:
            loop: The endpoint.

        Returns:
            ``id, loop, at, key, time, version, arm, share, generation, value, client, trace`` and ``x_<name>`` per input.

        Raises:
            NotFound: When there are none.
        """
        return self._stores["predictions"].scan(loop)


def _predicted(batches: list[tuple[int, Record]], front: str, loop: str) -> pl.DataFrame:
    frame = to_frame(batches, front, loop)
    items = [item for _, batch in batches if isinstance(batch, PredictionBatch) for item in batch.requests]
    clients = [item.client or None for item in items for _ in range(item.rows)]
    traces = [item.trace or None for item in items for _ in range(item.rows)]
    return frame.with_columns(
        pl.Series("client", clients, dtype=pl.String), pl.Series("trace", traces, dtype=pl.String)
    )


def _shadowed(batches: list[tuple[int, Record]], front: str) -> pl.DataFrame:
    rows = [
        (f"{front}-{batch.position:x}-{row:x}", batch.at, batch.version, batch.values[place * batch.width])
        for _, batch in batches
        if isinstance(batch, ShadowBatch)
        for place, row in enumerate(batch.rows)
    ]
    schema: dict[str, pl.DataType] = {
        "id": pl.String(),
        "at": pl.Datetime("us", "UTC"),
        "version": pl.Int64(),
        "value": pl.Float64(),
    }
    return pl.DataFrame(rows, schema=schema, orient="row")


def _schema(store: TableStore, loop: str) -> Mapping[str, pl.DataType]:
    try:
        return store.scan(loop).collect_schema()
    except NotFound:
        return {}


def _fitted(frame: pl.DataFrame, known: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """Return the frame with the table's types: what comes as a number once and as text at another time stays readable.

    Numbers become text where the table has text; text goes to a column of its own, ``x_name_text``, where it has numbers.
    """
    found: list[pl.Series] = []
    for column in frame.get_columns():
        kind = known.get(column.name)
        if kind is None or kind == column.dtype:
            found.append(column)
        elif kind == pl.String:
            found.append(column.cast(pl.String))
        elif column.null_count() < column.len():
            found.append(column.alias(f"{column.name}{_TEXT}"))
    return pl.DataFrame(found)
