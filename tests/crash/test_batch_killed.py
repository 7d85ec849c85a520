"""A scoring that is killed at any moment goes on where it was: no part twice, no row lost, the same bytes in the end."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import polars as pl
import pytest

from kilter.data.declare import Table
from kilter.data.encoding import Encoding
from kilter.loop.versions.batch import batch
from kilter.loop.workspace import Workspace
from kilter.packaging.bundle import package
from kilter.packaging.constant import Constant

from ..contract.databases import KINDS, database, engine_of, rows_of, run  # noqa: TID252 - tests are no package

KILLS = int(os.environ.get("KILTER_SCORING_KILLS", "3"))
PART = 2_000

pytestmark = pytest.mark.crash


@pytest.mark.parametrize("ending", ["", ".parquet", ".csv"])
def test_killed_again_and_again(ending, tmp_path):
    store = tmp_path / "store"
    workspace = Workspace.open(store)
    names = ("a", "b")
    encoding = Encoding(names, ("numeric", "numeric"), {})
    bundle = package(Constant(0.25), encoding, np.zeros((1, 2)), [], workspace.objects, table=Table("t", "id", "at"))
    workspace.models.register("late", bundle.digest, "run", "spec", "data", "test")
    count = 60 * PART + 7
    frame = pl.DataFrame({"id": np.arange(count), "a": np.random.default_rng(0).normal(size=count), "b": 1.0})
    frame.write_parquet(tmp_path / "in.parquet")
    out = tmp_path / f"out{ending}"
    arguments = [sys.executable, "-m", "kilter.cli.main", "batch", "late@v1", "--store", str(store), "--input",
                 str(tmp_path / "in.parquet"), "--output", str(out), "--part-rows", str(PART), "--batch-rows", "700",
                 "--keep", "id,a", "--json"]  # fmt: skip
    aside = tmp_path / f".{out.name}.batch" / "parts" if ending else out
    written: dict[str, int] = {}
    for kill in range(KILLS):
        before = len(written)
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, start_new_session=True)
        while process.poll() is None and (not aside.is_dir() or len(list(aside.iterdir())) <= before + kill % 3):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if not aside.is_dir():
            break
        found = {one.name: one.stat().st_mtime_ns for one in aside.iterdir()}
        assert written.items() <= found.items(), "a part was written twice or is gone"
        written = found
    found = subprocess.run(arguments, check=True, capture_output=True)
    assert b'"model":"late@v1"' in found.stdout
    if not ending:
        assert written.items() <= {one.name: one.stat().st_mtime_ns for one in out.iterdir()}.items()
    batch(
        "late@v1",
        tmp_path / "in.parquet",
        tmp_path / f"whole{ending}",
        store=workspace,
        part_rows=PART,
        keep=["id", "a"],
    )
    read = pl.read_csv if ending == ".csv" else lambda place: pl.read_parquet(place if ending else place / "*.parquet")
    assert read(out).equals(read(tmp_path / f"whole{ending}"))
    assert read(out)["id"].to_list() == list(range(count))
    leftovers = [
        one.name for one in (tmp_path / f".{out.name}.batch").iterdir() if one.name not in ("job.json", "parts")
    ]
    assert all(name.startswith(".part-") for name in leftovers)
    workspace.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_query_into_a_table_killed_again_and_again(kind, tmp_path):
    """Every row is written once: a trigger counts rows that were replaced."""
    names = ("a", "b")
    encoding = Encoding(names, ("numeric", "numeric"), {})
    count = 15 * PART + 7
    with database(kind, tmp_path) as address, Workspace.open(tmp_path / "store") as workspace:
        bundle = package(
            Constant(0.25), encoding, np.zeros((1, 2)), [], workspace.objects, table=Table("t", "id", "at")
        )
        workspace.models.register("late", bundle.digest, "run", "spec", "data", "test")
        run(
            address,
            "CREATE TABLE given (id BIGINT PRIMARY KEY, a DOUBLE PRECISION, b DOUBLE PRECISION)",
            "CREATE TABLE scores (id BIGINT PRIMARY KEY, prediction DOUBLE PRECISION, kept INTEGER DEFAULT 0)",
        )
        frame = pl.DataFrame({"id": np.arange(count) * 3, "a": np.arange(count) * 0.5, "b": 1.0})
        mark = "?" if kind == "sqlite" else "%s"
        with engine_of(address).begin() as connection:
            for some in frame.iter_slices(5_000):
                values = ", ".join([f"({', '.join([mark] * 3)})"] * some.height)
                flat = tuple(value for row in some.rows() for value in row)
                if kind == "sqlite":
                    connection.exec_driver_sql("INSERT INTO given VALUES (?, ?, ?)", some.rows())
                else:
                    connection.exec_driver_sql(f"INSERT INTO given VALUES {values}", flat)
        run(address, *TRIGGERS[kind])
        arguments = [sys.executable, "-m", "kilter.cli.main", "batch", "late@v1", "--store", str(tmp_path / "store"), "--input",
                     address, "--query", "SELECT id, a, b FROM given", "--output", f"{address}?table=scores", "--part-rows",
                     str(PART), "--batch-rows", "700", "--keep", "id", "--json"]  # fmt: skip
        for kill in range(KILLS):
            before = rows_of(address, "SELECT count(*) FROM scores")[0][0]
            process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, start_new_session=True)
            while process.poll() is None:
                now = rows_of(address, "SELECT count(*) FROM scores")[0][0]
                assert now % PART == 0, "a part is there by half"
                if now > before + (kill % 3) * PART:
                    break
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
            process.wait()
        found = subprocess.run(arguments, check=True, capture_output=True)
        assert b'"model":"late@v1"' in found.stdout
        assert rows_of(
            address, "SELECT count(*), sum(id), min(prediction), max(prediction), sum(kept) FROM scores"
        ) == [(count, int(frame["id"].sum()), 0.25, 0.25, 0)]


@pytest.mark.slow
def test_answers_in_the_online_store_killed_again_and_again(tmp_path):
    names = ("a", "b")
    encoding = Encoding(names, ("numeric", "numeric"), {})
    count = 20 * PART + 7
    with Workspace.open(tmp_path / "store") as workspace:
        bundle = package(
            Constant(0.25), encoding, np.zeros((1, 2)), [], workspace.objects, table=Table("t", "id", "at")
        )
        workspace.models.register("late", bundle.digest, "run", "spec", "data", "test")
        frame = pl.DataFrame({"id": np.arange(count), "a": np.arange(count) * 0.5, "b": 1.0})
        frame.write_parquet(tmp_path / "in.parquet")
        arguments = [sys.executable, "-m", "kilter.cli.main", "batch", "late@v1", "--store", str(tmp_path / "store"), "--input",
                     str(tmp_path / "in.parquet"), "--output", "online:late", "--part-rows", str(PART), "--json"]  # fmt: skip

        def there():
            ends = [str(end - 1) for end in range(PART, count, PART)]
            return sum(one.answer is not None for one in workspace.answers.lookup("late", ends))

        for kill in range(KILLS):
            before = there()
            process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, start_new_session=True)
            while process.poll() is None and there() <= before + kill % 3:
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
            process.wait()
        before = there()
        told = json.loads(subprocess.run(arguments, check=True, capture_output=True).stdout)
        assert told["rows"] <= count - before * PART, "a part that was there was scored again"
        for start in range(0, count, 5_000):
            keys = [str(key) for key in range(start, min(start + 5_000, count))]
            found = workspace.answers.lookup("late", keys)
            assert all(one.answer is not None and one.answer.values["prediction"] == 0.25 for one in found)


TRIGGERS = {
    "sqlite": [
        "CREATE TRIGGER counted AFTER UPDATE OF prediction ON scores BEGIN UPDATE scores SET kept = kept + 1 WHERE id = new.id; END"
    ],
    "postgresql": [
        "CREATE FUNCTION counted() RETURNS trigger AS $$ BEGIN NEW.kept := OLD.kept + 1; RETURN NEW; END $$ LANGUAGE plpgsql",
        "CREATE TRIGGER counted BEFORE UPDATE ON scores FOR EACH ROW EXECUTE FUNCTION counted()",
    ],
    "mariadb": ["CREATE TRIGGER counted BEFORE UPDATE ON scores FOR EACH ROW SET NEW.kept = OLD.kept + 1"],
}
