"""An import that is killed again and again brings every point once."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kilter.loop.workspace import Workspace

KILLS = int(os.environ.get("KILTER_KILLS", "5"))
POINTS = 20_000
NAMES = ("loss", "accuracy", "rate")

pytestmark = [pytest.mark.slow, pytest.mark.crash]


def history(folder: Path) -> None:
    """Write what MLflow's store of files looks like: two runs, one below the other."""
    for number, run in enumerate(("a" * 32, "b" * 32)):
        place = folder / "1" / run
        for part in ("metrics", "params", "tags", "artifacts"):
            (place / part).mkdir(parents=True)
        (place / "meta.yaml").write_text(
            f"run_id: {run}\nrun_name: run {number}\nstatus: 3\nstart_time: {number + 1}\nend_time: {number + 2}\n"
            "lifecycle_stage: active\nexperiment_id: '1'\n"
        )
        (place / "params" / "lr").write_text("0.1")
        (place / "artifacts" / "weights.bin").write_bytes(bytes(range(256)) * 4096)
        (place / "tags" / "mlflow.parentRunId").write_text("b" * 32 if number == 0 else "")
        for name in NAMES:
            with (place / "metrics" / name).open("w") as file:
                file.writelines(f"{1000 + step} {step / 7!r} {step % 100}\n" for step in range(POINTS))
    (folder / "1" / "meta.yaml").write_text("experiment_id: '1'\nname: long\n")


def start(folder: Path, store: Path) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "kilter.cli.main",
        "import",
        "mlflow",
        str(folder),
        "--store",
        str(store),
        "--json",
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_every_point_comes_once(tmp_path: Path) -> None:
    folder, store = tmp_path / "mlruns", tmp_path / "store"
    history(folder)
    dice = random.Random(KILLS)
    began = time.monotonic()
    start(folder, tmp_path / "unharmed").communicate(timeout=120)
    takes = time.monotonic() - began
    Workspace.open(str(store)).close()
    killed = 0
    for _ in range(KILLS):
        process = start(folder, store)
        time.sleep(dice.uniform(0.3, 0.9) * takes)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
    assert killed
    process = start(folder, store)
    said, problem = process.communicate(timeout=120)
    assert process.returncode == 0, problem
    assert json.loads(said)["failed"] == []
    with Workspace.open(str(store)) as workspace:
        found = {run.name: run for run in workspace.runs.list().runs}
        assert {(name, run.status) for name, run in found.items()} == {("run 0", "FINISHED"), ("run 1", "FINISHED")}
        assert found["run 0"].tags["mlflow.parentRunId"] == found["run 1"].id
        wanted = sorted((step % 100, step / 7) for step in range(POINTS))
        for run in found.values():
            assert {metric.name: metric.count for metric in run.metrics} == dict.fromkeys(NAMES, POINTS)
            assert run.params == {"lr": "0.1"}
            assert [kept.size for kept in run.artifacts] == [256 * 4096]
            for name in NAMES:
                points = workspace.runs.metric_points(run.id, name, limit=10 * POINTS)
                assert sorted((point.step, point.number) for point in points) == wanted
    process = start(folder, store)
    assert json.loads(process.communicate(timeout=60)[0])["unchanged"] == 2
