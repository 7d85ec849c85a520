"""A declared batch is scored by the controller at the times of its schedule, exactly once, however often it is killed."""

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

pytest.importorskip("lightgbm")

from kilter.engines.clock import SharedClock
from kilter.loop.versions.batch import batch
from kilter.loop.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.crash]

START = datetime(2013, 3, 1, tzinfo=UTC)
KILLS = int(os.environ.get("KILTER_BATCH_KILLS", "3"))
FILES, ROWS = 24, 4_000


def declaration(shop, folder):
    """Return the small loop with a batch over a folder, and one that can't be done."""
    given = f"""[
        Batch(input="{folder}/in", output="{folder}/out/{{slot}}", name="visits"),
        Batch(input="{folder}/bad.parquet", output="{folder}/bad/{{slot}}", name="bad", max_nulls=0.1),
    ]"""
    # The line that train's own imports stand in is a part of train: to change it would ask for a new model.
    return shop.replace("import polars as pl", "import polars as pl\nfrom kilter import Batch").replace(
        "    retrain=", f"    batch={given},\n    retrain="
    )


def events(workspace, kind):
    return [event.data for event in workspace.journal.events(limit=1_000, kind=kind)]


def until(found, seconds=90.0):
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)
    return value


def test_a_schedule_survives_its_controller(shop, visited, house, tmp_path):
    (tmp_path / "in").mkdir()
    random = np.random.default_rng(0)
    for number in range(FILES):
        keys = [f"{number}-{row}" for row in range(ROWS)]
        frame = pl.DataFrame({"visit": keys, "price": random.random(ROWS), "hour": random.integers(0, 24, ROWS)})
        frame.write_parquet(tmp_path / "in" / f"{number:02d}.parquet")
    pl.DataFrame({"visit": ["a", "b"], "price": [None, 0.5], "hour": [1, 2]}).write_parquet(tmp_path / "bad.parquet")
    home = house(tmp_path / "store")
    home.workspace.loops.apply(shop, "shop.py", by="test")
    home.workspace.data.ingest("visits", visited(START))
    home.serve()
    home.work()
    home.settle("shop", lambda status: status.summary.champion == 1)
    home.close()

    with Workspace.open(tmp_path / "store", SharedClock(tmp_path / "store" / "clock")) as workspace:
        applied = workspace.loops.apply(declaration(shop, tmp_path), "shop.py", by="test")
        assert [(change.field, change.effect) for change in applied.changes] == [("batch", "at once")]
        command = [sys.executable, "-m", "kilter.cli.main", "controller", "--store", str(tmp_path / "store"), "--clock",
                   f"file:{tmp_path / 'store' / 'clock'}"]  # fmt: skip
        out = tmp_path / "out" / "2013-03-01"
        for kill in range(KILLS):
            before = len(list(out.glob("*.parquet")))
            process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
            enough = min(before + kill + 1, FILES)  # the worker of a controller that was killed may have ended all
            try:
                until(lambda enough=enough: len(list(out.glob("*.parquet"))) >= enough)
            finally:
                process.send_signal(signal.SIGKILL)
                process.wait()
        process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
        try:
            until(lambda: events(workspace, "BatchFinished"))
            until(lambda: any("bad" in event["title"] for event in events(workspace, "Notify")))
            asked = events(workspace, "RunBatch")
            assert {(one["batch"], one["slot"]) for one in asked} == {
                ("visits", "2013-03-01T00:00:00Z"),
                ("bad", "2013-03-01T00:00:00Z"),
            }
            assert len({one["id"] for one in asked}) == 2
            (done,) = events(workspace, "BatchFinished")
            assert (done["batch"], done["version"], done["rows"], done["output"]) == (
                "visits",
                1,
                FILES * ROWS,
                str(out),
            )
            whole = batch("shop@v1", tmp_path / "in", tmp_path / "whole", store=workspace)
            assert whole.rows == FILES * ROWS
            assert pl.read_parquet(out / "*.parquet").equals(pl.read_parquet(tmp_path / "whole" / "*.parquet"))
            told = {one.name: one for one in workspace.loops.status("shop").summary.batches}
            assert (told["visits"].work, told["visits"].rows) == ("done", FILES * ROWS)
            assert told["visits"].due == START + timedelta(days=1)
            assert told["bad"].work == "failed"
            assert "price" in told["bad"].failed
            assert not (tmp_path / "bad").exists()
            chain = workspace.loops.why("shop@v1").chain
            assert [link.title for link in chain if link.step == "batch"] == [
                f"batch visits of 2013-03-01T00:00: {FILES * ROWS:,} rows to {out}"
            ]
            SharedClock(tmp_path / "store" / "clock").set(START + timedelta(days=4, hours=3))
            until(lambda: len(events(workspace, "BatchFinished")) == 2)
            slots = sorted(one.name for one in (tmp_path / "out").iterdir() if not one.name.startswith("."))
            assert slots == ["2013-03-01", "2013-03-05"]
        finally:
            process.terminate()
            process.wait(30)
