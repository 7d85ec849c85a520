"""Experiments: what runs belong to, under a name that can change."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from kilter.core.clock import Clock
from kilter.core.errors import Conflict, InvalidInput, NotFound
from kilter.engines.sql.database import Database
from kilter.operations.table import operation
from kilter.tracking.filters import View, experiment_condition, viewed
from kilter.tracking.orders import Orders
from kilter.tracking.records import Experiment, ExperimentPage
from kilter.tracking.tables import experiment_tags, experiments, runs
from kilter.tracking.writing import upsert

_LONGEST = 500
_MOST = 10_000


class ExperimentOperations:
    """The operations on experiments; runs are made and read elsewhere in the room."""

    _database: Database
    _clock: Clock

    @operation(writes=True)
    def create_experiment(self, name: str, tags: dict[str, str] | None = None) -> Experiment:
        """Make an experiment; a run that names a new one makes it too.

        Args:
            name: 1 to 500 characters.
            tags: What people say about it.

        Raises:
            Conflict: When there is one of that name, deleted or not.
        """
        _check_name(name)
        with self._database.transaction() as connection:
            if connection.execute(sa.select(experiments.c.id).where(experiments.c.name == name)).first():
                raise Conflict(f"there is an experiment {name!r} already", where="experiments", fix="use that one")
            number = make_experiment(connection, self._clock, name)
            self._tag(connection, number, tags or {})
            return _one(connection, number)

    @operation
    def experiment(self, name: str = "", number: int | None = None) -> Experiment:
        """Return an experiment by its name or its number, a deleted one too.

        Raises:
            NotFound: When there is none.
        """
        with self._database.reading() as connection:
            return _one(connection, number, name)

    @operation(writes=True)
    def rename_experiment(self, number: int, name: str) -> Experiment:
        """Give an experiment another name; its runs go with it.

        Raises:
            Conflict: When another one has the name, or this one is deleted.
        """
        _check_name(name)
        with self._database.transaction() as connection:
            found = _one(connection, number)
            _require_alive(found)
            other = sa.select(experiments.c.id).where(experiments.c.name == name, experiments.c.id != number)
            if connection.execute(other).first():
                raise Conflict(f"there is an experiment {name!r} already", where="experiments")
            connection.execute(runs.update().where(runs.c.experiment == found.name).values(experiment=name))
            self._change(connection, number, name=name)
            return _one(connection, number)

    @operation(writes=True)
    def delete_experiment(self, number: int) -> Experiment:
        """Put an experiment and its runs away; nothing is lost, and they can be brought back.

        Raises:
            NotFound: When there is none, or it is deleted already.
        """
        with self._database.transaction() as connection:
            found = _one(connection, number)
            if found.deleted_at is not None:
                raise NotFound(f"experiment {number} is deleted already", where="experiments")
            now = self._clock.now()
            alive = (runs.c.experiment == found.name) & runs.c.deleted_at.is_(None)
            connection.execute(runs.update().where(alive).values(deleted_at=now))
            self._change(connection, number, deleted_at=now)
            return _one(connection, number)

    @operation(writes=True)
    def restore_experiment(self, number: int) -> Experiment:
        """Bring a deleted experiment back, with the runs that were deleted with it.

        Raises:
            NotFound: When there is no deleted one of that number.
        """
        with self._database.transaction() as connection:
            found = _one(connection, number)
            if found.deleted_at is None:
                raise NotFound(f"experiment {number} is not deleted", where="experiments")
            gone = (runs.c.experiment == found.name) & (runs.c.deleted_at == found.deleted_at)
            connection.execute(runs.update().where(gone).values(deleted_at=None))
            self._change(connection, number, deleted_at=None)
            return _one(connection, number)

    @operation(writes=True)
    def tag_experiment(self, number: int, tags: dict[str, str]) -> Experiment:
        """Say something about an experiment; the newest word counts.

        Raises:
            Conflict: When it is deleted.
        """
        with self._database.transaction() as connection:
            _require_alive(_one(connection, number))
            self._tag(connection, number, tags)
            return _one(connection, number)

    @operation(writes=True)
    def untag_experiment(self, number: int, name: str) -> Experiment:
        """Take back what was said about an experiment.

        Raises:
            NotFound: When it has no such tag.
        """
        with self._database.transaction() as connection:
            _require_alive(_one(connection, number))
            of = (experiment_tags.c.experiment == number) & (experiment_tags.c.name == name)
            if not connection.execute(experiment_tags.delete().where(of)).rowcount:
                raise NotFound(f"experiment {number} has no tag {name!r}", where="experiments")
            return _one(connection, number)

    @operation
    def search_experiments(
        self,
        filter: str = "",  # noqa: A002 - the word that every tracking tool has for it
        order: str = "",
        view: View = "alive",
        limit: int = 1000,
        cursor: str | None = None,
    ) -> ExperimentPage:
        """Return experiments, page by page.

        Args:
            filter: As for runs, over ``name``, ``created``, ``changed`` and ``tags.NAME``.
            order: ``name``, ``created``, ``changed``, ``experiment_id`` or ``tags.NAME``, with ``-`` in front for the greatest
                first, several with commas between; the newest change first, if not said.
            view: ``alive``, ``deleted`` or ``all``.
            limit: At most so many.
            cursor: From the page before.

        Raises:
            InvalidInput: When the filter, the order or the cursor can't be read.
        """
        if not 1 <= limit <= _MOST:
            raise InvalidInput(f"{limit}", where="limit", allowed=f"1 to {_MOST}")
        placing = Orders(order, of="experiments")
        query = placing.apply(sa.select(experiments), cursor).where(*viewed(experiments.c.deleted_at, view))
        if filter.strip():
            query = query.where(experiment_condition(filter))
        with self._database.reading() as connection:
            rows = connection.execute(query.limit(limit + 1)).all()
            page = _filled(connection, rows[:limit])
        more = len(rows) > limit
        return ExperimentPage(experiments=page, cursor=placing.cursor(placing.start(cursor) + limit) if more else None)

    # ------------------------------------------------------------ within

    def _change(self, connection: sa.Connection, number: int, **values: Any) -> None:
        connection.execute(
            experiments.update().where(experiments.c.id == number).values(changed_at=self._clock.now(), **values)
        )

    def _tag(self, connection: sa.Connection, number: int, tags: Mapping[str, str]) -> None:
        rows = [{"experiment": number, "name": name, "value": value} for name, value in tags.items()]
        upsert(connection, experiment_tags, rows)
        if rows:
            self._change(connection, number)


def make_experiment(connection: sa.Connection, clock: Clock, name: str) -> int:
    """Make an experiment and return its number."""
    now = clock.now()
    made = connection.execute(experiments.insert().values(name=name, created_at=now, changed_at=now))
    key = made.inserted_primary_key
    assert key is not None  # noqa: S101 - one row was inserted
    return int(key[0])


def join_experiment(connection: sa.Connection, clock: Clock, name: str) -> None:
    """Make sure that there is an experiment for a run.

    Raises:
        Conflict: When it is deleted.
    """
    _check_name(name)
    row = connection.execute(sa.select(experiments.c.deleted_at).where(experiments.c.name == name)).first()
    if row is None:
        make_experiment(connection, clock, name)
    elif row.deleted_at is not None:
        raise Conflict(f"experiment {name!r} is deleted", where="experiment", fix="restore it, or use another name")


def _check_name(name: str) -> None:
    if not name.strip() or len(name) > _LONGEST or "\x00" in name:
        raise InvalidInput(
            f"{name[:60]!r} can't be the name of an experiment",
            where="experiment",
            allowed=f"1 to {_LONGEST} characters",
        )


def _require_alive(found: Experiment) -> None:
    if found.deleted_at is not None:
        raise Conflict(f"experiment {found.name!r} is deleted", where="experiments", fix="restore it first")


def _one(connection: sa.Connection, number: int | None, name: str = "") -> Experiment:
    where = experiments.c.name == name if number is None else experiments.c.id == number
    row = connection.execute(sa.select(experiments).where(where)).first()
    if row is None:
        asked = repr(name) if number is None else str(number)
        raise NotFound(f"there is no experiment {asked}", where="experiments")
    return _filled(connection, [row])[0]


def _filled(connection: sa.Connection, rows: Sequence[sa.Row[Any]]) -> tuple[Experiment, ...]:
    """Return experiments with their tags: one query for all of them."""
    chosen = sa.select(experiment_tags).where(experiment_tags.c.experiment.in_([row.id for row in rows]))
    said: defaultdict[int, dict[str, str]] = defaultdict(dict)
    for tag in connection.execute(chosen.order_by(experiment_tags.c.experiment, experiment_tags.c.name)):
        said[tag.experiment][tag.name] = tag.value
    return tuple(
        Experiment(
            number=row.id,
            name=row.name,
            created_at=row.created_at,
            changed_at=row.changed_at,
            deleted_at=row.deleted_at,
            tags=said.get(row.id, {}),
        )
        for row in rows
    )
