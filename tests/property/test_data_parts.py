"""Whatever way parts come (appended, loaded in bulk, flushed, read by another process, restarted), views are the same."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kilter.core.clock import ManualClock
from kilter.data.declare import Table
from kilter.data.service import DataService
from kilter.engines.sql.database import Database
from kilter.engines.streams.log import Log
from kilter.engines.tables.store import TableStore

START = datetime(2013, 3, 1, tzinfo=UTC)
KEYS = [f"k{number}" for number in range(6)]
COLUMNS = ("who", "n", "x", "ok")
parts = st.dictionaries(
    st.sampled_from(KEYS),
    st.fixed_dictionaries(
        {},
        optional={
            "who": st.one_of(st.none(), st.sampled_from(["a", "b", ""])),
            "n": st.one_of(st.none(), st.integers(-3, 3)),
            "x": st.one_of(st.none(), st.sampled_from([0.0, -1.5, 1e-9])),
            "ok": st.one_of(st.none(), st.booleans()),
        },
    ),
    min_size=1,
    max_size=4,
)


class Parts(RuleBasedStateMachine):
    """A data service beside a dictionary per moment."""

    @initialize()
    def begin(self):
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name)
        self.clock = ManualClock(START)
        self.database = Database.open(f"sqlite:///{self.path / 'kilter.db'}")
        self.database.migrate()
        self.log = Log.open(self.path / "rows")
        self.reading = Log.open(self.path / "rows", readonly=True)
        self.service, self.reader = self.open(self.log), self.open(self.reading)
        self.service.declare(Table("t", key="id", time="due"))
        self.rows: dict[str, dict[str, object]] = {}
        self.history: list[tuple[datetime, list[tuple[object, ...]]]] = [(START - timedelta(days=1), [])]
        self.requests: list[tuple[str, list[dict[str, object]]]] = []

    def open(self, log):
        return DataService(self.database, TableStore.open(str(self.path / "tables")), log, self.clock, flush_rows=9)

    def expect(self):
        rows = sorted((key, *(row.get(name) for name in COLUMNS)) for key, row in self.rows.items())
        self.history.append((self.clock.now(), rows))

    def merge(self, given):
        for key, part in given.items():
            row = self.rows.setdefault(key, {})
            row.update({name: value for name, value in part.items() if value is not None})
        self.expect()

    @rule(given=parts)
    def append(self, given):
        name = f"r{len(self.requests)}"
        rows = [{"id": key, "due": START.isoformat(), **part} for key, part in given.items()]
        self.service.append("t", rows, request_id=name)
        self.requests.append((name, rows))
        self.merge(given)

    @rule(place=st.integers(0, 50))
    def append_again(self, place):
        if self.requests:
            name, rows = self.requests[place % len(self.requests)]
            assert self.service.append("t", rows, request_id=name).repeated

    @rule(given=parts)
    def load(self, given):
        frame = pl.DataFrame(
            [{"id": key, **{name: part.get(name) for name in COLUMNS}} for key, part in given.items()],
            schema={"id": pl.String, "who": pl.String, "n": pl.Int64, "x": pl.Float64, "ok": pl.Boolean},
        )
        self.service.ingest("t", frame.with_columns(due=pl.lit(START)))
        self.merge(given)

    @rule()
    def flush(self):
        self.service.flush("t")

    @rule()
    def flush_and_lose_the_cursor(self):
        catalog = self.service._catalog
        moved, catalog.flushed = catalog.flushed, lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)
        try:
            self.service.flush("t")
        except KeyboardInterrupt:
            self.service = self.open(self.log)
        finally:
            catalog.flushed = moved

    @rule()
    def restart(self):
        self.service, self.reader = self.open(self.log), self.open(self.reading)

    @rule(seconds=st.integers(-100, 1000))
    def pass_time(self, seconds):
        # Only forward counts for arrivals; going back must not change what was known by a moment.
        self.clock.set(max(self.clock.now(), self.history[-1][0]) + timedelta(seconds=max(seconds, 1)))

    @rule(place=st.integers(0, 50))
    def look_back(self, place):
        moment = self.history[place % len(self.history)][0]
        expected = [rows for at, rows in self.history if at <= moment][-1]
        for service in (self.service, self.reader):
            assert self.content(service.frame("t", moment)) == expected

    @rule()
    def rows_since_cover_everything_new(self):
        found = self.reader.rows_since("t", -1)
        assert self.content(found) == self.history[-1][1]
        assert found["_position"].is_sorted()

    @invariant()
    def both_see_the_newest(self):
        assert self.content(self.service.frame("t")) == self.history[-1][1]
        assert self.reader.version("t").digest == self.service.version("t").digest

    @staticmethod
    def content(frame):
        missing = [pl.lit(None).alias(name) for name in COLUMNS if name not in frame.columns]
        return sorted(frame.with_columns(missing).select("id", *COLUMNS).rows())

    def teardown(self):
        if hasattr(self, "folder"):
            for closing in (self.log, self.reading, self.database):
                closing.close()
            self.folder.cleanup()


TestParts = pytest.mark.timeout(300)(Parts.TestCase)
TestParts.settings = settings(
    max_examples=12,
    stateful_step_count=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
