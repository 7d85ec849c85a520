"""The calls that a training makes all the time, read straight into what they are made of.

Only the plain form is read here, the one that clients send: every field by its own name and of its own type. Anything else, and all that is
to be refused, is read field by field as all other calls are, with MLflow's words for what can't be used: they are said in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal, TypeAlias, TypeVar

import msgspec

from kilter.core.errors import KilterError
from kilter.server.groups import Groups
from kilter.server.mlflow.limits import PARAM, TAG, check_batch, check_key, check_unique
from kilter.server.mlflow.runs import NAME
from kilter.tracking.columns import Points
from kilter.tracking.service import RunService
from kilter.tracking.together import Batch

T = TypeVar("T")

LARGEST = 1_000_000
"""Bytes of a body that is read here: one thread reads them all, and nobody is to wait long for somebody else's."""

_Whole = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Time = Annotated[int, msgspec.Meta(ge=0, le=253_402_300_799_999)]
_Value = float | Literal["NaN", "Infinity", "-Infinity"]
_Key = Annotated[str, msgspec.Meta(min_length=1)]
_REMEMBERED = 10_000


class _Metric(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    key: _Key
    value: _Value
    timestamp: _Time
    step: _Whole = 0


class _Said(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    key: _Key
    value: str = ""


class _LogMetric(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    run_id: _Key
    key: _Key
    value: _Value
    timestamp: _Time
    step: _Whole = 0
    run_uuid: str = ""


class _LogSaid(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    run_id: _Key
    key: _Key
    value: str = ""
    run_uuid: str = ""


class _LogBatch(msgspec.Struct, forbid_unknown_fields=True):
    run_id: _Key
    metrics: list[_Metric] = []
    params: list[_Said] = []
    tags: list[_Said] = []


_METRIC = msgspec.json.Decoder(_LogMetric)
_SAID = msgspec.json.Decoder(_LogSaid)
_BATCH = msgspec.json.Decoder(_LogBatch)

Reader: TypeAlias = Callable[[bytes], Batch | None]
"""Returns what a body logs, or None where it is not of the plain form."""


class Hot:
    """Reads the hot calls, and writes those that come at once in one commit.

    Args:
        runs: The room's operations.
    """

    def __init__(self, runs: RunService) -> None:
        self._together = runs.together()
        self._names: set[str] = set()
        self.calls: dict[str, Reader] = {
            "/runs/log-metric": self._metric,
            "/runs/log-parameter": self._parameter,
            "/runs/set-tag": self._tag,
            "/runs/log-batch": self._batch,
        }
        self.groups: Groups[tuple[Reader, bytes], bool] = Groups(self.write, self._together.close)

    def write(self, asked: Sequence[tuple[Reader, bytes]]) -> list[bool]:
        """Write what bodies say, and return of each whether that could be done; one that could not is asked the long way.

        Raises:
            Unavailable: When the store can't be written: nothing was.
        """
        found = [_read(reader, body) for reader, body in asked]
        plain = [batch for batch in found if batch is not None]
        written = iter(self._together.write(plain) if plain else ())
        return [batch is not None and next(written) for batch in found]

    def _metric(self, body: bytes) -> Batch:
        found = _METRIC.decode(body)
        self._check(found.key, "Metric name")
        points = Points([found.step], [float(found.value)], [found.timestamp * 1000])
        return Batch(found.run_id, {found.key: points})

    def _parameter(self, body: bytes) -> Batch:
        found = _SAID.decode(body)
        self._check(found.key, "Param key")
        return Batch(found.run_id, params={found.key: found.value[:PARAM]})

    def _tag(self, body: bytes) -> Batch | None:
        found = _SAID.decode(body)
        self._check(found.key, "key")
        return None if found.key == NAME else Batch(found.run_id, tags={found.key: found.value[:TAG]})

    def _batch(self, body: bytes) -> Batch | None:
        found = _BATCH.decode(body)
        check_batch({"metrics": len(found.metrics), "params": len(found.params), "tags": len(found.tags)})
        points: dict[str, Points] = {}
        for one in found.metrics:
            columns = points.get(one.key)
            if columns is None:
                self._check(one.key, "Metric name")
                columns = points[one.key] = Points([], [], [])
            columns.steps.append(one.step)
            columns.values.append(float(one.value))
            columns.times.append(one.timestamp * 1000)
        params = {one.key: one.value[:PARAM] for one in found.params}
        tags = {one.key: one.value[:TAG] for one in found.tags}
        check_unique([one.key for one in found.params])
        for key in (*params, *tags):
            self._check(key, "key")
        return None if NAME in tags else Batch(found.run_id, points, params, tags)

    def _check(self, key: str, what: str) -> None:
        if key not in self._names:
            check_key(key, "", what)
            if len(self._names) < _REMEMBERED:
                self._names.add(key)


def _read(reader: Reader, body: bytes) -> Batch | None:
    try:
        return reader(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, KilterError):
        return None
