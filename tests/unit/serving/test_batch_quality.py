"""What is wrong with a batch's rows is counted, refused before anything is written, or kept apart with the reason."""

import json
import math
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest

from kilter.cli.main import main
from kilter.core.digests import canonical_json
from kilter.core.errors import Conflict, InvalidInput
from kilter.data.declare import Table
from kilter.data.encoding import Encoding
from kilter.loop.versions.batch import batch
from kilter.loop.workspace import Workspace
from kilter.monitoring.profile import ReferenceProfile, profile_inputs
from kilter.packaging.bundle import load, package
from kilter.registry.records import Lineage
from kilter.serving.scoring.quality import Limits

lightgbm = pytest.importorskip("lightgbm")

NAMES = ("carrier", "distance", "night")


def rows(count):
    random = np.random.default_rng(5)
    return pl.DataFrame(
        {
            "flight_id": [f"f{n:06d}" for n in range(count)],
            "carrier": np.array(["AA", "B6", "DL"], dtype=object)[random.integers(0, 3, count)].tolist(),
            "distance": [None if n % 20 == 0 else value for n, value in enumerate(random.random(count).tolist())],
            "night": random.integers(0, 2, count).astype(bool),
            "sched_dep": [datetime(2013, 3, 1, n % 24, tzinfo=UTC) for n in range(count)],
        }
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with a version that has a reference profile, and one that has none."""
    frame = rows(400)
    with Workspace.open(tmp_path_factory.mktemp("quality")) as workspace:
        encoding = Encoding.fit(frame, NAMES)
        X = encoding.matrix(frame)
        model = lightgbm.LGBMClassifier(n_estimators=5, verbosity=-1, n_jobs=1, min_child_samples=3)
        model.fit(X, np.nan_to_num(X[:, 1]) > 0.5, categorical_feature=[0])
        bundle = package(model, encoding, X, [], workspace.objects, table=Table("flights", "flight_id", "sched_dep"))
        profile = ReferenceProfile(
            inputs=profile_inputs(frame.select(NAMES), np.zeros(400, dtype=np.int64)), rows=400, days=1, base_rate=0.5
        )
        stored = workspace.objects.put(canonical_json(profile))
        for digest in (stored, ""):
            lineage = Lineage(run="", spec="s", data_digest="d", feature_digest="", code_digest="", environment="", params={},
                              seed=0, profile=digest)  # fmt: skip
            with workspace.database.transaction() as connection:
                workspace.models.register_in(
                    connection, "late", bundle.digest, lineage, "test", at=workspace.clock.now(), key=digest or "none"
                )
        yield workspace


def spoilt(count=200):
    """Rows of which 10 have an unknown carrier, 6 a distance far outside, 3 one that can't be used, and 30 one that is missing."""
    place = pl.int_range(pl.len())
    return rows(count).with_columns(
        carrier=pl.when(place < 10).then(pl.lit("zz")).otherwise("carrier"),
        distance=pl.when(place.is_between(50, 55))
        .then(900.0)
        .when(place.is_between(60, 62))
        .then(math.inf)
        .when(place >= count - 30)
        .then(None)
        .otherwise(pl.col("distance").fill_null(0.5)),
    )


def seen(found, name):
    return next(one for one in found.seen.columns if one.name == name)


def test_the_report_says_what_was_seen(store, tmp_path):
    spoilt().write_parquet(tmp_path / "in.parquet")
    found = batch("late@v1", tmp_path / "in.parquet", tmp_path / "out", store=store, bad_rows="null", batch_rows=33)
    assert found.seen.rows == 200
    carrier, distance, night = (seen(found, name) for name in NAMES)
    assert (carrier.nulls, carrier.unknown, carrier.outside, carrier.expected_nulls) == (0, 10, None, 0.0)
    assert (distance.nulls, distance.unknown, distance.outside, distance.expected_nulls) == (30, 0, 9, 0.05)
    assert (night.nulls, night.unknown, night.outside) == (0, 0, None)
    without = batch("late@v2", tmp_path / "in.parquet", tmp_path / "out2", store=store, bad_rows="null")
    assert (seen(without, "distance").outside, seen(without, "distance").expected_nulls) == (None, None)
    assert seen(without, "carrier").unknown == 10
    assert found.rows_per_second > 0


@pytest.mark.parametrize(
    ("limits", "where", "says"),
    [
        (Limits(unknown=0.049), "carrier", "5.00% of 200 rows are a category that the model does not know"),
        (Limits(nulls=0.1), "distance", "15.00% of 200 rows are missing"),
        (Limits(outside=0), "distance", "4.50% of 200 rows are far outside"),
        (Limits(nulls=0, unknown=0, outside=0), "carrier", "and 2 more"),
    ],
)
def test_a_batch_over_a_limit_is_refused_before_anything_is_written(limits, where, says, store, tmp_path):
    spoilt().write_parquet(tmp_path / "in.parquet")
    for place in (tmp_path / "out", tmp_path / "out.csv", "table:refused", "online:refused"):
        with pytest.raises(InvalidInput, match=says) as caught:
            batch("late@v1", tmp_path / "in.parquet", place, store=store, limits=limits, bad_rows="null")
        assert caught.value.where == where
    assert sorted(one.name for one in tmp_path.iterdir()) == ["in.parquet"]
    assert not any(table.name == "refused" for table in store.data.tables())


def test_a_batch_within_its_limits_is_scored(store, tmp_path):
    spoilt().write_parquet(tmp_path / "in.parquet")
    limits = Limits(nulls=0.15, unknown=0.05, outside=0.05)
    found = batch("late@v1", tmp_path / "in.parquet", tmp_path / "out", store=store, limits=limits, bad_rows="null")
    assert (found.rows, found.bad_rows, found.seen.rows) == (200, 3, 200)


def test_bad_rows_are_kept_apart_with_the_reason(store, tmp_path):
    frame = spoilt()
    frame.write_parquet(tmp_path / "in.parquet")
    plan = {"store": store, "bad_rows": tmp_path / "bad", "limits": Limits(unknown=0.01, nulls=0.5), "part_rows": 70}
    found = batch("late@v1", tmp_path / "in.parquet", tmp_path / "out", **plan)
    assert (found.rows, found.bad_rows, found.parts, found.apart) == (187, 13, 3, str(tmp_path / "bad"))
    bad = pl.read_parquet(tmp_path / "bad" / "*.parquet")
    assert bad.columns == [*frame.columns, "error"]
    assert bad["error"].to_list() == [
        *["carrier: a category that the model does not know"] * 10,
        *["distance: not a finite number"] * 3,
    ]
    good = pl.read_parquet(tmp_path / "out" / "*.parquet")
    assert sorted([*good["flight_id"], *bad["flight_id"]]) == frame["flight_id"].to_list()
    kept = frame.filter(pl.col("flight_id").is_in(good["flight_id"].to_list()))
    runtime = load(store.models.get("late", 1).bundle, store.objects)
    assert good["prediction"].to_list() == runtime.predict(runtime.encoding.matrix(kept)).tolist()
    assert batch("late@v1", tmp_path / "in.parquet", tmp_path / "out", **plan).parts == 0


def test_bad_rows_and_good_ones_cannot_share_a_place(store, tmp_path):
    spoilt().write_parquet(tmp_path / "in.parquet")
    with pytest.raises(Conflict):
        batch("late@v1", tmp_path / "in.parquet", tmp_path / "out", store=store, bad_rows=tmp_path / "out")


class Stopped(Exception):
    """The process ends here."""


@pytest.mark.parametrize("ending", ["", ".csv"])
def test_what_is_kept_apart_goes_on_with_the_batch(ending, store, tmp_path):
    frame = spoilt()
    frame.write_parquet(tmp_path / "in.parquet")
    limits = Limits(unknown=0, outside=0)

    def stop(_rows):
        raise Stopped

    plan = {"store": store, "limits": limits, "part_rows": 30, "batch_rows": 20, "bad_rows": tmp_path / f"bad{ending}"}
    calls = iter([lambda _rows: None, lambda _rows: None, lambda _rows: None, stop])

    def tell(rows):
        next(calls)(rows)

    with pytest.raises(Stopped):
        batch(
            "late@v1",
            tmp_path / "in.parquet",
            tmp_path / f"out{ending}",
            starting=lambda _: tell,
            **plan,
        )
    batch("late@v1", tmp_path / "in.parquet", tmp_path / f"out{ending}", **plan)
    read = pl.read_csv if ending else lambda place: pl.read_parquet(place / "*.parquet")
    good, bad = read(tmp_path / f"out{ending}"), read(tmp_path / f"bad{ending}")
    assert (good.height, bad.height) == (181, 19)
    assert sorted([*good["flight_id"], *bad["flight_id"]]) == frame["flight_id"].to_list()


@pytest.mark.parametrize("share", [-0.1, 1.5, math.nan, "5%"])
def test_a_limit_that_is_no_share_is_refused(share, store, tmp_path):
    with pytest.raises(InvalidInput, match="no share"):
        batch("late@v1", tmp_path / "in.parquet", tmp_path / "out", store=store, limits=Limits(nulls=share))


def test_the_command_takes_limits_and_shows_what_was_seen(store, tmp_path, capsys):
    spoilt().write_parquet(tmp_path / "in.parquet")
    given = ["batch", "late@v1", "--store", store.store.home, "--input", str(tmp_path / "in.parquet")]
    assert main([*given, "--output", str(tmp_path / "out"), "--max-unknown", "1%", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["where"] == "carrier"
    assert not (tmp_path / "out").exists()
    kept = ["--output", str(tmp_path / "out"), "--bad-rows", str(tmp_path / "bad"), "--max-unknown", "0.01"]
    assert main([*given, *kept]) == 0
    told = capsys.readouterr()
    assert "13 bad rows are in" in told.out
    assert "15.00%" in told.out
    assert "rows/s" in told.out
    assert main([*given, "--output", "o", "--max-nulls", "half"]) == 2
