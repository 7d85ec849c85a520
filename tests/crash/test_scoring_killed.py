"""A scoring that is killed at any moment goes on where it was: no part twice, no row lost, the same bytes in the end."""

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
from kilter.loop.versions.scoring import score
from kilter.loop.workspace import Workspace
from kilter.packaging.bundle import package
from kilter.packaging.constant import Constant

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
    arguments = [sys.executable, "-m", "kilter.cli.main", "score", "late@v1", "--store", str(store), "--input",
                 str(tmp_path / "in.parquet"), "--output", str(out), "--part-rows", str(PART), "--batch-rows", "700",
                 "--keep", "id,a", "--json"]  # fmt: skip
    aside = tmp_path / f".{out.name}.score" / "parts" if ending else out
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
    score(
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
        one.name for one in (tmp_path / f".{out.name}.score").iterdir() if one.name not in ("job.json", "parts")
    ]
    assert all(name.startswith(".part-") for name in leftovers)
    workspace.close()
