"""The operations on monitors, and the daily record that the page reads.

Everything written here is keyed by what it is about, and written again with the same values when a day is done again: a controller
that dies anywhere in a day redoes the day.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any

import msgspec
import polars as pl
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from kilter.core.clock import Clock, utc
from kilter.core.errors import NotFound
from kilter.core.evidence import Finding
from kilter.engines.sql.database import Database
from kilter.monitoring.daily import TRAILING_DAYS, daily_rows, feature_days
from kilter.monitoring.declare import Monitor
from kilter.monitoring.profile import ReferenceProfile
from kilter.monitoring.records import Alert, DailyRow, HeatmapCell, Histogram, Judged
from kilter.monitoring.rules import evaluate_frame
from kilter.monitoring.tables import monitor_alerts, monitor_days, monitor_features
from kilter.monitoring.window import with_time
from kilter.operations.table import operation

MOST = 10_000

Row = Mapping[str, Any]


class MonitorService:
    """Judges monitors, keeps the days and the alerts.

    Args:
        database: The store's metadata.
        clock: The time, for evaluations that name none.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._written: dict[tuple[str, int, str, date], DailyRow] = {}

    def evaluate(
        self,
        loop: str,
        monitors: Sequence[Monitor],
        version: int,
        reference: ReferenceProfile,
        joined: pl.DataFrame,
        now: datetime | None = None,
    ) -> tuple[Judged, ...]:
        """Judge a champion's monitors, and write down the days and the alerts.

        Args:
            loop: The loop.
            monitors: As declared.
            version: The champion.
            reference: Its profile.
            joined: The loop's predictions of every version, labelled or not, as ``LabelJoin.predictions`` gives them, from the longest
                window's begin (or 14 days ago) on.
            now: The end of the windows; None asks the clock.

        Returns:
            Per monitor its name, the finding, and whether its condition holds now.
        """
        moment = utc(now) if now is not None else self._clock.now()
        frame = with_time(joined).filter(pl.col("at") < moment)
        judged = evaluate_frame(monitors, frame, reference, moment, version=version)
        self.record(loop, version, reference, frame, judged, moment)
        return judged

    def record(
        self,
        loop: str,
        version: int,
        reference: ReferenceProfile,
        frame: pl.DataFrame,
        judged: Sequence[Judged],
        now: datetime,
    ) -> None:
        """Write the days of a frame and what was judged, in one transaction; writing the same again changes nothing.

        Args:
            loop: The loop.
            version: The champion.
            reference: Its profile.
            frame: The loop's predictions, as for ``evaluate``.
            judged: The monitors' answers.
            now: When they were judged.
        """
        rows = [
            row for row in daily_rows(loop, frame) if self._written.get((loop, row.version, row.arm, row.day)) != row
        ]
        last = (utc(now) - timedelta(microseconds=1)).date()
        oldest = last - timedelta(days=TRAILING_DAYS - 1)
        with self._database.transaction() as connection:
            known = connection.execute(
                sa.select(sa.func.max(monitor_features.c.day)).where(monitor_features.c.loop == loop)
            ).scalar()
            # A day is written on itself and once more when it is over; older days keep the reference that they were seen against.
            first = oldest if known is None else min(last, max(oldest, known))
            features = feature_days(loop, version, reference, frame, first=first, last=last)
            self._upsert(
                connection,
                monitor_days,
                ("loop", "version", "arm", "day"),
                [msgspec.structs.asdict(row) for row in rows],
            )
            self._upsert(
                connection, monitor_features, ("loop", "feature", "day"), [_feature_row(found) for found in features]
            )
            self._alerts(connection, loop, version, judged, utc(now))
        self._written.update({(loop, row.version, row.arm, row.day): row for row in rows})
        forget = last - timedelta(days=90)
        self._written = {key: row for key, row in self._written.items() if row.day >= forget}

    def _upsert(self, connection: sa.Connection, table: sa.Table, keys: tuple[str, ...], rows: Sequence[Row]) -> None:
        """Insert rows or replace them; a frame that holds only part of a day (fewer rows) does not replace the whole."""
        if not rows:
            return
        insert = postgresql.insert if self._database.dialect == "postgresql" else sqlite.insert
        statement = insert(table)
        values = {column.name: statement.excluded[column.name] for column in table.columns if column.name not in keys}
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=list(keys), set_=values, where=statement.excluded.rows >= table.c.rows
            ),
            list(rows),
        )

    def _alerts(
        self, connection: sa.Connection, loop: str, version: int, judged: Iterable[Judged], now: datetime
    ) -> None:
        table = monitor_alerts
        is_open = (table.c.loop == loop) & table.c.cleared_at.is_(None)
        # A replaced version's alerts end with it.
        connection.execute(sa.update(table).where(is_open & (table.c.version != version)).values(cleared_at=now))
        rows = connection.execute(sa.select(table.c.id, table.c.monitor).where(is_open)).all()
        held = {row.monitor: row.id for row in rows}
        for monitor, finding, raised in judged:
            if monitor in held:
                # Too little data neither raises nor clears.
                cleared = now if finding.verdict == "pass" else None
                change = sa.update(table).where(table.c.id == held[monitor])
                connection.execute(change.values(latest=finding, cleared_at=cleared))
            elif raised:
                self._raise(connection, loop, version, monitor, finding, now)

    def _raise(
        self, connection: sa.Connection, loop: str, version: int, monitor: str, finding: Finding, now: datetime
    ) -> None:
        name = f"{loop}@v{version}/{monitor}/{now:%Y%m%dT%H%M%S}"
        values = {"cleared_at": None, "latest": finding}
        known = connection.execute(sa.select(monitor_alerts.c.id).where(monitor_alerts.c.id == name)).scalar()
        if known is not None:
            connection.execute(sa.update(monitor_alerts).where(monitor_alerts.c.id == name).values(**values))
            return
        connection.execute(
            sa.insert(monitor_alerts).values(
                id=name, loop=loop, version=version, monitor=monitor, raised_at=now, finding=finding, **values
            )
        )

    @operation
    def alerts(self, loop: str = "", limit: int = 100) -> list[Alert]:
        """Return alerts, open ones first, then the newest.

        Args:
            loop: The loop; empty for all.
            limit: At most so many.
        """
        table = monitor_alerts
        query = sa.select(table).order_by(table.c.cleared_at.is_not(None), table.c.raised_at.desc(), table.c.id)
        if loop:
            query = query.where(table.c.loop == loop)
        with self._database.reading() as connection:
            rows = connection.execute(query.limit(max(0, min(limit, MOST)))).mappings().all()
        return [msgspec.convert({str(name): value for name, value in row.items()}, Alert) for row in rows]

    @operation
    def daily(self, loop: str, since: date | None = None, until: date | None = None) -> list[DailyRow]:
        """Return counts and sums per version, role and day, the oldest day first.

        Args:
            loop: The loop.
            since: The first day; None for all.
            until: The last day, inclusive; None for all.
        """
        table = monitor_days
        query = _between(sa.select(table).where(table.c.loop == loop), table, since, until)
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(table.c.day, table.c.version, table.c.arm)).mappings().all()
        return [DailyRow(**row) for row in rows]

    @operation
    def heatmap(self, loop: str, since: date | None = None, until: date | None = None) -> list[HeatmapCell]:
        """Return the drift per feature and day, by feature and then by day.

        Args:
            loop: The loop.
            since: The first day; None for all.
            until: The last day, inclusive; None for all.
        """
        table = monitor_features
        columns = (table.c.feature, table.c.day, table.c.psi, table.c.excess, table.c.rows, table.c.version)
        query = _between(sa.select(*columns).where(table.c.loop == loop), table, since, until)
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(table.c.feature, table.c.day)).mappings().all()
        return [HeatmapCell(**row) for row in rows]

    @operation
    def histogram(self, loop: str, feature: str, day: date) -> Histogram:
        """Return one feature's counts of a day beside its reference, on the same bins.

        Args:
            loop: The loop.
            feature: The input, or ``prediction``.
            day: The UTC day.

        Raises:
            NotFound: When nothing was recorded for it.
        """
        table = monitor_features
        query = sa.select(table).where((table.c.loop == loop) & (table.c.feature == feature) & (table.c.day == day))
        with self._database.reading() as connection:
            row = connection.execute(query).mappings().first()
        if row is None:
            raise NotFound(
                f"nothing was recorded of {feature!r} on {day}",
                where="monitors",
                fix="take a day and a feature of the heatmap",
            )
        fields = {name: row[name] for name in ("loop", "feature", "day", "version", "psi", "excess")}
        return msgspec.convert(fields | row["histogram"], Histogram)


def _between(query: sa.Select[Any], table: sa.Table, since: date | None, until: date | None) -> sa.Select[Any]:
    if since is not None:
        query = query.where(table.c.day >= since)
    return query if until is None else query.where(table.c.day <= until)


def _feature_row(found: Histogram) -> Row:
    return {
        "loop": found.loop,
        "feature": found.feature,
        "day": found.day,
        "version": found.version,
        "rows": sum(found.counts),
        "psi": found.psi,
        "excess": found.excess,
        "histogram": {
            "labels": found.labels,
            "reference": found.reference,
            "counts": found.counts,
            "trailing": found.trailing,
        },
    }
