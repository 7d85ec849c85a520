"""A query is read in the order of its key and in types that stay; a table gets each row once, on every database."""

from datetime import UTC, date, datetime
from urllib.parse import quote_plus

import polars as pl
import pytest

from kilter.core.errors import InvalidInput, Unavailable
from kilter.engines.files.writing import NOWHERE, THE_END, Job
from kilter.engines.sql.places import has_password, hidden, parse_place
from kilter.engines.sql.reading import Query
from kilter.engines.sql.writing import DatabaseOutput

from .databases import KINDS, database, rows_of, run


@pytest.fixture(params=KINDS)
def address(request, tmp_path):
    with database(request.param, tmp_path) as found:
        yield found


def query(address, text, key="id"):
    return Query(parse_place(f"{address}?query={quote_plus(text)}"), key)


def read(given, rows=2, after=None):
    return list(given.batches(rows, after))


def people(address):
    run(
        address,
        "CREATE TABLE people (id BIGINT PRIMARY KEY, name VARCHAR(20), size DOUBLE PRECISION, cost DECIMAL(8, 2), born DATE)",
        "INSERT INTO people VALUES (3, 'c:d', 1.5, 2.25, '2001-02-03'), (1, 'a', NULL, 1.25, NULL), (2, NULL, 3, NULL, NULL), "
        "(5, 'e', 5.5, 7, NULL), (4, 'd', 4.5, 9.75, NULL)",
    )


def test_rows_come_in_the_order_of_the_key_and_every_batch_has_the_same_types(address):
    people(address)
    given = query(address, "SELECT id, name, size, cost FROM people -- all of them")
    assert given.count() == 5
    frames = read(given)
    assert [frame.height for frame in frames] == [2, 2, 1]
    assert {tuple(frame.schema.items()) for frame in frames} == {
        (("id", pl.Int64), ("name", pl.String), ("size", pl.Float64), ("cost", pl.Float64))
    }
    whole = pl.concat(frames)
    assert whole["id"].to_list() == [1, 2, 3, 4, 5]
    assert whole["name"].to_list() == ["a", None, "c:d", "d", "e"]
    assert whole["cost"].to_list() == [1.25, None, 2.25, 9.75, 7.0]


def test_reading_goes_on_behind_a_key_whatever_came_before_it(address):
    people(address)
    run(address, "INSERT INTO people (id) VALUES (0)", "DELETE FROM people WHERE id = 2")
    assert [one for frame in read(query(address, "SELECT id FROM people"), after=2) for one in frame["id"]] == [3, 4, 5]
    assert [one for frame in read(query(address, "SELECT id FROM people"), after=3) for one in frame["id"]] == [4, 5]
    assert read(query(address, "SELECT id FROM people"), after=5) == []


def test_times_are_utc_on_the_way_in_and_out(address):
    kind = {"postgresql": "TIMESTAMPTZ", "mariadb": "DATETIME(6)", "sqlite": "TEXT"}[address.partition(":")[0]]
    run(address, f"CREATE TABLE times (id BIGINT PRIMARY KEY, at {kind})")
    six = datetime(2013, 3, 1, 6, 0, 0, 250_000, tzinfo=UTC)
    frame = pl.DataFrame({"id": [1], "at": [six]}).with_columns(pl.col("at").dt.convert_time_zone("Asia/Tokyo"))
    target = DatabaseOutput(parse_place(f"{address}?table=times"), Job("c" * 64, {}), "id")
    target.write(0, 0, frame)
    (found,) = read(query(address, "SELECT id, at FROM times"))
    said = found["at"][0]
    if isinstance(said, str):
        said = datetime.fromisoformat(said)
    assert said.replace(tzinfo=said.tzinfo or UTC) == six


def test_letters_that_a_collation_takes_for_one_are_two_keys(address):
    run(address, "CREATE TABLE words (word VARCHAR(20))", "INSERT INTO words VALUES ('b'), ('A'), ('a'), ('B'), ('a ')")
    found = [one for frame in read(query(address, "SELECT word FROM words", "word")) for one in frame["word"]]
    assert sorted(found) == ["A", "B", "a", "a ", "b"]
    for place, word in enumerate(found):
        rest = read(query(address, "SELECT word FROM words", "word"), after=word)
        assert [one for frame in rest for one in frame["word"]] == found[place + 1 :]


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        ("SELECT nobody FROM people", "id", "nobody"),
        ("SELECT name FROM people", "id", "no column 'id'"),
        ("SELECT id, size FROM people", "size", "the key is Float64"),
        ("DELETE FROM people", "id", "refuses"),
        ("SELECT id FROM people; DROP TABLE people", "id", "refuses"),
        ("", "id", "there is no query"),
    ],
)
def test_what_is_no_query_is_refused_and_changes_nothing(address, text, key, says):
    people(address)
    with pytest.raises(InvalidInput, match=says):
        query(address, text, key)
    assert rows_of(address, "SELECT count(*) FROM people") == [(5,)]


def test_two_columns_of_one_name_are_refused(address):
    people(address)
    if address.startswith("sqlite"):
        assert query(address, "SELECT id, id FROM people").schema.keys() == {"id", "id:1"}  # it renames the second
        return
    with pytest.raises(InvalidInput, match=r"two columns|[Dd]uplicate"):
        query(address, "SELECT id, id FROM people")


def test_a_key_that_is_null_or_not_unique_is_refused(address):
    people(address)
    given = query(address, "SELECT name FROM people", "name")
    with pytest.raises(InvalidInput, match="null in 1 rows"):
        given.count()
    run(address, "UPDATE people SET name = 'e' WHERE id < 4")
    for rows in (1, 2, 10):
        with pytest.raises(InvalidInput, match="same key"):
            read(query(address, "SELECT name FROM people", "name"), rows)
    with pytest.raises(InvalidInput, match="same key"):
        read(query(address, "SELECT name FROM people", "name"), after="e")


def part(*ids, value=0.5):
    return pl.DataFrame(
        {
            "id": pl.Series(ids, dtype=pl.String),
            "at": [datetime(2013, 3, 1, 6, tzinfo=UTC)] * len(ids),
            "day": [date(2013, 3, 1)] * len(ids),
            "prediction": pl.Series([value] * len(ids), dtype=pl.Float64),
        }
    )


def output(address, job="a" * 64, table="scores"):
    return DatabaseOutput(parse_place(f"{address}?table={table}"), Job(job, {}), "id")


def test_a_part_and_its_note_are_one_and_a_row_is_there_once(address):
    first = output(address)
    assert first.last() == NOWHERE
    first.write(0, 0, part("x", "y"))
    first.write(0, 1, part("z"))
    again = output(address)
    assert again.last() == (0, 1)
    again.write(0, 1, part("z", value=0.75))
    again.finish()
    assert output(address).last() == THE_END
    assert rows_of(address, "SELECT id, prediction FROM scores ORDER BY id") == [("x", 0.5), ("y", 0.5), ("z", 0.75)]
    other = output(address, "b" * 64)
    assert other.last() == NOWHERE
    other.write(0, 0, part("x", value=0.25))
    other.finish()
    assert rows_of(address, "SELECT prediction FROM scores WHERE id = 'x'") == [(0.25,)]


def test_a_part_that_fails_leaves_neither_rows_nor_its_note(address):
    run(
        address,
        "CREATE TABLE scores (id VARCHAR(9) PRIMARY KEY, at TIMESTAMP, day DATE, prediction DOUBLE PRECISION NOT NULL)",
    )
    target = output(address)
    target.write(0, 0, part("x"))
    bad = pl.concat(
        [part(*(f"n{number}" for number in range(3_000))), part("y").with_columns(prediction=None)],
        how="vertical_relaxed",
    )
    with pytest.raises(InvalidInput, match="database refuses"):
        target.write(0, 1, bad)
    assert target.last() == (0, 0)
    assert rows_of(address, "SELECT id FROM scores") == [("x",)]
    target.finish()


def test_a_table_that_does_not_suit_is_refused_before_any_row(address):
    run(address, "CREATE TABLE loose (id VARCHAR(9), at TIMESTAMP, day DATE, prediction DOUBLE PRECISION)")
    run(address, "CREATE TABLE narrow (id VARCHAR(9) PRIMARY KEY)")
    with pytest.raises(InvalidInput, match="no index makes 'id' unique"):
        output(address, table="loose").write(0, 0, part("x"))
    with pytest.raises(InvalidInput, match="has no column 'at'"):
        output(address, table="narrow").write(0, 0, part("x"))
    assert rows_of(address, "SELECT id FROM loose") == []
    run(address, "CREATE UNIQUE INDEX one_each ON loose (id)")
    target = output(address, table="loose")
    target.write(0, 0, part("x"))
    target.write(0, 0, part("x"))
    target.finish()
    assert rows_of(address, "SELECT id FROM loose") == [("x",)]


def test_addresses(monkeypatch):
    assert parse_place("postgresql://me@host/shop?query=SELECT+1&key=a&sslmode=require").url == (
        "postgresql+psycopg://me@host/shop?sslmode=require"
    )
    assert parse_place("sqlite:////tmp/a.db?table=t").url == "sqlite+pysqlite:////tmp/a.db"
    assert hidden("postgresql://me:secret@host/shop") == "postgresql://me:***@host/shop"
    assert hidden("s3://bucket/path") == "s3://bucket/path"
    assert has_password("mysql://me:secret@host/shop")
    assert not has_password("mysql://me:${SHOP}@host/shop")
    with pytest.raises(InvalidInput, match="oracle:// is no database"):
        parse_place("oracle://host/shop")
    monkeypatch.delenv("SHOP", raising=False)
    with pytest.raises(InvalidInput, match="SHOP is not set"):
        Query(parse_place("postgresql://me:${SHOP}@host/shop?query=SELECT+1"), "id")
    with pytest.raises(Unavailable):
        Query(parse_place("postgresql://me@127.0.0.1:1/shop?query=SELECT+1"), "id")
    pytest.importorskip("pymysql")
    with pytest.raises(Unavailable):
        Query(parse_place("mysql://me@127.0.0.1:1/shop?query=SELECT+1"), "id")
