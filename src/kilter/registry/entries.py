"""Versions as clients register them: a source, a label, aliases, an approval, and who changed which of these."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from kilter.core.clock import Clock
from kilter.core.errors import Conflict, InvalidInput, NotFound
from kilter.engines.sql.database import Database
from kilter.operations.table import operation
from kilter.registry.changes import note
from kilter.registry.reading import aliases_of, filled_models, filled_versions, model_row, version_row
from kilter.registry.records import LABELS, RegisteredVersion
from kilter.registry.registered import entry, refuse_foreign, write_tags
from kilter.registry.rules import (
    LONGEST_SOURCE,
    LOOPS_ALIASES,
    check_alias,
    check_approval,
    check_source,
    check_tags,
    check_text,
    label_of,
    refuse_loops_alias,
    refuse_loops_model,
)
from kilter.registry.tables import entries, free_aliases, registered, version_tags

_NUMBER = re.compile(r"[vV]?(\d{1,9})\Z")
_ACTIVE = frozenset({"Staging", "Production"})


class EntryOperations:
    """The operations on versions that people register, and on what they say about any version."""

    _database: Database
    _clock: Clock

    @operation(writes=True)
    def add_version(
        self,
        model: str,
        source: str,
        location: str = "",
        run: str = "",
        logged_model: str = "",
        run_link: str = "",
        description: str = "",
        tags: dict[str, str] | None = None,
        user: str = "",
        by: str = "",
        reason: str = "",
    ) -> RegisteredVersion:
        """Register the next version of a model that no loop owns.

        Args:
            model: The model's name; it has to be there.
            source: Where its files are, as the client says it.
            location: Where they can be read from; the source, if not said.
            run: The run that made it.
            logged_model: The logged model that it is.
            run_link: Where the run can be looked at.
            description: In people's words.
            tags: What people say about it.
            user: Whose it is.
            by: Who registers it; its user, if not said.
            reason: Why.

        Raises:
            NotFound: When there is no such model.
            InvalidInput: When the source is no place in a store.
            Conflict: When a loop owns the model.
        """
        check_source(source)
        check_source(location or source, "location")
        check_tags(dict(tags or {}))
        with self._database.transaction() as connection:
            row = model_row(connection, model, held=True)
            refuse_foreign(row)
            now = self._clock.now()
            # the update holds the model's row until the transaction ends, so numbers have no gaps
            number = connection.execute(
                registered.update()
                .where(registered.c.id == row.id)
                .values(latest=registered.c.latest + 1, changed_at=now)
                .returning(registered.c.latest)
            ).scalar_one()
            made = entry(
                row.id,
                number,
                now,
                source=source,
                location=location or source,
                run=check_text(run, "run", 256),
                logged_model=check_text(logged_model, "logged_model", 64),
                run_link=check_text(run_link, "run_link", LONGEST_SOURCE),
                description=check_text(description, "description"),
                user=check_text(user, "user", 200),
            )
            connection.execute(entries.insert().values(**made))
            write_tags(connection, version_tags, {"model": row.id, "version": number}, dict(tags or {}))
            note(connection, row, "version", now, version=number, after=source, by=by or user, reason=reason)
            return _one(connection, row, number)

    @operation
    def registered_version(self, model: str, version: int | str) -> RegisteredVersion:
        """Return a registered version, whoever made it.

        Args:
            model: The model's name.
            version: A number, ``"v7"``, an alias, or ``"latest"``.

        Raises:
            NotFound: When there is no such model or version, or nothing has the alias.
        """
        with self._database.reading() as connection:
            row = model_row(connection, model)
            return _one(connection, row, number_of(connection, row, version))

    @operation
    def latest(self, model: str, stages: tuple[str, ...] = ()) -> tuple[RegisteredVersion, ...]:
        """Return the newest version of each stage.

        Args:
            model: The model's name.
            stages: Only of these; all, if none is said.

        Raises:
            NotFound: When there is no such model.
            InvalidInput: When there is no such stage.
        """
        among = {label_of(stage) for stage in stages} or set(LABELS)
        with self._database.reading() as connection:
            found = filled_models(connection, [model_row(connection, model)])[0]
        return tuple(version for version in found.latest if version.stage in among)

    @operation(writes=True)
    def delete_version(self, model: str, version: int, by: str = "", reason: str = "") -> None:
        """Delete a version with its tags and aliases; its number is not given again.

        Raises:
            NotFound: When there is no such model or version.
            Conflict: When a loop made it.
        """
        with self._database.transaction() as connection:
            row = model_row(connection, model, held=True)
            found = version_row(connection, row, version)
            if row.owner == "loop":
                raise refuse_loops_model(model, "its versions are kept")
            erase(connection, row, found, self._clock.now(), by, reason)

    @operation(writes=True)
    def assign_alias(self, model: str, alias: str, version: int, by: str = "", reason: str = "") -> RegisteredVersion:
        """Point an alias at a version; the version that it pointed at before loses it.

        Args:
            model: The model's name.
            alias: The alias.
            version: The version's number.
            by: Who does it.
            reason: Why.

        Raises:
            NotFound: When there is no such model or version.
            InvalidInput: When the alias can't be one.
            Conflict: When it is moved by the model's loop.
        """
        check_alias(alias)
        with self._database.transaction() as connection:
            row = model_row(connection, model, held=True)
            refuse_loops(row, alias)
            version_row(connection, row, version)
            point(connection, row, alias, version, self._clock.now(), by, reason)
            return _one(connection, row, version)

    @operation(writes=True)
    def drop_alias(self, model: str, alias: str, by: str = "", reason: str = "") -> None:
        """Take an alias away; nothing happens when nothing has it.

        Raises:
            NotFound: When there is no such model.
            Conflict: When it is moved by the model's loop.
        """
        with self._database.transaction() as connection:
            row = model_row(connection, model, held=True)
            refuse_loops(row, alias)
            unpoint(connection, row, alias, self._clock.now(), by, reason)

    @operation(writes=True)
    def set_stage(
        self, model: str, version: int, stage: str, archive_existing: bool = False, by: str = "", reason: str = ""
    ) -> RegisteredVersion:
        """Give a version one of MLflow's stages: ``None``, ``Staging``, ``Production``, ``Archived``. It moves no traffic.

        Args:
            model: The model's name.
            version: The version's number.
            stage: The stage, in any case.
            archive_existing: Archive the versions that have this stage now; of ``Staging`` and ``Production`` only.
            by: Who does it.
            reason: Why.

        Raises:
            NotFound: When there is no such model or version.
            InvalidInput: When there is no such stage, or it can't archive.
        """
        label = label_of(stage)
        if archive_existing and label not in _ACTIVE:
            raise InvalidInput(
                f"{stage} is not a stage that archives others", where="archive_existing", allowed="Staging, Production"
            )
        with self._database.transaction() as connection:
            row = model_row(connection, model, held=True)
            found = version_row(connection, row, version)
            now = self._clock.now()
            others: list[int] = []
            if archive_existing:
                chosen = sa.select(entries.c.version).where(
                    entries.c.model == row.id, entries.c.stage == label, entries.c.version != version
                )
                others = [int(number) for number in connection.execute(chosen.order_by(entries.c.version)).scalars()]
            for number, before, after in (
                *((other, label, "Archived") for other in others),
                (version, found.stage, label),
            ):
                where = (entries.c.model == row.id) & (entries.c.version == number)
                connection.execute(entries.update().where(where).values(stage=after, changed_at=now))
                if before != after:
                    note(
                        connection,
                        row,
                        "stage",
                        now,
                        version=number,
                        before=before,
                        after=after,
                        by=by,
                        reason=reason or (f"version {version} became {label}" if number != version else ""),
                    )
            _touch(connection, row, now)
            return _one(connection, row, version)

    @operation(writes=True, role="approver")
    def set_approval(self, model: str, version: int, state: str, by: str, reason: str = "") -> RegisteredVersion:
        """Say whether a version may be used: ``pending``, ``approved`` or ``rejected``.

        Args:
            model: The model's name.
            version: The version's number.
            state: The new state.
            by: Who says so.
            reason: Why.

        Raises:
            NotFound: When there is no such model or version.
            InvalidInput: When there is no such state, or nobody says it.
            Conflict: When a loop owns the model, which asks for its approvals itself.
        """
        wanted = check_approval(state)
        if not by.strip():
            raise InvalidInput("an approval needs a name", where="by", fix="say who approves")
        with self._database.transaction() as connection:
            row = model_row(connection, model, held=True)
            found = version_row(connection, row, version)
            if row.owner == "loop":
                raise Conflict(
                    f"{model!r} belongs to a loop, which goes on when it is approved",
                    where="model",
                    fix=f"kilter approve {model}@v{version}, or kilter rollback {model}",
                )
            if found.approval != wanted:
                now = self._clock.now()
                where = (entries.c.model == row.id) & (entries.c.version == version)
                connection.execute(entries.update().where(where).values(approval=wanted, changed_at=now))
                note(
                    connection,
                    row,
                    "approval",
                    now,
                    version=version,
                    before=found.approval,
                    after=wanted,
                    by=by,
                    reason=reason,
                )
            return _one(connection, row, version)


def number_of(connection: sa.Connection, row: sa.Row[Any], version: int | str) -> int:
    """Return the number of a version by its number, ``"v7"``, an alias or ``"latest"``.

    Raises:
        NotFound: When nothing has the alias, or there is no version at all.
    """
    if isinstance(version, int):
        return version
    found = _NUMBER.match(version)
    if found is not None:
        return int(found.group(1))
    if version.lower() == "latest":
        newest = connection.execute(sa.select(sa.func.max(entries.c.version)).where(entries.c.model == row.id)).scalar()
        if newest is None:
            raise NotFound(f"{row.name!r} has no versions", where="models")
        return int(newest)
    pointed = aliases_of(connection, [row]).get(row.id, {})
    if version not in pointed:
        raise NotFound(
            f"no version of {row.name!r} has the alias {version[:60]!r}",
            where="models",
            allowed=", ".join(sorted(pointed)[:20]) or "none yet",
        )
    return pointed[version]


def _one(connection: sa.Connection, row: sa.Row[Any], number: int) -> RegisteredVersion:
    return filled_versions(connection, [version_row(connection, row, number)])[0]


def point(
    connection: sa.Connection, row: sa.Row[Any], alias: str, version: int, now: datetime, by: str, reason: str = ""
) -> None:
    """Point an alias of people's at a version, in the caller's transaction."""
    before = pointed(connection, row, alias)
    if before == version:
        return
    insert = (postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert)(free_aliases)
    connection.execute(
        insert.values(model=row.id, alias=alias, version=version).on_conflict_do_update(
            index_elements=["model", "alias"], set_={"version": version}
        )
    )
    was = None if before is None else str(before)
    after = str(version)
    note(connection, row, "alias", now, field=alias, version=version, before=was, after=after, by=by, reason=reason)


def unpoint(connection: sa.Connection, row: sa.Row[Any], alias: str, now: datetime, by: str, reason: str = "") -> None:
    """Take an alias of people's away, in the caller's transaction; nothing happens when nothing has it."""
    before = pointed(connection, row, alias)
    if before is None:
        return
    connection.execute(free_aliases.delete().where(free_aliases.c.model == row.id, free_aliases.c.alias == alias))
    note(connection, row, "alias", now, field=alias, version=before, before=str(before), by=by, reason=reason)


def erase(
    connection: sa.Connection, row: sa.Row[Any], found: sa.Row[Any], now: datetime, by: str, reason: str = ""
) -> None:
    """Delete a client's version with its tags and aliases, in the caller's transaction."""
    version = int(found.version)
    for alias, number in aliases_of(connection, [row]).get(row.id, {}).items():
        if number == version:
            was, why = str(version), "the version was deleted"
            note(connection, row, "alias", now, field=alias, version=version, before=was, by=by, reason=why)
    for table in (free_aliases, version_tags, entries):
        connection.execute(table.delete().where(table.c.model == row.id, table.c.version == version))
    _touch(connection, row, now)
    note(connection, row, "version", now, version=version, before=found.source, by=by, reason=reason)


def pointed(connection: sa.Connection, row: sa.Row[Any], alias: str) -> int | None:
    """Return the version that an alias of people's points at, or None."""
    of = (free_aliases.c.model == row.id) & (free_aliases.c.alias == alias)
    found = connection.execute(sa.select(free_aliases.c.version).where(of)).scalar()
    return None if found is None else int(found)


def refuse_loops(row: sa.Row[Any], alias: str) -> None:
    """Refuse to move an alias that the model's loop moves."""
    if row.owner == "loop" and alias.lower() in LOOPS_ALIASES:
        raise refuse_loops_alias(row.name, alias)


def _touch(connection: sa.Connection, row: sa.Row[Any], now: object) -> None:
    connection.execute(registered.update().where(registered.c.id == row.id).values(changed_at=now))
