"""Evaluation datasets over MLflow's wire."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from kilter.core.errors import InvalidInput, NotFound
from kilter.llm.datasets import MOST_LISTED, EvaluationDatasetService
from kilter.llm.records import DatasetRecord, EvaluationDataset
from kilter.server.mlflow.experiments import Experiments
from kilter.server.mlflow.fields import Fields, missing
from kilter.server.mlflow.problems import INVALID, MISSING, Refused

T = TypeVar("T")

_SOURCES = ("UNSPECIFIED", "TRACE", "HUMAN", "DOCUMENT", "CODE")


class _Given(msgspec.Struct):
    """A record as clients write it."""

    inputs: dict[str, Any] = {}
    outputs: Any = None
    expectations: dict[str, Any] | None = None
    tags: dict[str, Any] | None = None
    source: dict[str, Any] | None = None


class Datasets:
    """The calls about evaluation datasets.

    Args:
        datasets: The room's operations.
        experiments: The calls about experiments.
    """

    def __init__(self, datasets: EvaluationDatasetService, experiments: Experiments) -> None:
        self._datasets = datasets
        self._experiments = experiments

    def create(self, fields: Fields) -> dict[str, Any]:
        """``POST datasets/create``."""
        name, using = fields.text("name", required=True), self._numbers(fields)
        tags = _tags(fields) if fields.has("tags") else {}
        return {"dataset": shown(self._done(lambda: self._datasets.create(name, tags, using)))}

    def get(self, _fields: Fields, dataset: str) -> dict[str, Any]:
        """``GET datasets/ID``."""
        return {"dataset": shown(self._done(lambda: self._datasets.get(dataset)))}

    def delete(self, _fields: Fields, dataset: str) -> dict[str, Any]:
        """``DELETE datasets/ID``."""
        self._datasets.delete(dataset)
        return {}

    def search(self, fields: Fields) -> dict[str, Any]:
        """``GET|POST datasets/search``."""
        limit = fields.integer("max_results", MOST_LISTED) or MOST_LISTED
        asked = fields.texts("experiment_ids")
        page = self._done(
            lambda: self._datasets.list(
                fields.text("filter_string"),
                fields.texts("order_by"),
                min(max(limit, 1), MOST_LISTED),
                fields.text("page_token") or None,
                [int(text) for text in asked if text.isdecimal() and len(text) < 19] if asked else None,
            )
        )
        answer: dict[str, Any] = {"datasets": [shown(one) for one in page.datasets]}
        return answer if page.cursor is None else {**answer, "next_page_token": page.cursor}

    def set_tags(self, fields: Fields, dataset: str) -> dict[str, Any]:
        """``PATCH datasets/ID/tags``."""
        said = _tags(fields)
        self._done(lambda: self._datasets.tag(dataset, said))
        return {}

    def delete_tag(self, _fields: Fields, dataset: str, key: str) -> dict[str, Any]:
        """``DELETE datasets/ID/tags/KEY``."""
        self._datasets.untag(dataset, key)
        return {}

    def records(self, fields: Fields, dataset: str) -> dict[str, Any]:
        """``GET datasets/ID/records``."""
        limit = min(fields.integer("max_results", MOST_LISTED) or MOST_LISTED, MOST_LISTED)
        cursor = fields.text("page_token") or None
        page = self._done(lambda: self._datasets.records(dataset, limit, cursor))
        answer = {"records": msgspec.json.encode([_shown_record(one) for one in page.records]).decode()}
        return answer if page.cursor is None else {**answer, "next_page_token": page.cursor}

    def write(self, fields: Fields, dataset: str) -> dict[str, Any]:
        """``POST datasets/ID/records``."""
        given = [
            DatasetRecord(
                inputs=one.inputs,
                outputs=one.outputs,
                expectations=one.expectations,
                tags=one.tags,
                source=_source(one.source),
            )
            for one in _decoded(fields, "records", list[_Given])
        ]
        done = self._done(lambda: self._datasets.write(dataset, given))
        return {"inserted_count": done.inserted, "updated_count": done.updated}

    def delete_records(self, fields: Fields, dataset: str) -> dict[str, Any]:
        """``DELETE datasets/ID/records``."""
        named = fields.texts("dataset_record_ids")
        return {"deleted_count": self._done(lambda: self._datasets.delete_records(dataset, named))}

    def experiments(self, _fields: Fields, dataset: str) -> dict[str, Any]:
        """``GET datasets/ID/experiment-ids``."""
        try:
            return {"experiment_ids": [str(number) for number in self._datasets.get(dataset).experiments]}
        except NotFound:
            return {"experiment_ids": []}

    def add_experiments(self, fields: Fields, dataset: str) -> dict[str, Any]:
        """``POST datasets/ID/add-experiments``."""
        using = self._numbers(fields)
        return {"dataset": shown(self._done(lambda: self._datasets.add_experiments(dataset, using)))}

    def remove_experiments(self, fields: Fields, dataset: str) -> dict[str, Any]:
        """``POST datasets/ID/remove-experiments``."""
        asked = [int(text) for text in fields.texts("experiment_ids") if text.isdecimal() and len(text) < 19]
        return {"dataset": shown(self._done(lambda: self._datasets.remove_experiments(dataset, asked)))}

    def _numbers(self, fields: Fields) -> list[int]:
        return [self._experiments.numbered(text).number for text in fields.texts("experiment_ids")]

    @staticmethod
    def _done(act: Callable[[], T]) -> T:
        try:
            return act()
        except NotFound as error:
            raise Refused(MISSING, error.message) from None
        except InvalidInput as error:
            raise Refused(INVALID, f"{error.where}: {error.message}") from None


def shown(found: EvaluationDataset) -> dict[str, Any]:
    """Return a dataset as MLflow shows it: what is structured as texts of JSON."""
    answer: dict[str, Any] = {
        "dataset_id": found.id,
        "name": found.name,
        "tags": msgspec.json.encode(found.tags).decode(),
        "digest": found.digest,
        "created_time": found.created_ms,
        "last_update_time": found.changed_ms,
        "experiment_ids": [str(number) for number in found.experiments],
    }
    optional = {
        "schema": None if found.schema is None else msgspec.json.encode(found.schema).decode(),
        "profile": msgspec.json.encode({"num_records": found.records}).decode() if found.records else None,
        "created_by": found.created_by,
        "last_updated_by": found.changed_by,
    }
    return {**answer, **{name: value for name, value in optional.items() if value is not None}}


def _shown_record(found: DatasetRecord) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "dataset_record_id": found.id,
        "dataset_id": found.dataset,
        "inputs": found.inputs,
        "created_time": found.created_ms,
        "last_update_time": found.changed_ms,
    }
    optional = {
        "outputs": found.outputs,
        "expectations": found.expectations,
        "tags": found.tags,
        "source": found.source,
        "source_type": (found.source or {}).get("source_type"),
        "created_by": found.created_by,
        "last_updated_by": found.changed_by,
    }
    return {**answer, **{name: value for name, value in optional.items() if value is not None}}


def _source(given: dict[str, Any] | None) -> dict[str, Any] | None:
    if given is None:
        return None
    kind = str(given.get("source_type", "UNSPECIFIED")).upper()
    if kind not in _SOURCES:
        raise Refused(INVALID, f"Invalid dataset record source type: {kind[:40]}. Valid source types: {[*_SOURCES]}")
    data = given.get("source_data")
    return {"source_type": kind, "source_data": data if isinstance(data, dict) else {}}


def _tags(fields: Fields) -> dict[str, str]:
    said = _decoded(fields, "tags", dict[str, Any])
    return {key: value if isinstance(value, str) else str(value) for key, value in said.items() if value is not None}


def _decoded(fields: Fields, name: str, kind: type[T]) -> T:
    """Return what a field says, which is JSON within the JSON."""
    text = fields.text(name)
    if not text:
        raise missing(name)
    try:
        return msgspec.json.decode(text, type=kind)
    except RecursionError:
        raise Refused(INVALID, f"Invalid value for parameter '{name}' supplied: it is nested too deep.") from None
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise Refused(INVALID, f"Invalid value for parameter '{name}' supplied: {str(error)[:200]}") from None
