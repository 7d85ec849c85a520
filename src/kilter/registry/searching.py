"""How registered models and versions are asked for: MLflow's filters and orders, over the registry's columns."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from kilter.core.errors import InvalidInput
from kilter.engines.sql.database import Database
from kilter.engines.sql.grammar import COMPARE, Test, clauses, field_of, on_text
from kilter.engines.sql.paging import Place, wanted
from kilter.operations.table import operation
from kilter.registry.reading import filled_models, filled_versions
from kilter.registry.records import ModelPage, VersionPage
from kilter.registry.rules import PROMPT, STATE
from kilter.registry.tables import entries, model_tags, registered, version_tags, versions

_MOST_MODELS = 1_000
_MOST_VERSIONS = 10_000

MODELS = "name and tags.NAME, compared with =, !=, LIKE, ILIKE or IN, joined by 'and'"
VERSIONS = (
    "name, version_number, run_id, source_path, stage, approval, user and tags.NAME, "
    "compared with =, !=, <, >, LIKE, ILIKE or IN, joined by 'and'"
)
_MODEL_ORDER = {
    "name": registered.c.name,
    "timestamp": registered.c.changed_at,
    "last_updated_timestamp": registered.c.changed_at,
    "changed": registered.c.changed_at,
    "creation_timestamp": registered.c.created_at,
    "created": registered.c.created_at,
}
_VERSION_ORDER = {
    "name": registered.c.name,
    "version_number": entries.c.version,
    "version": entries.c.version,
    "last_updated_timestamp": entries.c.changed_at,
    "changed": entries.c.changed_at,
    "creation_timestamp": entries.c.created_at,
    "created": entries.c.created_at,
}
_TEXTS = {
    "name": registered.c.name,
    "run_id": entries.c.run,
    "source_path": entries.c.source,
    "stage": entries.c.stage,
    "approval": entries.c.approval,
    "user": entries.c.user,
}
_NUMBERS = {"version_number": entries.c.version, "version": entries.c.version}
_LISTED = frozenset({"name", "run_id"})
_TEXT_OPERATORS = frozenset({"=", "!=", "LIKE", "ILIKE", "IN", "NOT IN"})
_TAG_OPERATORS = frozenset({"=", "!=", "LIKE", "ILIKE"})

Clause = tuple[str, str, str, Any]


class SearchOperations:
    """The operations that find models and versions."""

    _database: Database

    @operation
    def search(
        self,
        filter: str = "",  # noqa: A002 - the word that every registry has for it
        order: str = "",
        limit: int = 100,
        cursor: str | None = None,
    ) -> ModelPage:
        """Return registered models, page by page: those of loops and those of clients.

        Args:
            filter: Over ``name`` and ``tags.NAME``: ``name LIKE 'fraud%' and tags.team = 'ops'``. Prompts are left out, unless the
                filter asks for them: ``tags.`mlflow.prompt.is_prompt` = 'true'``.
            order: ``name``, ``changed`` or ``created``, ``-`` in front for the greatest first; by name, if not said.
            limit: At most so many.
            cursor: From the page before.

        Raises:
            InvalidInput: When the filter, the order or the cursor can't be read.
        """
        _check_limit(limit, _MOST_MODELS)
        place = Place(f"registered:{filter}:{order}")
        query = sa.select(registered).where(*_models_where(_read(filter, MODELS)))
        query = query.order_by(*_ordering(order, _MODEL_ORDER, (registered.c.name.asc(),)))
        start = place.start(cursor)
        with self._database.reading() as connection:
            rows = connection.execute(query.offset(start).limit(limit + 1)).all()
            found = filled_models(connection, rows[:limit])
        return ModelPage(models=found, cursor=place.cursor(start + limit) if len(rows) > limit else None)

    @operation
    def search_versions(
        self,
        filter: str = "",  # noqa: A002 - the word that every registry has for it
        order: str = "",
        limit: int = 1000,
        cursor: str | None = None,
        model: str = "",
    ) -> VersionPage:
        """Return registered versions, page by page: those of loops and those of clients.

        Args:
            filter: Over ``name``, ``version_number``, ``run_id``, ``source_path``, ``stage``, ``approval``, ``user`` and
                ``tags.NAME``; where a loop's version stands is the tag ``kilter.stage``. Prompts are left out, unless asked for.
            order: ``name``, ``version_number``, ``changed`` or ``created``, ``-`` in front for the greatest first; the newest
                change first, if not said.
            limit: At most so many.
            cursor: From the page before.
            model: Only of this model, a prompt too.

        Raises:
            InvalidInput: When the filter, the order or the cursor can't be read.
        """
        _check_limit(limit, _MOST_VERSIONS)
        place = Place(f"registered versions:{model}:{filter}:{order}")
        query = sa.select(entries).join(registered, registered.c.id == entries.c.model)
        asked = _read(filter, VERSIONS)
        query = query.where(*_versions_where(asked, prompts=bool(model) or _wants_prompts(asked)))
        if model:
            query = query.where(registered.c.name == model)
        last = (registered.c.name.asc(), entries.c.version.desc())
        query = query.order_by(*_ordering(order or "-changed", _VERSION_ORDER, last))
        start = place.start(cursor)
        with self._database.reading() as connection:
            rows = connection.execute(query.offset(start).limit(limit + 1)).all()
            found = filled_versions(connection, rows[:limit])
        return VersionPage(versions=found, cursor=place.cursor(start + limit) if len(rows) > limit else None)


def _check_limit(limit: int, most: int) -> None:
    if not 1 <= limit <= most:
        raise InvalidInput(f"{limit}", where="limit", allowed=f"1 to {most}")


def _read(text: str, allowed: str) -> list[Clause]:
    if not text.strip():
        return []
    return [(*field_of(field, allowed), operator, value) for field, operator, value in clauses(text, allowed)]


def _models_where(asked: list[Clause]) -> list[Test]:
    prompts = _wants_prompts(asked)
    found: list[Test] = [] if prompts else [registered.c.id.not_in(_prompts(model_tags))]
    for kind, name, operator, value in asked:
        if kind == "tags":
            if prompts or name != PROMPT:
                _check_tag(name, operator, value)
                of = (model_tags.c.model == registered.c.id) & (model_tags.c.name == name)
                found.append(sa.exists().where(of, on_text(model_tags.c.value, operator, value)))
        elif kind or name != "name":
            raise InvalidInput(f"Invalid attribute name: {name}", where="filter", allowed=MODELS)
        else:
            found.append(_text(registered.c.name, name, operator, value))
    return found


def _versions_where(asked: list[Clause], *, prompts: bool) -> list[Test]:
    left_out = [] if prompts else [entries.c.model.not_in(_prompts(table)) for table in (model_tags, version_tags)]
    found: list[Test] = [*left_out]
    for kind, name, operator, value in asked:
        if kind == "tags":
            if prompts or name != PROMPT:
                found.append(_version_tag(name, operator, value))
        elif not kind and name in _NUMBERS:
            found.append(_number(name, operator, value))
        elif kind or name not in _TEXTS:
            raise InvalidInput(f"Invalid attribute name: {name}", where="filter", allowed=VERSIONS)
        else:
            found.append(_text(_TEXTS[name], name, operator, value))
    return found


def _prompts(table: sa.Table) -> sa.Select[Any]:
    """Return the ids of the prompts: asked once, not for each row."""
    return sa.select(table.c.model).where(table.c.name == PROMPT, table.c.value == "true")


def _version_tag(name: str, operator: str, value: Any) -> Test:
    _check_tag(name, operator, value)
    if name == STATE:
        of = (versions.c.model == registered.c.name) & (versions.c.version == entries.c.version)
        return sa.exists().where(of, on_text(versions.c.stage, operator, value))
    of = (version_tags.c.model == entries.c.model) & (version_tags.c.version == entries.c.version)
    return sa.exists().where(of, version_tags.c.name == name, on_text(version_tags.c.value, operator, value))


def _wants_prompts(asked: list[Clause]) -> bool:
    """Say whether a filter asks for prompts: the first comparison with their tag decides, as MLflow's store has it."""
    for kind, name, operator, value in asked:
        if kind == "tags" and name == PROMPT:
            word = value.lower() if isinstance(value, str) else ""
            return (operator == "=" and word == "true") or (operator == "!=" and word == "false")
    return False


def _check_tag(name: str, operator: str, value: Any) -> None:
    if operator not in _TAG_OPERATORS:
        raise InvalidInput(f"Invalid comparator for tag: {operator}", where="filter", allowed="=, !=, LIKE, ILIKE")
    if not isinstance(value, str):
        raise InvalidInput(f"tags.{name} {operator}", where="filter", allowed="a text in quotes")


def _text(column: sa.Column[Any], name: str, operator: str, value: Any) -> Test:
    if operator not in _TEXT_OPERATORS or (operator.endswith("IN") and name not in _LISTED):
        raise InvalidInput(f"Invalid comparator for attribute: {operator}", where="filter")
    if not isinstance(value, str | list):
        raise InvalidInput(f"{name} {operator}", where="filter", allowed="a text in quotes")
    return on_text(column, operator, value)


def _number(name: str, operator: str, value: Any) -> Test:
    if operator not in COMPARE:
        raise InvalidInput(f"Invalid comparator for attribute {name}: {operator}", where="filter")
    if not isinstance(value, float) or not abs(value) < 2**31 or value != int(value):
        raise InvalidInput(f"Invalid value for numeric attribute '{name}': {value!r}", where="filter")
    return COMPARE[operator](_NUMBERS[name], int(value))


def _ordering(
    text: str, columns: dict[str, sa.Column[Any]], last: tuple[sa.UnaryExpression[Any], ...]
) -> list[sa.ColumnElement[Any]]:
    allowed = ", ".join(columns)
    found: list[sa.ColumnElement[Any]] = []
    seen: set[str] = set()
    for term in wanted(text, allowed):
        kind, name = field_of(term.field, allowed)
        if kind or name not in columns:
            raise InvalidInput(f"Invalid order by key '{name}' specified.", where="order", allowed=allowed)
        column = columns[name]
        if column.key in seen:
            raise InvalidInput("`order_by` contains duplicate fields", where="order")
        seen.add(str(column.key))
        found.append(column.desc() if term.descending else column.asc())
    return [*found, *last]
