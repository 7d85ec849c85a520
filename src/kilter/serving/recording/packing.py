"""How predictions lie in the log: what is alike in all rows is there once, and made-up keys are counted, not listed.

Records of the first layout (tag ``p``) are :class:`PredictionBatch` as it is; those of the second (tag ``p2``) are
:class:`PackedBatch`. Several rows are written in the second, one row, where nothing can be left out, in the first.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from datetime import datetime
from typing import TypeVar

import msgspec

from kilter.serving.records import Arm, Item, Keys, PredictionBatch, Run, Runs, Scalar, common

T = TypeVar("T")


class PackedBatch(msgspec.Struct, frozen=True, kw_only=True, tag="p2", omit_defaults=True):
    """A :class:`PredictionBatch` as it lies in the log; what is not said here is the same as there.

    Args:
        keys: Per row its key, or per run of made-up ones what they begin with, and how many they are.
        times: Per row; one per request, or one for all, when they are the same.
        arms: Per row; one for all when they are the same.
        versions: Per row; one for all when they are the same.
        values: Little-endian float64, row-major.
    """

    at: datetime
    loop: str
    generation: int
    share: int
    keys: list[str | Run]
    times: list[datetime]
    arms: list[Arm]
    versions: list[int]
    values: bytes
    requests: list[Item]
    latency_us: int
    inputs: dict[str, list[Scalar]] = {}
    width: int = 1
    columns: tuple[str, ...] = ()
    matrix: bytes = b""
    single: bool = False
    took_us: dict[int, int] = {}
    split: dict[int, float] = {}
    experiment: str = ""
    sampled: list[int] | None = None


def packed(batch: PredictionBatch) -> PackedBatch:
    """Return a batch as it is written."""
    keys = batch.keys
    return PackedBatch(
        at=batch.at,
        loop=batch.loop,
        generation=batch.generation,
        share=batch.share,
        keys=keys.runs if isinstance(keys, Keys) else keys,  # type: ignore[arg-type]
        times=_times(batch),
        arms=_once(batch.arms),
        versions=_once(batch.versions),
        values=array("d", batch.values).tobytes(),
        requests=batch.requests,
        latency_us=batch.latency_us,
        inputs=batch.inputs,
        width=batch.width,
        columns=batch.columns,
        matrix=batch.matrix,
        single=batch.single,
        took_us=batch.took_us,
        split=batch.split,
        experiment=batch.experiment,
        sampled=batch.sampled,
    )


def unpacked(batch: PackedBatch) -> PredictionBatch:
    """Return a batch as it was before it was written."""
    keys = list(Keys(batch.keys))
    rows = len(keys)
    return PredictionBatch(
        at=batch.at,
        loop=batch.loop,
        generation=batch.generation,
        share=batch.share,
        keys=keys,
        times=_spread_times(batch.times, batch.requests, rows),
        arms=spread(batch.arms, rows),
        versions=spread(batch.versions, rows),
        values=array("d", batch.values).tolist(),
        requests=batch.requests,
        latency_us=batch.latency_us,
        inputs=batch.inputs,
        width=batch.width,
        columns=batch.columns,
        matrix=batch.matrix,
        single=batch.single,
        took_us=batch.took_us,
        split=batch.split,
        experiment=batch.experiment,
        sampled=batch.sampled,
    )


def spread(values: list[T], rows: int) -> list[T]:
    """Return a column with a value per row; one value stands for all."""
    return values * rows if len(values) == 1 else values


def _once(values: Sequence[T]) -> list[T]:
    one = common(values)
    return [one] if one is not None else list(values)


def _times(batch: PredictionBatch) -> list[datetime]:
    times = batch.times
    if isinstance(times, Runs) and [count for _, count in times.runs] == [item.rows for item in batch.requests]:
        found = [time for time, _ in times.runs]
        return found[:1] if found.count(found[0]) == len(found) else found
    return _once(times)


def _spread_times(times: list[datetime], requests: list[Item], rows: int) -> list[datetime]:
    if len(times) == len(requests) < rows:
        return [time for time, item in zip(times, requests, strict=True) for _ in range(item.rows)]
    return spread(times, rows)
