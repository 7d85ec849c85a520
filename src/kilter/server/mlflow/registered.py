"""Registered models over MLflow's wire, and the rules that it has for their names."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable
from typing import Any, TypeVar

from kilter.core.errors import Conflict, NotFound
from kilter.registry.records import LABELS, Label, RegisteredModel, RegisteredVersion
from kilter.registry.rules import PROMPT, STATE
from kilter.registry.service import ModelService
from kilter.server.mlflow.experiments import millis
from kilter.server.mlflow.fields import Fields
from kilter.server.mlflow.limits import check_key, check_length
from kilter.server.mlflow.problems import EXISTS, INVALID, MISSING, Refused
from kilter.server.mlflow.sources import location

T = TypeVar("T")

_MODELS = 1_000
_NAME = 256
_KEY = 250
_VALUE = 100_000
_ALIAS = 255
_TEXT = "mlflow.prompt.text"
_WORD = re.compile(r"[\w\-]*\Z")
_NUMBERED = re.compile(r"[vV]\d+\Z")


class Registered:
    """The calls about registered models.

    Args:
        models: The room's operations.
    """

    def __init__(self, models: ModelService) -> None:
        self._models = models

    def create(self, fields: Fields) -> dict[str, Any]:
        """``registered-models/create``."""
        name = name_of(fields)
        tags = tags_of(fields)
        try:
            made = self._models.create(name, fields.text("description"), tags, by=fields.by)
        except Conflict:
            there = self._models.registered(name)
            raise _taken(name, prompt=PROMPT in tags, before=PROMPT in there.tags) from None
        return {"registered_model": shown_model(made)}

    def get(self, fields: Fields) -> dict[str, Any]:
        """``registered-models/get``."""
        name = name_of(fields)
        return {"registered_model": shown_model(known(name, lambda: self._models.registered(name)))}

    def update(self, fields: Fields) -> dict[str, Any]:
        """``registered-models/update``."""
        name = name_of(fields)
        known(name, lambda: self._models.describe(name, fields.text("description"), by=fields.by))
        return {"registered_model": shown_model(self._models.registered(name))}

    def rename(self, fields: Fields) -> dict[str, Any]:
        """``registered-models/rename``."""
        name = name_of(fields)
        new = name_of(fields, "new_name")
        try:
            renamed = known(name, lambda: self._models.rename(name, new, by=fields.by))
        except Conflict as error:
            if error.where != "new_name":
                raise
            raise Refused(EXISTS, f"Registered Model (name={new}) already exists.") from None
        return {"registered_model": shown_model(renamed)}

    def delete(self, fields: Fields) -> dict[str, Any]:
        """``registered-models/delete``."""
        name = name_of(fields)
        known(name, lambda: self._models.delete(name, by=fields.by))
        return {}

    def search(self, fields: Fields) -> dict[str, Any]:
        """``registered-models/search``."""
        page = self._models.search(
            fields.text("filter"),
            ",".join(fields.texts("order_by")),
            limit_of(fields, 100, _MODELS),
            fields.text("page_token") or None,
        )
        answer: dict[str, Any] = {}
        if page.models:
            answer["registered_models"] = [shown_model(model) for model in page.models]
        return answer if page.cursor is None else {**answer, "next_page_token": page.cursor}

    def latest(self, fields: Fields) -> dict[str, Any]:
        """``registered-models/get-latest-versions``."""
        name = name_of(fields)
        stages = tuple(stage_of(stage) for stage in fields.texts("stages"))
        found = known(name, lambda: self._models.latest(name, stages))
        return {"model_versions": [shown_version(version) for version in found]} if found else {}

    def set_tag(self, fields: Fields) -> dict[str, Any]:
        """``registered-models/set-tag``."""
        name = name_of(fields)
        tags = dict([tag_of(fields.text("key", required=True), fields.text("value"))])
        known(name, lambda: self._models.tag(name, tags, by=fields.by))
        return {}

    def delete_tag(self, fields: Fields) -> dict[str, Any]:
        """``registered-models/delete-tag``."""
        name, key = name_of(fields), fields.text("key", required=True)
        check_key(key, "key", "key")
        known(name, lambda: self._models.untag(name, key, by=fields.by))
        return {}

    def set_alias(self, fields: Fields) -> dict[str, Any]:
        """``registered-models/alias``: point it at a version."""
        name, alias = name_of(fields), alias_of(fields)
        if alias.lower() == "latest":
            raise Refused(INVALID, "'latest' alias name (case insensitive) is reserved.")
        if _NUMBERED.match(alias):
            raise Refused(INVALID, f"Version alias name '{alias}' is reserved.")
        number = version_of(fields)
        known_version(name, number, lambda: self._models.assign_alias(name, alias, number, by=fields.by))
        return {}

    def delete_alias(self, fields: Fields) -> dict[str, Any]:
        """``registered-models/alias``: take it away."""
        name, alias = name_of(fields), alias_of(fields)
        known(name, lambda: self._models.drop_alias(name, alias, by=fields.by))
        return {}

    def by_alias(self, fields: Fields) -> dict[str, Any]:
        """``registered-models/alias``: the version that it points at."""
        name, alias = name_of(fields), alias_of(fields)
        model = known(name, lambda: self._models.registered(name))
        try:
            number: int | str = "latest" if alias.lower() == "latest" else model.aliases[alias]
            return {"model_version": shown_version(self._models.registered_version(name, number))}
        except (KeyError, NotFound):
            if alias.lower() == "latest":
                raise Refused(MISSING, f"Latest version not found for model {name}.") from None
            raise Refused(INVALID, f"Registered model alias {alias} not found.") from None


# ---------------------------------------------------------------- reading a request


def name_of(fields: Fields, field: str = "name") -> str:
    """Return a model's name, in MLflow's words refused if it can be none."""
    name = fields.text(field, required=True)
    if not name.strip():
        raise Refused(INVALID, f"Missing value for required parameter '{field}'.")
    if "/" in name or ":" in name:
        raise Refused(INVALID, f"Invalid model name '{name[:_NAME]}'. Names cannot contain '/' or ':'.")
    normal = posixpath.normpath(name)
    if normal != name or normal == "." or normal.startswith(".."):
        raise Refused(
            INVALID,
            f"Invalid value {json.dumps(name[:_NAME])} for parameter 'name' supplied: Names may be treated as files in certain "
            f"cases, and must not resolve to other names when treated as such. This name would resolve to {normal[:_NAME]!r}",
        )
    check_length(name, field, _NAME)
    return name


def version_of(fields: Fields) -> int:
    """Return a version's number."""
    text = fields.text("version", required=True)
    try:
        return int(text)
    except ValueError:
        raise Refused(INVALID, f"Parameter 'version' must be an integer, got '{text[:60]}'.") from None


def alias_of(fields: Fields) -> str:
    """Return an alias."""
    alias = fields.text("alias", required=True)
    if not _WORD.match(alias):
        raise Refused(
            INVALID,
            f"Invalid alias name: '{alias[:_ALIAS]}'. Names may only contain alphanumerics, underscores (_), and dashes (-).",
        )
    check_length(alias, "Registered model alias name", _ALIAS)
    return alias


def stage_of(stage: str) -> Label:
    """Return a stage by its name in any case."""
    found = next((label for label in LABELS if label.lower() == stage.lower()), None)
    if found is None:
        raise Refused(INVALID, f"Invalid Model Version stage: {stage[:60]}. Value must be one of {', '.join(LABELS)}.")
    return found


def tags_of(fields: Fields) -> dict[str, str]:
    """Return the tags of a request; of two with one name the last."""
    return dict(tag_of(one.text("key", required=True), one.text("value")) for one in fields.items("tags"))


def tag_of(key: str, value: str) -> tuple[str, str]:
    """Return a tag."""
    check_key(key, "key", "key")
    if key == _TEXT and len(value) > _VALUE:
        raise Refused(INVALID, f"Prompt text exceeds max length of {_VALUE} characters.")
    check_length(value, "value", _VALUE)
    return key, value


def limit_of(fields: Fields, default: int, most: int) -> int:
    """Return how many are asked for at most."""
    limit = fields.integer("max_results", default)
    if limit < 1:
        raise Refused(INVALID, f"Invalid value for max_results. It must be a positive integer, but got {limit}")
    if limit > most:
        raise Refused(
            INVALID,
            f"Invalid value for request parameter max_results. It must be at most {most}, but got value {limit}",
        )
    return limit


def known(name: str, act: Callable[[], T]) -> T:
    """Return what an operation on a model returns."""
    try:
        return act()
    except NotFound:
        raise Refused(MISSING, f"Registered Model with name={name} not found") from None


def known_version(name: str, version: int, act: Callable[[], T]) -> T:
    """Return what an operation on a version returns."""
    try:
        return act()
    except NotFound:
        raise Refused(MISSING, f"Model Version (name={name}, version={version}) not found") from None


# ---------------------------------------------------------------- writing an answer


def shown_model(model: RegisteredModel) -> dict[str, Any]:
    """Return a model as MLflow shows it: what there is none of is left out."""
    found: dict[str, Any] = {
        "name": model.name,
        "creation_timestamp": millis(model.created_at),
        "last_updated_timestamp": millis(model.changed_at),
        "description": model.description,
        "latest_versions": [shown_version(version) for version in model.latest],
        "tags": [{"key": name, "value": value} for name, value in model.tags.items()],
        "aliases": [{"alias": alias, "version": str(number)} for alias, number in model.aliases.items()],
    }
    return {name: value for name, value in found.items() if value or isinstance(value, int)}


def shown_version(version: RegisteredVersion) -> dict[str, Any]:
    """Return a version as MLflow shows it."""
    found: dict[str, Any] = {
        "name": version.model,
        "version": str(version.version),
        "creation_timestamp": millis(version.created_at),
        "last_updated_timestamp": millis(version.changed_at),
        "description": version.description,
        "current_stage": version.stage,
        "source": version.source or location(version),
        "run_id": version.run,
        "status": version.status,
        "run_link": version.run_link,
    }
    if version.user:
        found["user_id"] = version.user
    tags = {**version.tags, **({STATE: version.state} if version.state else {})}
    if tags:
        found["tags"] = [{"key": name, "value": value} for name, value in tags.items()]
    if version.aliases:
        found["aliases"] = list(version.aliases)
    return found


def _taken(name: str, *, prompt: bool, before: bool) -> Refused:
    new = "Prompt" if prompt else "Registered Model"
    old = "Prompt" if before else "Registered Model"
    if new == old:
        return Refused(EXISTS, f"{new} (name={name}) already exists.")
    return Refused(
        EXISTS,
        f"Tried to create a {new.lower()} with name {name!r}, but the name is already taken by a {old.lower()}. "
        "MLflow does not allow creating a model and a prompt with the same name.",
    )
