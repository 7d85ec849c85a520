"""Several changes of one model in one transaction, for clients that ask for them in one request: all of them happen, or none.

These clients know a version that stands for its model: a loop's is its champion, another's the one with the alias ``default``, and
without either the first. So every model that has versions has exactly one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from kilter.core.clock import Clock
from kilter.core.digests import digest
from kilter.core.errors import Conflict, NotFound
from kilter.engines.sql.database import Database
from kilter.registry.changes import change_of, note
from kilter.registry.entries import erase, number_of, point, pointed, refuse_loops, unpoint
from kilter.registry.reading import aliases_of, filled_models, filled_versions, model_row, version_row
from kilter.registry.records import Change, RegisteredModel, RegisteredVersion
from kilter.registry.registered import (
    entry,
    erase_model,
    make_model,
    put_description,
    put_tags,
    refuse_foreign,
    take_tag,
    write_tags,
)
from kilter.registry.rules import (
    check_alias,
    check_name,
    check_source,
    check_tags,
    check_text,
    refuse_loops_alias,
    refuse_loops_model,
)
from kilter.registry.tables import changes, entries, model_tags, registered, version_tags

DEFAULT = "default"
"""The alias of the version that stands for a client's model."""
_CHAMPION = "champion"
_MANY = 500


class Shown(NamedTuple):
    """A model with one of its versions.

    Args:
        model: The model.
        version: The version.
        standing: The number of the version that stands for the model.
    """

    model: RegisteredModel
    version: RegisteredVersion
    standing: int


class Taken(Conflict):
    """There is a model of this name already."""

    code = "taken"


class Stale(Conflict):
    """Somebody changed it since it was read."""

    code = "stale"


class Upload(msgspec.Struct, frozen=True, kw_only=True):
    """A version to be registered.

    Args:
        source: Where its files are.
        location: Where they can be read from.
        run: The run that made it.
        logged_model: The logged model that it is.
        description: The version, in people's words.
        tags: What is said about the version.
        aliases: Its aliases.
    """

    source: str
    location: str
    run: str = ""
    logged_model: str = ""
    description: str = ""
    tags: dict[str, str] = {}
    aliases: tuple[str, ...] = ()


class TogetherOperations:
    """What the registry does in one transaction for clients of Vertex AI."""

    _database: Database
    _clock: Clock

    def publish(self, model: str, upload: Upload, by: str) -> tuple[RegisteredVersion, int]:
        """Register the next version of a model that is there, and return it with the id of its change.

        Raises:
            NotFound: When there is no such model.
            Conflict: When a loop owns it.
            InvalidInput: When the source, an alias or a tag can't be one.
        """
        _check(upload)
        with self._database.transaction() as connection:
            row = model_row(connection, model, held=True)
            refuse_foreign(row)
            return self._add(connection, row, upload, by)

    def publish_new(
        self, model: str, upload: Upload, by: str, description: str = "", tags: dict[str, str] | None = None
    ) -> tuple[RegisteredVersion, int]:
        """Make a model with its first version, which stands for it, and return the version with the id of its change.

        Raises:
            Taken: When there is a model of this name with versions.
            Conflict: When a loop owns it.
            InvalidInput: When the name, the source, an alias or a tag can't be one.
        """
        _check(upload)
        check_name(model)
        check_text(description, "description")
        check_tags(dict(tags or {}))
        with self._database.transaction() as connection:
            now = self._clock.now()
            made = make_model(connection, model, "client", now, description)
            row = model_row(connection, model, held=True)
            refuse_foreign(row)
            if made:
                note(connection, row, "model", now, after=model, by=by)
            elif connection.execute(sa.select(entries.c.version).where(entries.c.model == row.id).limit(1)).first():
                raise Taken(f"there is a model {model!r} already", where="model", fix="add a version to it")
            if made:
                write_tags(connection, model_tags, {"model": row.id}, dict(tags or {}))
            else:
                put_description(connection, row, description or row.description, None, now, by)
                put_tags(connection, row, dict(tags or {}), None, now, by)
            aliases = (*(alias for alias in upload.aliases if alias != DEFAULT), DEFAULT)
            return self._add(connection, row, msgspec.structs.replace(upload, aliases=aliases), by)

    def revise(
        self,
        model: str,
        version: int | str | None = None,
        *,
        seen: str = "",
        description: str | None = None,
        tags: Mapping[str, str] | None = None,
        gone: Iterable[str] = (),
        by: str = "",
    ) -> None:
        """Change what is said about a model, or about one of its versions.

        Args:
            model: The model's name.
            version: A number or an alias; None for the model itself.
            seen: The state that the caller has read; nothing is changed when it is another one now.
            description: The new description, or None for the one that it has.
            tags: Tags to be set.
            gone: Tags to be taken back.
            by: Who does it.

        Raises:
            NotFound: When there is no such model or version.
            Stale: When it was changed since it was read.
            InvalidInput: When a text or a tag can't be one.
        """
        said = check_tags(dict(tags or {}))
        if description is not None:
            check_text(description, "description")
        with self._database.transaction() as connection:
            row = model_row(connection, model, held=True)
            number = None if version is None else number_of(connection, row, version)
            if number is None:
                state = state_of(filled_models(connection, [row])[0])
            else:
                state = state_of(filled_versions(connection, [version_row(connection, row, number)])[0])
            if seen and seen != state:
                raise Stale(f"{model!r} was changed since it was read", where="etag", fix="read it again")
            now = self._clock.now()
            if description is not None:
                put_description(connection, row, description, number, now, by)
            put_tags(connection, row, said, number, now, by)
            for name in gone:
                take_tag(connection, row, name, number, now, by)

    def merge_aliases(
        self, model: str, version: int | str, add: Sequence[str] = (), remove: Sequence[str] = (), by: str = ""
    ) -> RegisteredVersion:
        """Point some aliases at a version and take others from it; one that it doesn't have stays where it is.

        Raises:
            NotFound: When there is no such model or version.
            InvalidInput: When an alias can't be one.
            Conflict: When an alias is moved by the model's loop, or the model would have no default any more.
        """
        for alias in add:
            check_alias(alias)
        with self._database.transaction() as connection:
            row = model_row(connection, model, held=True)
            number = number_of(connection, row, version)
            found = version_row(connection, row, number)
            now = self._clock.now()
            for alias in (*add, *remove):
                refuse_loops(row, alias)
                if row.owner == "loop" and alias == DEFAULT:
                    raise refuse_loops_alias(model, alias)
            for alias in add:
                point(connection, row, alias, number, now, by)
            for alias in remove:
                if alias == DEFAULT and _standing(connection, [row]).get(row.id) == number:
                    raise Conflict(
                        f"version {number} is the default of {model!r}",
                        where="versionAliases",
                        fix=f"give {DEFAULT!r} to another version, which takes it from this one",
                    )
                if pointed(connection, row, alias) == number:
                    unpoint(connection, row, alias, now, by)
            return filled_versions(connection, [found])[0]

    def remove_version(self, model: str, version: int | str, by: str = "") -> int:
        """Delete a version that doesn't stand for its model, and return the id of the change.

        Raises:
            NotFound: When there is no such model or version.
            Conflict: When a loop made it, or it is the default, or the last.
        """
        with self._database.transaction() as connection:
            row = model_row(connection, model, held=True)
            number = number_of(connection, row, version)
            found = version_row(connection, row, number)
            if row.owner == "loop":
                raise refuse_loops_model(model, "its versions are kept")
            others = sa.select(entries.c.version).where(entries.c.model == row.id, entries.c.version != number)
            if connection.execute(others.limit(1)).first() is None:
                raise Conflict(f"version {number} is the last of {model!r}", where="name", fix="delete the model")
            if _standing(connection, [row]).get(row.id) == number:
                raise Conflict(
                    f"version {number} is the default of {model!r}",
                    where="name",
                    fix=f"give {DEFAULT!r} to another version first",
                )
            erase(connection, row, found, self._clock.now(), by)
            return _last_change(connection, row.id)

    def remove(self, model: str, by: str = "") -> int:
        """Delete a model with its versions, and return the id of the change.

        Raises:
            NotFound: When there is none.
            Conflict: When a loop owns it.
        """
        with self._database.transaction() as connection:
            row = model_row(connection, model, held=True)
            erase_model(connection, row, self._clock.now(), by)
            return _last_change(connection, row.id)

    def standing(self, models: Sequence[RegisteredModel]) -> dict[str, RegisteredVersion]:
        """Return the version that stands for each model, by the model's name; one without versions has none."""
        found: dict[str, RegisteredVersion] = {}
        names = [model.name for model in models]
        with self._database.reading() as connection:
            for start in range(0, len(names), _MANY):
                of = registered.c.name.in_(names[start : start + _MANY])
                numbers = _standing(connection, connection.execute(sa.select(registered).where(of)).all())
                chosen = sa.tuple_(entries.c.model, entries.c.version).in_(list(numbers.items()))
                rows = connection.execute(sa.select(entries).where(chosen)).all() if numbers else []
                found |= {version.model: version for version in filled_versions(connection, rows)}
        return found

    def shown(self, model: str, version: int | str | None = None) -> Shown:
        """Return a model with one of its versions; with the one that stands for it, if none is said.

        Raises:
            NotFound: When there is no such model or version.
        """
        with self._database.reading() as connection:
            row = model_row(connection, model)
            standing = _standing(connection, [row]).get(row.id)
            if standing is None:
                raise NotFound(f"{model!r} has no versions", where="models")
            number = standing if version in {None, DEFAULT} else number_of(connection, row, version or 0)
            versions = filled_versions(connection, [version_row(connection, row, number)])
            return Shown(filled_models(connection, [row])[0], versions[0], standing)

    def change(self, number: int) -> Change:
        """Return a change by its id.

        Raises:
            NotFound: When there is none.
        """
        with self._database.reading() as connection:
            row = connection.execute(sa.select(changes).where(changes.c.id == number)).first()
        if row is None:
            raise NotFound(f"there is no change {number}", where="changes")
        return change_of(row)

    def _add(
        self, connection: sa.Connection, row: sa.Row[Any], upload: Upload, by: str
    ) -> tuple[RegisteredVersion, int]:
        now = self._clock.now()
        number = connection.execute(
            registered.update()
            .where(registered.c.id == row.id)
            .values(latest=registered.c.latest + 1, changed_at=now)
            .returning(registered.c.latest)
        ).scalar_one()
        said = {
            "source": upload.source,
            "location": upload.location,
            "run": upload.run,
            "logged_model": upload.logged_model,
            "description": upload.description,
        }
        connection.execute(entries.insert().values(**entry(row.id, number, now, **said)))
        write_tags(connection, version_tags, {"model": row.id, "version": number}, upload.tags)
        note(connection, row, "version", now, version=number, after=upload.source, by=by)
        change = _last_change(connection, row.id)
        for alias in upload.aliases:
            point(connection, row, alias, number, now, by)
        return filled_versions(connection, [version_row(connection, row, number)])[0], change


def state_of(about: RegisteredModel | RegisteredVersion) -> str:
    """Return a word for what people say about a model or a version; it changes when that is changed."""
    return digest(msgspec.json.encode([about.description, sorted(about.tags.items())]))[:16]


def _standing(connection: sa.Connection, rows: Sequence[sa.Row[Any]]) -> dict[str, int]:
    """Return the number of the version that stands for each model, by the model's id."""
    ids = [row.id for row in rows]
    first = sa.select(entries.c.model, sa.func.min(entries.c.version).label("version")).where(entries.c.model.in_(ids))
    found = {row.model: int(row.version) for row in connection.execute(first.group_by(entries.c.model))}
    named = aliases_of(connection, rows)
    for row in rows:
        chosen = named.get(row.id, {}).get(_CHAMPION if row.owner == "loop" else DEFAULT)
        if chosen is not None and row.id in found:
            found[row.id] = chosen
    return found


def _last_change(connection: sa.Connection, model: str) -> int:
    last = sa.select(sa.func.max(changes.c.id)).where(changes.c.model == model)
    return int(connection.execute(last).scalar_one())


def _check(upload: Upload) -> None:
    check_source(upload.source)
    check_source(upload.location, "location")
    check_tags(upload.tags)
    check_text(upload.run, "run", 256)
    check_text(upload.logged_model, "logged_model", 64)
    check_text(upload.description, "description")
    for alias in upload.aliases:
        check_alias(alias)
