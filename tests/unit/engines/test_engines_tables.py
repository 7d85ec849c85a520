"""Delta tables: damaged files, several processes, and what other readers see."""

import json
import subprocess
import sys

import polars as pl
import pytest
from deltalake import DeltaTable

from kilter.core.errors import Damaged, InvalidInput, KilterError, Unavailable
from kilter.engines.tables.store import TableStore

ROWS = pl.DataFrame({"id": [1, 2, 3]})


@pytest.fixture
def store(tmp_path):
    return TableStore.open(str(tmp_path / "tables"))


def test_any_delta_reader_can_read_it(store, tmp_path):
    store.append("flights", ROWS)
    table = DeltaTable(str(tmp_path / "tables" / "flights"))
    assert table.version() == 0
    assert table.count() == 3


def test_a_commit_that_is_no_json_is_damage(store, tmp_path):
    store.append("flights", ROWS)
    commit = tmp_path / "tables/flights/_delta_log/00000000000000000000.json"
    commit.write_bytes(commit.read_bytes()[:-40])
    with pytest.raises(Damaged, match="damaged"):
        store.scan("flights").collect()
    with pytest.raises(Damaged, match="damaged"):
        store.append("flights", ROWS)


def test_a_missing_file_of_rows_is_an_error(store, tmp_path):
    store.append("flights", ROWS)
    for file in (tmp_path / "tables/flights").glob("*.parquet"):
        file.unlink()
    with pytest.raises((KilterError, FileNotFoundError, pl.exceptions.PolarsError)):
        store.scan("flights").collect()


def test_columns_of_python_objects_are_refused(store):
    with pytest.raises(InvalidInput, match="Python objects"):
        store.append("flights", pl.DataFrame({"id": [1], "o": pl.Series([object()], dtype=pl.Object)}))


def test_an_unsigned_number_too_large_is_refused(store):
    frame = pl.DataFrame({"id": [2**63]}, schema={"id": pl.UInt64})
    with pytest.raises(InvalidInput):
        store.append("flights", frame)


def test_an_empty_frame_makes_an_empty_version(store):
    assert store.append("flights", ROWS.head(0)) == 0
    assert store.scan("flights").collect().height == 0


def test_compaction_leaves_few_files(store, tmp_path):
    for _ in range(12):
        store.append("flights", ROWS)
    store.compact("flights")
    table = DeltaTable(str(tmp_path / "tables/flights"))
    assert len(table.file_uris()) == 1
    checkpoint = json.loads((tmp_path / "tables/flights/_delta_log/_last_checkpoint").read_text())
    assert checkpoint["version"] == table.version()


def test_a_server_that_is_not_there(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden-secret")
    store = TableStore.open("s3://bucket/x?endpoint=http://127.0.0.1:9")
    with pytest.raises(Unavailable) as caught:
        store.append("flights", ROWS)
    assert "hidden-secret" not in str(caught.value)
    with pytest.raises(Unavailable):
        store.names()


WRITER = """
import sys
import polars as pl
from kilter.engines.tables.store import TableStore
store = TableStore.open(sys.argv[1])
for number in range(6):
    store.append("flights", pl.DataFrame({"id": [int(sys.argv[2]) * 100 + number]}))
"""


@pytest.mark.slow
def test_writers_in_several_processes_lose_nothing(bytes_url):
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, bytes_url, str(number)]) for number in range(3)]
    assert [writer.wait(120) for writer in writers] == [0] * 3
    store = TableStore.open(bytes_url)
    expected = sorted(writer * 100 + number for writer in range(3) for number in range(6))
    assert store.scan("flights").sort("id").collect()["id"].to_list() == expected
    assert store.version("flights") == 17
