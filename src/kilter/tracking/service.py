"""The operations on runs."""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from kilter.core.clock import Clock, SystemClock
from kilter.core.errors import Conflict, InvalidInput, NotFound
from kilter.core.ids import new_id
from kilter.engines.objects.store import ObjectStore
from kilter.engines.sql.database import Database
from kilter.engines.sql.types import json_text
from kilter.operations.table import operation
from kilter.tracking.filters import Order, condition
from kilter.tracking.records import Artifact, Experiment, MetricPoint, Run, RunPage, Status, spelled
from kilter.tracking.rows import filled, one_run, restored, stored
from kilter.tracking.tables import artifacts, metrics, params, runs, summaries, tags, writes

LEASE_SECONDS = 120.0
"""How long after its last sign of life a run counts as interrupted."""

_NAME = re.compile(r"^[\w][\w ./@:+%()\-]{0,249}$")
_MOST = 1000
_DONE: tuple[Status, ...] = ("FINISHED", "FAILED", "INTERRUPTED")


class RunService:
    """Runs, their parameters, metrics and files.

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

        Raises:
            InvalidInput: When a name can't be used or JSON can't say a parameter.
        """
        _check_name(experiment, "experiment")
        with self._database.transaction() as connection:
            if key:
                known = connection.execute(sa.select(runs.c.id).where(runs.c.key == key)).scalar()
                if known is not None:
                    return one_run(connection, known)
            identity = new_id("run", self._clock.now())
            connection.execute(
                runs.insert().values(
                    id=identity,
                    experiment=experiment,
                    name=name or identity,
                    status="RUNNING",
                    started_at=self._clock.now(),
                    lease_until=self._lease(),
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
            self._write_params(connection, identity, params or {})
            self._write_tags(connection, identity, tags or {})
            return one_run(connection, identity)

    @operation(writes=True)
    def log_params(self, run: str, params: dict[str, Any]) -> None:
        """Note what a run is given; a parameter never changes its value afterwards.

        Raises:
            Conflict: When a parameter has another value already, or the run has ended.
        """
        with self._database.transaction() as connection:
            self._alive(connection, run)
            self._write_params(connection, run, params)

    @operation(writes=True)
    def log_tags(self, run: str, tags: dict[str, str]) -> None:
        """Note what people say about a run; the newest word counts, also after its end."""
        with self._database.transaction() as connection:
            self._require(connection, run)
            self._write_tags(connection, run, tags)

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
        now = self._clock.now()
        for point in points:
            _check_name(point.name, "metric")
        with self._database.transaction() as connection:
            if key and not self._first(connection, run, key):
                return
            self._alive(connection, run)
            if points:
                connection.execute(
                    metrics.insert(),
                    [
                        {
                            "run": run,
                            "name": point.name,
                            "step": point.step,
                            "value": stored(point.number),
                            "at": point.at or now,
                        }
                        for point in points
                    ],
                )
                self._summarise(connection, run, points)

    @operation(writes=True)
    def log_artifact(self, run: str, name: str, data: bytes) -> Artifact:
        """Keep a file of a run; the same name again replaces it.

        Args:
            run: The run.
            name: A relative path: ``plots/roc.png``.
            data: The bytes.

        Raises:
            InvalidInput: When the name climbs out of the run.
        """
        clean = posixpath.normpath(name)
        if not name or clean.startswith(("/", "../")) or clean in {".", ".."} or "\\" in name or "\x00" in name:
            raise InvalidInput(
                f"{name!r} is not a file's name", where="artifact", allowed='a relative path: "plots/roc.png"'
            )
        kept = Artifact(name=clean, digest=self._objects.put(data), size=len(data), at=self._clock.now())
        with self._database.transaction() as connection:
            self._alive(connection, run)
            values = {"digest": kept.digest, "size": kept.size, "at": kept.at}
            connection.execute(
                self._insert(artifacts)
                .values(run=run, name=clean, **values)
                .on_conflict_do_update(index_elements=[artifacts.c.run, artifacts.c.name], set_=values)
            )
        return kept

    @operation(writes=True)
    def finish(self, run: str, status: Status = "FINISHED", reason: str = "") -> Run:
        """End a run; ending it again with the same status changes nothing.

        Raises:
            Conflict: When it has ended otherwise. A run that was taken for dead may still finish or fail.
        """
        if status == "RUNNING":
            raise InvalidInput("a run can't end as RUNNING", where="status", allowed=", ".join(_DONE))
        with self._database.transaction() as connection:
            now = self._require(connection, run)
            if now not in {"RUNNING", "INTERRUPTED", status}:
                raise Conflict(f"run {run} has ended as {now}", where="runs", fix="start another run")
            if now != status:
                connection.execute(
                    runs.update()
                    .where(runs.c.id == run)
                    .values(status=status, reason=reason, ended_at=self._clock.now())
                )
            return one_run(connection, run)

    @operation(writes=True)
    def heartbeat(self, run: str) -> None:
        """Say that a run is alive; every write of its own says so too."""
        with self._database.transaction() as connection:
            self._alive(connection, run)

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
                .values(status="INTERRUPTED", reason="no sign of life", ended_at=self._clock.now())
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
    def experiments(self) -> tuple[Experiment, ...]:
        """Return every experiment, the one with the newest run first."""
        newest = sa.func.max(runs.c.started_at, type_=runs.c.started_at.type)
        query = sa.select(runs.c.experiment, sa.func.count().label("count"), newest.label("newest"))
        query = query.group_by(runs.c.experiment).order_by(newest.desc())
        with self._database.reading() as connection:
            return tuple(Experiment(name=row[0], runs=row[1], newest=row[2]) for row in connection.execute(query).all())

    @operation
    def list(
        self,
        experiment: str = "",
        filter: str = "",  # noqa: A002 - the word that every tracking tool has for it
        order: str = "-started",
        limit: int = 50,
        cursor: str | None = None,
    ) -> RunPage:
        """Return runs, page by page.

        Args:
            experiment: Only of this experiment.
            filter: Comparisons joined by ``and``: ``metrics.auc > 0.7 and params.trees = 80 and status = 'FINISHED'``.
            order: ``started`` or ``metrics.NAME``; with ``-`` in front the greatest first.
            limit: At most so many, from 1 to 1000.
            cursor: From the page before.

        Raises:
            InvalidInput: When the filter, the order or the cursor can't be read.
        """
        if not 1 <= limit <= _MOST:
            raise InvalidInput(f"{limit}", where="limit", allowed=f"1 to {_MOST}")
        placing = Order(order)
        query = placing.apply(sa.select(runs), cursor)
        if experiment:
            query = query.where(runs.c.experiment == experiment)
        if filter.strip():
            query = query.where(condition(filter))
        with self._database.reading() as connection:
            rows = connection.execute(query.limit(limit + 1)).all()
            page = rows[:limit]
            return RunPage(
                runs=filled(connection, page), cursor=placing.cursor(page[-1]) if len(rows) > limit else None
            )

    @operation
    def metrics(self, run: str, name: str, after: int | None = None, limit: int = 100_000) -> tuple[MetricPoint, ...]:
        """Return the points of a metric by step, and in order of writing within a step.

        Args:
            run: The run.
            name: The metric.
            after: Only steps greater than this.
            limit: At most so many.
        """
        query = sa.select(metrics).where(metrics.c.run == run, metrics.c.name == name)
        if after is not None:
            query = query.where(metrics.c.step > after)
        with self._database.reading() as connection:
            self._require(connection, run)
            rows = connection.execute(query.order_by(metrics.c.step, metrics.c.id).limit(limit)).all()
        return tuple(
            MetricPoint(name=name, value=spelled(restored(row.value)), step=row.step, at=row.at) for row in rows
        )

    @operation
    def artifact(self, run: str, name: str) -> bytes:
        """Return the bytes of a run's file.

        Raises:
            NotFound: When the run has no such file.
            Damaged: When the stored bytes have another digest.
        """
        with self._database.reading() as connection:
            self._require(connection, run)
            found = connection.execute(
                sa.select(artifacts.c.digest).where(artifacts.c.run == run, artifacts.c.name == name)
            ).scalar()
        if found is None:
            raise NotFound(f"run {run} has no file {name!r}", where="runs", fix="see the run's artifacts")
        return self._objects.get(found)

    # ------------------------------------------------------------ within

    def _lease(self) -> datetime:
        return self._wall.now() + timedelta(seconds=LEASE_SECONDS)

    def _insert(self, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
        return (postgresql.insert if self._database.dialect == "postgresql" else sqlite.insert)(table)

    def _require(self, connection: sa.Connection, run: str) -> Status:
        status: Status | None = connection.execute(sa.select(runs.c.status).where(runs.c.id == run)).scalar()
        if status is None:
            raise NotFound(f"there is no run {run!r}", where="runs")
        return status

    def _alive(self, connection: sa.Connection, run: str) -> None:
        """Renew the lease; a run that was taken for dead is alive again. The row stays locked until the transaction ends."""
        changed = connection.execute(
            runs.update()
            .where(runs.c.id == run, runs.c.status.in_(("RUNNING", "INTERRUPTED")))
            .values(status="RUNNING", lease_until=self._lease(), ended_at=None, reason="")
        ).rowcount
        if not changed:
            status = self._require(connection, run)
            raise Conflict(f"run {run} has ended as {status}", where="runs", fix="start another run")

    def _first(self, connection: sa.Connection, run: str, key: str) -> bool:
        try:
            with connection.begin_nested():
                connection.execute(writes.insert().values(key=f"{run}/{key}", run=run))
        except IntegrityError:
            self._require(connection, run)
            return False
        return True

    def _write_params(self, connection: sa.Connection, run: str, given: Mapping[str, Any]) -> None:
        """Write parameters; the caller holds the run's row, so nobody writes them meanwhile."""
        chosen = sa.select(params.c.name, params.c.value).where(params.c.run == run)
        known = {row.name: row.value for row in connection.execute(chosen)}
        new = []
        for name, value in given.items():
            _check_name(name, "param")
            number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
            said = value if number is None or math.isfinite(number) else str(value)
            plain = msgspec.json.decode(json_text(said))  # as it will come back: a tuple is a list
            if name not in known:
                new.append(
                    {"run": run, "name": name, "value": plain, "number": None if number is None else stored(number)}
                )
            elif known[name] != plain:
                raise Conflict(
                    f"param {name!r} of run {run} is {known[name]!r} and can't become {value!r}",
                    where="runs",
                    fix="start another run, or log what changes as a metric",
                )
        if new:
            connection.execute(params.insert(), new)

    def _write_tags(self, connection: sa.Connection, run: str, given: Mapping[str, str]) -> None:
        for name, value in given.items():
            _check_name(name, "tag")
            connection.execute(
                self._insert(tags)
                .values(run=run, name=name, value=value)
                .on_conflict_do_update(index_elements=[tags.c.run, tags.c.name], set_={"value": value})
            )

    def _summarise(self, connection: sa.Connection, run: str, points: Sequence[MetricPoint]) -> None:
        by_name: dict[str, list[MetricPoint]] = {}
        for point in points:
            by_name.setdefault(point.name, []).append(point)
        for name, batch in by_name.items():
            where = (summaries.c.run == run) & (summaries.c.name == name)
            known = connection.execute(sa.select(summaries).where(where)).first()
            newest = batch[0]
            for point in batch:  # the newest of a step is the one written last
                newest = point if point.step >= newest.step else newest
            finite = [point.number for point in batch if math.isfinite(point.number)]
            if known is not None:
                finite.extend(value for value in (known.least, known.greatest) if value is not None)
            values: dict[str, Any] = {
                "points": len(batch) + (0 if known is None else known.points),
                "least": min(finite, default=None),
                "greatest": max(finite, default=None),
            }
            if known is None or newest.step >= known.last_step:
                values |= {"last": stored(newest.number), "last_step": newest.step}
            statement = summaries.insert().values(run=run, name=name, **values)
            connection.execute(statement if known is None else summaries.update().where(where).values(**values))


def _check_name(name: str, what: str) -> None:
    if not _NAME.match(name):
        raise InvalidInput(
            f"{name[:60]!r} can't be the name of a {what}",
            where=what,
            allowed="1 to 250 letters, digits, spaces or ./@:+%()-, the first a letter or digit",
        )
