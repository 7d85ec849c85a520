"""Scorers that clients register: kept by experiment and name, in versions. They are kept here, and run where they are asked for."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from kilter.core.clock import Clock
from kilter.core.errors import InvalidInput, NotFound
from kilter.engines.sql.database import Database
from kilter.llm.records import Scorer, ScorerList
from kilter.llm.tables import scorer_versions, scorers
from kilter.llm.writing import chunks
from kilter.operations.table import operation
from kilter.tracking.tables import experiments

_LONGEST = 1_000_000
_CODE = "call_source"
"""The member of MLflow's form of a scorer that is Python, run by whoever reads it."""


class ScorerService:
    """Scorers and their versions.

    Args:
        database: Where the rows are.
        clock: The time.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    @operation(writes=True)
    def register(self, experiment: int, name: str, text: str) -> Scorer:
        """Keep a scorer: as the first version of its name, or as the next one.

        Args:
            experiment: The number of the experiment that it judges.
            name: 1 to 250 characters.
            text: The scorer as its client writes it: a JSON object without code of its own.

        Raises:
            InvalidInput: When it has no name, is no JSON object, or carries code that its readers would run.
            NotFound: When there is no such experiment.
        """
        if not name.strip() or len(name) > 250 or "\x00" in name:
            raise InvalidInput("a scorer needs a name", where="name", allowed="1 to 250 characters")
        _check(text)
        now = int(self._clock.now().timestamp() * 1000)
        with self._database.transaction() as connection:
            # Held while the version is counted: two clients that register at once get a number each.
            there = sa.select(experiments.c.id).where(experiments.c.id == experiment).with_for_update()
            if connection.execute(there).first() is None:
                raise NotFound(f"No Experiment with id={experiment} exists", where="experiment")
            row = _row(connection, experiment, name)
            if row is None:
                identity, version = secrets.token_hex(16), 1
                made = scorers.insert().values(id=identity, experiment=experiment, name=name, newest=version)
                connection.execute(made)
            else:
                identity, version = row.id, row.newest + 1
                connection.execute(scorers.update().where(scorers.c.id == identity).values(newest=version))
            connection.execute(
                scorer_versions.insert().values(scorer=identity, version=version, text=text, created_ms=now)
            )
        return Scorer(id=identity, experiment=experiment, name=name, version=version, text=text, created_ms=now)

    @operation
    def list(self, among: Sequence[int] | None = None) -> ScorerList:
        """Return the newest version of each scorer, by experiment and name.

        Args:
            among: Only those of the experiments with these numbers; of all that are not deleted, if not said.
        """
        newest = sa.select(scorer_versions.c.scorer, sa.func.max(scorer_versions.c.version).label("version"))
        newest_of = newest.group_by(scorer_versions.c.scorer).subquery()
        query = _QUERY.join(
            newest_of,
            (newest_of.c.scorer == scorer_versions.c.scorer) & (newest_of.c.version == scorer_versions.c.version),
        )
        query = query.join(experiments, experiments.c.id == scorers.c.experiment).where(
            experiments.c.deleted_at.is_(None)
        )
        with self._database.reading() as connection:
            if among is None:
                found = list(connection.execute(query))
            else:
                wanted = chunks(sorted(set(among)))
                found = [
                    row for some in wanted for row in connection.execute(query.where(scorers.c.experiment.in_(some)))
                ]
        return ScorerList(scorers=tuple(sorted(map(_shown, found), key=lambda one: (one.experiment, one.name))))

    @operation
    def versions(self, experiment: int, name: str) -> ScorerList:
        """Return all versions of a scorer, the oldest first.

        Raises:
            NotFound: When there is none of this name.
        """
        with self._database.reading() as connection:
            row = _require(connection, experiment, name)
            query = _QUERY.where(scorers.c.id == row.id).order_by(scorer_versions.c.version)
            return ScorerList(scorers=tuple(_shown(one) for one in connection.execute(query)))

    @operation
    def get(self, experiment: int, name: str, version: int | None = None) -> Scorer:
        """Return a version of a scorer; its newest, if not said.

        Raises:
            NotFound: When there is none of this name, or not this version.
        """
        with self._database.reading() as connection:
            row = _require(connection, experiment, name)
            query = _QUERY.where(scorers.c.id == row.id).order_by(scorer_versions.c.version.desc()).limit(1)
            if version is not None:
                query = query.where(scorer_versions.c.version == version)
            found = connection.execute(query).first()
        if found is None:
            raise _missing(experiment, name, version)
        return _shown(found)

    @operation(writes=True)
    def delete(self, experiment: int, name: str, version: int | None = None) -> None:
        """Delete a version of a scorer, or all of it, if none is said; the scorer goes with its last version.

        Raises:
            NotFound: When there is none of this name, or not this version.
        """
        with self._database.transaction() as connection:
            row = _require(connection, experiment, name, lock=True)
            gone = scorer_versions.c.scorer == row.id
            which = gone if version is None else gone & (scorer_versions.c.version == version)
            if connection.execute(scorer_versions.delete().where(which)).rowcount == 0:
                raise _missing(experiment, name, version)
            if connection.execute(sa.select(scorer_versions.c.version).where(gone).limit(1)).first() is None:
                connection.execute(scorers.delete().where(scorers.c.id == row.id))


_QUERY: sa.Select[Any] = sa.select(
    scorers.c.id,
    scorers.c.experiment,
    scorers.c.name,
    scorer_versions.c.version,
    scorer_versions.c.text,
    scorer_versions.c.created_ms,
).join_from(scorer_versions, scorers, scorers.c.id == scorer_versions.c.scorer)


def _shown(row: sa.Row[Any]) -> Scorer:
    return Scorer(
        id=row.id,
        experiment=row.experiment,
        name=row.name,
        version=row.version,
        text=row.text,
        created_ms=row.created_ms,
    )


def _row(connection: sa.Connection, experiment: int, name: str, *, lock: bool = False) -> sa.Row[Any] | None:
    chosen = sa.select(scorers).where(scorers.c.experiment == experiment, scorers.c.name == name)
    return connection.execute(chosen.with_for_update() if lock else chosen).first()


def _require(connection: sa.Connection, experiment: int, name: str, *, lock: bool = False) -> sa.Row[Any]:
    row = _row(connection, experiment, name, lock=lock)
    if row is None:
        raise _missing(experiment, name)
    return row


def _missing(experiment: int, name: str, version: int | None = None) -> NotFound:
    which = "" if version is None else f" and version {version}"
    return NotFound(f"Scorer with name '{name[:250]}'{which} not found for experiment {experiment}.", where="name")


def _check(text: str) -> None:
    if len(text) > _LONGEST:
        raise InvalidInput("the scorer is too long", where="text", allowed=f"{_LONGEST} characters")
    try:
        read = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        read = None
    if not isinstance(read, dict):
        raise InvalidInput("a scorer is a JSON object", where="text")
    left: list[Any] = [read]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            if one.get(_CODE) is not None:
                raise InvalidInput(
                    "this scorer carries Python, which whoever reads it would run: it is not kept",
                    where="text",
                    fix="keep functions with their code and hand them to evaluate; register judges and built-in scorers",
                )
            left += one.values()
        elif isinstance(one, list):
            left += one
