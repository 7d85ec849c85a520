"""Scorers over MLflow's wire: kept for the clients that judge with them, and not run here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from kilter.core.errors import InvalidInput, NotFound
from kilter.llm.records import Scorer
from kilter.llm.scorers import ScorerService
from kilter.server.mlflow.experiments import Experiments
from kilter.server.mlflow.fields import Fields
from kilter.server.mlflow.problems import INVALID, MISSING, Refused

T = TypeVar("T")


class Scorers:
    """The calls about scorers.

    Args:
        scorers: The room's operations.
        experiments: The calls about experiments.
    """

    def __init__(self, scorers: ScorerService, experiments: Experiments) -> None:
        self._scorers = scorers
        self._experiments = experiments

    def register(self, fields: Fields) -> dict[str, Any]:
        """``POST scorers/register``."""
        experiment, name = self._about(fields)
        text = fields.text("serialized_scorer", required=True)
        made = _done(lambda: self._scorers.register(experiment, name, text))
        return {
            "version": made.version,
            "scorer_id": made.id,
            "experiment_id": str(made.experiment),
            "name": made.name,
            "serialized_scorer": made.text,
            "creation_time": made.created_ms,
        }

    def list(self, fields: Fields) -> dict[str, Any]:
        """``GET scorers/list``: the newest versions, of one experiment, of several, or of all."""
        one, several = fields.text("experiment_id"), fields.texts("experiment_ids")
        if one and several:
            raise Refused(INVALID, "Cannot specify both 'experiment_id' and 'experiment_ids'.")
        if one:
            among: list[int] | None = [self._experiments.active(one).number]
        else:
            among = [_number(text) for text in several] or None
        return {"scorers": [_shown(scorer) for scorer in self._scorers.list(among).scorers]}

    def versions(self, fields: Fields) -> dict[str, Any]:
        """``GET scorers/versions``."""
        experiment, name = self._about(fields)
        found = _done(lambda: self._scorers.versions(experiment, name))
        return {"scorers": [_shown(scorer) for scorer in found.scorers]}

    def get(self, fields: Fields) -> dict[str, Any]:
        """``GET scorers/get``: a version, or the newest."""
        experiment, name = self._about(fields)
        version = _version(fields)
        return {"scorer": _shown(_done(lambda: self._scorers.get(experiment, name, version)))}

    def delete(self, fields: Fields) -> dict[str, Any]:
        """``DELETE scorers/delete``: a version, or all of them."""
        experiment, name = self._about(fields)
        version = _version(fields)
        _done(lambda: self._scorers.delete(experiment, name, version))
        return {}

    def schedules(self, _fields: Fields) -> dict[str, Any]:
        """``GET scorers/online-configs``: clients ask with every scorer that they read; there are none here."""
        return {"configs": []}

    def schedule(self, _fields: Fields) -> dict[str, Any]:
        """``PUT scorers/online-config``: judges need a model and its key, and this server has neither."""
        raise Refused(
            INVALID, "This server keeps scorers and does not run them: run mlflow.genai.evaluate over its traces."
        )

    def _about(self, fields: Fields) -> tuple[int, str]:
        experiment = self._experiments.active(fields.text("experiment_id", required=True))
        return experiment.number, fields.text("name", required=True)


def _done(act: Callable[[], T]) -> T:
    try:
        return act()
    except NotFound as error:
        raise Refused(MISSING, error.message) from None
    except InvalidInput as error:
        raise Refused(INVALID, error.message) from None


def _version(fields: Fields) -> int | None:
    return fields.integer("version") if fields.has("version") else None


def _number(text: str) -> int:
    if not text.isdecimal() or len(text) > 18:
        raise Refused(INVALID, f"Invalid experiment ID '{text[:100]}'. Experiment ID must be a valid integer.")
    return int(text)


def _shown(scorer: Scorer) -> dict[str, Any]:
    return {
        "experiment_id": scorer.experiment,
        "scorer_name": scorer.name,
        "scorer_version": scorer.version,
        "serialized_scorer": scorer.text,
        "creation_time": scorer.created_ms,
        "scorer_id": scorer.id,
    }
