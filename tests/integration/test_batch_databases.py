"""From a query to a table and to the online store: what the model answers, each row once, and from where a batch was."""

import json
from contextlib import closing
from datetime import UTC, datetime
from urllib.parse import quote_plus

import numpy as np
import polars as pl
import pytest

from kilter.cli.main import main
from kilter.core.errors import Conflict, InvalidInput
from kilter.data.declare import Table
from kilter.data.encoding import Encoding
from kilter.loop.versions.batch import batch
from kilter.loop.workspace import Workspace, connect
from kilter.packaging.bundle import load, package
from kilter.testing.server import RunningServer

from ..contract.databases import KINDS, database, engine_of, rows_of, run  # noqa: TID252 - tests are no package

lightgbm = pytest.importorskip("lightgbm")

NAMES = ("carrier", "distance")
QUERY = "SELECT flight_id, sched_dep, carrier, distance FROM flights WHERE distance IS NULL OR distance > -9"


@pytest.fixture(params=KINDS)
def address(request, tmp_path):
    with database(request.param, tmp_path) as found:
        yield found


def flights(count):
    random = np.random.default_rng(3)
    carriers = ["AA", "B6", "zz", None]
    return pl.DataFrame(
        {
            "flight_id": [f"f{n:05d}" for n in range(count)],
            "sched_dep": [datetime(2013, 3, 1, n % 24, tzinfo=UTC) for n in range(count)],
            "carrier": pl.Series([carriers[n] for n in random.integers(0, 4, count)], dtype=pl.String),
            "distance": [None if n % 9 == 0 else value for n, value in enumerate(random.normal(size=count).tolist())],
        }
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("databases")
    frame = flights(300)
    with Workspace.open(folder) as workspace:
        encoding = Encoding.fit(frame.filter(pl.col("carrier") != "zz"), NAMES)
        X = encoding.matrix(frame)
        model = lightgbm.LGBMClassifier(n_estimators=5, verbosity=-1, n_jobs=1, min_child_samples=3)
        model.fit(X, np.nan_to_num(X[:, 1]) > 0, categorical_feature=[0])
        bundle = package(model, encoding, X, [], workspace.objects, table=Table("flights", "flight_id", "sched_dep"))
        workspace.models.register("late", bundle.digest, "run", "spec", "data", "test")
        yield workspace


def fill(address, frame):
    run(
        address,
        "CREATE TABLE flights (flight_id VARCHAR(20) PRIMARY KEY, sched_dep VARCHAR(40), carrier VARCHAR(9), distance DOUBLE PRECISION)",
    )
    mark = "?" if address.startswith("sqlite") else "%s"
    rows = [
        (key, at.isoformat(), *rest) for key, at, *rest in frame.sample(fraction=1, shuffle=True, seed=1).iter_rows()
    ]
    with engine_of(address).begin() as connection:
        connection.exec_driver_sql(f"INSERT INTO flights VALUES ({', '.join([mark] * 4)})", rows)


def expected(store, frame):
    runtime = load(store.models.get("late", 1).bundle, store.objects)
    return dict(zip(frame["flight_id"], runtime.predict(runtime.encoding.matrix(frame)).tolist(), strict=True))


def test_a_query_is_scored_into_a_table_and_looked_up_online(address, store):
    frame = flights(500)
    fill(address, frame)
    plan = {"store": store, "query": QUERY, "part_rows": 120, "batch_rows": 50}
    found = batch("late@v1", address, f"{address}?table=scores", **plan)
    assert (found.rows, found.parts, found.kept) == (500, 5, False)
    assert dict(rows_of(address, "SELECT flight_id, prediction FROM scores")) == expected(store, frame)
    assert batch("late@v1", address, f"{address}?table=scores", **plan).rows == 0
    run(address, "UPDATE flights SET distance = 0.5 WHERE flight_id = 'f00007'")
    again = batch("late@v1", address, f"{address}?table=scores", run="second", **plan)
    assert again.rows == 500
    changed = frame.with_columns(
        distance=pl.when(pl.col("flight_id") == "f00007").then(0.5).otherwise(pl.col("distance"))
    )
    assert dict(rows_of(address, "SELECT flight_id, prediction FROM scores")) == expected(store, changed)
    assert batch("late@v1", address, "online:late", run=address, **plan).rows == 500
    told = store.answers.lookup("late", ["f00007", "f00001", "nobody"])
    assert told[2].answer is None
    assert told[1].answer.model == "late@v1"
    assert [one.answer.values["prediction"] for one in told[:2]] == [
        expected(store, changed)["f00007"],
        expected(store, changed)["f00001"],
    ]
    assert told[0].answer.values["sched_dep"].startswith("2013-03-01")


class Stopped(Exception):
    """The process ends here."""


def stopping(after):
    """Count rows, and stop when there are enough."""
    done = 0

    def tell(rows):
        nonlocal done
        done += rows
        if done >= after:
            raise Stopped

    return lambda _total: tell


def test_a_batch_goes_on_behind_the_last_key_whatever_came_and_went_before_it(address, store):
    frame = flights(500)
    fill(address, frame)
    target = f"{address}?table=scores"
    plan = {"store": store, "query": QUERY, "part_rows": 100, "batch_rows": 30}
    with pytest.raises(Stopped):
        batch("late@v1", address, target, starting=stopping(200), **plan)
    written = expected(store, frame)
    assert len(rows_of(address, "SELECT * FROM scores")) == 200
    run(
        address,
        "DELETE FROM flights WHERE flight_id IN ('f00003', 'f00199')",
        "INSERT INTO flights VALUES ('f00000b', '2013-03-01T00:00:00Z', 'AA', 1), ('f00450b', '2013-03-01T00:00:00Z', 'AA', 1)",
    )
    found = batch("late@v1", address, target, **plan)
    assert (found.rows, found.kept) == (301, True)
    scored = dict(rows_of(address, "SELECT flight_id, prediction FROM scores"))
    assert scored.keys() == {*written, "f00450b"}
    assert {key: scored[key] for key in written} == written


def test_what_is_noted_elsewhere_is_a_conflict(address, store, tmp_path):
    fill(address, flights(300))
    plan = {"store": store, "query": QUERY, "part_rows": 100}
    with pytest.raises(Stopped):
        batch("late@v1", address, tmp_path / "out", starting=stopping(100), **plan)
    for note in (store.store.folder / "batches").glob("*.keys.json"):
        note.unlink()
    with pytest.raises(Conflict, match="noted in another store"):
        batch("late@v1", address, tmp_path / "out", **plan)


def test_the_command_reads_a_query(address, store, capsys, tmp_path):
    frame = flights(40)
    fill(address, frame)
    given = ["batch", "late@v1", "--store", store.store.home, "--input", address, "--query", QUERY, "--json"]
    assert main([*given, "--output", str(tmp_path / "out.parquet")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["rows"], told["input"]) == (40, address)
    out = pl.read_parquet(tmp_path / "out.parquet")
    assert dict(zip(out["flight_id"], out["prediction"], strict=True)) == expected(store, frame)
    assert main([*given, "--output", "online:", "--key", "carrier"]) == 2
    capsys.readouterr()
    place = f"{address}?query={quote_plus('SELECT flight_id AS id, carrier, distance FROM flights')}&key=id"
    assert batch("late@v1", place, f"{address}?table=by_id", store=store, key="id").rows == 40
    assert batch("late@v1", place, f"{address}?table=by_id_too&key=id", store=store).rows == 40
    assert dict(rows_of(address, "SELECT id, prediction FROM by_id_too")) == expected(store, frame)


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({"input": "postgresql://me:secret@host/shop"}, "input"),
        ({"output": "mysql://me:secret@host/shop?table=t"}, "output"),
        ({"input": "rows.parquet", "query": "SELECT 1"}, "query"),
        ({"output": "online:a b"}, "output"),
        ({"output": "online:a", "format": "csv"}, "format"),
    ],
)
def test_places_that_cannot_be_used_are_refused(given, where, store, tmp_path):
    flights(3).write_parquet(tmp_path / "in.parquet")
    asked = {"input": tmp_path / "in.parquet", "output": tmp_path / "out"} | given
    with pytest.raises(InvalidInput) as caught:
        batch("late@v1", **asked, store=store)
    assert caught.value.where == where
    assert "secret" not in str(caught.value)


def test_a_table_of_a_store_that_a_server_writes(store, tmp_path):
    flights(300).write_parquet(tmp_path / "in.parquet")
    with RunningServer(store.store.home) as running:
        with closing(connect(running.url, running.token)) as kilter:
            kilter.data.declare(Table("other", "id", "at"))
            kilter.data.append("other", [{"id": "a", "at": "2013-03-01T00:00:00Z"}])  # the server holds the row log now
            found = batch("late@v1", tmp_path / "in.parquet", "table:served", store=store, part_rows=120)
            assert (found.rows, found.parts) == (300, 3)
            assert kilter.data.describe("served").rows == 300
        assert batch("late@v1", tmp_path / "in.parquet", "table:served", store=store, part_rows=120).rows == 0
    out = store.data.frame("served")
    assert dict(zip(out["flight_id"], out["prediction"], strict=True)) == expected(store, flights(300))
