"""What the tests of both clusters share: a store with a model, rows, and the job on this machine to hold against."""

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest

from kilter.core.errors import InvalidInput
from kilter.data.declare import Table
from kilter.data.encoding import Encoding
from kilter.engines.files.writing import Job, open_output
from kilter.engines.location import locate
from kilter.engines.objects.store import ObjectStore
from kilter.engines.tables.paths import append_once
from kilter.packaging.bundle import fetch, package
from kilter.serving.scoring.cluster import score_on
from kilter.serving.scoring.files import Files, Plan, job_of, score
from kilter.serving.scoring.model import Scorer
from kilter.serving.scoring.quality import Quality
from kilter.serving.scoring.stretches import Options

NAMES = ("carrier", "distance", "night")


def rows(count, seed=0):
    """Rows with missing values and unknown categories."""
    random = np.random.default_rng(seed)
    carriers = ["AA", "B6", "DL", "Ünknown", None]
    return pl.DataFrame(
        {
            "flight_id": [f"f{n:06d}" for n in range(count)],
            "carrier": pl.Series([carriers[n] for n in random.integers(0, 5, count)], dtype=pl.String),
            "distance": [None if n % 13 == 0 else value for n, value in enumerate(random.normal(size=count).tolist())],
            "night": random.integers(0, 2, count).astype(bool),
            "sched_dep": [datetime(2013, 3, 1, n % 24, tzinfo=UTC) for n in range(count)],
        }
    )


class Shop(NamedTuple):
    """A store's objects with one model."""

    objects: str
    bundle: str

    @classmethod
    def make(cls, folder: Path) -> "Shop":
        import lightgbm

        frame = rows(400)
        encoding = Encoding.fit(frame.filter(pl.col("carrier") != "Ünknown"), NAMES)
        X = encoding.matrix(frame)
        y = np.nan_to_num(X[:, 1]) + np.nan_to_num(X[:, 0]) > 0.5
        model = lightgbm.LGBMClassifier(n_estimators=9, verbosity=-1, n_jobs=1, min_child_samples=3)
        model.fit(X, y, categorical_feature=[0])
        objects = ObjectStore.open(str(folder))
        bundle = package(model, encoding, X, [], objects, table=Table("flights", "flight_id", "sched_dep"))
        return cls(str(folder), bundle.digest)

    def plan(self, source, target, **more):
        return Plan(
            model="late@v1",
            bundle=self.bundle,
            input=str(source),
            output=str(target),
            part_rows=100,
            batch_rows=40,
            **more,
        )

    def here(self, source, target, *, kind=None, **more):
        """Score on this machine."""
        plan = self.plan(source, target, **more)
        given = Files(plan.input)
        scorer = Scorer(fetch(self.bundle, ObjectStore.open(self.objects)))
        job = job_of(plan, given, kind)
        output, apart = _outputs(plan, job, kind)
        return score(scorer, plan, given, output, quality=Quality(NAMES, ["carrier"], {}), apart=apart)

    def there(self, engine, source, target, *, kind=None, workers=2, tell=lambda _rows: None, **more):
        """Score on a cluster."""
        plan = self.plan(source, target, **more)
        given = Files(plan.input)
        job = job_of(plan, given, kind)
        output, apart = _outputs(plan, job, kind)
        options = Options(objects=self.objects, workers=workers)
        return score_on(engine, plan, job, given, output, options, tell, apart=apart)


def _outputs(plan, job, kind):
    output = open_output(plan.output, job, format=kind)
    return output, open_output(plan.apart, job) if plan.apart else None


def parts_of(place):
    """The parts of an output by name."""
    return {one.name: pl.read_parquet(one) for one in sorted(Path(place).iterdir())}


def assert_same(here, there):
    """Both outputs have the same parts of the same rows, to the bit."""
    ours, theirs = parts_of(here), parts_of(there)
    assert ours.keys() == theirs.keys()
    assert ours
    for name, frame in ours.items():
        assert frame.schema == theirs[name].schema
        assert frame.equals(theirs[name], null_equal=True), name


class ClusterScoring:
    """What holds on every cluster; ``engine`` says which."""

    engine = ""

    def test_a_folder_of_files_has_the_same_parts(self, shop, tmp_path):
        source = tmp_path / "in"
        source.mkdir()
        for number, count in enumerate((250, 0, 101)):
            rows(count, number).write_parquet(source / f"{number}.parquet")
        told = []
        here = shop.here(source, tmp_path / "here", keep=("*",))
        there = shop.there(self.engine, source, tmp_path / "there", keep=("*",), tell=told.append)
        assert_same(tmp_path / "here", tmp_path / "there")
        assert len(parts_of(tmp_path / "there")) == 6
        assert (there.rows, there.parts, there.bad_rows, there.seen) == (351, 6, 0, here.seen)
        assert sum(told) == 351
        assert sorted(one.name for one in tmp_path.iterdir()) == [".here.batch", ".there.batch", "here", "in", "there"]
        again = shop.there(self.engine, source, tmp_path / "there", keep=("*",))
        assert (again.rows, again.parts, again.kept) == (0, 0, True)

    def test_text_becomes_one_file(self, shop, tmp_path):
        rows(230).write_csv(tmp_path / "in.csv")
        shop.here(tmp_path / "in.csv", tmp_path / "here.parquet")
        shop.there(self.engine, tmp_path / "in.csv", tmp_path / "there.parquet")
        assert pl.read_parquet(tmp_path / "there.parquet").equals(pl.read_parquet(tmp_path / "here.parquet"))

    def test_delta_tables(self, shop, tmp_path):
        frame = rows(330)
        append_once(locate(str(tmp_path / "in")), frame.head(150), "test", 0)
        append_once(locate(str(tmp_path / "in")), frame.tail(180), "test", 1)
        for place, job in (("here", shop.here), ("there", partial(shop.there, self.engine))):
            job(tmp_path / "in", tmp_path / place, kind="delta")
        here, there = (pl.read_delta(str(tmp_path / one)).sort("flight_id") for one in ("here", "there"))
        assert here.height == 330
        assert there.equals(here)

    def test_bad_rows(self, shop, tmp_path):
        frame = (
            rows(300)
            .with_row_index("row")
            .with_columns(pl.when(pl.col("row") % 90 == 7).then(float("inf")).otherwise("distance").alias("distance"))
        )
        frame.write_parquet(tmp_path / "in.parquet")
        here = shop.here(tmp_path / "in.parquet", tmp_path / "here", bad_rows="null")
        there = shop.there(self.engine, tmp_path / "in.parquet", tmp_path / "there", bad_rows="null")
        assert_same(tmp_path / "here", tmp_path / "there")
        assert here.bad_rows == there.bad_rows == 4
        here = shop.here(tmp_path / "in.parquet", tmp_path / "good", bad_rows="apart", apart=str(tmp_path / "bad"))
        there = shop.there(
            self.engine, tmp_path / "in.parquet", tmp_path / "good2", bad_rows="apart", apart=str(tmp_path / "bad2")
        )
        assert_same(tmp_path / "good", tmp_path / "good2")
        assert_same(tmp_path / "bad", tmp_path / "bad2")
        assert (here.rows, here.bad_rows) == (there.rows, there.bad_rows) == (296, 4)

    def test_a_row_that_cannot_be_used_ends_the_job_and_nothing_is_written(self, shop, tmp_path):
        frame = rows(300)
        frame[257, "distance"] = float("-inf")
        frame.write_parquet(tmp_path / "in.parquet")
        with pytest.raises(InvalidInput) as here:
            shop.here(tmp_path / "in.parquet", tmp_path / "here")
        with pytest.raises(InvalidInput) as there:
            shop.there(self.engine, tmp_path / "in.parquet", tmp_path / "there")
        assert str(there.value) == str(here.value)
        assert "rows[257].distance" in str(there.value)
        assert list((tmp_path / "there").iterdir()) == []

    @pytest.mark.crash
    def test_killed_it_leaves_no_output_and_goes_on(self, shop, tmp_path):
        rows(6_000).write_parquet(tmp_path / "in.parquet")
        out, stage = tmp_path / "there", tmp_path / ".there.cluster"
        script = "import sys; from cluster_scoring import Shop; Shop(*sys.argv[1:3]).there(*sys.argv[3:6], workers=1)"
        given = [shop.objects, shop.bundle, self.engine, str(tmp_path / "in.parquet"), str(out)]
        process = subprocess.Popen(
            [sys.executable, "-c", script, *given], cwd=Path(__file__).parent, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while not list(stage.glob("[!.]*/part-*")):
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        before = {one.name: one.stat().st_mtime_ns for one in stage.glob("[!.]*/part-*")}
        assert 0 < len(before) < 60
        assert list(out.iterdir()) == []
        found = shop.there(self.engine, tmp_path / "in.parquet", out)
        assert found.parts == 60
        assert found.rows <= 6_000 - 100 * len(before), "a part that was there was scored again"
        assert not stage.exists()
        shop.here(tmp_path / "in.parquet", tmp_path / "here")
        assert_same(tmp_path / "here", out)

    def test_what_is_no_file_stays_here(self, shop, tmp_path):
        plan = shop.plan("table:flights", tmp_path / "out")
        with pytest.raises(InvalidInput, match="a cluster's machines read files"):
            score_on(self.engine, plan, Job("x", {}), object(), None, Options(objects=shop.objects))
