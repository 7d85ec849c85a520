"""Registered models and versions, read back from their rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from kilter.core.errors import NotFound
from kilter.registry.records import RegisteredModel, RegisteredVersion
from kilter.registry.tables import (
    aliases,
    entries,
    free_aliases,
    model_tags,
    registered,
    version_tags,
    versions,
)

_MANY = 500
"""So many rows are looked up with one question: databases know no question of any length."""


def model_row(connection: sa.Connection, name: str, *, held: bool = False) -> sa.Row[Any]:
    """Return a model's row.

    Args:
        connection: The transaction.
        name: The model's name.
        held: Nobody else changes it until the transaction ends.

    Raises:
        NotFound: When there is no such model.
    """
    query = sa.select(registered).where(registered.c.name == name)
    row = connection.execute(query.with_for_update() if held else query).first()
    if row is None:
        raise NotFound(f"no model is named {name!r}", where="models", fix="see `kilter models list`")
    return row


def version_row(connection: sa.Connection, model: sa.Row[Any], version: int, *, held: bool = False) -> sa.Row[Any]:
    """Return a version's row.

    Raises:
        NotFound: When there is no such version.
    """
    query = sa.select(entries).where(entries.c.model == model.id, entries.c.version == version)
    row = None
    if -(2**31) < version < 2**31:
        row = connection.execute(query.with_for_update() if held else query).first()
    if row is None:
        raise NotFound(
            f"there is no version {version} of {model.name!r}", where="models", fix="see the model's versions"
        )
    return row


def aliases_of(connection: sa.Connection, models: Sequence[sa.Row[Any]]) -> dict[str, dict[str, int]]:
    """Return what each model's aliases point at, by the model's id: those of people, and those of its loop."""
    found: defaultdict[str, dict[str, int]] = defaultdict(dict)
    identities = {row.name: row.id for row in models if row.owner == "loop"}
    for part in _parts(identities):
        for row in connection.execute(sa.select(aliases).where(aliases.c.model.in_(part)).order_by(aliases.c.alias)):
            found[identities[row.model]][row.alias] = row.version
    for part in _parts([row.id for row in models]):
        chosen = sa.select(free_aliases).where(free_aliases.c.model.in_(part)).order_by(free_aliases.c.alias)
        for row in connection.execute(chosen):
            found[row.model][row.alias] = row.version
    return found


def filled_versions(connection: sa.Connection, rows: Sequence[sa.Row[Any]]) -> tuple[RegisteredVersion, ...]:
    """Return versions with their tags and aliases: one query for each kind of part, not for each version.

    Args:
        connection: The transaction.
        rows: Rows of ``registered_versions``.
    """
    models: dict[str, sa.Row[Any]] = {}
    said: defaultdict[tuple[str, int], dict[str, str]] = defaultdict(dict)
    states: dict[tuple[str, int], str] = {}
    for part in _parts({row.model for row in rows}):
        for row in connection.execute(sa.select(registered).where(registered.c.id.in_(part))):
            models[row.id] = row
    named: defaultdict[tuple[str, int], list[str]] = defaultdict(list)
    for model, pointed in aliases_of(connection, list(models.values())).items():
        for alias, version in pointed.items():
            named[model, version].append(alias)
    keys = [(row.model, row.version) for row in rows]
    for some in _parts(keys):
        of = sa.tuple_(version_tags.c.model, version_tags.c.version).in_(some)
        for row in connection.execute(sa.select(version_tags).where(of).order_by(version_tags.c.name)):
            said[row.model, row.version][row.name] = row.value
    made = [(models[model].name, version) for model, version in keys if models[model].owner == "loop"]
    for some in _parts(made):
        of = sa.tuple_(versions.c.model, versions.c.version).in_(some)
        for row in connection.execute(sa.select(versions.c.model, versions.c.version, versions.c.stage).where(of)):
            states[row.model, row.version] = row.stage
    return tuple(
        RegisteredVersion(
            model=models[row.model].name,
            version=row.version,
            owner=models[row.model].owner,
            source=row.source,
            location=row.location,
            run=row.run,
            logged_model=row.logged_model,
            run_link=row.run_link,
            description=row.description,
            user=row.user,
            stage=row.stage,
            state=states.get((models[row.model].name, row.version), ""),
            status=row.status,
            approval=row.approval,
            tags=said.get((row.model, row.version), {}),
            aliases=tuple(named.get((row.model, row.version), ())),
            created_at=row.created_at,
            changed_at=row.changed_at,
        )
        for row in rows
    )


def filled_models(connection: sa.Connection, rows: Sequence[sa.Row[Any]]) -> tuple[RegisteredModel, ...]:
    """Return models with their tags, their aliases and the newest version of each stage."""
    said: defaultdict[str, dict[str, str]] = defaultdict(dict)
    newest: list[sa.Row[Any]] = []
    for part in _parts([row.id for row in rows]):
        chosen = sa.select(model_tags).where(model_tags.c.model.in_(part)).order_by(model_tags.c.name)
        for row in connection.execute(chosen):
            said[row.model][row.name] = row.value
        top = (
            sa.select(entries.c.model, sa.func.max(entries.c.version).label("version"))
            .where(entries.c.model.in_(part))
            .group_by(entries.c.model, entries.c.stage)
            .subquery()
        )
        on = (entries.c.model == top.c.model) & (entries.c.version == top.c.version)
        newest += connection.execute(sa.select(entries).join(top, on).order_by(entries.c.version)).all()
    latest: defaultdict[str, list[RegisteredVersion]] = defaultdict(list)
    for version in filled_versions(connection, newest):
        latest[version.model].append(version)
    pointed = aliases_of(connection, rows)
    return tuple(
        RegisteredModel(
            name=row.name,
            owner=row.owner,
            description=row.description,
            tags=said.get(row.id, {}),
            aliases=pointed.get(row.id, {}),
            latest=tuple(latest.get(row.name, ())),
            created_at=row.created_at,
            changed_at=row.changed_at,
        )
        for row in rows
    )


def _parts(values: Iterable[Any]) -> list[list[Any]]:
    listed = list(values)
    return [listed[start : start + _MANY] for start in range(0, len(listed), _MANY)]
