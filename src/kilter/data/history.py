"""Batches that are no longer in the row log, made again from the parts in a table's files."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from kilter.data.batch import Batch, Scalar

_LARGEST = 50_000
"""Rows of one position above which they were a bulk load, which is told by its size only."""


def batches_of(table: str, parts: pl.DataFrame) -> Iterator[Batch]:
    """Yield parts as the batches that they came in; what the caller called an append is not known any more.

    Args:
        table: Whose parts they are.
        parts: With ``_at`` and ``_position``, sorted by ``_position``.
    """
    for group in parts.partition_by("_position", maintain_order=True):
        position, at = group["_position"][0], group["_at"].dt.epoch("us")[0]
        if group.height > _LARGEST:
            yield Batch(table, at, {}, bulk=group.height, position=position)
            continue
        columns: dict[str, list[Scalar]] = {}
        for column in group.drop("_at", "_position").get_columns():
            if column.null_count() == column.len():
                continue  # says nothing, as if it had not been sent
            held = column.dt.epoch("us") if isinstance(column.dtype, pl.Datetime) else column
            columns[column.name] = held.to_list()
        yield Batch(table, at, columns, position=position)
