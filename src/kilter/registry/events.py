"""What is told to webhooks: every change of the registry that somebody listens to, put into an outbox with the change itself."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeAlias

import msgspec
import sqlalchemy as sa

from kilter.registry.rules import PROMPT, loops_location
from kilter.registry.tables import deliveries, entries, model_tags, version_tags, webhooks

EVENTS: dict[str, tuple[str, ...]] = {
    "registered_model": ("created",),
    "model_version": ("created",),
    "model_version_tag": ("set", "deleted"),
    "model_version_alias": ("created", "deleted"),
    "prompt": ("created",),
    "prompt_version": ("created",),
    "prompt_tag": ("set", "deleted"),
    "prompt_version_tag": ("set", "deleted"),
    "prompt_alias": ("created", "deleted"),
}
"""MLflow's events of its registry: the entity, and what may happen to it."""

MOST_WAITING = 10_000
"""So many deliveries wait for one webhook; what comes on top is counted and dropped."""

_TEXT = "mlflow.prompt.text"
_OWN = frozenset({PROMPT, "_mlflow_prompt_type"})
_BEFORE_ALL = datetime(1970, 1, 1, tzinfo=UTC)

Told: TypeAlias = tuple[str, str, dict[str, Any]]


def tell(
    connection: sa.Connection,
    model: sa.Row[Any],
    what: str,
    at: datetime,
    field: str,
    version: int | None,
    before: str | None,
    after: str | None,
) -> None:
    """Put a change into the outbox of every webhook that listens to it, in the transaction of the change.

    Args:
        connection: The transaction.
        model: The model's row.
        what: What kind of thing was changed.
        at: When.
        field: Which one.
        version: The version; None for the model itself.
        before: What it was.
        after: What it became.
    """
    listening = connection.execute(sa.select(webhooks).where(webhooks.c.status == "ACTIVE")).all()
    if not listening:
        return
    told = _told(connection, model, what, field, version, before, after)
    if told is None:
        return
    entity, action, data = told
    for hook in listening:
        if f"{entity}.{action}" in hook.events:
            _put(connection, hook, body_of(entity, action, data, at), at)


def body_of(entity: str, action: str, data: dict[str, Any], at: datetime) -> str:
    """Return the body of a delivery."""
    return msgspec.json.encode({"entity": entity, "action": action, "timestamp": at.isoformat(), "data": data}).decode()


def example(event: str) -> str:
    """Return a body with made-up data, to try a webhook with."""
    entity, _, action = event.partition(".")
    data: dict[str, Any] = {"name": "example_prompt" if entity.startswith("prompt") else "example_model"}
    if ("version" in entity and event != "model_version_alias.deleted") or event == "prompt_alias.created":
        data["version"] = "1"
    if entity.endswith("_tag"):
        data["key"] = "example_key"
        if action == "set":
            data["value"] = "example_value"
    elif entity.endswith("_alias"):
        data["alias"] = "example_alias"
    else:
        data |= {"tags": {"example_key": "example_value"}, "description": f"An example {entity.replace('_', ' ')}"}
    if entity == "model_version":
        data |= {"source": "models:/123", "run_id": "abcd1234abcd5678"}
    elif entity == "prompt_version":
        data["template"] = "Hello {{name}}!"
    return body_of(entity, action, data, datetime.now(UTC))


def _put(connection: sa.Connection, hook: sa.Row[Any], body: str, at: datetime) -> None:
    waiting = connection.execute(
        sa.select(sa.func.count()).select_from(deliveries).where(deliveries.c.webhook == hook.id)
    ).scalar_one()
    if waiting >= MOST_WAITING:
        dropped = {"dropped": webhooks.c.dropped + 1}
        connection.execute(webhooks.update().where(webhooks.c.id == hook.id).values(**dropped))
        return
    connection.execute(
        deliveries.insert().values(
            webhook=hook.id, key=str(uuid.uuid4()), body=body, attempts=0, due_at=_BEFORE_ALL, created_at=at
        )
    )


def _told(
    connection: sa.Connection,
    model: sa.Row[Any],
    what: str,
    field: str,
    version: int | None,
    before: str | None,
    after: str | None,
) -> Told | None:
    """Return entity, action and data of a change; None of one that MLflow has no event for."""
    teller = _TELLERS.get(what)
    prompt = _is_prompt(connection, model)
    return None if teller is None else teller(connection, model, field, version, before, after, prompt)


def _of_model(
    connection: sa.Connection, model: sa.Row[Any], field: str, _v: Any, before: Any, _after: Any, prompt: bool
) -> Told | None:
    if before is not None or field in {"name", "owner"}:
        return None
    tags = _tags(connection, model_tags, model_tags.c.model == model.id, hide=prompt)
    data = {"name": model.name, "tags": tags, "description": model.description}
    return "prompt" if prompt else "registered_model", "created", data


def _of_version(
    connection: sa.Connection, model: sa.Row[Any], _field: str, version: Any, before: Any, _after: Any, prompt: bool
) -> Told | None:
    if before is not None:
        return None
    where = (entries.c.model == model.id) & (entries.c.version == version)
    row = connection.execute(sa.select(entries).where(where)).one()
    tags = _tags(connection, version_tags, (version_tags.c.model == model.id) & (version_tags.c.version == version))
    data: dict[str, Any] = {"name": model.name, "version": str(version), "description": row.description or None}
    if prompt:
        data["template"] = tags.pop(_TEXT, None)
        data["tags"] = {name: value for name, value in tags.items() if name not in _OWN}
        return "prompt_version", "created", data
    source = row.source or loops_location(model.name, row.version)
    return "model_version", "created", {**data, "source": source, "run_id": row.run or None, "tags": tags}


def _of_tag(
    _c: sa.Connection, model: sa.Row[Any], field: str, version: Any, _before: Any, after: Any, prompt: bool
) -> Told | None:
    if version is None and not prompt:
        return None  # MLflow has no event for the tags of models
    data = {"name": model.name, "key": field}
    if version is not None:
        data["version"] = str(version)
    if after is not None:
        data["value"] = after
    entity = "prompt_tag" if version is None else "prompt_version_tag" if prompt else "model_version_tag"
    return entity, "deleted" if after is None else "set", data


def _of_alias(
    _c: sa.Connection, model: sa.Row[Any], field: str, _version: Any, _before: Any, after: Any, prompt: bool
) -> Told | None:
    data = {"name": model.name, "alias": field}
    if after is not None:
        data["version"] = after
    return "prompt_alias" if prompt else "model_version_alias", "deleted" if after is None else "created", data


_TELLERS: dict[str, Callable[..., Told | None]] = {
    "model": _of_model,
    "version": _of_version,
    "tag": _of_tag,
    "alias": _of_alias,
}


def _is_prompt(connection: sa.Connection, model: sa.Row[Any]) -> bool:
    of = (model_tags.c.model == model.id) & (model_tags.c.name == PROMPT)
    return bool(connection.execute(sa.select(model_tags.c.value).where(of)).scalar() == "true")


def _tags(
    connection: sa.Connection, table: sa.Table, where: sa.ColumnElement[bool], *, hide: bool = False
) -> dict[str, str]:
    chosen = sa.select(table.c.name, table.c.value).where(where).order_by(table.c.name)
    return {row.name: row.value for row in connection.execute(chosen) if not (hide and row.name in _OWN)}
