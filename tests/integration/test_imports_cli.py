"""``kilter import`` as people use it: on a store, through a server, from a server, and from what a client has just written."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kilter.loop.workspace import Workspace, connect
from kilter.testing.server import RunningServer

FIXTURES = Path(__file__).parents[1] / "fixtures" / "imports"
KINDS = {"wandb": "wandb", "comet": "comet", "neptune": "neptune/data", "tensorboard": "tensorboard"}


def kilter(*arguments: str | Path, token: str = "") -> tuple[int, Any, str]:
    environment = {**os.environ, **({"KILTER_TOKEN": token} if token else {})}
    done = subprocess.run(
        [sys.executable, "-m", "kilter.cli.main", *map(str, arguments)],
        capture_output=True,
        check=False,
        env=environment,
        text=True,
    )
    return done.returncode, json.loads(done.stdout) if "--json" in arguments else done.stdout, done.stderr


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    store = tmp_path_factory.mktemp("imports") / "store"
    with RunningServer(store) as running:
        yield running.url, running.token


def everything(store: Any) -> list[Any]:
    """What a store knows about its runs, without what differs from store to store."""
    found = []
    for run in store.runs.list(limit=1000, view="all").runs:
        tags = {name: value for name, value in run.tags.items() if name != "mlflow.parentRunId"}
        points = {
            one.name: [(p.step, str(p.value), p.at) for p in store.runs.metrics(run.id, one.name)]
            for one in run.metrics
        }
        files = {kept.name: kept.digest for kept in run.artifacts}
        found.append(
            (run.name, run.experiment, run.status, run.started_at, run.ended_at, run.params, tags, points, files)
        )
    return sorted(found, key=lambda run: (run[1], run[0]))


def test_a_server_gets_what_a_store_gets(server: tuple[str, str], tmp_path: Path) -> None:
    url, token = server
    store = tmp_path / "store"
    for kind, place in KINDS.items():
        told = {}
        for target in (url, str(store)):
            code, told[target], problem = kilter(
                "import", kind, FIXTURES / place, "--store", target, "--json", token=token
            )
            assert (code, problem) == (0, "")
        first, second = ({**one, "seconds": 0} for one in told.values())
        assert first == second
        _, again, _ = kilter("import", kind, FIXTURES / place, "--store", url, "--json", token=token)
        assert (again["runs"], again["grown"], again["points"], again["files"]) == (0, 0, 0, 0)
    remote = connect(url, token)
    with Workspace.open(str(store)) as workspace:
        assert everything(remote) == everything(workspace)
    remote.close()


def test_a_server_is_read_like_any_that_speaks_mlflow(
    server: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, token = server
    kilter("import", "comet", FIXTURES / "comet", "--store", url, "--json", token=token)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", token)
    store = tmp_path / "store"
    code, told, problem = kilter(
        "import", "mlflow", url, "--store", store, "--json", "--filter", "experiment = 'team/fixture'"
    )
    assert (code, told["runs"], told["failed"]) == (0, 1, []), problem
    remote = connect(url, token)
    there = next(run for run in remote.runs.list(experiment="team/fixture").runs)
    with Workspace.open(str(store)) as workspace:
        (run,) = workspace.runs.list().runs
        assert (run.name, run.status, run.ended_at) == (there.name, there.status, there.ended_at)
        assert {kept.name: kept.digest for kept in run.artifacts} == {
            kept.name: kept.digest for kept in there.artifacts
        }
        for metric in there.metrics:
            theirs = [(p.step, str(p.value)) for p in remote.runs.metrics(there.id, metric.name)]
            assert sorted((p.step, str(p.value)) for p in workspace.runs.metrics(run.id, metric.name)) == sorted(theirs)
    remote.close()


def test_people_are_told_what_came_and_what_did_not(tmp_path: Path) -> None:
    folder = tmp_path / "wandb"
    shutil.copytree(FIXTURES / "wandb", folder)
    code, said, _ = kilter("import", "wandb", folder, "--store", tmp_path / "store", "--dry-run")
    assert code == 0
    assert "2 runs would come" in said
    assert "outside of the run's folder" in said
    log = min(folder.glob("wandb/*/run-*.wandb"))
    data = bytearray(log.read_bytes())
    data[len(data) // 2] ^= 1
    log.write_bytes(data)
    code, said, progress = kilter("import", "wandb", folder, "--store", tmp_path / "store")
    assert code == 1
    assert "1 runs did not come as a whole" in said
    assert "checksum" in said
    assert "wandb: 2 runs" in progress


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("import", "wandb", "/nowhere"), "no such folder"),
        (("import", "mlflow", "/nowhere"), "no history of MLflow"),
        (("import", "mlflow", "nothing://here"), "can't be used"),
        (("import", "tensorboard", "."), "no event file"),
        (("import", "comet", ".", "--filter", "x ="), "can't read"),
        (("import", "aim", "."), "invalid choice"),
    ],
)
def test_what_cannot_be_brought_is_refused(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    given = [str(tmp_path) if one == "." else one for one in arguments]
    code, said, _ = kilter(*given, "--store", tmp_path / "store", "--json")
    assert code == 2
    assert message in said["detail"]


def test_a_server_that_is_away_is_said_to_be(tmp_path: Path) -> None:
    code, said, _ = kilter("import", "mlflow", "http://127.0.0.1:9", "--store", tmp_path / "store", "--json")
    assert (code, said["type"]) == (1, "kilter:unavailable")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wandb", "comet", "tensorboard", "mlflow"])
def test_what_a_client_has_just_written(tmp_path: Path, kind: str) -> None:
    """With the clients themselves, where they are installed: KILTER_PEERS_PYTHON may name an interpreter that has them."""
    peers = os.environ.get("KILTER_PEERS_PYTHON", sys.executable)
    module = {"comet": "comet_ml", "tensorboard": "tensorboardX"}.get(kind, kind)
    here = peers != sys.executable or (importlib.util.find_spec(module) and importlib.util.find_spec("pandas"))
    has = (
        here
        and subprocess.run([peers, "-c", f"import {module}, numpy"], capture_output=True, check=False).returncode == 0
    )
    if not has:
        pytest.skip(f"{module} is not installed in {peers}")
    if (
        kind == "mlflow"
        and subprocess.run([peers, "-c", "import pandas, flask"], capture_output=True, check=False).returncode
    ):
        pytest.skip("the whole mlflow is not installed: mlflow-skinny has no database")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    made = subprocess.run(
        [peers, str(FIXTURES / "make.py"), kind, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr[-2000:]
    place = tmp_path / kind / ("mlruns" if kind == "mlflow" else "")
    code, told, problem = kilter("import", kind, place, "--store", tmp_path / "store", "--json")
    assert (code, told["failed"]) == (0, []), problem
    expected = json.loads((tmp_path / kind / "expected.json").read_text())
    wanted = [one["loss"] for one in (expected["file"] if kind == "mlflow" else expected).values() if "loss" in one]
    with Workspace.open(str(tmp_path / "store")) as workspace:
        stored = [
            [(point.step, str(point.number)) for point in workspace.runs.metrics(run.id, "loss")]
            for run in workspace.runs.list(view="all").runs
        ]
    for points in wanted:
        assert [(point[0], str(float(point[1]))) for point in points] in stored
