"""Feature views: registered once, fed by the rows that arrive, looked up by serving."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from datetime import datetime

import msgspec
import polars as pl
import sqlalchemy as sa

from kilter.core.clock import Clock
from kilter.core.errors import DeclarationError, InvalidInput, KilterError, NotFound
from kilter.data.batch import Batch, moment_of
from kilter.data.schema import nearest
from kilter.data.service import DataService
from kilter.engines.sql.database import Database
from kilter.features.declare import FeatureView
from kilter.features.offline import offline
from kilter.features.online import OnlineFeatures
from kilter.features.plan import plan_of
from kilter.features.records import FeatureRow, Freshness, RegisteredView
from kilter.features.spec import ViewSpec, view_digest, view_of
from kilter.features.tables import feature_views
from kilter.operations.table import operation

_REREAD_SECONDS = 0.25
"""How long the machine's time may pass before views that another process registered are noticed."""


class FeatureService:
    """The views of a store.

    One process observes (the one that appends rows); any process looks up.

    Args:
        database: Where the definitions are.
        online: The online side.
        data: The tables.
        clock: Tells the present moment.
    """

    def __init__(self, database: Database, online: OnlineFeatures, data: DataService, clock: Clock) -> None:
        self._database = database
        self._online = online
        self._data = data
        self._clock = clock
        self._lock = threading.RLock()
        self._known: dict[str, tuple[float, list[FeatureView]]] = {}
        self._reached: dict[FeatureView, int] = {}

    def follow(self) -> None:
        """Feed every append of the data service to the views of its table, after reading what was missed."""
        if self.observe not in self._data.on_append:
            self._data.on_append.append(self.observe)
        self.recover()

    def recover(self) -> None:
        """Read what a process acknowledged and was killed before it had observed it."""
        for one in self.views():
            self.catch_up(view_of(one.spec))

    @operation(writes=True, repeatable=True)
    def register(self, view: ViewSpec) -> RegisteredView:
        """Register a view and fill its online side from the table; registering it again changes nothing.

        Raises:
            NotFound: When its table is unknown.
            DeclarationError: When a column is unknown or can't be aggregated.
        """
        declared = view_of(view)
        plan = plan_of(declared)
        self._check(declared)
        digest = view_digest(declared)
        with self._lock:
            found = self._find(digest)
            if found is None:
                with self._database.transaction() as connection:
                    known = connection.execute(
                        sa.select(feature_views.c.digest).where(feature_views.c.digest == digest)
                    )
                    if known.one_or_none() is None:
                        connection.execute(
                            sa.insert(feature_views).values(
                                digest=digest, table=plan.view.table.name, spec=view, registered_at=self._clock.now()
                            )
                        )
                self._known.clear()
            self.catch_up(declared)
            registered = self._find(digest)
        if registered is None:
            raise NotFound(f"view {digest[:12]} has just been removed", where="features")
        return registered

    @operation
    def views(self, table: str | None = None) -> list[RegisteredView]:
        """List the registered views, oldest first."""
        query = sa.select(feature_views).order_by(feature_views.c.registered_at, feature_views.c.digest)
        if table is not None:
            query = query.where(feature_views.c.table == table)
        with self._database.reading() as connection:
            return [_registered(row) for row in connection.execute(query)]

    @operation
    def lookup(self, view: str, entities: list[str], at: datetime | None = None) -> list[FeatureRow]:
        """Return a view's features of some entities as of a moment.

        Args:
            view: The view's digest, or its first characters.
            entities: At most 10,000.
            at: The moment; now if not said.

        Raises:
            NotFound: When there is no such view, or it was never filled.
        """
        if len(entities) > 10_000:
            raise InvalidInput(f"{len(entities):,} entities", where="features.lookup", allowed="at most 10,000")
        declared = self._named(view)
        moment = at if at is not None else self._clock.now()
        self._online.state(declared)
        rows = self._online.lookup(declared, entities, [moment] * len(entities))
        return [
            FeatureRow(entity, moment, dict(zip(declared.names, values, strict=True)))
            for entity, values in zip(entities, rows, strict=True)
        ]

    @operation
    def freshness(self) -> list[Freshness]:
        """Tell how far the online side of each view has come."""
        found: list[Freshness] = []
        for one in self.views():
            view = view_of(one.spec)
            state = self._online.state(view)
            batches = self._data.batches(view.table.name, state.position)
            waiting = sum(1 for batch in batches if _concerns(view, batch))
            found.append(Freshness(one.digest, state.position, moment_of(state.at), waiting))
        return found

    def offline(self, views: Sequence[FeatureView], events: pl.DataFrame, queries: pl.DataFrame) -> pl.DataFrame:
        """Return queries with the features of several views beside them, each as of the row's event time.

        Args:
            views: The definitions.
            events: The table's rows.
            queries: Rows with the entities' columns and the table's event time.
        """
        for view in views:
            queries = offline(view, events, queries)
        return queries

    def observe(self, batch: Batch) -> None:
        """Feed a batch to all views of its table.

        A view that failed before, is new, or was filled by another process meanwhile, reads the log from where it is.

        Raises:
            KilterError: The first view's error, after all views had their turn.
        """
        failed: KilterError | None = None
        with self._lock:
            for view in self._views_of(batch.table):
                expected = self._reached.pop(view, None)
                try:
                    if batch.bulk or expected is None or self._online.state(view).position != expected:
                        self.catch_up(view)
                    else:
                        self._online.observe(view, batch)
                    self._reached[view] = self._online.state(view).position
                except KilterError as error:
                    failed = failed or error
        if failed is not None:
            raise failed

    def catch_up(self, view: FeatureView) -> None:
        """Bring a view's online side up to the end of the row log, from its own position, or from the table's rows.

        Raises:
            NotFound: When the view's table is unknown.
        """
        with self._lock:
            try:
                state = self._online.state(view)
            except NotFound:
                self._fill(view)
                return
            for batch in self._data.batches(view.table.name, state.position):
                if batch.bulk:
                    self._fill(view)
                    return
                self._online.observe(view, batch)

    def _fill(self, view: FeatureView) -> None:
        description = self._data.describe(view.table.name)
        frame = self._data.frame(view.table.name)
        missing = [name for name in plan_of(view).columns if name not in frame.columns]
        absent = [name for name in (view.entity, view.time) if name not in frame.columns]
        empty = frame.with_columns(
            *(pl.lit(None, dtype=pl.Float64).alias(name) for name in missing),
            *(
                pl.lit(None, dtype=pl.Datetime("us", "UTC") if name == view.time else pl.String).alias(name)
                for name in absent
            ),
        )
        self._online.backfill(view, empty, position=description.position, at=self._clock.now())

    def _check(self, view: FeatureView) -> None:
        """Refuse a view whose columns the table has with another kind; columns that no row had yet may come later."""
        info = self._data.info(view.table.name)
        kinds = {column.name: column.kind for column in info.columns}
        where = f"features({view.table.name!r}, entity={view.entity!r})"
        wanted = {
            view.entity: ("string", "integer"),
            view.time: ("time",),
            **dict.fromkeys(plan_of(view).columns, ("float", "integer", "boolean")),
        }
        for name, allowed in wanted.items():
            if name not in kinds and info.parts:
                raise DeclarationError(
                    f"unknown column {name!r}", where=where, allowed=", ".join(sorted(kinds)), fix=nearest(name, kinds)
                )
            if kinds.get(name, allowed[0]) not in allowed:
                raise DeclarationError(
                    f"column {name!r} is of kind {kinds[name]}", where=where, allowed=" or ".join(allowed)
                )

    def _views_of(self, table: str) -> list[FeatureView]:
        """Return a table's views; another process may have registered one since."""
        known = self._known.get(table)
        if known is None or time.monotonic() - known[0] > _REREAD_SECONDS:
            views = [view_of(one.spec) for one in self.views(table)]
            known = self._known[table] = (time.monotonic(), views)
        return known[1]

    def _find(self, digest: str) -> RegisteredView | None:
        with self._database.reading() as connection:
            row = connection.execute(sa.select(feature_views).where(feature_views.c.digest == digest)).one_or_none()
        return None if row is None else _registered(row)

    def _named(self, name: str) -> FeatureView:
        found = [one for one in self.views() if one.digest.startswith(name)]
        if len(found) != 1 or not name:
            raise NotFound(
                f"{len(found)} views have a digest that begins with {name!r}",
                where="features",
                allowed=", ".join(one.digest[:12] for one in self.views()) or "none yet",
            )
        return view_of(found[0].spec)


def _concerns(view: FeatureView, batch: Batch) -> bool:
    return bool(batch.bulk) or any(name in batch.columns for name in (view.entity, view.time, *plan_of(view).columns))


def _registered(row: sa.Row[tuple[object, ...]]) -> RegisteredView:
    found = row._mapping  # noqa: SLF001 - the public way to read a row by name
    return RegisteredView(found["digest"], msgspec.convert(found["spec"], ViewSpec), found["registered_at"])
