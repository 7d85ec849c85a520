"""Logged models over MLflow's wire: what ``log_model`` leaves, before anything is registered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from kilter.core.errors import Conflict, InvalidInput, NotFound
from kilter.server.mlflow.artifacts import children, relative
from kilter.server.mlflow.experiments import Experiments, millis
from kilter.server.mlflow.fields import Fields, missing
from kilter.server.mlflow.limits import PARAM, TAG, check_key
from kilter.server.mlflow.problems import INVALID, MISSING, Refused
from kilter.server.mlflow.words import in_mlflows_words
from kilter.tracking.records import LoggedModel, LoggedStatus, ModelMetric
from kilter.tracking.service import RunService

T = TypeVar("T")

_STATUS: dict[str, LoggedStatus] = {
    "LOGGED_MODEL_PENDING": "PENDING",
    "LOGGED_MODEL_READY": "READY",
    "LOGGED_MODEL_UPLOAD_FAILED": "FAILED",
    "1": "PENDING",
    "2": "READY",
    "3": "FAILED",
}
_SHOWN: dict[LoggedStatus, str] = {
    "PENDING": "LOGGED_MODEL_PENDING",
    "READY": "LOGGED_MODEL_READY",
    "FAILED": "LOGGED_MODEL_UPLOAD_FAILED",
}


class Models:
    """The calls about logged models.

    Args:
        runs: The room's operations.
        experiments: The calls about experiments.
    """

    def __init__(self, runs: RunService, experiments: Experiments) -> None:
        self._runs = runs
        self._experiments = experiments

    def create(self, fields: Fields) -> dict[str, Any]:
        """``POST logged-models``."""
        experiment = self._experiments.active(fields.text("experiment_id", required=True))
        made = self._runs.log_model(
            experiment.number,
            fields.text("name"),
            fields.text("source_run_id"),
            fields.text("model_type"),
            _params(fields),
            _tags(fields),
        )
        return {"model": shown(made)}

    def get(self, fields: Fields, model: str) -> dict[str, Any]:
        """``GET logged-models/ID``."""
        deleted = fields.flag("allow_deleted")
        return {"model": shown(self._known(model, lambda: self._runs.logged_model(model, deleted=deleted)))}

    def finalize(self, fields: Fields, model: str) -> dict[str, Any]:
        """``PATCH logged-models/ID``: say how it stands."""
        said = str(fields.integer("status")) if fields.whole("status") else fields.text("status", required=True)
        if said not in _STATUS:
            raise Refused(INVALID, f"Invalid value {said[:60]} for parameter 'status' supplied.")
        return {"model": shown(self._known(model, lambda: self._runs.change_logged_model(model, _STATUS[said])))}

    def delete(self, _fields: Fields, model: str) -> dict[str, Any]:
        """``DELETE logged-models/ID``."""
        if self._known(model, lambda: self._runs.logged_model(model, deleted=True)).deleted_at is None:
            self._known(model, lambda: self._runs.delete_logged_model(model))
        return {}

    def log_params(self, fields: Fields, model: str) -> dict[str, Any]:
        """``POST logged-models/ID/params``."""
        given = _params(fields)
        try:
            self._known(model, lambda: self._runs.change_logged_model(model, params=given))
        except Conflict as error:
            raise Refused(INVALID, str(error)) from None
        return {}

    def set_tags(self, fields: Fields, model: str) -> dict[str, Any]:
        """``PATCH logged-models/ID/tags``."""
        said = _tags(fields)
        self._known(model, lambda: self._runs.change_logged_model(model, tags=said))
        return {}

    def delete_tag(self, _fields: Fields, model: str, key: str) -> dict[str, Any]:
        """``DELETE logged-models/ID/tags/KEY``."""
        self._known(model, lambda: self._runs.logged_model(model))
        try:
            self._runs.untag_logged_model(model, key)
        except NotFound:
            raise Refused(MISSING, f"No tag with key {key!r} found for model with ID {model!r}.") from None
        return {}

    def search(self, fields: Fields) -> dict[str, Any]:
        """``POST logged-models/search``."""
        asked = fields.texts("experiment_ids")
        if not asked:
            raise missing("experiment_ids")
        among = [int(text) for text in asked if text.isdecimal() and len(text) < 19]
        datasets = [
            (one.text("dataset_name", required=True), one.text("dataset_digest")) for one in fields.items("datasets")
        ]
        order = ", ".join(
            f"{'' if one.flag('ascending', default=True) else '-'}{one.text('field_name', required=True)}"
            for one in fields.items("order_by")
        )
        try:
            page = self._runs.logged_models(
                among,
                fields.text("filter"),
                order or "-created",
                min(fields.integer("max_results", 100, least=1), 1000),
                fields.text("page_token") or None,
                datasets,
            )
        except InvalidInput as error:
            raise in_mlflows_words(error) from None
        answer: dict[str, Any] = {"models": [shown(model) for model in page.models]}
        return answer if page.cursor is None else {**answer, "next_page_token": page.cursor}

    def files(self, fields: Fields, model: str) -> dict[str, Any]:
        """``GET logged-models/ID/artifacts/directories``."""
        found = self._known(model, lambda: self._runs.logged_model(model))
        folder = relative(fields.text("artifact_directory_path"))
        return {"root_uri": root(found), "files": children(self._runs.model_files(model), folder, whole=True)}

    def _known(self, model: str, act: Callable[[], T]) -> T:
        try:
            return act()
        except NotFound:
            raise Refused(MISSING, f"Logged model with ID '{model}' not found.") from None


def root(model: LoggedModel) -> str:
    """Return where a model's files are, as clients name it."""
    return f"mlflow-artifacts:/{model.experiment_number}/models/{model.id}/artifacts"


def shown(model: LoggedModel) -> dict[str, Any]:
    """Return a logged model as MLflow shows it."""
    return {
        "info": {
            "model_id": model.id,
            "experiment_id": str(model.experiment_number),
            "name": model.name,
            "creation_timestamp_ms": millis(model.created_at),
            "last_updated_timestamp_ms": millis(model.changed_at),
            "artifact_uri": root(model),
            "status": _SHOWN[model.status],
            "model_type": model.type,
            "source_run_id": model.run,
            **({"status_message": model.message} if model.message else {}),
            "tags": [{"key": name, "value": value} for name, value in model.tags.items()],
        },
        "data": {
            "params": [{"key": name, "value": value} for name, value in model.params.items()],
            "metrics": [_metric(model.id, metric) for metric in model.metrics],
        },
    }


def _metric(model: str, metric: ModelMetric) -> dict[str, Any]:
    point = metric.point
    found: dict[str, Any] = {
        "key": point.name,
        "value": point.value,
        "timestamp": 0 if point.at is None else millis(point.at),
        "step": point.step,
        "model_id": model,
        "run_id": metric.run,
    }
    if metric.dataset:
        found |= {"dataset_name": metric.dataset, "dataset_digest": metric.dataset_digest}
    return found


def _params(fields: Fields) -> dict[str, str]:
    return {key: value[:PARAM] for key, value in _pairs(fields, "params")}


def _tags(fields: Fields) -> dict[str, str]:
    return {key: value[:TAG] for key, value in _pairs(fields, "tags")}


def _pairs(fields: Fields, name: str) -> list[tuple[str, str]]:
    found = [(one.text("key", required=True), one.text("value")) for one in fields.items(name)]
    for place, (key, _) in enumerate(found):
        check_key(key, f"{name}[{place}].key", "key")
    return found
