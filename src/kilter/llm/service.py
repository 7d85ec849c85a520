"""The operations on traces."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from kilter.core.clock import Clock
from kilter.core.errors import Conflict, InvalidInput, NotFound
from kilter.engines.objects.store import ObjectStore
from kilter.engines.sql.database import Database
from kilter.llm.assessing import AssessmentOperations, row_of
from kilter.llm.content import cleaned
from kilter.llm.filters import condition, prepare
from kilter.llm.gathering import NAME, TAG_KEY, TAG_VALUE, gathered
from kilter.llm.measuring import MeasureOperations
from kilter.llm.orders import Order
from kilter.llm.reading import filled, read_spans, require
from kilter.llm.records import Ingested, Span, Trace, TraceInfo, TracePage
from kilter.llm.tables import (
    assessments,
    spans,
    trace_files,
    trace_metadata,
    trace_prompts,
    trace_runs,
    trace_tags,
    traces,
)
from kilter.llm.writing import chunks, write_info, write_spans
from kilter.operations.table import operation
from kilter.tracking.records import Artifact
from kilter.tracking.tables import experiments, runs
from kilter.tracking.writing import file_name, upsert

MOST_LISTED = 500
MOST_READ = 500
MOST_LINKED = 100
MOST_ASSESSMENTS = 1000

_ID = re.compile(r"^[A-Za-z0-9_\-]{1,64}$")
_SPAN = re.compile(r"^[0-9a-f]{16}$")
_PARTS = (assessments, trace_files, trace_prompts, trace_runs, spans, trace_metadata, trace_tags)


class TraceService(AssessmentOperations, MeasureOperations):
    """Traces, their spans and what is said about them.

    Args:
        database: Where the rows are.
        objects: Where long values are.
        clock: The time.
    """

    def __init__(self, database: Database, objects: ObjectStore, clock: Clock) -> None:
        self._database = database
        self._objects = objects
        self._clock = clock

    # ------------------------------------------------------------ writing

    @operation(writes=True, repeatable=True)
    def ingest(self, batch: Sequence[Span], experiment: int = 0, run: str = "") -> Ingested:
        """Keep spans, all or none; a span that is here already is the same span and is replaced by what is newer.

        Args:
            batch: Spans of any traces, in any order.
            experiment: The number of the experiment that new traces belong to.
            run: A run to link the traces to.

        Raises:
            NotFound: When there is no such experiment or run.
            InvalidInput: When a span's id or time can't be used.
        """
        for span in batch:
            if not _ID.match(span.trace) or not _SPAN.match(span.id):
                raise InvalidInput(
                    "a span's ids can't be used", where="spans", allowed="a trace, and 16 hexadecimal digits"
                )
            if not (0 <= span.start_ns < 2**63 and 0 <= (span.end_ns or 0) < 2**63):
                raise InvalidInput("a span's time can't be used", where="spans", allowed="nanoseconds since 1970")
        found = gathered(batch, self._objects.put)
        with self._database.transaction() as connection:
            self._require_experiment(connection, experiment)
            kept = write_spans(connection, experiment, found)
            if run:
                self._link(connection, list(kept.traces), run)
        return kept

    @operation(writes=True, repeatable=True)
    def put(self, info: TraceInfo) -> TraceInfo:
        """Keep what a client says of a trace as a whole, before or after its spans; saying it again changes nothing.

        Args:
            info: The trace. Its assessments come with it.

        Raises:
            NotFound: When there is no such experiment.
            Conflict: When the experiment is deleted.
        """
        if not _ID.match(info.id):
            raise InvalidInput(
                "a trace's id can't be used", where="trace_id", allowed="1 to 64 letters, digits, - or _"
            )
        for value in (info.request_ms, info.duration_ms or 0):
            if not 0 <= value < 2**63 // 1_000_000:
                raise InvalidInput(f"{value} is no time in milliseconds", where="request_time")
        if len(info.assessments) > MOST_ASSESSMENTS:
            raise InvalidInput("too many assessments", where="assessments", allowed=f"{MOST_ASSESSMENTS}")
        now = self._now()
        rows = [row_of(one, info.id, now, place) for place, one in enumerate(info.assessments)]
        clean = _cleaned(info)
        with self._database.transaction() as connection:
            self._require_experiment(connection, info.experiment, alive=True)
            write_info(connection, clean)
            upsert(connection, assessments, rows)
            return filled(connection, [require(connection, info.id)])[0]

    @operation(writes=True)
    def tag(self, trace: str, tags: dict[str, str]) -> None:
        """Say something about a trace; the newest word counts.

        Raises:
            NotFound: When there is no such trace.
        """
        for name in tags:
            if not name or len(name) > TAG_KEY or "\x00" in name:
                raise InvalidInput(f"'key' exceeds the maximum length of {TAG_KEY} characters", where="tags")
        with self._database.transaction() as connection:
            require(connection, trace, lock=True)
            said = {name: cleaned(value[:TAG_VALUE]) for name, value in tags.items()}
            if NAME in said:
                connection.execute(traces.update().where(traces.c.id == trace).values(name=said.pop(NAME)))
            upsert(
                connection, trace_tags, [{"trace": trace, "name": name, "value": value} for name, value in said.items()]
            )

    @operation(writes=True)
    def untag(self, trace: str, name: str) -> None:
        """Take back what was said about a trace.

        Raises:
            NotFound: When there is no such trace, or it has no such tag.
        """
        with self._database.transaction() as connection:
            row = require(connection, trace, lock=True)
            if name == NAME and row.name is not None:
                connection.execute(traces.update().where(traces.c.id == trace).values(name=None))
                return
            of = (trace_tags.c.trace == trace) & (trace_tags.c.name == name)
            if not connection.execute(trace_tags.delete().where(of)).rowcount:
                raise NotFound(f"No trace tag with key '{name}' for trace with ID '{trace}'", where="traces")

    @operation(writes=True)
    def link_run(self, run: str, traces: Sequence[str]) -> None:
        """Link traces to a run; those that are not there are passed over.

        Args:
            run: The run.
            traces: At most 100.

        Raises:
            NotFound: When there is no such run.
        """
        if len(traces) > MOST_LINKED:
            raise InvalidInput(
                f"Cannot link more than {MOST_LINKED} traces to a run in a single request. Provided {len(traces)} traces.",
                where="trace_ids",
            )
        with self._database.transaction() as connection:
            self._link(connection, traces, run)

    @operation(writes=True)
    def link_prompts(self, trace: str, prompts: Sequence[tuple[str, str]]) -> None:
        """Link prompts to a trace.

        Args:
            trace: The trace.
            prompts: Names and versions.

        Raises:
            NotFound: When there is no such trace.
        """
        rows = [{"trace": trace, "name": name[:500], "version": version[:64]} for name, version in prompts]
        with self._database.transaction() as connection:
            require(connection, trace, lock=True)
            if rows:
                _keep_new(connection, trace_prompts, rows)

    @operation(writes=True)
    def delete(
        self,
        experiment: int,
        traces: Sequence[str] | None = None,
        before_ms: int | None = None,
        most: int | None = None,
    ) -> int:
        """Delete traces of an experiment with all that belongs to them, and return how many.

        Args:
            experiment: The number of the experiment.
            traces: These.
            before_ms: Or those that began not later than this, in milliseconds since 1970.
            most: At most so many, the oldest first.

        Raises:
            InvalidInput: When it is not said which.
        """
        if before_ms is None and not traces:
            raise InvalidInput("Either `max_timestamp_millis` or `trace_ids` must be specified.", where="traces")
        if before_ms is not None and traces:
            raise InvalidInput("Only one of `max_timestamp_millis` and `trace_ids` can be specified.", where="traces")
        if traces and most is not None:
            raise InvalidInput("`max_traces` can't be specified if `trace_ids` is specified.", where="most")
        if most is not None and most <= 0:
            raise InvalidInput(f"`max_traces` must be a positive integer, received {most}.", where="most")
        with self._database.transaction() as connection:
            return _delete(connection, experiment, list(traces or ()), before_ms, most)

    # ------------------------------------------------------------ reading

    @operation
    def list(
        self,
        experiment: str = "",
        filter: str = "",  # noqa: A002 - the word that every tracking tool has for it
        order: Sequence[str] = (),
        limit: int = 100,
        cursor: str | None = None,
        among: Sequence[int] | None = None,
    ) -> TracePage:
        """Return traces without their spans, page by page, the newest first if not said otherwise.

        Args:
            experiment: Only of this experiment.
            filter: Comparisons joined by ``AND``: ``status = 'ERROR' AND span.type = 'LLM' AND feedback.correctness = 'no'``.
            order: Fields, such as ``execution_time_ms DESC``; those without it come last.
            limit: At most so many, up to 500.
            cursor: From the page before.
            among: Or only of the experiments with these numbers.

        Raises:
            InvalidInput: When the filter, the order or the cursor can't be read.
        """
        if not 1 <= limit <= MOST_LISTED:
            raise InvalidInput(f"{limit}", where="limit", allowed=f"1 to {MOST_LISTED}")
        placing = Order([*order])
        query = placing.apply(sa.select(traces), cursor).where(*condition(filter))
        if experiment:
            query = query.where(
                traces.c.experiment.in_(sa.select(experiments.c.id).where(experiments.c.name == experiment))
            )
        if among is not None:
            query = query.where(traces.c.experiment.in_([*among]))
        with self._database.reading() as connection:
            prepare(connection, filter)
            rows = connection.execute(query.limit(limit + 1)).all()
            page = filled(connection, rows[:limit])
        more = len(rows) > limit
        return TracePage(traces=page, cursor=placing.cursor(cursor, limit, rows[limit - 1]) if more else None)

    @operation
    def get(self, trace: str) -> Trace:
        """Return a trace with its spans.

        Raises:
            NotFound: When there is none.
        """
        with self._database.reading() as connection:
            info = filled(connection, [require(connection, trace)])[0]
            return Trace(info=info, spans=read_spans(connection, [trace], self._objects.get)[trace])

    @operation
    def info(self, trace: str) -> TraceInfo:
        """Return a trace without its spans.

        Raises:
            NotFound: When there is none.
        """
        with self._database.reading() as connection:
            return filled(connection, [require(connection, trace)])[0]

    @operation
    def infos(self, traces: Sequence[str], among: Sequence[int] | None = None) -> tuple[TraceInfo, ...]:
        """Return traces without their spans, in the order asked for; those that are not there are left out.

        Args:
            traces: At most 500.
            among: Only of the experiments with these numbers.
        """
        with self._database.reading() as connection:
            return filled(connection, self._known(connection, traces, among))

    @operation
    def batch(self, traces: Sequence[str], among: Sequence[int] | None = None) -> tuple[Trace, ...]:
        """Return traces with their spans, in the order asked for; those that are not there are left out.

        Args:
            traces: At most 500.
            among: Only of the experiments with these numbers.
        """
        with self._database.reading() as connection:
            infos = filled(connection, self._known(connection, traces, among))
            found = read_spans(connection, [info.id for info in infos], self._objects.get)
        return tuple(Trace(info=info, spans=found[info.id]) for info in infos)

    # ------------------------------------------------------------ files

    def keep_file(self, trace: str, name: str, digest: str, size: int) -> Artifact:
        """Keep a file of a trace, such as an attachment, whose bytes are written; the same name again replaces it.

        Args:
            trace: The trace.
            name: A relative path.
            digest: The digest of its bytes.
            size: Its length in bytes.

        Raises:
            NotFound: When there is no such trace.
            InvalidInput: When the name climbs out of it.
        """
        kept = Artifact(name=file_name(name), digest=digest, size=size, at=self._clock.now())
        with self._database.transaction() as connection:
            require(connection, trace, lock=True)
            row = {"trace": trace, "name": kept.name, "digest": digest, "size": size, "at": kept.at}
            upsert(connection, trace_files, [row])
        return kept

    def files(self, trace: str) -> tuple[Artifact, ...]:
        """Return the files of a trace, by name; none when there is no such trace."""
        chosen = sa.select(trace_files).where(trace_files.c.trace == trace).order_by(trace_files.c.name)
        with self._database.reading() as connection:
            return tuple(
                Artifact(name=row.name, digest=row.digest, size=row.size, at=row.at)
                for row in connection.execute(chosen)
            )

    def file_bytes(self, digest: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Yield a file's bytes, checked, in pieces."""
        return self._objects.read(digest, start, end)

    def drop_files(self, trace: str, name: str) -> int:
        """Take a file from a trace, or all of them when it is not said which, and return how many."""
        of = trace_files.c.trace == trace
        if name:
            of &= (trace_files.c.name == name) | trace_files.c.name.startswith(f"{name}/", autoescape=True)
        with self._database.transaction() as connection:
            return connection.execute(trace_files.delete().where(of)).rowcount

    # ------------------------------------------------------------ within

    def _known(
        self, connection: sa.Connection, asked: Sequence[str], among: Sequence[int] | None
    ) -> Sequence[sa.Row[Any]]:
        if len(asked) > MOST_READ:
            raise InvalidInput(f"{len(asked)} traces", where="traces", allowed=f"at most {MOST_READ}")
        query = sa.select(traces).where(traces.c.id.in_([*asked]))
        if among is not None:
            query = query.where(traces.c.experiment.in_([*among]))
        found = {row.id: row for row in connection.execute(query)}
        return [found[trace] for trace in dict.fromkeys(asked) if trace in found]

    @staticmethod
    def _require_experiment(connection: sa.Connection, number: int, *, alive: bool = False) -> None:
        row = connection.execute(sa.select(experiments).where(experiments.c.id == number)).first()
        if row is None:
            raise NotFound(f"No Experiment with id={number} exists", where="experiments")
        if alive and row.deleted_at is not None:
            raise Conflict(f"experiment {number} is deleted", where="experiments", fix="restore it first")

    @staticmethod
    def _link(connection: sa.Connection, asked: Sequence[str], run: str) -> None:
        if connection.execute(sa.select(runs.c.id).where(runs.c.id == run)).first() is None:
            raise NotFound(f"Run with id={run} not found", where="runs")
        for some in chunks(asked):
            found = connection.execute(sa.select(traces.c.id).where(traces.c.id.in_(some))).scalars().all()
            if found:
                _keep_new(connection, trace_runs, [{"trace": trace, "run": run} for trace in sorted(found)])


def _keep_new(connection: sa.Connection, table: sa.Table, rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows that are nothing but their key, where they are not there yet."""
    of = table.c.trace.in_(sorted({row["trace"] for row in rows}))
    keys = [column.name for column in table.primary_key]
    known = {tuple(row) for row in connection.execute(sa.select(*(table.c[key] for key in keys)).where(of))}
    new = {tuple(row[key] for key in keys): row for row in rows}
    missing = [row for key, row in new.items() if key not in known]
    if missing:
        connection.execute(table.insert(), missing)


def _delete(
    connection: sa.Connection, experiment: int, asked: Sequence[str], before_ms: int | None, most: int | None
) -> int:
    query = sa.select(traces.c.id).where(traces.c.experiment == experiment)
    if before_ms is not None:
        query = query.where(traces.c.request_ms <= min(before_ms, 2**62))
    query = query.order_by(traces.c.request_ms, traces.c.id).limit(most)
    chosen = [
        trace
        for some in (chunks(asked) if asked else (None,))
        for trace in connection.execute(query if some is None else query.where(traces.c.id.in_(some))).scalars()
    ]
    for some in chunks(chosen):
        connection.execute(sa.select(traces.c.id).where(traces.c.id.in_(some)).order_by(traces.c.id).with_for_update())
        for table in _PARTS:
            connection.execute(table.delete().where(table.c.trace.in_(some)))
        connection.execute(traces.delete().where(traces.c.id.in_(some)))
    return len(chosen)


def _cleaned(info: TraceInfo) -> TraceInfo:
    """Return what a client says, as far as a row can hold it."""

    def pairs(given: dict[str, str], most: int) -> dict[str, str]:
        return {cleaned(name): cleaned(value[:most]) for name, value in given.items() if name and len(name) <= TAG_KEY}

    return TraceInfo(
        id=info.id,
        experiment=info.experiment,
        request_ms=info.request_ms,
        duration_ms=info.duration_ms,
        state=info.state,
        name=cleaned(info.name),
        client_id=cleaned(info.client_id),
        session=cleaned(info.session),
        request=cleaned(info.request),
        response=cleaned(info.response),
        usage=info.usage,
        cost=info.cost,
        tags=pairs(info.tags, TAG_VALUE),
        metadata=pairs(info.metadata, 100_000),
    )
