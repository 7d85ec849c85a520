"""What goes and what stays: the rule by age and size, and the readers that hold segments."""

from datetime import UTC, datetime, timedelta

import msgspec
import polars as pl
import pytest

from kilter.core.clock import ManualClock
from kilter.core.errors import Expired, InvalidInput
from kilter.engines.streams.segments import Segment
from kilter.serving.recording.archive import Archive
from kilter.serving.recording.predictions import PredictionLog, find, prediction_id
from kilter.serving.recording.retention import Keep, Retention, due, parse_size
from kilter.serving.records import Item, PredictionBatch, ShadowBatch

NOW = datetime(2026, 1, 31, tzinfo=UTC)
SEGMENTS = [Segment(number, 100, closed=number < 5) for number in range(6)]


def ends(number):
    """One segment a day, the newest closed one yesterday."""
    return number << 32 | 90, NOW - timedelta(days=5 - number)


@pytest.mark.parametrize(
    ("keep", "readers", "wanted", "allowed", "held"),
    [
        (Keep(), {}, -1, -1, ()),
        (Keep(age="60d"), {}, -1, -1, ()),
        (Keep(age="60h"), {}, 2, 2, ()),
        (Keep(age="1h"), {}, 3, 3, ()),  # the newest closed one stays, whatever its age
        (Keep(size="450 B"), {}, 1, 1, ()),
        (Keep(size="1 B"), {}, 3, 3, ()),
        (Keep(age="60h", size="450 B"), {}, 2, 2, ()),
        (Keep(age="1h"), {"a": 1 << 32 | 90, "b": 9 << 32}, 3, 1, ("a",)),
        (Keep(age="1h"), {"a": -1, "b": -1}, 3, -1, ("a", "b")),
        (Keep(age="1h"), {"a": (1 << 32 | 90) - 1}, 3, 0, ("a",)),
    ],
)
def test_the_oldest_go_once_every_reader_has_passed(keep, readers, wanted, allowed, held):
    assert due(SEGMENTS, keep, NOW, ends, readers) == (wanted, allowed, held)


def test_ends_are_asked_only_where_they_matter():
    asked = []

    def end_of(number):
        asked.append(number)
        return ends(number)

    due(SEGMENTS, Keep(age="80h"), NOW, end_of, {})
    assert asked == [0, 1, 2]


@pytest.mark.parametrize("text", ["", "3", "GB", "-1 GB", "1 PB", "1e9 B"])
def test_a_size_says_its_unit(text):
    with pytest.raises(InvalidInput, match="not a size"):
        parse_size(text)


def test_sizes_are_decimal():
    assert (parse_size("1 kB"), parse_size("2.5GB")) == (1000, 2_500_000_000)


# ---------------------------------------------------------------- through the services


def batch(loop, at, keys, **columns):
    return PredictionBatch(
        at=at,
        loop=loop,
        generation=1,
        share=0,
        keys=[str(key) for key in keys],
        times=[at] * len(keys),
        arms=["champion"] * len(keys),
        versions=[1] * len(keys),
        values=[0.5] * len(keys),
        inputs=columns,
        requests=[Item(len(keys), client="app", trace="ab" * 16)],
        latency_us=1,
    )


@pytest.fixture
def store(tmp_path):
    from kilter.loop.workspace import Workspace

    clock = ManualClock(NOW)
    with Workspace.open(tmp_path, clock) as workspace:
        workspace.clock_set = clock
        yield workspace


def fill(store, days, front="main"):
    """One segment a day, of two loops, with a shadow."""
    log = PredictionLog.open(store.prediction_logs(), front, readonly=False)
    places = []
    for day in range(days):
        at = NOW - timedelta(days=days - day)
        position = log.append(batch("one", at, [f"k{day}", f"l{day}"], x=[1.0, None], word=["a", "b"]))
        places.append(prediction_id(front, position, 1))
        log.append(batch("two", at, [day], word=[day if day % 2 else "text"]))
        log.append(ShadowBatch(at=at, loop="one", position=position, rows=[0, 1], version=2, values=[0.1, 0.2]))
    log.close()
    return places


def trim(store, dry_run=False, **keep):
    return {one.log: one for one in store.logs.trim(Retention(predictions=Keep(**keep)), dry_run)}


def test_a_dry_run_says_what_would_go_and_touches_nothing(store):
    places = fill(store, 6)
    said = trim(store, dry_run=True, age="60h")["predictions/main"]
    assert (said.segments, said.archived) == (4, 0)
    assert said.size > 0
    assert find(store.prediction_logs(), places[0]).key == "l0"
    assert not (store.store.folder / "archive").exists()


def test_what_goes_is_in_the_archive_exactly_once(store):
    places = fill(store, 6)
    done = trim(store, age="60h")["predictions/main"]
    assert (done.segments, done.archived, done.error) == (4, 4 * 5, "")
    with pytest.raises(Expired, match="expired"):
        store.endpoints.prediction(places[0])
    assert store.endpoints.prediction(places[4]).key == "l4"
    history = Archive(store.store.archive).scan("one").collect().sort("id")
    assert history["id"].to_list() == sorted(place for each in places[:4] for place in (each[:-1] + "0", each))
    assert history.filter(pl.col("key") == "k2").select("x_x", "x_word", "client", "trace").row(0) == (
        1.0,
        "a",
        "app",
        "ab" * 16,
    )
    shadows = pl.read_delta(str(store.store.folder / "archive" / "shadows" / "one"))
    assert shadows.height == 8
    assert trim(store, age="60h")["predictions/main"].segments == 0


def test_a_segment_that_was_archived_before_the_crash_is_not_archived_again(store):
    fill(store, 6)
    assert [one.archived for one in store.logs.archive()] == [25]
    with store.database.transaction() as connection:  # the mark was not written any more
        from kilter.serving.tables import log_readers

        connection.execute(log_readers.delete())
    assert [one.archived for one in store.logs.archive()] == [0]
    assert Archive(store.store.archive).scan("two").collect().height == 5


def test_a_column_that_is_text_at_times_stays_readable(store):
    fill(store, 6)
    trim(store, age="60h")
    found = Archive(store.store.archive).scan("two").collect().sort("key")
    assert found["x_word"].to_list() == ["text", "1.0", "text", "3.0"]


def test_readers_hold_what_they_have_not_passed(store):
    places = fill(store, 6)
    log = PredictionLog.open(store.prediction_logs(), "main")
    second = [position for position, _ in log.read() if position >> 32 == 1][-1]
    log.close()
    store.logs.mark("labels:one", {"predictions/main": second})
    store.logs.mark("labels:new", {"predictions": -1})
    held = trim(store, age="60h")["predictions/main"]
    assert (held.segments, held.held) == (0, ("labels:new",))
    store.logs.forget("labels:new")
    done = trim(store, age="60h")["predictions/main"]
    assert (done.segments, done.held) == (2, ("labels:one",))
    assert find(store.prediction_logs(), places[2]).key == "l2"
    store.logs.mark("labels:one", {"predictions/main": second - 1})  # never goes back
    [info] = [one for one in store.logs.overview() if one.log == "predictions/main"]
    assert {one.reader: one.position for one in info.readers} == {"labels:one": second}
    assert info.removed == second


def test_damage_keeps_a_log_as_it_is_and_not_the_others(store):
    fill(store, 6)
    fill(store, 6, "other")
    path = store.prediction_logs() / "main" / "00000001.log"
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)
    done = trim(store, age="60h")
    assert "broken" in done["predictions/main"].error or "checksum" in done["predictions/main"].error
    assert done["predictions/other"].segments == 4
    assert len(list(path.parent.glob("*.log"))) == 6


def test_rows_that_are_in_the_tables_may_leave_the_row_log(store):
    from kilter.data.declare import Table
    from kilter.engines.streams.log import Log

    table = Table("t", "id", "at")
    store.data.declare(table)
    store.data.declare(Table("idle", "id", "at"))
    for day in range(6):
        store.clock_set.set(NOW + timedelta(days=day))
        store.data.take("t", [{"id": f"a{day}", "at": NOW, "x": float(day)}, {"id": "same", "at": NOW, "y": day}])
    before = [(one.at, one.position, len(one)) for one in store.data.batches("t", -1)]
    frame = store.data.frame("t").sort("id")
    segments = Log.open(store.store.folder / "log" / "rows", readonly=True).segments()
    assert len(segments) == 6
    done = {one.log: one for one in store.logs.trim(Retention(rows=Keep(age="1d")))}["rows"]
    assert (done.segments, done.held, done.error) == (4, (), "")
    assert [(one.at, one.position, len(one)) for one in store.data.batches("t", -1)] == before
    assert store.data.info("t").parts == 12
    store.close()
    from kilter.loop.workspace import Workspace

    with Workspace.open(store.store, store.clock) as again:
        assert again.data.frame("t").sort("id").equals(frame)
        assert [(one.at, one.position, len(one)) for one in again.data.batches("t", -1)] == before
        assert [len(one) for one in again.data.batches("t", before[1][1])] == [2] * 4
        assert list(again.data.batches("idle", -1)) == []
        again.data.take("t", [{"id": "next", "at": NOW}])
        assert again.data.frame("t").height == frame.height + 1


def test_a_reader_that_slept_while_rows_were_removed_goes_on_from_the_tables(store):
    from kilter.data.declare import Table
    from kilter.loop.workspace import Workspace

    store.data.declare(Table("t", "id", "at"))
    store.data.take("t", [{"id": "first", "at": NOW}])
    with Workspace.open(store.store, store.clock) as other:
        assert other.data.frame("t").height == 1
        for day in range(5):
            store.clock_set.set(NOW + timedelta(days=day + 1))
            store.data.take("t", [{"id": f"a{day}", "at": NOW}])
        store.logs.trim(Retention(rows=Keep(age="1h")))
        assert other.data.frame("t").height == 6


def test_the_rule_is_data():
    rule = Retention(predictions=Keep(age="90d"), rows=Keep(size="1 GB"))
    assert msgspec.convert(msgspec.to_builtins(rule), Retention) == rule
