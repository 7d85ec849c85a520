"""The calls that a training makes all the time, read straight into what they are made of.

Only the plain form is read here, the one that clients send: every field by its own name and of its own type. Anything else is read field
by field as all other calls are, with MLflow's words for what can't be used.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, TypeVar

import msgspec

from kilter.server.mlflow.limits import check_batch, check_key
from kilter.server.mlflow.runs import Runs, moment
from kilter.tracking.records import MetricPoint

T = TypeVar("T")

_Whole = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Time = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Key = Annotated[str, msgspec.Meta(min_length=1)]
_REMEMBERED = 10_000


class _Metric(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    key: _Key
    value: float
    timestamp: _Time
    step: _Whole = 0


class _LogMetric(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    run_id: _Key
    key: _Key
    value: float
    timestamp: _Time
    step: _Whole = 0
    run_uuid: str = ""


class _LogBatch(msgspec.Struct, forbid_unknown_fields=True):
    run_id: _Key
    metrics: list[_Metric]
    params: Annotated[list[None], msgspec.Meta(max_length=0)] = []
    tags: Annotated[list[None], msgspec.Meta(max_length=0)] = []


_METRIC = msgspec.json.Decoder(_LogMetric)
_BATCH = msgspec.json.Decoder(_LogBatch)


class Hot:
    """Reads and runs the hot calls; each returns whether it could.

    Args:
        runs: The calls about runs.
    """

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._names: set[str] = set()
        self.calls: dict[str, Callable[[bytes], bool]] = {
            "/runs/log-metric": self.log_metric,
            "/runs/log-batch": self.log_batch,
        }

    def log_metric(self, body: bytes) -> bool:
        """``runs/log-metric``."""
        found = _read(_METRIC, body)
        if found is None:
            return False
        self._check(found.key, "name")
        self._runs.log(
            found.run_id, [MetricPoint(name=found.key, value=found.value, step=found.step, at=moment(found.timestamp))]
        )
        return True

    def log_batch(self, body: bytes) -> bool:
        """``runs/log-batch``, of metrics alone."""
        found = _read(_BATCH, body)
        if found is None:
            return False
        check_batch({"metrics": len(found.metrics)})
        times: dict[int, datetime] = {}
        points = []
        for place, one in enumerate(found.metrics):
            if one.key not in self._names:
                self._check(one.key, f"metrics[{place}].name")
            at = times.get(one.timestamp)
            if at is None:
                at = times[one.timestamp] = moment(one.timestamp)
            points.append(MetricPoint(name=one.key, value=one.value, step=one.step, at=at))
        self._runs.log(found.run_id, points)
        return True

    def _check(self, key: str, path: str) -> None:
        if key not in self._names:
            check_key(key, path, "Metric name")
            if len(self._names) < _REMEMBERED:
                self._names.add(key)


def _read(decoder: msgspec.json.Decoder[T], body: bytes) -> T | None:
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
