"""The operations on runs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from kilter.core.clock import Clock, SystemClock
from kilter.core.errors import Conflict, InvalidInput, NotFound
from kilter.core.ids import new_id
from kilter.engines.objects.store import ObjectStore
from kilter.engines.sql.database import Database
from kilter.operations.table import operation
from kilter.tracking.bulk import write_columns
from kilter.tracking.columns import Points
from kilter.tracking.experiments import ExperimentOperations, join_experiment
from kilter.tracking.filters import View, condition, viewed
from kilter.tracking.inputs import InputOperations
from kilter.tracking.liveness import LEASE_SECONDS, SILENT, alive, lease, require
from kilter.tracking.logged_models import write_model_metrics
from kilter.tracking.orders import Orders
from kilter.tracking.points import has_blocks, points_of, rows_of, series, thin
from kilter.tracking.projection import ProjectionOperations
from kilter.tracking.records import ExperimentRuns, MetricPoint, ModelMetric, Run, RunPage, Status, spelled
from kilter.tracking.rows import filled, one_run, restored
from kilter.tracking.tables import metrics, runs, tags, writes
from kilter.tracking.together import Together
from kilter.tracking.uploads import UploadOperations
from kilter.tracking.writing import write_metrics, write_params, write_tags

_MOST = 50_000
_LONGEST_PATIENCE = 30 * 86400.0
_ID = re.compile(r"^run_[0-9a-z]{20}$")
_DONE: tuple[Status, ...] = ("FINISHED", "FAILED", "INTERRUPTED")


class RunService(ExperimentOperations, InputOperations, UploadOperations, ProjectionOperations):
    """Experiments, runs, their parameters, metrics and files.

    Args:
        database: Where the rows are.
        objects: Where the files are.
        clock: What time it is for the loop.
        wall: What time it is on this machine; it decides which runs are dead.
    """

    def __init__(self, database: Database, objects: ObjectStore, clock: Clock, wall: Clock | None = None) -> None:
        self._database = database
        self._objects = objects
        self._clock = clock
        self._wall = wall or SystemClock()

    # ------------------------------------------------------------ writing

    @operation(writes=True)
    def start(
        self,
        experiment: str,
        name: str = "",
        params: dict[str, Any] | None = None,
        tags: dict[str, str] | None = None,
        data_digest: str = "",
        feature_digest: str = "",
        code_digest: str = "",
        environment: str = "",
        seed: int | None = None,
        spec: str = "",
        key: str = "",
        started_at: datetime | None = None,
        patience: float = LEASE_SECONDS,
        id: str = "",  # noqa: A002 - what it is called everywhere
    ) -> Run:
        """Start a run.

        Args:
            experiment: What it belongs to; a loop's trainings belong to the loop's name.
            name: What people call it; its id, if not said.
            params: What it is given.
            tags: What people say about it.
            data_digest: Digest of the rows that it sees.
            feature_digest: Digest of the feature definitions.
            code_digest: Digest of its source.
            environment: Digest of the lock of installed distributions.
            seed: Its seed.
            spec: Digest of the declaration that asked for it.
            key: Idempotency key: the same key gives the run that it gave the first time.
            started_at: When it began; now, if not said.
            patience: Seconds after its last sign of life from which it counts as interrupted.
            id: Its id, when the client has made one because it started while the store was away; the same id again gives that run.

        Raises:
            InvalidInput: When a name or an id can't be used or JSON can't say a parameter.
            Conflict: When the experiment is deleted.
        """
        if not 1.0 <= patience <= _LONGEST_PATIENCE:
            raise InvalidInput(f"{patience:g}", where="patience", allowed=f"1 to {_LONGEST_PATIENCE:g} seconds")
        with self._database.transaction() as connection:
            if key:
                known = connection.execute(sa.select(runs.c.id).where(runs.c.key == key)).scalar()
                if known is not None:
                    return one_run(connection, known)
            if id:
                _check_id(id)
                if connection.execute(sa.select(runs.c.id).where(runs.c.id == id)).first() is not None:
                    return one_run(connection, id)
            join_experiment(connection, self._clock, experiment)
            began = started_at or self._clock.now()
            identity = id or new_id("run", began)
            connection.execute(
                runs.insert().values(
                    id=identity,
                    experiment=experiment,
                    name=name or identity,
                    status="RUNNING",
                    started_at=began,
                    lease_until=lease(self._wall, patience),
                    patience=patience,
                    data_digest=data_digest,
                    feature_digest=feature_digest,
                    code_digest=code_digest,
                    environment=environment,
                    seed=seed,
                    spec=spec,
                    reason="",
                    key=key or None,
                )
            )
            write_params(connection, identity, params or {})
            write_tags(connection, identity, tags or {})
            return one_run(connection, identity)

    @operation(writes=True)
    def log_params(self, run: str, params: dict[str, Any]) -> None:
        """Note what a run is given; a parameter never changes its value afterwards.

        Raises:
            Conflict: When a parameter has another value already, or the run has ended.
        """
        with self._database.transaction() as connection:
            alive(connection, run, self._wall)
            write_params(connection, run, params)

    @operation(writes=True)
    def log_tags(self, run: str, tags: dict[str, str]) -> None:
        """Note what people say about a run; the newest word counts, also after its end."""
        with self._database.transaction() as connection:
            require(connection, run)
            write_tags(connection, run, tags)

    @operation(writes=True)
    def log_metrics(self, run: str, points: Sequence[MetricPoint], key: str = "") -> None:
        """Add points to a run's metrics, all or none.

        Args:
            run: The run.
            points: The points, of one or several metrics, in any order of steps.
            key: Idempotency key: a batch is added once per key.

        Raises:
            Conflict: When the run has ended.
        """
        self._log(run, points, {}, {}, key=key)

    @operation(writes=True)
    def log_batch(
        self,
        run: str,
        points: Sequence[MetricPoint] = (),
        params: dict[str, Any] | None = None,
        tags: dict[str, str] | None = None,
        key: str = "",
        of_models: dict[str, Sequence[ModelMetric]] | None = None,
    ) -> None:
        """Add points, parameters and tags to a run, all or none; also after its end, as evaluations do.

        Without a key, a point that is there already (equal in step, value and time) is not added again.

        Args:
            run: The run.
            points: Points of metrics.
            params: What it is given; a parameter never changes its value.
            tags: What people say about it.
            key: Idempotency key: a batch is added once per key.
            of_models: What it measured of logged models, by their ids.

        Raises:
            NotFound: When there is no such run or model.
            Conflict: When the run is deleted, or a parameter has another value already.
        """
        self._log(run, points, params or {}, tags or {}, key=key, late=True, of_models=of_models or {})

    @operation(writes=True, key="key")
    def log_columns(self, run: str, names: Sequence[str], counts: Sequence[int], data: bytes, key: str) -> None:
        """Add many points to a run's metrics at once, all or none; also after its end, when they come late.

        Args:
            run: The run.
            names: The metrics, each once.
            counts: How many points each has.
            data: The columns of steps (64-bit integers), values (doubles) and times (64-bit integers, microseconds since 1970),
                little-endian; in each column the points of the first metric, then those of the next.
            key: Idempotency key: a batch is added once per key.

        Raises:
            InvalidInput: When the parts do not fit each other.
            Conflict: When the run is deleted.
        """
        with self._database.transaction() as connection:
            if not self._first(connection, run, key):
                return
            alive(connection, run, self._wall, late=True)
            write_columns(connection, run, names, counts, data)

    def _log(
        self,
        run: str,
        points: Sequence[MetricPoint],
        given: dict[str, Any],
        said: dict[str, str],
        *,
        key: str,
        late: bool = False,
        of_models: Mapping[str, Sequence[ModelMetric]] | None = None,
    ) -> None:
        with self._database.transaction() as connection:
            if key and not self._first(connection, run, key):
                return
            alive(connection, run, self._wall, late=late)
            write_params(connection, run, given)
            write_metrics(connection, run, points, self._clock.now(), once=late and not key)
            write_tags(connection, run, said)
            for model, found in (of_models or {}).items():
                write_model_metrics(connection, model, found)

    @operation(writes=True)
    def untag(self, run: str, name: str) -> None:
        """Take back what was said about a run.

        Raises:
            NotFound: When it has no such tag.
        """
        with self._database.transaction() as connection:
            require(connection, run)
            of = (tags.c.run == run) & (tags.c.name == name)
            if not connection.execute(tags.delete().where(of)).rowcount:
                raise NotFound(f"run {run} has no tag {name!r}", where="runs")

    @operation(writes=True)
    def change(
        self, run: str, name: str | None = None, status: Status | None = None, ended_at: datetime | None = None
    ) -> Run:
        """Set what a client says about a run as a whole: unlike :meth:`finish`, it may say so again and otherwise.

        Args:
            run: The run.
            name: What people call it.
            status: How it stands.
            ended_at: When it ended.

        Raises:
            Conflict: When the run is deleted.
        """
        values: dict[str, Any] = {}
        if name:
            values["name"] = name
        if status is not None:
            values |= {"status": status, "reason": ""}
        if ended_at is not None or status in {"RUNNING", "SCHEDULED"}:
            values["ended_at"] = ended_at
        with self._database.transaction() as connection:
            alive(connection, run, self._wall, late=True)
            if values:
                connection.execute(runs.update().where(runs.c.id == run).values(**values))
            return one_run(connection, run)

    @operation(writes=True)
    def delete(self, run: str) -> None:
        """Put a run away; nothing is lost, and it can be brought back. Deleting it again changes nothing."""
        self._mark(run, self._clock.now())

    @operation(writes=True)
    def restore(self, run: str) -> None:
        """Bring a deleted run back; one that is there stays as it is."""
        self._mark(run, None)

    def _mark(self, run: str, deleted_at: datetime | None) -> None:
        with self._database.transaction() as connection:
            require(connection, run)
            of = (runs.c.id == run) & (
                runs.c.deleted_at.is_not(None) if deleted_at is None else runs.c.deleted_at.is_(None)
            )
            connection.execute(runs.update().where(of).values(deleted_at=deleted_at))

    @operation(writes=True)
    def finish(self, run: str, status: Status = "FINISHED", reason: str = "", ended_at: datetime | None = None) -> Run:
        """End a run; ending it again with the same status changes nothing.

        Args:
            run: The run.
            status: How it ended.
            reason: Why.
            ended_at: When it ended; now, if not said.

        Raises:
            Conflict: When it has ended otherwise. A run that was taken for dead may still finish or fail.
        """
        if status == "RUNNING":
            raise InvalidInput("a run can't end as RUNNING", where="status", allowed=", ".join(_DONE))
        with self._database.transaction() as connection:
            now = require(connection, run)
            if now not in {"RUNNING", "INTERRUPTED", status}:
                raise Conflict(f"run {run} has ended as {now}", where="runs", fix="start another run")
            if now != status:
                connection.execute(
                    runs.update()
                    .where(runs.c.id == run)
                    .values(status=status, reason=reason, ended_at=ended_at or self._clock.now())
                )
            return one_run(connection, run)

    @operation(writes=True)
    def heartbeat(self, run: str) -> None:
        """Say that a run is alive; every write of its own says so too."""
        with self._database.transaction() as connection:
            alive(connection, run, self._wall)

    @operation(writes=True)
    def interrupt_orphans(self) -> tuple[str, ...]:
        """Mark every run whose process went away without a word as ``INTERRUPTED``, and return their ids."""
        dead = (runs.c.status == "RUNNING") & (runs.c.lease_until < self._wall.now())
        with self._database.reading() as connection:  # often asked, seldom true: most looks write nothing
            if connection.execute(sa.select(runs.c.id).where(dead).limit(1)).first() is None:
                return ()
        with self._database.transaction() as connection:
            found = connection.execute(
                runs.update()
                .where(dead)
                .values(status="INTERRUPTED", reason=SILENT, ended_at=self._clock.now())
                .returning(runs.c.id)
            )
            return tuple(sorted(found.scalars()))

    # ------------------------------------------------------------ reading

    @operation
    def get(self, run: str) -> Run:
        """Return a run.

        Raises:
            NotFound: When there is no such run.
        """
        with self._database.reading() as connection:
            return one_run(connection, run)

    @operation
    def experiments(self) -> tuple[ExperimentRuns, ...]:
        """Return every experiment that has runs, the one with the newest run first."""
        newest = sa.func.max(runs.c.started_at, type_=runs.c.started_at.type)
        query = sa.select(runs.c.experiment, sa.func.count().label("count"), newest.label("newest"))
        query = query.where(runs.c.deleted_at.is_(None)).group_by(runs.c.experiment).order_by(newest.desc())
        with self._database.reading() as connection:
            return tuple(
                ExperimentRuns(name=row[0], runs=row[1], newest=row[2]) for row in connection.execute(query).all()
            )

    @operation
    def list(
        self,
        experiment: str = "",
        filter: str = "",  # noqa: A002 - the word that every tracking tool has for it
        order: str = "-started",
        limit: int = 50,
        cursor: str | None = None,
        view: View = "alive",
        among: Sequence[str] | None = None,
    ) -> RunPage:
        """Return runs, page by page.

        Args:
            experiment: Only of this experiment.
            filter: Comparisons joined by ``and``: ``metrics.auc > 0.7 and params.trees = 80 and status = 'FINISHED'``.
            order: ``started``, ``ended``, ``name``, ``metrics.NAME``, ``params.NAME`` or ``tags.NAME``; with ``-`` in front the
                greatest first, several with commas between. Runs without the field come last.
            limit: At most so many, from 1 to 50,000.
            cursor: From the page before.
            view: ``alive``, ``deleted`` or ``all``.
            among: Only of these experiments; None for all.

        Raises:
            InvalidInput: When the filter, the order or the cursor can't be read.
        """
        if not 1 <= limit <= _MOST:
            raise InvalidInput(f"{limit}", where="limit", allowed=f"1 to {_MOST}")
        placing = Orders(order)
        chosen = sa.select(runs).where(*viewed(runs.c.deleted_at, view))
        names = [*(among or ()), *([experiment] if experiment else [])]
        if names or among is not None:
            chosen = chosen.where(runs.c.experiment == names[0] if len(names) == 1 else runs.c.experiment.in_(names))
        if filter.strip():
            chosen = chosen.where(condition(filter))
        with self._database.reading() as connection:
            rows: Sequence[sa.Row[Any]] = ()
            quick = placing.present(chosen) if cursor is None else None
            if quick is not None:
                rows = connection.execute(quick.limit(limit + 1)).all()
            if len(rows) <= limit:
                rows = connection.execute(placing.apply(chosen, cursor).limit(limit + 1)).all()
            page = rows[:limit]
            start = 0 if placing.by_time else placing.start(cursor)
            following = placing.cursor(start + limit, page[-1]) if len(rows) > limit else None
            return RunPage(runs=filled(connection, page), cursor=following)

    @operation
    def metrics(self, run: str, name: str, after: int | None = None, limit: int = 100_000) -> tuple[MetricPoint, ...]:
        """Return the points of a metric by step, and in order of writing within a step.

        Args:
            run: The run.
            name: The metric.
            after: Only steps greater than this.
            limit: At most so many.
        """
        return self.metric_points(run, name, after=after, limit=limit)

    def curve(
        self, run: str, name: str, points: int, first: int | None = None, last: int | None = None
    ) -> tuple[MetricPoint, ...]:
        """Return a metric's points thinned evenly over the steps, its ends and its newest value at each step kept.

        Args:
            run: The run.
            name: The metric.
            points: About how many to return; all of them when there are no more.
            first: The first step.
            last: The last step.
        """
        of = (metrics.c.run == run) & (metrics.c.name == name)
        if first is not None:
            of &= metrics.c.step >= first
        if last is not None:
            of &= metrics.c.step <= last
        newest: sa.Select[Any] | sa.CompoundSelect[Any] = (
            sa.select(sa.func.max(metrics.c.id)).where(of).group_by(metrics.c.step)
        )
        with self._database.reading() as connection:
            require(connection, run)
            if has_blocks(connection, run, name):
                thinned = thin(series(connection, run, name), points, first, last)
                return points_of(name, Points(*(column.tolist() for column in thinned)))
            count, least, greatest = connection.execute(
                sa.select(sa.func.count(), sa.func.min(metrics.c.step), sa.func.max(metrics.c.step)).where(of)
            ).one()
            if count > points:
                width = max((greatest - least + 1) // max(points - 2, 1), 1)
                # One of each stretch of steps: the newest point of its last step; and the ends as they are.
                stretch = (metrics.c.step - least) // width
                each = sa.select(sa.func.max(metrics.c.id)).where(of).group_by(stretch)
                newest = sa.union(each, sa.select(sa.func.min(metrics.c.id)).where(of & (metrics.c.step == least)))
            query = sa.select(metrics.c.value, metrics.c.step, metrics.c.at).where(metrics.c.id.in_(newest))
            rows = connection.execute(query.order_by(metrics.c.step, metrics.c.id)).all()
        return tuple(
            MetricPoint(name=name, value=spelled(restored(value)), step=step, at=at) for value, step, at in rows
        )

    def metric_points(
        self, run: str, name: str, *, after: int | None = None, skip: int = 0, limit: int = 100_000
    ) -> tuple[MetricPoint, ...]:
        """Return the points of a metric as :meth:`metrics` does, from a place on.

        Args:
            run: The run.
            name: The metric.
            after: Only steps greater than this.
            skip: How many to leave out at the beginning.
            limit: At most so many.
        """
        return points_of(name, self.metric_columns(run, name, after=after, skip=skip, limit=limit))

    def metric_columns(
        self, run: str, name: str, *, after: int | None = None, skip: int = 0, limit: int = 100_000
    ) -> Points:
        """Return the points of a metric as :meth:`metric_points` does, by column: a point for each of them costs more than reading it.

        Args:
            run: The run.
            name: The metric.
            after: Only steps greater than this.
            skip: How many to leave out at the beginning.
            limit: At most so many.
        """
        with self._database.reading() as connection:
            require(connection, run)
            if has_blocks(connection, run, name):
                every = series(connection, run, name)
                begin = skip + (0 if after is None else int(every.steps.searchsorted(after, "right")))
                return Points(*(column[begin : begin + limit].tolist() for column in every))
            return rows_of(connection, run, name, after, skip, limit)

    # ------------------------------------------------------------ within

    def together(self) -> Together:
        """Return what writes batches that come at once in one commit, for one thread."""
        return Together(self._database, self._wall)

    def _first(self, connection: sa.Connection, run: str, key: str) -> bool:
        try:
            with connection.begin_nested():
                connection.execute(writes.insert().values(key=f"{run}/{key}", run=run))
        except IntegrityError:
            require(connection, run)
            return False
        return True


def _check_id(identity: str) -> None:
    if not _ID.match(identity):
        raise InvalidInput(
            f"{identity[:60]!r} can't be a run's id", where="id", allowed="run_ and 20 letters and digits"
        )
