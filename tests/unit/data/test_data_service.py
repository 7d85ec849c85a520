"""Tables: parts of rows, views as of a moment, flushes that survive crashes, refusals that write nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from kilter.core.errors import DeclarationError, InvalidInput, NotFound, Unavailable
from kilter.data.declare import Table
from kilter.data.service import DataService
from kilter.engines.streams.log import Log
from kilter.engines.tables.store import TableStore

FLIGHTS = Table("flights", key="id", time="due")
DAY = timedelta(days=1)
T0 = "2013-03-01T12:00:00Z"


@pytest.fixture
def log(tmp_path):
    log = Log.open(tmp_path / "rows")
    yield log
    log.close()


@pytest.fixture
def service(database, tables, log, clock):
    service = DataService(database, tables, log, clock)
    service.declare(FLIGHTS, ["done"])
    return service


@pytest.fixture
def local(tmp_path, clock):
    """A service on SQLite and a folder, for what does not depend on engines."""
    from kilter.engines.sql.database import Database

    database = Database.open(f"sqlite:///{tmp_path / 'local.db'}")
    database.migrate()
    log = Log.open(tmp_path / "local-rows")
    service = DataService(database, TableStore.open(str(tmp_path / "tables")), log, clock)
    service.declare(FLIGHTS, ["done"])
    yield service
    log.close()
    database.close()


def test_parts_of_a_row_become_one_row_flushed_or_not(service, clock):
    service.append("flights", [{"id": "a", "due": T0, "who": "x", "n": 3}, {"id": "b", "due": T0, "who": "y", "n": 1}])
    service.flush("flights")
    clock.advance(DAY)
    service.append("flights", [{"id": "a", "done": 1362225600, "late": 12.5}])
    service.append("flights", [{"id": "a", "n": 4, "who": None}])
    expected = pl.DataFrame(
        {
            "id": ["a", "b"],
            "due": [datetime(2013, 3, 1, 12, tzinfo=UTC)] * 2,
            "done": [datetime(2013, 3, 2, 12, tzinfo=UTC), None],
            "who": ["x", "y"],
            "n": [4, 1],
            "late": [12.5, None],
        }
    ).with_columns(pl.col("due", "done").cast(pl.Datetime("us", "UTC")))
    assert_frame_equal(service.frame("flights").sort("id"), expected)
    service.flush("flights")
    assert_frame_equal(service.frame("flights").sort("id"), expected)
    then = service.frame("flights", clock.now() - DAY).sort("id")
    assert then["n"].to_list() == [3, 1]
    assert then["late"].to_list() == [None, None]
    info = service.info("flights")
    assert info.parts == 4
    assert [flush.parts for flush in service.versions("flights")] == [2, 2]
    described = service.describe("flights")
    assert (described.rows, described.untimed, described.nulls["late"]) == (2, 0, 1)


def test_another_process_sees_the_same_and_a_restart_too(service, database, tables, log, clock, tmp_path):
    for number in range(20):
        service.append("flights", [{"id": f"f{number % 7}", "due": T0, "n": number}], request_id=f"r{number}")
        if number % 6 == 5:
            service.flush("flights")
    reading = Log.open(tmp_path / "rows", readonly=True)
    reader = DataService(database, tables, reading, clock)
    assert_frame_equal(reader.frame("flights").sort("id"), service.frame("flights").sort("id"))
    service.append("flights", [{"id": "new", "due": T0, "n": 99, "more": "text"}])
    service.flush("flights")
    service.ingest("flights", pl.DataFrame({"id": ["f1", "bulk"], "n": [7, 8]}))
    assert_frame_equal(reader.frame("flights").sort("id"), service.frame("flights").sort("id"))
    restarted = DataService(database, tables, reading, clock)
    assert_frame_equal(restarted.frame("flights").sort("id"), service.frame("flights").sort("id"))
    assert restarted.version("flights").digest == service.version("flights").digest
    assert restarted.frame("flights").filter(pl.col("id") == "f1")["n"].to_list() == [7]


def test_a_repeated_request_changes_nothing_even_after_a_newer_part_a_flush_and_a_restart(
    service, database, tables, log, clock
):
    first = service.append("flights", [{"id": "a", "due": T0, "n": 1}], request_id="one")
    service.append("flights", [{"id": "a", "n": 2}])
    again = service.append("flights", [{"id": "a", "due": T0, "n": 1}], request_id="one")
    assert (again.position, again.repeated) == (first.position, True)
    service.flush("flights")
    assert service.append("flights", [{"id": "a", "n": 1}], request_id="one").repeated
    restarted = DataService(database, tables, log, clock)
    assert restarted.append("flights", [{"id": "a", "n": 1}], request_id="one").position == first.position
    assert restarted.frame("flights")["n"].to_list() == [2]
    with pytest.raises(InvalidInput, match="request id"):
        service.append("flights", [{"id": "a", "n": 1}], request_id="")


class DiesError(Exception):
    pass


def test_a_crash_between_files_and_cursor_neither_loses_nor_doubles(service, database, tables, log, clock, monkeypatch):
    service.append("flights", [{"id": "a", "due": T0, "n": 1}], request_id="one")
    service.append("flights", [{"id": "b", "due": T0, "n": 2}])
    with monkeypatch.context() as patch:
        patch.setattr(service._catalog, "flushed", lambda *_, **__: (_ for _ in ()).throw(DiesError))
        with pytest.raises(DiesError):
            service.flush("flights")
    restarted = DataService(database, tables, log, clock)
    assert restarted.frame("flights").height == 2
    restarted.append("flights", [{"id": "a", "n": 5}])
    info = restarted.flush("flights")
    assert info.parts == 3
    assert tables.scan("flights", info.version).collect().height == 3
    assert restarted.frame("flights").sort("id")["n"].to_list() == [5, 2]
    assert restarted.append("flights", [{"id": "a", "n": 1}], request_id="one").repeated


def test_a_crash_in_a_bulk_load_leaves_a_marker_that_stops_nobody(service, database, tables, log, clock, monkeypatch):
    service.append("flights", [{"id": "a", "due": T0, "n": 1}])
    frame = pl.DataFrame({"id": ["b", "c"], "due": [clock.now()] * 2, "n": [2, 3]})
    with monkeypatch.context() as patch:
        patch.setattr(tables, "append", lambda *_, **__: (_ for _ in ()).throw(Unavailable("full")))
        with pytest.raises(Unavailable):
            service.ingest("flights", frame)
    restarted = DataService(database, tables, log, clock)
    restarted.append("flights", [{"id": "a", "n": 7}])
    assert restarted.frame("flights")["n"].to_list() == [7]
    assert service.frame("flights")["n"].to_list() == [7]
    restarted.ingest("flights", frame)
    assert sorted(restarted.frame("flights")["n"].to_list()) == [2, 3, 7]


def test_the_same_rows_have_the_same_digest_whatever_way_they_came(service, local, clock):
    service.append("flights", [{"id": "a", "due": T0, "n": 1}, {"id": "b", "due": T0, "n": 2}])
    service.append("flights", [{"id": "b", "done": T0}])
    service.flush("flights")
    local.declare(Table("flights2", key="id", time="due"), ["done"])
    local.ingest(
        "flights2",
        pl.DataFrame(
            {
                "id": ["b", "a"],
                "n": [2, 1],
                "done": [datetime(2013, 3, 1, 12, tzinfo=UTC), None],
                "due": [datetime(2013, 3, 1, 12, tzinfo=UTC)] * 2,
            }
        ),
    )
    assert service.version("flights").digest == local.version("flights2").digest
    local.append("flights2", [{"id": "b", "n": 3}])
    assert service.version("flights").digest != local.version("flights2").digest


@pytest.mark.parametrize(
    ("row", "column", "words"),
    [
        ({"id": None, "due": T0}, "id", "no 'id'"),
        ({"due": T0}, "id", "no 'id'"),
        ({"id": "z", "due": None}, "due", "null 'due'"),
        ({"id": "z", "due": "yesterday"}, "due", "'yesterday'"),
        ({"id": "z", "due": "2013-03-01T12:00:00"}, "due", "2013-03-01T12:00:00"),
        ({"id": "z", "due": True}, "due", "a boolean"),
        ({"id": "z", "due": 1e18}, "due", "1e"),
        ({"id": "z", "n": "three"}, "n", "'three'"),
        ({"id": "z", "n": 1.5}, "n", "1.5"),
        ({"id": "z", "n": True}, "n", "a boolean"),
        ({"id": "z", "n": 2**70}, "n", "a whole number"),
        ({"id": "z", "x": float("inf")}, "x", "inf"),
        ({"id": "z", "who": 3}, "who", "3"),
        ({"id": "z", "ok": "yes"}, "ok", "'yes'"),
        ({"id": 7, "n": 1}, "id", "7"),
        ({"id": "z", "who": ["a"]}, "who", "list"),
    ],
)
def test_a_bad_row_is_refused_with_its_place_and_nothing_is_written(local, row, column, words):
    local.append("flights", [{"id": "a", "due": T0, "n": 1, "x": 0.5, "who": "x", "ok": True}])
    before = local.version("flights")
    with pytest.raises(InvalidInput) as caught:
        local.append("flights", [{"id": "b", "due": T0, "fresh": 1}, row])
    assert words in caught.value.message
    assert "row 1" in caught.value.message
    assert caught.value.where == f"flights.rows[1].{column}"
    assert caught.value.allowed
    assert local.version("flights") == before
    assert "fresh" not in [found.name for found in local.info("flights").columns]


def test_numbers_go_where_they_fit_and_missing_is_missing(local):
    local.append("flights", [{"id": "a", "due": T0, "n": 1, "x": 0.5}])
    local.append("flights", [{"id": "b", "due": T0, "n": 2.0, "x": 3}, {"id": "c", "due": T0, "x": float("nan")}])
    frame = local.frame("flights").sort("id")
    assert frame["n"].to_list() == [1, 2, None]
    assert frame["x"].to_list() == [0.5, 3.0, None]


def test_two_parts_of_one_key_in_one_call_become_one(local):
    local.append("flights", [{"id": "a", "due": T0, "n": 1, "x": 1.0}, {"id": "a", "n": 2, "x": None}])
    local.flush("flights")
    assert local.frame("flights").select("n", "x").rows() == [(2, 1.0)]


def test_unknown_tables_wrong_keys_and_names_are_refused(local):
    with pytest.raises(NotFound, match="did you mean 'flights'"):
        local.append("flihgts", [{"id": "a"}])
    with pytest.raises(DeclarationError, match="key='id'"):
        local.declare(Table("flights", key="other", time="due"))
    with pytest.raises(InvalidInput, match="not a table name"):
        local.declare(Table("Flights!", key="id", time="due"))
    with pytest.raises(InvalidInput, match="not a column name"):
        local.append("flights", [{"id": "a", "due": T0, "_at": 3}])
    with pytest.raises(InvalidInput, match="no rows"):
        local.append("flights", [])
    local.append("flights", [{"id": "a", "due": T0, "n": 1}])
    with pytest.raises(DeclarationError, match="kind integer"):
        local.declare(FLIGHTS, ["n"])
    assert [table.name for table in local.tables()] == ["flights"]


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (pl.DataFrame({"n": [1]}), "no key"),
        (pl.DataFrame({"id": ["a", "a"], "n": [1, 2]}), "twice"),
        (pl.DataFrame({"id": ["a", None], "n": [1, 2]}), "null 'id'"),
        (pl.DataFrame({"id": ["a"], "due": [None]}), "null 'due'"),
        (pl.DataFrame({"id": ["a"], "n": ["x"]}), "is String"),
        (pl.DataFrame({"id": ["a"], "deep": [[1]]}), "List"),
        (pl.DataFrame({"id": ["a"], "_at": [1]}), "not a column name"),
        (pl.DataFrame({"id": pl.Series([], dtype=pl.String)}), "no rows"),
    ],
)
def test_a_bad_frame_is_refused_and_nothing_is_written(local, frame, words):
    local.append("flights", [{"id": "a", "due": T0, "n": 1}])
    before = local.version("flights")
    with pytest.raises(InvalidInput, match=words):
        local.ingest("flights", frame)
    assert local.version("flights") == before


def test_arrivals_never_go_back_so_a_view_as_of_a_moment_never_changes(local, clock):
    local.append("flights", [{"id": "a", "due": T0, "n": 1}])
    now = clock.now()
    clock.set(now - DAY)
    local.append("flights", [{"id": "a", "n": 2}])
    assert local.frame("flights", now)["n"].to_list() == [2]
    assert local.frame("flights", now - DAY).height == 0
    clock.set(now + DAY)
    local.append("flights", [{"id": "a", "n": 3}])
    assert local.frame("flights", now)["n"].to_list() == [2]
    local.flush("flights")
    assert local.frame("flights", now)["n"].to_list() == [2]


def test_rows_since_gives_whole_rows_in_the_order_they_were_written(local, clock):
    local.append("flights", [{"id": "a", "due": T0, "n": 1}, {"id": "b", "due": T0, "n": 2}])
    second = local.append("flights", [{"id": "b", "x": 1.5}])
    clock.advance(DAY)
    local.append("flights", [{"id": "a", "x": 2.5}])
    found = local.rows_since("flights", -1)
    assert found["id"].to_list() == ["b", "a"]
    assert found["n"].to_list() == [2, 1]
    later = local.rows_since("flights", second.position)
    assert later.select("id", "n", "x", "_at").rows() == [("a", 1, 2.5, clock.now())]
    assert local.rows_since("flights", later["_position"].max()).height == 0
    empty = local.rows_since("flights", later["_position"].max())
    assert empty.schema == later.schema


def test_an_empty_table_has_its_columns(local):
    frame = local.frame("flights")
    assert frame.schema == {"id": pl.String, "due": pl.Datetime("us", "UTC"), "done": pl.Datetime("us", "UTC")}
    assert local.version("flights").rows == 0


def test_listeners_hear_of_each_batch_in_order_and_cannot_break_an_append(local):
    heard = []

    def listen(batch):
        heard.append((batch.position, len(batch), batch.bulk))
        raise InvalidInput("the listener's own trouble")

    local.on_append.append(listen)
    first = local.append("flights", [{"id": "a", "due": T0}])
    second = local.ingest("flights", pl.DataFrame({"id": ["b"], "n": [1]}))
    assert heard == [(first.position, 1, 0), (second.position, 0, 1)]
    assert local.frame("flights").height == 2


def test_many_appends_flush_themselves(tmp_path, log, clock):
    from kilter.engines.sql.database import Database

    database = Database.open(f"sqlite:///{tmp_path / 'local.db'}")
    database.migrate()
    service = DataService(database, TableStore.open(str(tmp_path / "tables")), log, clock, flush_rows=10)
    service.declare(FLIGHTS)
    for number in range(25):
        service.append("flights", [{"id": f"f{number}", "due": T0}])
    assert service.info("flights").parts == 20
    assert service.frame("flights").height == 25
    database.close()
