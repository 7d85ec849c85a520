"""Models by any name: made, described, tagged, renamed and deleted by people and by clients of other registries."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from kilter.core.clock import Clock
from kilter.core.errors import Conflict
from kilter.core.ids import new_id
from kilter.engines.sql.database import Database
from kilter.operations.table import operation
from kilter.registry.changes import note
from kilter.registry.reading import filled_models, model_row, version_row
from kilter.registry.records import Owner, RegisteredModel
from kilter.registry.rules import PROMPT, check_name, check_tags, check_text, refuse_loops_model
from kilter.registry.tables import entries, free_aliases, model_tags, registered, version_tags


class RegisteredOperations:
    """The operations on models that people register."""

    _database: Database
    _clock: Clock

    @operation(writes=True)
    def create(
        self, name: str, description: str = "", tags: dict[str, str] | None = None, by: str = ""
    ) -> RegisteredModel:
        """Make a registered model without versions.

        Args:
            name: Any text without ``/`` and ``:``.
            description: In people's words.
            tags: What people say about it.
            by: Who makes it.

        Raises:
            Conflict: When there is a model of this name.
            InvalidInput: When the name or a tag can't be one.
        """
        check_name(name)
        with self._database.transaction() as connection:
            now = self._clock.now()
            if not make_model(connection, name, "client", now, check_text(description, "description")):
                raise Conflict(f"there is a model {name!r} already", where="model", fix="use another name")
            row = model_row(connection, name)
            write_tags(connection, model_tags, {"model": row.id}, check_tags(dict(tags or {})))
            kind = "prompt" if (tags or {}).get(PROMPT) == "true" else ""
            note(connection, row, "model", now, field=kind, after=name, by=by)
            return filled_models(connection, [row])[0]

    @operation
    def registered(self, name: str) -> RegisteredModel:
        """Return a registered model, whoever made it.

        Raises:
            NotFound: When there is none.
        """
        with self._database.reading() as connection:
            return filled_models(connection, [model_row(connection, name)])[0]

    @operation(writes=True)
    def rename(self, name: str, new_name: str, by: str = "", reason: str = "") -> RegisteredModel:
        """Give a model another name; its versions, aliases and history go with it.

        Raises:
            NotFound: When there is none.
            Conflict: When the name is taken, or a loop owns the model.
        """
        check_name(new_name, "new_name")
        with self._database.transaction() as connection:
            row = model_row(connection, name, held=True)
            if row.owner == "loop":
                raise refuse_loops_model(name, "its name is the loop's")
            taken = connection.execute(sa.select(registered.c.id).where(registered.c.name == new_name)).scalar()
            if taken not in {None, row.id}:
                raise Conflict(f"there is a model {new_name!r} already", where="new_name", fix="use another name")
            now = self._clock.now()
            connection.execute(
                registered.update().where(registered.c.id == row.id).values(name=new_name, changed_at=now)
            )
            connection.execute(entries.update().where(entries.c.model == row.id).values(changed_at=now))
            note(connection, row, "model", now, field="name", before=name, after=new_name, by=by, reason=reason)
            return filled_models(connection, [model_row(connection, new_name)])[0]

    @operation(writes=True)
    def delete(self, name: str, by: str = "", reason: str = "") -> None:
        """Delete a model with its versions, tags and aliases; what was changed of it can still be read.

        A model made again under this name begins at version 1, and has nothing of this one.

        Raises:
            NotFound: When there is none.
            Conflict: When a loop owns it.
        """
        with self._database.transaction() as connection:
            row = model_row(connection, name, held=True)
            erase_model(connection, row, self._clock.now(), by, reason)

    @operation(writes=True)
    def describe(
        self, model: str, description: str, version: int | None = None, by: str = "", reason: str = ""
    ) -> None:
        """Describe a model, or one of its versions.

        Raises:
            NotFound: When there is none.
        """
        check_text(description, "description")
        with self._database.transaction() as connection:
            row = model_row(connection, model, held=True)
            put_description(connection, row, description, version, self._clock.now(), by, reason)

    @operation(writes=True)
    def tag(self, model: str, tags: dict[str, str], version: int | None = None, by: str = "", reason: str = "") -> None:
        """Say something about a model, or about one of its versions; the newest word counts.

        Raises:
            NotFound: When there is none.
            InvalidInput: When a tag can't be one.
        """
        check_tags(tags)
        with self._database.transaction() as connection:
            row = model_row(connection, model, held=True)
            put_tags(connection, row, tags, version, self._clock.now(), by, reason)

    @operation(writes=True)
    def untag(self, model: str, name: str, version: int | None = None, by: str = "", reason: str = "") -> None:
        """Take back what was said about a model, or about a version; nothing happens when it was not said.

        Raises:
            NotFound: When there is no such model or version.
        """
        with self._database.transaction() as connection:
            row = model_row(connection, model, held=True)
            take_tag(connection, row, name, version, self._clock.now(), by, reason)


def make_model(connection: sa.Connection, name: str, owner: Owner, now: datetime, description: str = "") -> bool:
    """Make a model unless there is one of this name, and say whether it was made."""
    insert = (postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert)(registered)
    row = {
        "id": new_id("rm", now),
        "name": name,
        "owner": owner,
        "description": description,
        "latest": 0,
        "created_at": now,
        "changed_at": now,
    }
    made = insert.values(**row).on_conflict_do_nothing().returning(registered.c.id)
    return connection.execute(made).first() is not None


def write_tags(connection: sa.Connection, table: sa.Table, key: dict[str, Any], tags: dict[str, str]) -> dict[str, str]:
    """Write tags over those of the same name, and return what those were."""
    if not tags:
        return {}
    of = sa.and_(*(table.c[name] == value for name, value in key.items()))
    chosen = sa.select(table.c.name, table.c.value).where(of, table.c.name.in_(list(tags)))
    before = {row.name: row.value for row in connection.execute(chosen)}
    insert = (postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert)(table)
    connection.execute(
        insert.on_conflict_do_update(index_elements=[*key, "name"], set_={"value": insert.excluded.value}),
        [{**key, "name": name, "value": value} for name, value in tags.items()],
    )
    return before


def erase_model(connection: sa.Connection, row: sa.Row[Any], now: datetime, by: str, reason: str = "") -> None:
    """Delete a client's model with all that belongs to it, in the caller's transaction.

    Raises:
        Conflict: When a loop owns it.
    """
    if row.owner == "loop":
        raise refuse_loops_model(row.name, "it can't be deleted while the loop is there")
    for table in (free_aliases, version_tags, model_tags, entries):
        connection.execute(table.delete().where(table.c.model == row.id))
    connection.execute(registered.delete().where(registered.c.id == row.id))
    note(connection, row, "model", now, before=row.name, by=by, reason=reason)


def put_description(
    connection: sa.Connection,
    row: sa.Row[Any],
    description: str,
    version: int | None,
    now: datetime,
    by: str,
    reason: str = "",
) -> None:
    """Describe a model, or one of its versions, in the caller's transaction."""
    of = row if version is None else version_row(connection, row, version)
    if of.description == description:
        return
    table, where = _of(row, version)
    connection.execute(table.update().where(where).values(description=description, changed_at=now))
    before = of.description or None
    note(connection, row, "description", now, version=version, before=before, after=description, by=by, reason=reason)


def put_tags(
    connection: sa.Connection,
    row: sa.Row[Any],
    tags: dict[str, str],
    version: int | None,
    now: datetime,
    by: str,
    reason: str = "",
) -> None:
    """Say something about a model, or about one of its versions, in the caller's transaction."""
    table, key = model_tags, {"model": row.id}
    if version is not None:
        version_row(connection, row, version)
        table, key = version_tags, {"model": row.id, "version": version}
    before = write_tags(connection, table, key, tags)
    for name, value in tags.items():
        was = before.get(name)
        if was != value:
            note(
                connection, row, "tag", now, field=name, version=version, before=was, after=value, by=by, reason=reason
            )


def take_tag(
    connection: sa.Connection,
    row: sa.Row[Any],
    name: str,
    version: int | None,
    now: datetime,
    by: str,
    reason: str = "",
) -> None:
    """Take back what was said about a model, or about a version, in the caller's transaction."""
    of = (model_tags.c.model == row.id) & (model_tags.c.name == name)
    table = model_tags
    if version is not None:
        version_row(connection, row, version)
        table = version_tags
        of = (table.c.model == row.id) & (table.c.version == version) & (table.c.name == name)
    before = connection.execute(sa.select(table.c.value).where(of)).scalar()
    if before is not None:
        connection.execute(table.delete().where(of))
        note(connection, row, "tag", now, field=name, version=version, before=before, by=by, reason=reason)


def adopt(connection: sa.Connection, name: str, number: int, run: str, reason: str, now: datetime) -> None:
    """Show a version that a loop made, in the transaction that makes it.

    Args:
        connection: The transaction.
        name: The model's name, which is the loop's.
        number: The version's number.
        run: The run that trained it.
        reason: Why it was trained.
        now: When.

    Raises:
        Conflict: When a client registered versions under this name.
    """
    row = claim(connection, name, now)
    connection.execute(registered.update().where(registered.c.id == row.id).values(latest=number, changed_at=now))
    connection.execute(entries.insert().values(**entry(row.id, number, now, run=run)))
    note(connection, row, "version", now, version=number, after=str(number), by="loop", reason=reason)


def claim(connection: sa.Connection, name: str, now: datetime) -> sa.Row[Any]:
    """Make a model the loop's of its name, and return its row; one that a client made is taken over while it has no versions.

    Raises:
        Conflict: When a client registered versions under this name.
    """
    made = make_model(connection, name, "loop", now)
    row = model_row(connection, name, held=True)
    if row.owner == "loop":
        if made:
            note(connection, row, "model", now, after=name, by="loop")
        return row
    if row.latest:
        raise Conflict(
            f"versions were registered as {name!r} that are not this loop's",
            where="model",
            fix=f"rename them: kilter models rename {name} ANOTHER-NAME",
        )
    connection.execute(registered.update().where(registered.c.id == row.id).values(owner="loop", changed_at=now))
    note(connection, row, "model", now, field="owner", before="client", after="loop", by="loop")
    return row


def entry(model: str, number: int, now: datetime, **values: str) -> dict[str, Any]:
    """Return the row of a new version."""
    return {
        "model": model,
        "version": number,
        "source": "",
        "location": "",
        "run": "",
        "logged_model": "",
        "run_link": "",
        "description": "",
        "user": "",
        "stage": "None",
        "status": "READY",
        "approval": "pending",
        "created_at": now,
        "changed_at": now,
        **values,
    }


def refuse_foreign(row: sa.Row[Any]) -> None:
    """Refuse a version of a client in a loop's model."""
    if row.owner == "loop":
        raise refuse_loops_model(row.name, "nobody else registers versions in it")


def _of(row: sa.Row[Any], version: int | None) -> tuple[sa.Table, sa.ColumnElement[bool]]:
    if version is None:
        return registered, registered.c.id == row.id
    return entries, (entries.c.model == row.id) & (entries.c.version == version)
