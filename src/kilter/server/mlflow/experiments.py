"""Experiments over MLflow's wire."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from kilter.core.errors import Conflict, InvalidInput, NotFound
from kilter.server.mlflow.fields import Fields
from kilter.server.mlflow.limits import EXPERIMENT_NAME, EXPERIMENT_TAG, check_key, check_length
from kilter.server.mlflow.problems import EXISTS, INVALID, MISSING, Refused
from kilter.server.mlflow.words import in_mlflows_words
from kilter.tracking.filters import View
from kilter.tracking.records import Experiment
from kilter.tracking.service import RunService

_VIEWS: dict[str, View] = {
    "": "alive",
    "1": "alive",
    "ACTIVE_ONLY": "alive",
    "2": "deleted",
    "DELETED_ONLY": "deleted",
    "3": "all",
    "ALL": "all",
}
_LISTED = 50_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_PAGE = 10_000
_ASKED = 20
_SUMMARIES = 1_000
_CONTEXT = "mlflow.data.context"


class Experiments:
    """The calls about experiments.

    Args:
        runs: The room's operations.
    """

    def __init__(self, runs: RunService) -> None:
        self._runs = runs

    def create(self, fields: Fields) -> dict[str, Any]:
        """``experiments/create``."""
        name, elsewhere, tags = (
            _name(fields.text("name", required=True)),
            fields.text("artifact_location"),
            _tags(fields),
        )
        if elsewhere:
            # Files lie in the store, beside everything else that a run has: elsewhere they could not be kept whole.
            raise Refused(
                INVALID, "artifact_location: this server keeps every experiment's artifacts in its own store."
            )
        try:
            return {"experiment_id": str(self._runs.create_experiment(name, tags).number)}
        except Conflict:
            raise Refused(EXISTS, f"Experiment(name={name}) already exists.") from None

    def get(self, fields: Fields) -> dict[str, Any]:
        """``experiments/get``."""
        return {"experiment": shown(self.numbered(fields.text("experiment_id", required=True)))}

    def get_by_name(self, fields: Fields) -> dict[str, Any]:
        """``experiments/get-by-name``."""
        name = fields.text("experiment_name", required=True)
        try:
            return {"experiment": shown(self._runs.experiment(name))}
        except NotFound:
            raise Refused(MISSING, f"Could not find experiment with name '{name}'") from None

    def update(self, fields: Fields) -> dict[str, Any]:
        """``experiments/update``."""
        found = self.numbered(fields.text("experiment_id", required=True))
        if fields.has("new_name"):
            name = _name(fields.text("new_name"))
            _require_active(found)
            try:
                self._runs.rename_experiment(found.number, name)
            except Conflict:
                raise Refused(EXISTS, f"Experiment(name={name}) already exists.") from None
        return {}

    def delete(self, fields: Fields) -> dict[str, Any]:
        """``experiments/delete``."""
        return self._mark(fields, self._runs.delete_experiment)

    def restore(self, fields: Fields) -> dict[str, Any]:
        """``experiments/restore``."""
        return self._mark(fields, self._runs.restore_experiment)

    def set_tag(self, fields: Fields) -> dict[str, Any]:
        """``experiments/set-experiment-tag``."""
        found = self.numbered(fields.text("experiment_id", required=True))
        key, value = _checked_tag(fields.text("key", required=True), fields.text("value"))
        _require_active(found)
        self._runs.tag_experiment(found.number, {key: value})
        return {}

    def delete_tag(self, fields: Fields) -> dict[str, Any]:
        """``experiments/delete-experiment-tag``."""
        found = self.numbered(fields.text("experiment_id", required=True))
        key = fields.text("key", required=True)
        _require_active(found)
        try:
            self._runs.untag_experiment(found.number, key)
        except NotFound:
            raise Refused(MISSING, f"No tag with name: {key} in experiment with id {found.number}") from None
        return {}

    def search(self, fields: Fields) -> dict[str, Any]:
        """``experiments/search``."""
        limit = fields.integer("max_results", 1000, least=1)
        if limit > _LISTED:
            raise Refused(
                INVALID,
                f"Invalid value {limit} for parameter 'max_results' supplied. It must be at most {_LISTED}",
            )
        try:
            page = self._runs.search_experiments(
                filter=fields.text("filter"),
                order=",".join(fields.texts("order_by")) or "-created",
                view=view_of(fields, "view_type"),
                limit=min(limit, _PAGE),
                cursor=fields.text("page_token") or None,
            )
        except InvalidInput as error:
            raise in_mlflows_words(error) from None
        answer: dict[str, Any] = {"experiments": [shown(one) for one in page.experiments]}
        return answer if page.cursor is None else {**answer, "next_page_token": page.cursor}

    def search_datasets(self, fields: Fields) -> dict[str, Any]:
        """``experiments/search-datasets``: what the runs of experiments read, and for what."""
        asked = fields.texts("experiment_ids")
        if not asked:
            raise Refused(INVALID, "SearchDatasets request must specify at least one experiment_id.")
        if len(asked) > _ASKED:
            raise Refused(
                INVALID,
                f"SearchDatasets request cannot specify more than {_ASKED} experiment_ids. Received {len(asked)} experiment_ids.",
            )
        among = [int(text) for text in asked if text.isdecimal() and len(text) < 19]
        return {"dataset_summaries": [_summary(*one) for one in self._runs.datasets_read(among, _CONTEXT, _SUMMARIES)]}

    def numbered(self, text: str) -> Experiment:
        """Return the experiment that a request names by its number."""
        if not text.isdecimal() or len(text) > 18:
            raise Refused(INVALID, f"Invalid experiment ID '{text[:100]}'. Experiment ID must be a valid integer.")
        try:
            return self._runs.experiment(number=int(text))
        except NotFound:
            raise Refused(MISSING, f"No Experiment with id={int(text)} exists") from None

    def active(self, text: str) -> Experiment:
        """Return the experiment that a request names, which has to be there and alive."""
        found = self.numbered(text)
        _require_active(found)
        return found

    def _mark(self, fields: Fields, operation: Callable[[int], Experiment]) -> dict[str, Any]:
        found = self.numbered(fields.text("experiment_id", required=True))
        try:
            operation(found.number)
        except NotFound:
            raise Refused(MISSING, f"No Experiment with id={found.number} exists") from None
        return {}


def shown(experiment: Experiment) -> dict[str, Any]:
    """Return an experiment as MLflow shows it."""
    return {
        "experiment_id": str(experiment.number),
        "name": experiment.name,
        "artifact_location": f"mlflow-artifacts:/{experiment.number}",
        "lifecycle_stage": "active" if experiment.deleted_at is None else "deleted",
        "last_update_time": millis(experiment.changed_at),
        "creation_time": millis(experiment.created_at),
        "workspace": "default",
        "tags": [{"key": name, "value": value} for name, value in experiment.tags.items()],
    }


def _summary(experiment: int, name: str, digest: str, context: str | None) -> dict[str, Any]:
    found: dict[str, Any] = {"experiment_id": str(experiment), "name": name, "digest": digest}
    return found if context is None else {**found, "context": context}


def millis(moment: datetime) -> int:
    """Return a moment as milliseconds since 1970."""
    return (moment - EPOCH) // _MILLISECOND  # a float of seconds is a millisecond off now and then


def view_of(fields: Fields, name: str) -> View:
    """Return which of the living and the deleted are asked for, by MLflow's name or number."""
    said = str(fields.integer(name)) if fields.has(name) and fields.whole(name) else fields.text(name)
    if said not in _VIEWS:
        raise Refused(INVALID, f"Invalid value {said[:60]} for parameter '{name}' supplied.")
    return _VIEWS[said]


def _name(name: str) -> str:
    if not name.strip():
        raise Refused(INVALID, f"Invalid experiment name: '{name}'")
    check_length(name, "name", EXPERIMENT_NAME)
    return name


def _tags(fields: Fields) -> dict[str, str]:
    return dict(_checked_tag(tag.text("key", required=True), tag.text("value")) for tag in fields.items("tags"))


def _checked_tag(key: str, value: str) -> tuple[str, str]:
    check_key(key, "key", "key")
    check_length(value, "value", EXPERIMENT_TAG)
    return key, value


def _require_active(found: Experiment) -> None:
    if found.deleted_at is not None:
        raise Refused(
            INVALID, f"The experiment {found.number} must be in the 'active' state. Current state is deleted."
        )
