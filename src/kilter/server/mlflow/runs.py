"""Runs over MLflow's wire."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from math import isfinite
from typing import Any, TypeVar

import msgspec

from kilter.core.errors import Conflict, InvalidInput, NotFound
from kilter.server.mlflow.experiments import EPOCH, Experiments, millis, view_of
from kilter.server.mlflow.fields import Fields
from kilter.server.mlflow.limits import (
    DATASET,
    PARAM,
    RUNS,
    TAG,
    check_batch,
    check_key,
    check_length,
    check_time,
    check_unique,
)
from kilter.server.mlflow.names import random_name
from kilter.server.mlflow.problems import INVALID, MISSING, Refused
from kilter.server.mlflow.words import in_mlflows_words
from kilter.tracking.records import DatasetInput, MetricPoint, ModelMetric, ModelUse, Number, Run, Status, spelled
from kilter.tracking.service import RunService

T = TypeVar("T")

PATIENCE = 3600.0
"""Seconds of silence from which a run counts as dead: MLflow's clients give no sign of life between two calls."""

NAME = "mlflow.runName"
"""The tag that is a run's name."""

_USER = "mlflow.user"
_MODELS = "mlflow.log-model.history"
_HISTORY = 1_000_000
_LARGEST = 2**63
_STATUSES: dict[str, Status] = {
    "RUNNING": "RUNNING",
    "SCHEDULED": "SCHEDULED",
    "FINISHED": "FINISHED",
    "FAILED": "FAILED",
    "KILLED": "INTERRUPTED",
    "1": "RUNNING",
    "2": "SCHEDULED",
    "3": "FINISHED",
    "4": "FAILED",
    "5": "INTERRUPTED",
}
_SHOWN = {"INTERRUPTED": "KILLED"}


class HistoryPoint(msgspec.Struct, frozen=True, gc=False):
    """A point as MLflow shows it; of a curve there are many.

    Args:
        key: The metric.
        value: Its value; what JSON can't say is spelled out.
        timestamp: Milliseconds since 1970.
        step: The step that it belongs to.
    """

    key: str
    value: Number
    timestamp: int
    step: int


class Runs:
    """The calls about runs.

    Args:
        runs: The room's operations.
        experiments: The calls about experiments.
    """

    def __init__(self, runs: RunService, experiments: Experiments) -> None:
        self._runs = runs
        self._experiments = experiments

    def create(self, fields: Fields) -> dict[str, Any]:
        """``runs/create``."""
        experiment = self._experiments.active(fields.text("experiment_id") or "0")
        tags = _tags(fields)
        name = fields.text("run_name")
        if name and tags.get(NAME, name) != name:
            raise Refused(
                INVALID,
                "Both 'run_name' argument and 'mlflow.runName' tag are specified, but with different values "
                f"(run_name='{name}', mlflow.runName='{tags[NAME]}').",
            )
        name = name or tags.get(NAME) or random_name()
        user = fields.text("user_id")
        run = self._runs.start(
            experiment.name,
            name,
            tags={**({_USER: user} if user and _USER not in tags else {}), **tags, NAME: name},
            started_at=moment(fields.integer("start_time")) if fields.has("start_time") else None,
            patience=PATIENCE,
        )
        return {"run": shown(run)}

    def get(self, fields: Fields) -> dict[str, Any]:
        """``runs/get``."""
        return {"run": shown(self._run(_run_id(fields)))}

    def update(self, fields: Fields) -> dict[str, Any]:
        """``runs/update``."""
        run, name = _run_id(fields), fields.optional("run_name")
        said = str(fields.integer("status")) if fields.whole("status") else fields.text("status")
        if said and said not in _STATUSES:
            raise Refused(INVALID, f"Invalid value {said[:60]} for parameter 'status' supplied.")
        ended = moment(fields.integer("end_time")) if fields.has("end_time") else None
        changed = self._active(run, lambda: self._runs.change(run, name or None, _STATUSES.get(said), ended))
        if name:
            self._runs.log_tags(run, {NAME: name})
        return {"run_info": _info(changed)}

    def delete(self, fields: Fields) -> dict[str, Any]:
        """``runs/delete``."""
        run = _run_id(fields)
        self._known(run, lambda: self._runs.delete(run))
        return {}

    def restore(self, fields: Fields) -> dict[str, Any]:
        """``runs/restore``."""
        run = _run_id(fields)
        self._known(run, lambda: self._runs.restore(run))
        return {}

    def log_metric(self, fields: Fields) -> dict[str, Any]:
        """``runs/log-metric``."""
        run, point = _run_id(fields), _point(fields, "")
        self.log(run, [point], of_models=_of_models(run, [fields], [point]))
        return {}

    def log_parameter(self, fields: Fields) -> dict[str, Any]:
        """``runs/log-parameter``."""
        run = _run_id(fields)
        self.log(run, params=dict([_param(fields, "")]))
        return {}

    def set_tag(self, fields: Fields) -> dict[str, Any]:
        """``runs/set-tag``."""
        run = _run_id(fields)
        self.log(run, tags=dict([_tag(fields, "")]))
        return {}

    def delete_tag(self, fields: Fields) -> dict[str, Any]:
        """``runs/delete-tag``."""
        run, key = _run_id(fields), fields.text("key", required=True)
        self._alive(run)
        try:
            self._runs.untag(run, key)
        except NotFound:
            raise Refused(MISSING, f"No tag with name: {key} in run with id {run}") from None
        return {}

    def log_batch(self, fields: Fields) -> dict[str, Any]:
        """``runs/log-batch``: all of it or nothing."""
        run = _run_id(fields)
        metrics, params, tags = fields.items("metrics"), fields.items("params"), fields.items("tags")
        check_batch({"metrics": len(metrics), "params": len(params), "tags": len(tags)})
        points = _points(metrics)
        given = [_param(one, f"params[{place}]") for place, one in enumerate(params)]
        check_unique([key for key, _ in given])
        said = dict(_tag(one, f"tags[{place}]") for place, one in enumerate(tags))
        self.log(run, points, dict(given), said, _of_models(run, metrics, points))
        return {}

    def log_inputs(self, fields: Fields) -> dict[str, Any]:
        """``runs/log-inputs``."""
        run = _run_id(fields)
        read = [_dataset(one) for one in fields.items("datasets")]
        self._use(
            run,
            read,
            [ModelUse(model=one.text("model_id", required=True), role="input") for one in fields.items("models")],
        )
        return {}

    def log_outputs(self, fields: Fields) -> dict[str, Any]:
        """``runs/outputs``."""
        made = [
            ModelUse(model=one.text("model_id", required=True), role="output", step=one.integer("step"))
            for one in fields.items("models")
        ]
        self._use(_run_id(fields), [], made)
        return {}

    def log_model(self, fields: Fields) -> dict[str, Any]:
        """``runs/log-model``, of clients before MLflow 3: a description of a model is kept in a tag."""
        run, text = _run_id(fields), fields.text("model_json", required=True)
        try:
            described = json.loads(text)
            before = json.loads(self._run(run).tags.get(_MODELS, "[]"))
        except (ValueError, RecursionError):
            raise Refused(INVALID, f"Malformed model info. \n {text[:1000]} \n is not a valid JSON.") from None
        if not (isinstance(described, dict) and isinstance(before, list)):
            raise Refused(INVALID, f"Malformed model info. \n {text[:1000]} \n is no description of a model.")
        absent = [name for name in ("artifact_path", "flavors", "utc_time_created", "run_id") if name not in described]
        if absent:
            raise Refused(INVALID, f"Model json is missing mandatory fields: {', '.join(absent)}")
        self.log(run, tags={_MODELS: json.dumps([*before, described])})
        return {}

    def _use(self, run: str, read: Sequence[DatasetInput], models: Sequence[ModelUse]) -> None:
        self._alive(run)
        try:
            self._runs.log_inputs(run, read, models)
        except NotFound as error:
            raise Refused(MISSING, f"Logged model not found: {error}") from None

    def history(self, fields: Fields) -> dict[str, Any]:
        """``metrics/get-history``, by pages where the client asks for them."""
        run, key = _run_id(fields), fields.text("metric_key", required=True)
        limit = fields.integer("max_results", least=1) if fields.has("max_results") else _HISTORY
        start = _place(fields.text("page_token"))
        try:
            points = self._runs.metric_columns(run, key, skip=start, limit=limit + 1)
        except NotFound:  # a run that isn't there has no history, says MLflow
            return {}
        shown = [
            HistoryPoint(key, value if isfinite(value) else spelled(value), at // 1000, step)
            for step, value, at in zip(*points, strict=True)
        ]
        answer: dict[str, Any] = {"metrics": shown[:limit]}
        return answer if len(shown) <= limit else {**answer, "next_page_token": str(start + limit)}

    def search(self, fields: Fields) -> dict[str, Any]:
        """``runs/search``."""
        limit = fields.integer("max_results", 1000, least=1)
        if limit > RUNS:
            raise Refused(
                INVALID,
                f"Invalid value {limit} for parameter 'max_results' supplied:  Hint: Value was of type 'int'. "
                "See the API docs for more information about request parameters.",
            )
        names = [found for text in fields.texts("experiment_ids") if (found := self._named(text)) is not None]
        try:
            page = self._runs.list(
                filter=fields.text("filter"),
                order=",".join(fields.texts("order_by")) or "-started",
                limit=limit,
                cursor=fields.text("page_token") or None,
                view=view_of(fields, "run_view_type"),
                among=names,
            )
        except InvalidInput as error:
            raise in_mlflows_words(error) from None
        answer: dict[str, Any] = {"runs": [shown(run) for run in page.runs]}
        return answer if page.cursor is None else {**answer, "next_page_token": page.cursor}

    def _named(self, number: str) -> str | None:
        """Return an experiment's name; a search among experiments that aren't there finds nothing."""
        try:
            return self._experiments.numbered(number).name
        except Refused as error:
            if error.mlflow_code == MISSING:
                return None
            raise

    def _run(self, run: str) -> Run:
        return self._known(run, lambda: self._runs.get(run))

    def log(
        self,
        run: str,
        points: Sequence[MetricPoint] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        of_models: Mapping[str, Sequence[ModelMetric]] | None = None,
    ) -> None:
        """Log to a run, all or none."""
        try:
            self._runs.log_batch(run, points, dict(params or {}), dict(tags or {}), of_models=dict(of_models or {}))
        except NotFound as error:
            self._run(run)
            raise Refused(MISSING, str(error)) from None
        except Conflict:
            self._alive(run)
            raise Refused(INVALID, self._changed(run, params or {})) from None
        if tags and tags.get(NAME):
            self._runs.change(run, name=tags[NAME])

    def _alive(self, run: str) -> None:
        if self._run(run).deleted_at is not None:
            raise Refused(INVALID, f"The run {run} must be in the 'active' state. Current state is deleted.")

    def _active(self, run: str, act: Callable[[], T]) -> T:
        try:
            return self._known(run, act)
        except Conflict:
            self._alive(run)
            raise

    def _known(self, run: str, act: Callable[[], T]) -> T:
        try:
            return act()
        except NotFound:
            raise Refused(MISSING, f"Run with id={run} not found") from None

    def _changed(self, run: str, params: Mapping[str, str]) -> str:
        """Return MLflow's words for a parameter that would change."""
        known = {name: text_of(value) for name, value in self._run(run).params.items()}
        twice = [name for name, value in params.items() if name in known and known[name] != value]
        if len(params) == 1 and twice:
            name = twice[0]
            return (
                f"Changing param values is not allowed. Param with key='{name}' was already logged with "
                f"value='{known[name]}' for run ID='{run}'. Attempted logging new value '{params[name]}'."
            )
        listed = [{"key": name, "old_value": known[name], "new_value": params[name]} for name in twice]
        return f"Changing param values is not allowed. Params were already logged='{listed}' for run ID='{run}'."


def shown(run: Run) -> dict[str, Any]:
    """Return a run as MLflow shows it."""
    made = [{"model_id": use.model, "step": use.step} for use in run.inputs.models if use.role == "output"]
    return {
        "info": _info(run),
        "data": {
            "metrics": [
                {
                    "key": metric.name,
                    "value": metric.last,
                    "timestamp": millis(metric.last_at or run.started_at),
                    "step": metric.last_step,
                }
                for metric in run.metrics
            ],
            "params": [{"key": name, "value": text_of(value)} for name, value in run.params.items()],
            "tags": [{"key": name, "value": value} for name, value in run.tags.items()],
        },
        "inputs": _inputs(run),
        "outputs": {"model_outputs": made} if made else {},
    }


def _inputs(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if run.inputs.datasets:
        found["dataset_inputs"] = [
            {
                "tags": [{"key": name, "value": value} for name, value in one.tags.items()],
                "dataset": {
                    "name": one.name,
                    "digest": one.digest,
                    "source_type": one.source_type,
                    "source": one.source,
                    "schema": one.schema,
                    "profile": one.profile,
                },
            }
            for one in run.inputs.datasets
        ]
    read = [{"model_id": use.model} for use in run.inputs.models if use.role == "input"]
    return {**found, "model_inputs": read} if read else found


def text_of(value: Any) -> str:
    """Return a parameter as MLflow has it: always a text."""
    return value if isinstance(value, str) else json.dumps(value) if isinstance(value, dict | list) else str(value)


def _info(run: Run) -> dict[str, Any]:
    info: dict[str, Any] = {
        "run_uuid": run.id,
        "experiment_id": str(run.experiment_number),
        "run_name": run.name,
        "user_id": run.tags.get(_USER, ""),
        "status": _SHOWN.get(run.status, run.status),
        "start_time": millis(run.started_at),
        "artifact_uri": f"mlflow-artifacts:/{run.experiment_number}/{run.id}/artifacts",
        "lifecycle_stage": "active" if run.deleted_at is None else "deleted",
        "run_id": run.id,
    }
    if run.ended_at is not None:
        info["end_time"] = millis(run.ended_at)
    return info


def metric_of(point: MetricPoint) -> dict[str, Any]:
    """Return a point as MLflow shows it."""
    return {
        "key": point.name,
        "value": point.value,
        "timestamp": millis(point.at) if point.at is not None else 0,
        "step": point.step,
    }


def _run_id(fields: Fields) -> str:
    return fields.text("run_id") or fields.text("run_uuid") or fields.text("run_id", required=True)


def _point(fields: Fields, path: str) -> MetricPoint:
    dot = f"{path}." if path else ""
    key = fields.text("key", required=True, path=f"{dot}key")
    value = fields.number("value", path=f"{dot}value")
    timestamp = fields.integer("timestamp", required=True, path=f"{dot}timestamp")
    check_key(key, f"{dot}name", "Metric name")
    check_time(key, value, timestamp, f"{dot}timestamp")
    return MetricPoint(name=key, value=spelled(value), step=fields.integer("step"), at=moment(timestamp))


def _of_models(run: str, given: Sequence[Fields], points: Sequence[MetricPoint]) -> dict[str, list[ModelMetric]]:
    """Return what was measured of logged models, by their ids."""
    found: dict[str, list[ModelMetric]] = {}
    for fields, point in zip(given, points, strict=True):
        if "model_id" in fields.given and (model := fields.text("model_id")):
            measured = ModelMetric(
                point=point, run=run, dataset=fields.text("dataset_name"), dataset_digest=fields.text("dataset_digest")
            )
            found.setdefault(model, []).append(measured)
    return found


def _dataset(fields: Fields) -> DatasetInput:
    one = fields.one("dataset")
    found = DatasetInput(
        name=one.text("name", required=True, path="dataset.name"),
        digest=one.text("digest", required=True, path="dataset.digest"),
        source_type=one.text("source_type", required=True, path="dataset.source_type"),
        source=one.text("source", required=True, path="dataset.source"),
        schema=one.text("schema"),
        profile=one.text("profile"),
        tags={tag.text("key", required=True): tag.text("value") for tag in fields.items("tags")},
    )
    for name, limit in DATASET.items():
        check_length(getattr(found, name), name, limit)
    return found


def _points(given: Sequence[Fields]) -> list[MetricPoint]:
    """Return a batch's points; one that is as clients send it is read without asking field by field."""
    names: set[str] = set()
    times: dict[int, datetime] = {}
    found: list[MetricPoint] = []
    for place, fields in enumerate(given):
        match fields.given:
            case {"key": str(key), "value": float(value), "timestamp": int(timestamp), "step": int(step), **rest} if (
                key in names and not rest and timestamp in times and -_LARGEST <= step < _LARGEST
            ):
                found.append(MetricPoint(name=key, value=spelled(value), step=step, at=times[timestamp]))
            case _:
                point = _point(fields, f"metrics[{place}]")
                names.add(point.name)
                if point.at is not None:
                    times[fields.integer("timestamp")] = point.at
                found.append(point)
    return found


def _param(fields: Fields, path: str) -> tuple[str, str]:
    dot = f"{path}." if path else ""
    key = fields.text("key", required=True, path=f"{dot}key")
    check_key(key, f"{dot}key", "Param key")
    return key, fields.text("value")[:PARAM]


def _tag(fields: Fields, path: str) -> tuple[str, str]:
    dot = f"{path}." if path else ""
    key = fields.text("key", required=True, path=f"{dot}key")
    check_key(key, f"{dot}key", f"{dot}key")
    return key, fields.text("value")[:TAG]


def _tags(fields: Fields) -> dict[str, str]:
    return dict(_tag(one, f"tags[{place}]") for place, one in enumerate(fields.items("tags")))


def _place(token: str) -> int:
    if token and not (token.isdecimal() and len(token) < 12):
        raise Refused(INVALID, f"Invalid page token {token[:60]!r}")
    return int(token or 0)


def moment(milliseconds: int) -> datetime:
    """Return the moment so many milliseconds after 1970 began."""
    try:
        return EPOCH + timedelta(milliseconds=milliseconds)
    except (ValueError, OverflowError, OSError):
        raise Refused(INVALID, f"Invalid value {milliseconds} for a time supplied: milliseconds since 1970.") from None
