"""Files in, files out: the same answers whatever the format, in parts, and from where a scoring was when it is called again."""

import json
import math
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest

from kilter.cli.main import main
from kilter.core.errors import Conflict, Damaged, InvalidInput, NotFound
from kilter.data.declare import Table
from kilter.data.encoding import Encoding
from kilter.engines.files.reading import batches, pieces
from kilter.engines.location import locate
from kilter.engines.tables.paths import append_once
from kilter.loop.versions.batch import batch, transform
from kilter.loop.workspace import Workspace
from kilter.packaging.bundle import package

lightgbm = pytest.importorskip("lightgbm")

NAMES = ("carrier", "distance", "night")


def rows(count, seed=0):
    random = np.random.default_rng(seed)
    carriers = np.array(["AA", "B6", "DL", "zz", ""], dtype=object)[random.integers(0, 5, count)].tolist()
    return pl.DataFrame(
        {
            "flight_id": [f"f{n:06d}" for n in range(count)],
            "carrier": pl.Series([None if n % 17 == 0 else carriers[n] for n in range(count)], dtype=pl.String),
            "distance": pl.Series(
                [None if n % 13 == 0 else value for n, value in enumerate(random.normal(size=count).tolist())]
            ),
            "night": random.integers(0, 2, count).astype(bool),
            "sched_dep": [datetime(2013, 3, 1, n % 24, tzinfo=UTC) for n in range(count)],
        }
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with two versions of a model, the first of them champion."""
    folder = tmp_path_factory.mktemp("scoring")
    workspace = Workspace.open(folder)
    frame = rows(400)
    encoding = Encoding.fit(frame.filter(pl.col("carrier") != "zz"), NAMES)
    X = encoding.matrix(frame)
    y = np.nan_to_num(X[:, 1]) + np.nan_to_num(X[:, 0]) > 0.5
    for trees in (5, 9):
        model = lightgbm.LGBMClassifier(n_estimators=trees, verbosity=-1, n_jobs=1, min_child_samples=3)
        model.fit(X, y, categorical_feature=[0])
        bundle = package(model, encoding, X, [], workspace.objects, table=Table("flights", "flight_id", "sched_dep"))
        workspace.models.register("late", bundle.digest, "run", "spec", "data", "test")
    with workspace.database.transaction() as connection:
        workspace.models.set_alias(connection, "late", "champion", 1)
    yield workspace
    workspace.close()


def expected(store, frame, version=1):
    from kilter.packaging.bundle import load

    runtime = load(store.models.get("late", version).bundle, store.objects)
    return runtime.predict(runtime.encoding.matrix(frame))


def read(place):
    return pl.read_parquet(place / "*.parquet")


@pytest.mark.parametrize("ending", ["parquet", "csv", "arrow"])
def test_every_format_has_the_same_answers(ending, store, tmp_path):
    frame = rows(500)
    place = tmp_path / f"in.{ending}"
    {"parquet": frame.write_parquet, "csv": frame.write_csv, "arrow": frame.write_ipc}[ending](place)
    found = batch("late", place, tmp_path / f"out.{ending}", store=store)
    assert (found.rows, found.model, found.kept, found.bad_rows) == (500, "late@v1", False, 0)
    reader = {"parquet": pl.read_parquet, "csv": pl.read_csv, "arrow": pl.read_ipc}[ending]
    out = reader(tmp_path / f"out.{ending}")
    assert out.columns == ["flight_id", "sched_dep", "prediction"]
    assert out["flight_id"].to_list() == frame["flight_id"].to_list()
    assert out["prediction"].to_list() == expected(store, frame).tolist()


def test_a_folder_becomes_a_folder_of_parts_in_order(store, tmp_path):
    frame = rows(1000)
    (tmp_path / "in").mkdir()
    frame.head(600).write_parquet(tmp_path / "in" / "a.parquet")
    frame.slice(600).write_parquet(tmp_path / "in" / "b.parquet")
    done = []
    found = batch("late@v2", tmp_path / "in", tmp_path / "out", store=store, part_rows=250, batch_rows=90, threads=2,
                  keep=["distance"], starting=lambda total: done.append(total) or done.append)  # fmt: skip
    assert (found.rows, found.parts, found.model) == (1000, 5, "late@v2")
    assert sorted(one.name for one in (tmp_path / "out").iterdir()) == [
        "part-00000-000000.parquet",
        "part-00000-000001.parquet",
        "part-00000-000002.parquet",
        "part-00001-000000.parquet",
        "part-00001-000001.parquet",
    ]
    out = read(tmp_path / "out")
    assert out.columns == ["distance", "prediction"]
    assert out["prediction"].to_list() == expected(store, frame, 2).tolist()
    assert done[0] == 1000
    assert sum(done[1:]) == 1000
    assert pl.read_parquet_metadata(tmp_path / "out" / "part-00000-000000.parquet")["kilter.model"] == "late@v2"


def test_a_scoring_that_is_called_again_goes_on_and_scores_no_part_twice(store, tmp_path):
    frame = rows(1000)
    frame.write_csv(tmp_path / "in.csv")
    plan = {"store": store, "part_rows": 200, "batch_rows": 64}
    batch("late", tmp_path / "in.csv", tmp_path / "out", **plan)
    whole = read(tmp_path / "out")
    parts = sorted((tmp_path / "out").iterdir())
    stamps = [one.stat().st_mtime_ns for one in parts[:2]]
    for one in parts[2:]:
        one.unlink()
    note = tmp_path / ".out.batch" / "job.json"
    note.write_text(note.read_text().replace('"done":true', '"done":false'))
    found = batch("late", tmp_path / "in.csv", tmp_path / "out", **plan)
    assert (found.rows, found.parts, found.kept) == (600, 3, True)
    assert [one.stat().st_mtime_ns for one in parts[:2]] == stamps
    assert read(tmp_path / "out").equals(whole)
    assert batch("late", tmp_path / "in.csv", tmp_path / "out", **plan).rows == 0


def test_another_scoring_never_mixes_with_what_is_there(store, tmp_path):
    rows(100).write_parquet(tmp_path / "in.parquet")
    batch("late@v1", tmp_path / "in.parquet", tmp_path / "out", store=store)
    with pytest.raises(Conflict, match="something else is there"):
        batch("late@v2", tmp_path / "in.parquet", tmp_path / "out", store=store)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(Conflict):
            batch("late", tmp_path / "in.parquet", tmp_path / "mine", store=store, overwrite=overwrite)
    batch("late@v2", tmp_path / "in.parquet", tmp_path / "out", store=store, overwrite=True)
    assert read(tmp_path / "out")["prediction"].to_list() == expected(store, rows(100), 2).tolist()


def test_a_delta_table_is_read_at_its_version_and_appended_to_once(store, tmp_path):
    frame = rows(300)
    append_once(locate(str(tmp_path / "table")), frame, "maker", 0)
    plan = {"store": store, "part_rows": 100, "format": "delta"}
    assert batch("late", tmp_path / "table", tmp_path / "scores", **plan).parts == 3
    assert batch("late", tmp_path / "table", tmp_path / "scores", **plan).rows == 0
    out = pl.scan_delta(str(tmp_path / "scores")).collect().sort("flight_id")
    assert out["prediction"].to_list() == expected(store, frame).tolist()


def test_tables_of_the_store(store, tmp_path):
    frame = rows(120)
    store.data.declare(Table("flights", "flight_id", "sched_dep"))
    store.data.ingest("flights", frame)
    found = batch("late", "table:flights", "table:scores", store=store, part_rows=50)
    assert (found.rows, found.parts) == (120, 3)
    out = store.data.frame("scores").sort("flight_id")
    assert out["prediction"].to_list() == expected(store, frame).tolist()
    assert batch("late", "table:flights", "table:scores", store=store, part_rows=50).rows == 0


def test_a_bucket(store, s3_url, tmp_path):
    import httpx

    frame = rows(150)
    frame.write_parquet(tmp_path / "in.parquet")
    address, _, endpoint = s3_url.partition("?endpoint=")
    httpx.put(
        f"{endpoint}/{address.removeprefix('s3://')}/in/in.parquet", content=(tmp_path / "in.parquet").read_bytes()
    )
    place = f"{address}/in?endpoint={endpoint}"
    found = batch("late", place, f"{address}/out?endpoint={endpoint}", store=store, part_rows=100)
    assert (found.rows, found.parts) == (150, 2)
    assert batch("late", place, f"{address}/out?endpoint={endpoint}", store=store, part_rows=100).rows == 0
    batch("late", place, tmp_path / "local", store=store, part_rows=100)
    written = f"{address}/out?endpoint={endpoint}"
    out = pl.concat(next(batches(piece, written, rows=100)) for piece in pieces(written))
    assert out.equals(read(tmp_path / "local"))
    with pytest.raises(InvalidInput, match="one file in a bucket"):
        batch("late", place, f"{address}/one.parquet?endpoint={endpoint}", store=store)


def test_rows_that_cannot_be_used_fail_or_are_null(store, tmp_path):
    frame = rows(50).with_columns(
        distance=pl.when(pl.int_range(pl.len()) == 30).then(math.inf).otherwise(pl.col("distance"))
    )
    frame.write_parquet(tmp_path / "in.parquet")
    with pytest.raises(InvalidInput, match="not a finite number") as caught:
        batch("late", tmp_path / "in.parquet", tmp_path / "out", store=store, batch_rows=20)
    assert caught.value.where == "rows[30].distance"
    found = batch("late", tmp_path / "in.parquet", tmp_path / "out", store=store, bad_rows="null", overwrite=True)
    assert found.bad_rows == 1
    out = read(tmp_path / "out")
    assert out["prediction"].null_count() == 1
    assert out["error"][30] == "distance: not a finite number"


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda frame: frame.drop("distance"), "distance"),
        (lambda frame: frame.with_columns(distance=pl.lit("far")), "distance"),
        (lambda frame: frame.with_columns(carrier=pl.lit(1)), "carrier"),
    ],
)
def test_a_column_that_cannot_be_used_is_named(change, where, store, tmp_path):
    change(rows(10)).write_parquet(tmp_path / "in.parquet")
    with pytest.raises(InvalidInput) as caught:
        batch("late", tmp_path / "in.parquet", tmp_path / "out", store=store)
    assert where in caught.value.where
    assert not (tmp_path / "out").exists()


def test_wrong_places_are_named(store, tmp_path):
    with pytest.raises(NotFound, match="no such file"):
        batch("late", tmp_path / "none.parquet", tmp_path / "out", store=store)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and not more")
    with pytest.raises((Damaged, InvalidInput)):
        batch("late", tmp_path / "bad.parquet", tmp_path / "out", store=store)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InvalidInput, match=r"'.txt' is of no known format"):
        batch("late", tmp_path / "notes.txt", tmp_path / "out2", store=store)
    rows(3).write_parquet(tmp_path / "in.parquet")
    with pytest.raises(InvalidInput, match="no column"):
        batch("late", tmp_path / "in.parquet", tmp_path / "out3", store=store, keep=["color"])
    with pytest.raises(NotFound):
        batch("early", tmp_path / "in.parquet", tmp_path / "out4", store=store)


def test_no_rows_make_an_empty_part_with_the_columns(store, tmp_path):
    rows(10).clear().write_parquet(tmp_path / "in.parquet")
    assert batch("late", tmp_path / "in.parquet", tmp_path / "out", store=store).rows == 0
    assert read(tmp_path / "out").columns == ["flight_id", "sched_dep", "prediction"]


def test_the_command_says_what_it_did(store, tmp_path, capsys):
    rows(80).write_parquet(tmp_path / "in.parquet")
    given = ["batch", "late@v2", "--store", store.store.home, "--input", str(tmp_path / "in.parquet"),
             "--output", str(tmp_path / "out.csv"), "--keep", "*"]  # fmt: skip
    assert main([*given, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["rows"], told["model"], told["kept"]) == (80, "late@v2", False)
    assert main(given) == 0
    assert "was complete" in capsys.readouterr().out
    assert pl.read_csv(tmp_path / "out.csv").width == 6
    assert main(["batch", "late", "--store", "http://127.0.0.1:1", "--input", "a", "--output", "b", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["where"] == "--store"


def test_lines_are_answered_line_by_line_as_a_batch_transform(store, tmp_path):
    frame = rows(40)
    given = tmp_path / "in"
    given.mkdir()
    frame.select(NAMES).write_ndjson(given / "a.jsonl")
    frame.select(NAMES).write_csv(given / "b.csv", include_header=False)
    found = transform("late", given, tmp_path / "out", store=store, join=True)
    assert (found.rows, found.parts) == (80, 2)
    answers = expected(store, frame).tolist()
    lines = [json.loads(line) for line in (tmp_path / "out" / "a.jsonl.out").read_text().splitlines()]
    assert [line["SageMakerOutput"] for line in lines] == answers
    assert [line["carrier"] for line in lines] == frame["carrier"].to_list()
    joined = (tmp_path / "out" / "b.csv.out").read_text().splitlines()
    assert [float(line.rpartition(",")[2]) for line in joined] == answers
    assert transform("late", given, tmp_path / "out", store=store, join=True).rows == 0
    plain = transform("late", given / "a.jsonl", tmp_path / "plain", store=store)
    assert plain.rows == 40
    assert [float(line) for line in (tmp_path / "plain" / "a.jsonl.out").read_text().splitlines()] == answers
    (given / "c.jsonl").write_text('{"carrier": "AA", "distance": 1, "night": true}\n{"carrier": 5}\n')
    with pytest.raises(InvalidInput, match="wrong type"):
        transform("late", given / "c.jsonl", tmp_path / "bad", store=store)
