"""Views are registered once, fed in order whatever fails, forgotten when old, and refused when they can't work."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from kilter.core.errors import DeclarationError, InvalidInput, NotFound, Unavailable
from kilter.data.declare import Label, Table
from kilter.data.service import DataService
from kilter.engines.online.store import OnlineStore
from kilter.engines.sql.database import Database
from kilter.engines.streams.log import Log
from kilter.engines.tables.store import TableStore
from kilter.features.declare import Aggregate, count, features, latest, mean, total
from kilter.features.leakage import refuse_leaky_views
from kilter.features.offline import offline
from kilter.features.online import OnlineFeatures
from kilter.features.plan import plan_of
from kilter.features.service import FeatureService
from kilter.features.spec import from_json, spec_of, to_json, view_digest

EVENTS = Table("events", key="id", time="due")
VIEW = features(
    EVENTS, entity="who", time="done", lag="1h", n=count("3h"), mean=mean("x", "3h"), last=latest("x", "1d")
)
NOW = datetime(2013, 3, 1, tzinfo=UTC)


class World:
    """A store in a folder, which can be opened again."""

    def __init__(self, folder, clock):
        self.folder, self.clock = folder, clock
        self.open()

    def open(self):
        self.database = Database.open(f"sqlite:///{self.folder / 'kilter.db'}")
        self.database.migrate()
        self.log = Log.open(self.folder / "rows")
        self.data = DataService(self.database, TableStore.open(str(self.folder / "tables")), self.log, self.clock)
        self.store = OnlineStore.open(self.folder / "online")
        self.online = OnlineFeatures(self.store, lateness="2d")
        self.features = FeatureService(self.database, self.online, self.data, self.clock)

    def close(self):
        self.store.close()
        self.log.close()
        self.database.close()

    def event(self, key, who="a", minutes=0, x=None):
        at = self.clock.now() - timedelta(hours=2) + timedelta(minutes=minutes)
        return {"id": key, "who": who, "due": at.isoformat(), "done": at.isoformat(), "x": x}

    def found(self, view=VIEW, who="a"):
        return self.online.lookup(view, [who], [self.clock.now()])[0]

    def expected(self, view=VIEW, who="a"):
        asked = pl.DataFrame({"who": [who], "due": [self.clock.now()]}).cast({"due": pl.Datetime("us", "UTC")})
        return offline(view, self.data.frame("events"), asked).select(view.names).row(0)


@pytest.fixture
def world(tmp_path, clock):
    world = World(tmp_path, clock)
    world.data.declare(EVENTS, ["done"])
    yield world
    world.close()


def test_registering_fills_and_following_feeds(world):
    world.data.append("events", [world.event("k1", x=1.0), world.event("k2", x=2.0, minutes=5)])
    world.features.follow()
    registered = world.features.register(spec_of(VIEW))
    assert registered == world.features.register(spec_of(VIEW))
    assert world.found() == (2.0, 1.5, 2.0)
    world.data.append("events", [world.event("k3", x=6.0, minutes=10)])
    world.data.append("events", [{"id": "k1", "x": 4.0}])
    assert world.found() == world.expected() == (3.0, 4.0, 6.0)
    world.data.ingest("events", pl.DataFrame({"id": ["k2"], "x": [5.0]}))
    assert world.found() == world.expected() == (3.0, 5.0, 6.0)
    (row,) = world.features.lookup(registered.digest[:8], ["a"])
    assert row.values == {"n": 3.0, "mean": 5.0, "last": 6.0}
    assert [one.digest for one in world.features.views("events")] == [registered.digest]
    assert world.features.freshness()[0].behind == 0


def test_what_was_missed_while_nobody_followed_is_read_from_the_log(world):
    world.features.follow()
    world.features.register(spec_of(VIEW))
    world.data.append("events", [world.event("k1", x=1.0)])
    world.data.on_append.clear()
    world.data.append("events", [world.event("k2", x=2.0)])
    assert world.features.freshness()[0].behind == 1
    world.close()
    world.open()
    world.features.follow()
    assert world.found() == world.expected() == (2.0, 1.5, 2.0)
    assert world.features.freshness()[0].behind == 0


def test_a_failed_put_is_made_up_for_at_the_next_append(world, monkeypatch):
    world.features.follow()
    world.features.register(spec_of(VIEW))
    world.data.append("events", [world.event("k0", x=0.0)])
    with monkeypatch.context() as patch:
        patch.setattr(world.store, "put", lambda _, **__: (_ for _ in ()).throw(Unavailable("the disk is full")))
        world.data.append("events", [world.event("k1", x=3.0)])
    assert world.found()[0] == 1.0
    world.data.append("events", [world.event("k2", x=6.0)])
    assert world.found() == world.expected() == (3.0, 3.0, 6.0)


def test_another_process_that_fills_the_view_with_older_rows_loses_nothing(world):
    world.features.follow()
    world.features.register(spec_of(VIEW))
    world.data.append("events", [world.event("k1", x=1.0)])
    old = world.data.frame("events")
    position = world.data.describe("events").position
    world.data.append("events", [world.event("k2", x=2.0)])
    world.online.backfill(VIEW, old, position=position, at=world.clock.now())
    world.data.append("events", [world.event("k3", x=3.0)])
    assert world.found() == world.expected() == (3.0, 2.0, 3.0)


def test_two_definitions_never_meet(world):
    other = features(EVENTS, entity="who", time="done", lag="1h", n=count("30m"))
    world.features.follow()
    for view in (VIEW, other):
        world.features.register(spec_of(view))
    world.data.append("events", [world.event("k1"), world.event("k2", minutes=45)])
    assert world.found()[0] == 2.0
    assert world.found(other) == (1.0,)
    assert view_digest(VIEW) != view_digest(other)


def test_old_rows_and_buckets_are_forgotten_and_windows_never_miss_them(world):
    world.features.follow()
    world.features.register(spec_of(VIEW))
    sizes = []
    for hour in range(24 * 12):
        world.data.append("events", [world.event(f"k{hour}", x=float(hour)), {"id": f"never{hour}", "who": "a"}])
        assert world.found() == world.expected()
        if hour % 24 == 23:
            sizes.append(world.store._shared.environment.stat()["entries"])
        world.clock.advance(timedelta(hours=1))
    assert sizes[-1] <= sizes[4] * 1.1
    assert sizes[-1] > 100


def test_an_event_later_than_the_lateness_is_ignored_and_one_within_it_counts(world):
    world.features.follow()
    long = features(EVENTS, entity="who", time="done", n=count("10d"))
    world.features.register(spec_of(long))
    world.data.append(
        "events", [world.event("a", minutes=-10 * 1440 - 600)]
    )  # ten and a half days ago: kept, not in the window
    world.data.append("events", [world.event("b", minutes=-9 * 1440)])
    world.data.append("events", [world.event("c", minutes=-20 * 1440)])
    assert world.found(long) == (1.0,)
    assert world.online.lookup(long, ["a"], [world.clock.now() - timedelta(days=1)]) == [(2.0,)]


def test_unknown_entities_and_nulls_have_no_events(world):
    world.features.register(spec_of(VIEW))
    assert world.online.lookup(VIEW, [None, "nobody", 7], [NOW] * 3) == [(0.0, None, None)] * 3
    assert world.online.lookup(VIEW, [], []) == []


def test_a_wide_request_reads_only_the_buckets_it_needs(world):
    world.features.register(spec_of(VIEW))
    at = [NOW, NOW - timedelta(days=4000), NOW + timedelta(days=4000)]
    assert world.online.lookup(VIEW, ["a"] * 3, at) == [(0.0, None, None)] * 3


def test_wrong_views_are_refused(world):
    world.data.append("events", [world.event("k1", x=1.0)])
    world.data.flush("events")
    with pytest.raises(DeclarationError, match="did you mean 'done'"):
        world.features.register(spec_of(features(EVENTS, entity="who", time="doen", n=count("1h"))))
    with pytest.raises(DeclarationError, match="of kind string"):
        world.features.register(spec_of(features(EVENTS, entity="who", time="done", n=total("who", "1h"))))
    with pytest.raises(DeclarationError, match="of kind float"):
        world.features.register(spec_of(features(EVENTS, entity="x", time="done", n=count("1h"))))
    with pytest.raises(NotFound, match="no table"):
        world.features.register(
            spec_of(features(Table("nothing", "id", "due"), entity="who", time="done", n=count("1h")))
        )
    with pytest.raises(DeclarationError, match="without aggregates"):
        plan_of(features(EVENTS, entity="who", time="done"))
    with pytest.raises(DeclarationError, match="needs a column"):
        plan_of(features(EVENTS, entity="who", time="done", n=Aggregate("sum", "1h")))
    with pytest.raises(DeclarationError, match="resolution"):
        plan_of(features(EVENTS, entity="who", time="done", n=total("x", "1h", resolution=0.0)))
    with pytest.raises(InvalidInput, match="duration"):
        plan_of(features(EVENTS, entity="who", time="done", n=count("soon")))
    with pytest.raises(NotFound, match="no online state"):
        world.online.state(VIEW)
    with pytest.raises(NotFound, match="0 views"):
        world.features.lookup("abc", ["a"])


def test_a_view_comes_back_from_json():
    assert from_json(to_json(VIEW)) == VIEW
    assert view_digest(from_json(to_json(VIEW))) == view_digest(VIEW)


def test_offline_refuses_what_it_cannot_compute():
    events = pl.DataFrame({"id": ["a"], "who": ["a"], "done": [NOW], "x": ["text"]}).cast(
        {"done": pl.Datetime("us", "UTC")}
    )
    asked = pl.DataFrame({"who": ["a"], "due": [NOW]})
    with pytest.raises(DeclarationError, match="'x' is String"):
        offline(VIEW, events, asked)
    with pytest.raises(DeclarationError, match="unknown column 'x'"):
        offline(VIEW, events.drop("x"), asked)
    with pytest.raises(InvalidInput, match="no column 'due'"):
        offline(VIEW, events, asked.drop("due"))
    with pytest.raises(DeclarationError, match="Float64"):
        offline(VIEW, events.with_columns(who=1.5), asked)
    none = offline(VIEW, events.clear().with_columns(x=pl.lit(None, pl.Float64)), asked.vstack(asked.clear()))
    assert none.select(VIEW.names).rows() == [(0.0, None, None)]


def test_a_view_of_the_label_before_it_is_known_is_refused():
    rows = pl.DataFrame({"who": ["a"] * 100, "id": range(100), "due": [NOW] * 100})
    rows = rows.with_columns(done=pl.col("due") + timedelta(hours=3), x=pl.col("id") * 1.0)
    label = Label(lambda: pl.col("x") > 15, known_at="done")
    refuse_leaky_views([features(EVENTS, entity="who", time="done", m=mean("x", "3h"))], label, rows)
    refuse_leaky_views([features(EVENTS, entity="who", time="due", lag="3h", m=mean("x", "3h"))], label, rows)
    refuse_leaky_views([features(EVENTS, entity="who", time="due", n=count("3h"))], label, rows)
    with pytest.raises(DeclarationError, match=r"leaks the label.*100 of 100 rows") as caught:
        refuse_leaky_views([features(EVENTS, entity="who", time="due", lag="2h", m=mean("x", "3h"))], label, rows)
    assert "time='done'" in caught.value.fix
    with pytest.raises(DeclarationError, match="did you mean 'due'"):
        refuse_leaky_views([features(EVENTS, entity="who", time="deu", n=count("3h"))], label, rows)
