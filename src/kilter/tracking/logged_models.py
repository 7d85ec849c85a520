"""Models as trainings leave them: a name, files, parameters, and what was measured of them, before anybody registers one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from kilter.core.clock import Clock
from kilter.core.errors import Conflict, InvalidInput, NotFound
from kilter.core.ids import new_id
from kilter.engines.objects.store import ObjectStore
from kilter.engines.sql.database import Database
from kilter.engines.sql.grammar import COMPARE, clauses, on_text
from kilter.engines.sql.paging import Place
from kilter.operations.table import operation
from kilter.tracking.filters import named_field, on_column
from kilter.tracking.orders import terms_of
from kilter.tracking.records import (
    Artifact,
    LoggedModel,
    LoggedModelPage,
    LoggedStatus,
    MetricPoint,
    ModelMetric,
    spelled,
)
from kilter.tracking.rows import restored, stored
from kilter.tracking.tables import (
    experiments,
    logged_files,
    logged_metrics,
    logged_models,
    logged_params,
    logged_tags,
)
from kilter.tracking.writing import check_name, file_name, upsert

_MOST = 1000
_COLUMNS = {
    "name": "name",
    "model_id": "id",
    "model_type": "type",
    "status": "status",
    "source_run_id": "run",
    "started_at": "created_at",
    "creation_time": "created_at",
    "creation_timestamp": "created_at",
    "last_updated_timestamp": "changed_at",
}


class LoggedModelOperations:
    """The operations on logged models."""

    _database: Database
    _objects: ObjectStore
    _clock: Clock

    @operation(writes=True)
    def log_model(
        self,
        experiment: int,
        name: str = "",
        run: str = "",
        type: str = "",  # noqa: A002 - the client's word
        params: dict[str, str] | None = None,
        tags: dict[str, str] | None = None,
    ) -> LoggedModel:
        """Make a logged model; its files come afterwards, and then it is said to be ready.

        Args:
            experiment: The number of the experiment that it belongs to.
            name: What people call it.
            run: The run that makes it, here or elsewhere.
            type: What kind of model it is.
            params: What it is made with.
            tags: What people say about it.

        Raises:
            NotFound: When there is no such experiment.
        """
        identity, now = new_id("m", self._clock.now()).replace("_", "-"), self._clock.now()
        with self._database.transaction() as connection:
            if connection.execute(sa.select(experiments.c.id).where(experiments.c.id == experiment)).first() is None:
                raise NotFound(f"there is no experiment {experiment}", where="experiments")
            connection.execute(
                logged_models.insert().values(
                    id=identity,
                    experiment=experiment,
                    run=run,
                    name=name or identity,
                    type=type,
                    status="PENDING",
                    message="",
                    created_at=now,
                    changed_at=now,
                )
            )
            _say(connection, logged_params, identity, params or {}, "param")
            _say(connection, logged_tags, identity, tags or {}, "tag")
            return one_model(connection, identity)

    @operation
    def logged_model(self, model: str, deleted: bool = False) -> LoggedModel:
        """Return a logged model.

        Args:
            model: Its id.
            deleted: A deleted one too.

        Raises:
            NotFound: When there is none.
        """
        with self._database.reading() as connection:
            return one_model(connection, model, deleted=deleted)

    @operation(writes=True)
    def change_logged_model(
        self,
        model: str,
        status: LoggedStatus | None = None,
        params: dict[str, str] | None = None,
        tags: dict[str, str] | None = None,
    ) -> LoggedModel:
        """Say how a logged model stands, and more about it.

        Raises:
            NotFound: When there is none.
            Conflict: When a parameter has another value already.
        """
        with self._database.transaction() as connection:
            found = one_model(connection, model)
            for name, value in (params or {}).items():
                if found.params.get(name, value) != value:
                    raise Conflict(f"param {name!r} of model {model} is {found.params[name]!r} already", where="models")
            _say(connection, logged_params, model, params or {}, "param")
            _say(connection, logged_tags, model, tags or {}, "tag")
            values = {"changed_at": self._clock.now(), **({"status": status} if status else {})}
            connection.execute(logged_models.update().where(logged_models.c.id == model).values(**values))
            return one_model(connection, model)

    @operation(writes=True)
    def untag_logged_model(self, model: str, name: str) -> None:
        """Take back what was said about a logged model.

        Raises:
            NotFound: When there is none, or it has no such tag.
        """
        with self._database.transaction() as connection:
            one_model(connection, model)
            of = (logged_tags.c.model == model) & (logged_tags.c.name == name)
            if not connection.execute(logged_tags.delete().where(of)).rowcount:
                raise NotFound(f"model {model} has no tag {name!r}", where="models")

    @operation(writes=True)
    def delete_logged_model(self, model: str) -> None:
        """Put a logged model away; nothing is lost.

        Raises:
            NotFound: When there is none.
        """
        with self._database.transaction() as connection:
            one_model(connection, model)
            connection.execute(
                logged_models.update().where(logged_models.c.id == model).values(deleted_at=self._clock.now())
            )

    @operation
    def logged_models(
        self,
        among: Sequence[int],
        filter: str = "",  # noqa: A002 - the word that every tracking tool has for it
        order: str = "-created",
        limit: int = 100,
        cursor: str | None = None,
        datasets: Sequence[tuple[str, str]] = (),
    ) -> LoggedModelPage:
        """Return logged models of experiments, page by page.

        Args:
            among: The numbers of the experiments.
            filter: As for runs, over ``name``, ``model_type``, ``status``, ``source_run_id``, ``creation_time``, ``params.NAME``,
                ``tags.NAME`` and ``metrics.NAME``.
            order: Of the same fields but params and tags, ``-`` in front for the greatest first; those without it come last.
            limit: At most so many.
            cursor: From the page before.
            datasets: Only what was measured on one of these counts: name, and digest or nothing for any.

        Raises:
            InvalidInput: When the filter, the order or the cursor can't be read.
        """
        if not 1 <= limit <= _MOST:
            raise InvalidInput(f"{limit}", where="limit", allowed=f"1 to {_MOST}")
        place = Place(f"models:{order}")
        query = sa.select(logged_models).where(
            logged_models.c.experiment.in_(list(among)), logged_models.c.deleted_at.is_(None)
        )
        if filter.strip():
            query = query.where(*(_condition(*clause, datasets) for clause in clauses(filter)))
        if datasets:
            query = query.where(sa.exists().where(logged_metrics.c.model == logged_models.c.id, _measured_on(datasets)))
        for term in terms_of(order):
            query, column = _ordered(query, term.kind, term.name)
            query = query.order_by(column.is_(None), column.desc() if term.descending else column.asc())
        start = place.start(cursor)
        query = query.order_by(logged_models.c.created_at.desc(), logged_models.c.id)
        with self._database.reading() as connection:
            rows = connection.execute(query.offset(start).limit(limit + 1)).all()
            page = _filled(connection, rows[:limit])
        return LoggedModelPage(models=page, cursor=place.cursor(start + limit) if len(rows) > limit else None)

    # ------------------------------------------------------------ files

    def keep_model_written(self, model: str, name: str, digest: str, size: int) -> Artifact:
        """Keep a file of a logged model whose bytes are in the store already; the same name again replaces it.

        Raises:
            NotFound: When there is no such model.
            InvalidInput: When the name climbs out of it.
        """
        kept = Artifact(name=file_name(name), digest=digest, size=size, at=self._clock.now())
        with self._database.transaction() as connection:
            one_model(connection, model)
            upsert(
                connection,
                logged_files,
                [{"model": model, "name": kept.name, "digest": digest, "size": size, "at": kept.at}],
            )
        return kept

    @operation
    def model_files(self, model: str) -> tuple[Artifact, ...]:
        """Return the files of a logged model, by name; none when there is no such model.

        Args:
            model: Its id.
        """
        chosen = sa.select(logged_files).where(logged_files.c.model == model).order_by(logged_files.c.name)
        with self._database.reading() as connection:
            return tuple(
                Artifact(name=row.name, digest=row.digest, size=row.size, at=row.at)
                for row in connection.execute(chosen)
            )

    @operation
    def model_file(self, model: str, name: str) -> bytes:
        """Return the bytes of a logged model's file.

        Args:
            model: Its id.
            name: The file's path.

        Raises:
            NotFound: When it has no such file.
            Damaged: When the stored bytes have another digest.
        """
        return self._objects.get(self.model_entry(model, name).digest)

    def model_entry(self, model: str, name: str) -> Artifact:
        """Return what is known of a logged model's file without reading it.

        Raises:
            NotFound: When it has no such file.
        """
        chosen = sa.select(logged_files).where(logged_files.c.model == model, logged_files.c.name == name)
        with self._database.reading() as connection:
            found = connection.execute(chosen).first()
        if found is None:
            raise NotFound(f"model {model} has no file {name!r}", where="models")
        return Artifact(name=found.name, digest=found.digest, size=found.size, at=found.at)

    def drop_model_files(self, model: str, name: str) -> int:
        """Take a file, or all files of a folder, from a logged model, and return how many."""
        of = logged_files.c.model == model
        if name:
            of &= (logged_files.c.name == name) | logged_files.c.name.startswith(f"{name}/", autoescape=True)
        with self._database.transaction() as connection:
            return connection.execute(logged_files.delete().where(of)).rowcount


def make_model(
    connection: sa.Connection,
    identity: str,
    *,
    experiment: int,
    run: str,
    name: str,
    type: str,  # noqa: A002 - the client's word
    at: datetime,
    params: Mapping[str, str],
    tags: Mapping[str, str],
    files: Mapping[str, Artifact],
) -> None:
    """Make a logged model with its files, in the caller's transaction; what was said of the same one before stays."""
    there = connection.execute(sa.select(logged_models.c.id).where(logged_models.c.id == identity)).first()
    row = {
        "experiment": experiment,
        "run": run,
        "name": name or identity,
        "type": type,
        "status": "READY",
        "message": "",
    }
    if there is None:
        connection.execute(logged_models.insert().values(id=identity, created_at=at, changed_at=at, **row))
    _say(connection, logged_params, identity, params, "param")
    _say(connection, logged_tags, identity, tags, "tag")
    rows = [
        {"model": identity, "name": called, "digest": kept.digest, "size": kept.size, "at": kept.at}
        for called, kept in files.items()
    ]
    upsert(connection, logged_files, rows)


_POINT = ("model", "run", "name", "step", "value", "at", "dataset", "dataset_digest")
"""What tells one point of a model from another."""


def write_model_metrics(connection: sa.Connection, model: str, found: Sequence[ModelMetric]) -> None:
    """Write what a run measured of a model, in the caller's transaction; the same point, sent again, is there once.

    MLflow's autologging says what it measured before it had a model again with the model.

    Raises:
        NotFound: When there is no such model.
    """
    one_model(connection, model)
    rows = {
        (
            model,
            one.run,
            one.point.name,
            one.point.step,
            stored(one.point.number),
            one.point.at,
            one.dataset,
            one.dataset_digest,
        ): None
        for one in found
    }
    steps = [one.point.step for one in found]
    of = sa.select(*(logged_metrics.c[name] for name in _POINT)).where(
        logged_metrics.c.model == model,
        logged_metrics.c.name.in_({one.point.name for one in found}),
        logged_metrics.c.step.between(min(steps, default=0), max(steps, default=0)),
    )
    there = {tuple(row) for row in connection.execute(of)}
    new = [dict(zip(_POINT, row, strict=True)) for row in rows if row not in there]
    if new:
        connection.execute(logged_metrics.insert(), new)


# ---------------------------------------------------------------- within


def _say(connection: sa.Connection, table: sa.Table, model: str, given: Mapping[str, str], what: str) -> None:
    for name in given:
        check_name(name, what)
    upsert(connection, table, [{"model": model, "name": name, "value": value} for name, value in given.items()])


def one_model(connection: sa.Connection, model: str, *, deleted: bool = False) -> LoggedModel:
    """Return a logged model.

    Raises:
        NotFound: When there is none; a deleted one counts only if it is asked for.
    """
    rows = connection.execute(sa.select(logged_models).where(logged_models.c.id == model)).all()
    if not rows or (rows[0].deleted_at is not None and not deleted):
        raise NotFound(f"there is no logged model {model!r}", where="models")
    return _filled(connection, rows)[0]


def _filled(connection: sa.Connection, rows: Sequence[sa.Row[Any]]) -> tuple[LoggedModel, ...]:
    identities = [row.id for row in rows]

    def parts(table: sa.Table, order: sa.Column[Any]) -> dict[str, list[sa.Row[Any]]]:
        found: defaultdict[str, list[sa.Row[Any]]] = defaultdict(list)
        for part in connection.execute(sa.select(table).where(table.c.model.in_(identities)).order_by(order)):
            found[part.model].append(part)
        return found

    given, said = parts(logged_params, logged_params.c.name), parts(logged_tags, logged_tags.c.name)
    measured = parts(logged_metrics, logged_metrics.c.id)
    return tuple(
        LoggedModel(
            id=row.id,
            experiment_number=row.experiment,
            run=row.run,
            name=row.name,
            type=row.type,
            status=row.status,
            message=row.message,
            created_at=row.created_at,
            changed_at=row.changed_at,
            deleted_at=row.deleted_at,
            params={part.name: part.value for part in given.get(row.id, ())},
            tags={part.name: part.value for part in said.get(row.id, ())},
            metrics=tuple(_metric(part) for part in measured.get(row.id, ())),
        )
        for row in rows
    )


def _metric(row: sa.Row[Any]) -> ModelMetric:
    point = MetricPoint(name=row.name, value=spelled(restored(row.value)), step=row.step, at=row.at)
    return ModelMetric(point=point, run=row.run, dataset=row.dataset, dataset_digest=row.dataset_digest)


def _column(name: str) -> sa.Column[Any]:
    if name not in _COLUMNS:
        raise InvalidInput(f"there is no field {name!r}", where="filter", allowed=", ".join(_COLUMNS))
    return logged_models.c[_COLUMNS[name]]


def _measured_on(datasets: Sequence[tuple[str, str]]) -> sa.ColumnElement[bool]:
    """Return what is true of a metric that was measured on one of the data."""
    on, digest = logged_metrics.c.dataset, logged_metrics.c.dataset_digest
    return sa.or_(*((on == name) & (digest == wanted) if wanted else on == name for name, wanted in datasets))


def _condition(
    field: str, operator: str, value: Any, datasets: Sequence[tuple[str, str]] = ()
) -> sa.ColumnElement[bool]:
    kind, name = named_field(field)
    if not kind:
        return on_column(_column(name), field, operator, value)
    if kind == "metrics":
        if not isinstance(value, float) or operator not in COMPARE:
            raise InvalidInput(f"{field} {operator}", where="filter", allowed="a number")
        table, test = logged_metrics, COMPARE[operator](logged_metrics.c.value, value)
        if datasets:
            test &= _measured_on(datasets)
    else:
        table = logged_params if kind == "params" else logged_tags
        if value is None:
            raise InvalidInput(f"{field} {operator}", where="filter", allowed="a comparison with a text")
        test = on_text(table.c.value, operator, value)
    return sa.exists().where(table.c.model == logged_models.c.id, table.c.name == name, test)


def _ordered(query: sa.Select[Any], kind: str, name: str) -> tuple[sa.Select[Any], sa.ColumnElement[Any]]:
    if not kind:
        return query, _column(name)
    if kind != "metrics":
        raise InvalidInput(f"{kind}.{name}", where="order", allowed=f"metrics.NAME, {', '.join(_COLUMNS)}")
    newest = (
        sa.select(logged_metrics.c.model, sa.func.max(logged_metrics.c.id).label("id"))
        .where(logged_metrics.c.name == name)
        .group_by(logged_metrics.c.model)
        .subquery()
    )
    beside = logged_metrics.alias()
    query = query.outerjoin(newest, newest.c.model == logged_models.c.id).outerjoin(beside, beside.c.id == newest.c.id)
    return query, beside.c.value
