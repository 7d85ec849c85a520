"""Versions of registered models over MLflow's wire, and the table of the registry's calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from kilter.core.errors import KilterError, NotFound
from kilter.registry.records import RegisteredVersion
from kilter.registry.rules import PROMPT
from kilter.registry.service import ModelService
from kilter.server.mlflow.fields import Fields
from kilter.server.mlflow.limits import check_key
from kilter.server.mlflow.problems import INVALID, MISSING, Refused
from kilter.server.mlflow.registered import (
    Registered,
    known_version,
    limit_of,
    name_of,
    shown_version,
    stage_of,
    tag_of,
    tags_of,
    version_of,
)
from kilter.server.mlflow.sources import Sources, location, of_prompt
from kilter.server.mlflow.webhooks import Webhooks
from kilter.tracking.service import RunService

_VERSIONS = 200_000
_PAGE = 10_000
_ACTIVE = ["Staging", "Production"]
_REGISTERED = "mlflow.modelVersions"


class Versions:
    """The calls about versions.

    Args:
        models: The registry's operations.
        runs: The tracking's operations.
    """

    def __init__(self, models: ModelService, runs: RunService) -> None:
        self._models = models
        self._runs = runs
        self._sources = Sources(models, runs)

    def create(self, fields: Fields) -> dict[str, Any]:
        """``model-versions/create``."""
        name, given = name_of(fields), fields.text("source", required=True)
        tags = tags_of(fields)
        run, model = fields.optional("run_id"), fields.optional("model_id")
        prompt = tags.get(PROMPT, "false").lower() == "true"
        source = of_prompt(given) if prompt else self._sources.checked(given, run, model, fields.host)
        try:
            made = self._models.add_version(
                name,
                source.source,
                source.location,
                run=source.run,
                logged_model=source.model,
                run_link=fields.text("run_link"),
                description=fields.text("description"),
                tags=tags,
                by=fields.by,
            )
        except NotFound:
            raise Refused(MISSING, f"Registered Model with name={name} not found") from None
        if model and source.model:
            self._say(source.model, made)
        return {"model_version": shown_version(made)}

    def get(self, fields: Fields) -> dict[str, Any]:
        """``model-versions/get``."""
        return {"model_version": shown_version(self._one(fields))}

    def update(self, fields: Fields) -> dict[str, Any]:
        """``model-versions/update``."""
        name, number = name_of(fields), version_of(fields)
        text = fields.text("description")
        known_version(name, number, lambda: self._models.describe(name, text, number, by=fields.by))
        return {"model_version": shown_version(self._models.registered_version(name, number))}

    def delete(self, fields: Fields) -> dict[str, Any]:
        """``model-versions/delete``."""
        name, number = name_of(fields), version_of(fields)
        known_version(name, number, lambda: self._models.delete_version(name, number, by=fields.by))
        return {}

    def transition(self, fields: Fields) -> dict[str, Any]:
        """``model-versions/transition-stage``."""
        name, number = name_of(fields), version_of(fields)
        said = fields.text("stage", required=True)
        stage, archive = stage_of(said), fields.flag("archive_existing_versions")
        if archive and stage not in _ACTIVE:
            raise Refused(
                INVALID,
                f"Model version transition cannot archive existing model versions because '{said}' is not an Active stage. "
                f"Valid stages are {_ACTIVE}",
            )
        return {
            "model_version": shown_version(
                known_version(name, number, lambda: self._models.set_stage(name, number, stage, archive, by=fields.by))
            )
        }

    def search(self, fields: Fields) -> dict[str, Any]:
        """``model-versions/search``."""
        limit = min(limit_of(fields, _PAGE, _VERSIONS), _PAGE)
        page = self._models.search_versions(
            fields.text("filter"), ",".join(fields.texts("order_by")), limit, fields.text("page_token") or None
        )
        answer: dict[str, Any] = {}
        if page.versions:
            answer["model_versions"] = [shown_version(version) for version in page.versions]
        return answer if page.cursor is None else {**answer, "next_page_token": page.cursor}

    def download(self, fields: Fields) -> dict[str, Any]:
        """``model-versions/get-download-uri``."""
        return {"artifact_uri": location(self._one(fields))}

    def set_tag(self, fields: Fields) -> dict[str, Any]:
        """``model-versions/set-tag``."""
        name, number = name_of(fields), version_of(fields)
        tags = dict([tag_of(fields.text("key", required=True), fields.text("value"))])
        known_version(name, number, lambda: self._models.tag(name, tags, number, by=fields.by))
        return {}

    def delete_tag(self, fields: Fields) -> dict[str, Any]:
        """``model-versions/delete-tag``."""
        name, number = name_of(fields), version_of(fields)
        key = fields.text("key", required=True)
        check_key(key, "key", "key")
        known_version(name, number, lambda: self._models.untag(name, key, number, by=fields.by))
        return {}

    def _one(self, fields: Fields) -> RegisteredVersion:
        name, number = name_of(fields), version_of(fields)
        return known_version(name, number, lambda: self._models.registered_version(name, number))

    def _say(self, model: str, made: RegisteredVersion) -> None:
        """Say on a logged model which versions it is; a registration isn't refused because that can't be said."""
        with suppress(KilterError):
            said = self._runs.logged_model(model).tags.get(_REGISTERED, "[]")
            with suppress(ValueError, RecursionError):
                listed = json.loads(said)
                mine = {"name": made.model, "version": made.version}
                if isinstance(listed, list) and mine not in listed:
                    self._runs.change_logged_model(model, tags={_REGISTERED: json.dumps([*listed, mine])})


def registry_calls(models: ModelService, runs: RunService) -> Mapping[str, Mapping[str, Callable[..., dict[str, Any]]]]:
    """Return the table of the registry's calls: ``{path: {method: call}}``."""
    of, version, hooks = Registered(models), Versions(models, runs), Webhooks(models)
    return {
        "/registered-models/create": {"POST": of.create},
        "/registered-models/get": {"GET": of.get},
        "/registered-models/update": {"PATCH": of.update},
        "/registered-models/rename": {"POST": of.rename},
        "/registered-models/delete": {"DELETE": of.delete},
        "/registered-models/search": {"GET": of.search},
        "/registered-models/get-latest-versions": {"GET": of.latest, "POST": of.latest},
        "/registered-models/set-tag": {"POST": of.set_tag},
        "/registered-models/delete-tag": {"DELETE": of.delete_tag},
        "/registered-models/alias": {"POST": of.set_alias, "GET": of.by_alias, "DELETE": of.delete_alias},
        "/model-versions/create": {"POST": version.create},
        "/model-versions/get": {"GET": version.get},
        "/model-versions/update": {"PATCH": version.update},
        "/model-versions/delete": {"DELETE": version.delete},
        "/model-versions/transition-stage": {"POST": version.transition},
        "/model-versions/search": {"GET": version.search},
        "/model-versions/get-download-uri": {"GET": version.download},
        "/model-versions/set-tag": {"POST": version.set_tag},
        "/model-versions/delete-tag": {"DELETE": version.delete_tag},
        "/webhooks": {"GET": hooks.list, "POST": hooks.create},
        "/webhooks/{id}": {"GET": hooks.get, "PATCH": hooks.update, "DELETE": hooks.delete},
        "/webhooks/{id}/test": {"POST": hooks.test},
    }
