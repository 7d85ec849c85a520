"""The contract of table stores."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from kilter.core.errors import InvalidInput, NotFound
from kilter.engines.tables.store import TableStore


def _rows(first: int, count: int) -> pl.DataFrame:
    return pl.DataFrame({"id": range(first, first + count), "name": [f"row {first + place}" for place in range(count)]})


class TableStoreContract:
    """What every table store does; a subclass gives the fixture ``tables``, an empty store."""

    def test_each_append_is_a_version(self, tables: TableStore) -> None:
        """Versions count from 0, and old ones stay readable."""
        assert tables.version("flights") is None
        assert tables.append("flights", _rows(0, 3)) == 0
        assert tables.append("flights", _rows(3, 2)) == 1
        assert tables.version("flights") == 1
        assert_frame_equal(tables.scan("flights").sort("id").collect(), _rows(0, 5))
        assert_frame_equal(tables.scan("flights", 0).sort("id").collect(), _rows(0, 3))

    def test_keeps_types_and_nulls(self, tables: TableStore) -> None:
        """Times keep their microseconds and their zone, floats their bits, nulls their place."""
        frame = pl.DataFrame(
            {
                "id": [1, 2],
                "at": [datetime(2013, 3, 1, 12, 0, 0, 123_457, tzinfo=UTC), None],
                "x": [0.1 + 0.2, None],
                "ok": [True, None],
                "text": ["é", None],
            },
            schema_overrides={"at": pl.Datetime("us", "UTC")},
        )
        tables.append("types", frame)
        assert_frame_equal(tables.scan("types").sort("id").collect(), frame, check_exact=True)

    def test_adds_columns(self, tables: TableStore) -> None:
        """A new column is null in the older rows, and a column that is left out is null in the newer ones."""
        tables.append("wide", pl.DataFrame({"id": [1], "a": [1.5]}))
        tables.append("wide", pl.DataFrame({"id": [2], "b": ["x"]}))
        expected = pl.DataFrame({"id": [1, 2], "a": [1.5, None], "b": [None, "x"]})
        assert_frame_equal(tables.scan("wide").sort("id").collect(), expected, check_column_order=False)

    def test_keeps_polars_own_types_as_plain_ones(self, tables: TableStore) -> None:
        """Categories become strings, unsigned integers signed ones; a column that says nothing is left out."""
        frame = pl.DataFrame(
            {"c": ["EWR", "JFK"], "u": [1, 2], "n": [None, None]},
            schema_overrides={"c": pl.Categorical, "u": pl.UInt16},
        )
        tables.append("plain", frame)
        expected = pl.DataFrame({"c": ["EWR", "JFK"], "u": [1, 2]})
        assert_frame_equal(tables.scan("plain").sort("u").collect(), expected)

    def test_refuses_another_type(self, tables: TableStore) -> None:
        """A column of another type than the table's is refused, and nothing is written."""
        tables.append("typed", pl.DataFrame({"id": [1]}))
        with pytest.raises(InvalidInput, match="'id' comes as String"):
            tables.append("typed", pl.DataFrame({"id": ["one"]}))
        assert tables.version("typed") == 0

    @pytest.mark.parametrize("name", ["", "../up", "a/b", "Upper", ".hidden", "x" * 101, "a b"])
    def test_refuses_names_that_are_paths(self, tables: TableStore, name: str) -> None:
        """A name that could leave the store never reaches it."""
        with pytest.raises(InvalidInput, match="not a table name"):
            tables.append(name, pl.DataFrame({"id": [1]}))

    def test_says_what_there_is(self, tables: TableStore) -> None:
        """An unknown table or version is named, with what would be allowed."""
        assert tables.names() == []
        tables.append("flights", _rows(0, 1))
        tables.append("labels", _rows(0, 1))
        assert tables.names() == ["flights", "labels"]
        with pytest.raises(NotFound, match=r"no table .planes.*flights, labels"):
            tables.scan("planes")
        with pytest.raises(NotFound, match=r"no version 7.*0 to 0"):
            tables.scan("flights", 7)
        with pytest.raises(NotFound, match="no table 'planes'"):
            tables.compact("planes")

    def test_compacting_changes_no_rows(self, tables: TableStore) -> None:
        """Compaction makes a version with the same rows, and the versions before it stay."""
        for number in range(5):
            tables.append("small", _rows(number * 2, 2))
        newest = tables.compact("small")
        assert newest == tables.version("small")
        assert_frame_equal(tables.scan("small").sort("id").collect(), _rows(0, 10))
        assert_frame_equal(tables.scan("small", 1).sort("id").collect(), _rows(0, 4))

    def test_many_writers_lose_nothing(self, tables: TableStore) -> None:
        """Appends at once, even to a table that is not there yet, are all there, each with its own version."""
        with ThreadPoolExecutor(4) as pool:
            versions = list(pool.map(lambda number: tables.append("busy", _rows(number * 10, 10)), range(8)))
        assert sorted(versions) == list(range(8))
        assert_frame_equal(tables.scan("busy").sort("id").collect(), _rows(0, 80))
