"""The curves of several runs at once over MLflow's wire."""

from __future__ import annotations

from typing import Any

from kilter.core.errors import NotFound
from kilter.server.mlflow.fields import Fields, missing
from kilter.server.mlflow.problems import INVALID, MISSING, Refused
from kilter.server.mlflow.runs import metric_of
from kilter.tracking.service import RunService

_CURVES = 100
_SAMPLES = 2_500
_POINTS = 25_000


class Histories:
    """The calls about the points of several runs.

    Args:
        runs: The room's operations.
    """

    def __init__(self, runs: RunService) -> None:
        self._runs = runs

    def bulk(self, fields: Fields) -> dict[str, Any]:
        """``metrics/get-history-bulk``: run by run, in the order of their times."""
        runs = fields.texts("run_id")
        if not runs:
            raise Refused(INVALID, "GetMetricHistoryBulk request must specify at least one run_id.")
        if len(runs) > _CURVES:
            raise Refused(
                INVALID,
                f"GetMetricHistoryBulk request cannot specify more than {_CURVES} run_ids. Received {len(runs)} run_ids.",
            )
        if not fields.has("metric_key"):
            raise Refused(INVALID, "GetMetricHistoryBulk request must specify a metric_key.")
        key, left = fields.text("metric_key"), min(fields.integer("max_results", _POINTS, least=1), _POINTS)
        found: list[dict[str, Any]] = []
        for run in sorted(set(runs)):
            try:
                points = [metric_of(point) for point in self._runs.metric_points(run, key, limit=_POINTS)]
            except NotFound:  # a run that isn't there has no history, says MLflow
                continue
            points.sort(key=lambda point: (point["timestamp"], point["step"], str(point["value"])))
            found += [{**point, "run_id": run} for point in points[: left - len(found)]]
        return {"metrics": found}

    def sampled(self, fields: Fields) -> dict[str, Any]:
        """``metrics/get-history-bulk-interval``: each run's curve with so many points that a picture shows no difference."""
        runs, key = fields.texts("run_ids"), fields.text("metric_key", required=True)
        limit = fields.integer("max_results", 320)
        if not runs:
            raise missing("run_ids")
        if len(runs) > _CURVES:
            raise Refused(INVALID, f"GetMetricHistoryBulkInterval request must specify at most {_CURVES} run_ids.")
        if not 1 <= limit <= _SAMPLES:
            raise Refused(
                INVALID,
                f"max_results must be between 1 and {_SAMPLES}. See the API docs for more information about request parameters.",
            )
        first = fields.integer("start_step") if fields.has("start_step") else None
        last = fields.integer("end_step") if fields.has("end_step") else None
        if (first is None) != (last is None):
            raise Refused(INVALID, "If either start step or end step are specified, both must be specified.")
        if first is not None and last is not None and first > last:
            raise Refused(
                INVALID, f"end_step must be greater than start_step. Found start_step={first} and end_step={last}."
            )
        found: list[dict[str, Any]] = []
        for run in runs:
            try:
                points = self._runs.curve(run, key, limit, first, last)
            except NotFound:
                raise Refused(MISSING, f"Run with id={run} not found") from None
            found += [{**metric_of(point), "run_id": run} for point in points]
        return {"metrics": found}
