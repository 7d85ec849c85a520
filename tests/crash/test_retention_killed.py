"""Retention is killed at any moment: each prediction is in the log or in the archive, and in the archive once."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from kilter.core.errors import NotFound
from kilter.loop.workspace import Workspace
from kilter.serving.recording.archive import Archive
from kilter.serving.recording.predictions import PredictionLog, to_frame
from kilter.serving.records import Item, PredictionBatch

NOW = datetime(2026, 1, 31, tzinfo=UTC)

TRIM = """
import os, sys
from datetime import UTC, datetime
from kilter.core.clock import ManualClock
from kilter.core.errors import NotFound
from kilter.loop.workspace import Workspace
from kilter.serving.recording.retention import Keep, Retention
import deltalake, polars

workspace = Workspace.open(sys.argv[1], ManualClock(datetime(2026, 1, 31, tzinfo=UTC)))
os.write(1, b"ready\\n")
done = workspace.logs.trim(Retention(predictions=Keep(age="1h")))
os.write(1, "".join(one.error for one in done).encode() + b"done\\n")
"""


@pytest.mark.crash
def test_kill_9_of_retention_loses_and_doubles_nothing(tmp_path):
    rng = random.Random(3)
    with Workspace.open(tmp_path) as workspace:
        logs, url = workspace.prediction_logs(), workspace.store.archive
    written = []
    for front in ("main", "other"):
        log = PredictionLog.open(logs, front, readonly=False)
        for day in range(12):
            at = NOW - timedelta(days=20 - day)
            for number in range(5):
                batch = PredictionBatch(
                    at=at,
                    loop=f"loop-{number % 2}",
                    generation=1,
                    share=0,
                    keys=[f"{day}"],
                    times=[at],
                    arms=["champion"],
                    versions=[1],
                    values=[0.5],
                    inputs={"x": [1.0]},
                    requests=[Item(1)],
                    latency_us=1,
                )
                written.append(f"{front}-{log.append(batch):x}-0")
        log.close()
    kills = 0
    for _ in range(12):
        trimming = subprocess.Popen([sys.executable, "-c", TRIM, str(tmp_path)], stdout=subprocess.PIPE)
        assert trimming.stdout is not None
        assert trimming.stdout.readline() == b"ready\n"
        last = kills == 5
        if not last:
            time.sleep(rng.uniform(0.02, 0.35))
            os.kill(trimming.pid, signal.SIGKILL)
            kills += 1
        said = trimming.stdout.read()
        trimming.wait()
        trimming.stdout.close()
        assert said in {b"", b"done\n"}
        kept, archived = _kept(logs), _archived(url)
        assert set(kept) | set(archived) == set(written)
        assert len(archived) == len(set(archived))
        if last:
            assert said == b"done\n"
            break
    kept, archived = _kept(logs), _archived(url)
    assert set(kept) | set(archived) == set(written)
    assert len(archived) == len(set(archived)) == 100
    assert len(kept) == 20  # two segments of each front


def _kept(logs):
    found = []
    for front in ("main", "other"):
        log = PredictionLog.open(logs, front)
        found += to_frame(log.read(), front)["id"].to_list()
        log.close()
    return found


def _archived(url):
    found = []
    archive = Archive(url)
    for loop in ("loop-0", "loop-1"):
        with suppress(NotFound):
            found += archive.scan(loop).collect()["id"].to_list()
    return found
