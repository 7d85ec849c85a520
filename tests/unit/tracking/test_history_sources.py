"""What real clients wrote arrives as they were told: every point, every word, every file."""

from __future__ import annotations

import gzip
import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kilter.core.clock import ManualClock
from kilter.engines.objects.store import ObjectStore
from kilter.engines.sql.database import Database
from kilter.tracking.history.records import Brought
from kilter.tracking.history.selection import Selection
from kilter.tracking.history.sources import open_source
from kilter.tracking.history.writer import ORIGIN, PARENT, Writer
from kilter.tracking.records import Run
from kilter.tracking.service import RunService

FIXTURES = Path(__file__).parents[2] / "fixtures" / "imports"
PNG = b"\x89PNG"


@pytest.fixture
def runs(database: Database, clock: ManualClock, tmp_path: Path) -> RunService:
    return RunService(database, ObjectStore.open(str(tmp_path / "objects")), clock)


@pytest.fixture
def mlflow_folder(tmp_path: Path) -> Iterator[Path]:
    """MLflow's database and its artifacts, at a place of their own."""
    folder = tmp_path / "mlflow"
    shutil.copytree(FIXTURES / "mlflow", folder)
    with gzip.open(folder / "mlflow.db.gz") as packed:
        (folder / "mlflow.db").write_bytes(packed.read())
    with sqlite3.connect(
        folder / "mlflow.db"
    ) as connection:  # the place where they were made is part of their addresses
        for table, column in (("runs", "artifact_uri"), ("logged_models", "artifact_location")):
            connection.execute(
                f"UPDATE {table} SET {column} = replace({column}, '/srv/history/mlflow', ?)", (str(folder),)
            )
    connection.close()
    return folder


def bring(
    runs: RunService,
    kind: str,
    place: Path | str,
    *,
    files: Path | None = None,
    experiment: str = "",
    chosen: str = "",
    dry_run: bool = False,
) -> Brought:
    source = open_source(kind, str(place), files)
    try:
        writer = Writer(runs, experiment=experiment, selection=Selection(chosen), dry_run=dry_run)
        return writer.bring(source, str(place), lambda _: None, list(source.runs()))
    finally:
        source.close()


def all_runs(runs: RunService) -> dict[str, Run]:
    return {run.tags[ORIGIN].partition(":")[2]: run for run in runs.list(view="all", limit=1000).runs}


def said(runs: RunService, run: Run, metric: str) -> list[list[Any]]:
    """A metric as ``expected.json`` has it: steps and values."""
    names = {"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf"}
    return [[point.step, names.get(str(point.value), point.value)] for point in runs.metrics(run.id, metric)]


def told(kind: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FIXTURES / kind / "expected.json").read_text())
    return found


def state(runs: RunService) -> list[Any]:
    """Everything that is in the store, to be compared with itself."""
    page = runs.list(view="all", limit=1000).runs
    return [(run, {one.name: runs.metrics(run.id, one.name) for one in run.metrics}) for run in page]


def again_adds_nothing(runs: RunService, kind: str, place: Path | str, **given: Any) -> None:
    before = state(runs)
    brought = bring(runs, kind, place, **given)
    assert (brought.runs, brought.grown, brought.unchanged) == (0, 0, len(before))
    assert (brought.points, brought.params, brought.tags, brought.files) == (0, 0, 0, 0)
    assert state(runs) == before


def test_weights_and_biases(runs: RunService, tmp_path: Path) -> None:
    brought = bring(runs, "wandb", FIXTURES / "wandb")
    assert (brought.runs, brought.experiments, brought.failed) == (2, 1, ())
    assert brought.left_out == {"artifact's file outside of the run's folder (give its folder with --files)": 2}
    found = all_runs(runs)
    for identity, expected in told("wandb").items():
        run = found[f"fixture/{identity}"]
        assert (run.name, run.experiment) == (expected["name"], "fixture")
        assert said(runs, run, "loss") == expected["loss"]
        assert said(runs, run, "far") == [[2**40, 1.5]]
        assert said(runs, run, "valid/acc") == [[step, step / 40] for step in range(40)]
        assert said(runs, run, "opt.lr")[0] == [0, 0.1]
        assert run.params["layers"] == [64, 32]
        assert (run.params["optimizer.name"], run.params["optimizer.eps"], run.params["late"]) == ("adam", 1e-8, "said")
        assert run.tags["mlflow.note.content"] == "what we tried"
        assert run.tags["wandb.group"] == "trials"
        assert {"wandb.tag.one", "wandb.tag.two"} <= run.tags.keys()
        assert run.tags["wandb.summary.best"] == "0.5"
        assert any(metric.name.startswith("system/") for metric in run.metrics)
        assert b"a line on the console" in runs.artifact(run.id, "output.log")
    first = next(run for run in found.values() if run.name == "trial 0")
    other = next(run for run in found.values() if run.name == "trial 1")
    assert (first.status, other.status) == ("FINISHED", "FAILED")
    assert first.ended_at is not None
    assert first.ended_at > first.started_at
    names = [kept.name for kept in first.artifacts]
    (picture,) = [name for name in names if name.startswith("media/images/picture")]
    assert runs.artifact(first.id, picture).startswith(PNG)
    assert json.loads(runs.artifact(first.id, "logged/hist.jsonl"))["value"]["_type"] == "histogram"
    assert json.loads(runs.artifact(first.id, "logged/alerts.jsonl"))["text"] == "at this"
    assert json.loads(runs.artifact(first.id, "logged/words.jsonl"))["value"] == "a text"
    (table,) = [name for name in names if name.endswith(".table.json")]
    assert json.loads(runs.artifact(first.id, table))["data"] == [[1, "x"], [2, "y"]]
    again_adds_nothing(runs, "wandb", FIXTURES / "wandb")


@pytest.mark.parametrize("form", ["mlruns", "mlflow.db"])
def test_mlflow(runs: RunService, mlflow_folder: Path, form: str) -> None:
    brought = bring(runs, "mlflow", mlflow_folder / form)
    assert (brought.runs, brought.failed, brought.datasets, brought.models) == (5, (), 1, 1)
    found = all_runs(runs)
    expected = told("mlflow")["sqlite" if form == "mlflow.db" else "file"]
    assert found.keys() == expected.keys()
    by_name = {run.name: run for run in found.values()}
    assert {name: run.status for name, run in by_name.items()} == {
        "parent": "FINISHED",
        "child": "FINISHED",
        "failed": "FAILED",
        "gone": "INTERRUPTED",
        "going": "RUNNING",
    }
    parent, child = by_name["parent"], by_name["child"]
    origin = next(key for key, run in found.items() if run.name == "parent")
    points = [[point.step, point.number, point.at] for point in runs.metrics(parent.id, "loss")]
    wanted = expected[origin]["loss"]
    if form == "mlflow.db":  # MLflow itself keeps infinities as the greatest number there, and says so
        great = 1.7976931348623157e308
        wanted = [[step, {"inf": great, "-inf": -great}.get(str(value), value), at] for step, value, at in wanted]
        assert brought.left_out == {"infinity that MLflow's database keeps as the greatest number, 1.8e308": 2}
    else:
        assert brought.left_out == {}
    assert [(step, str(value)) for step, value, _ in points] == [(step, str(float(value))) for step, value, _ in wanted]
    assert [at.timestamp() * 1000 for _, _, at in points] == [at for _, _, at in wanted]
    assert said(runs, parent, "far") == [[2**40, 1.5]]
    assert [value for _, value in said(runs, parent, "flat")] == [1.0, 0.0, 1.0, 2.0, 3.0, 4.0]
    assert parent.params == {"lr": "0.1", "name": "adam"}
    assert parent.tags["mlflow.note.content"] == "what we tried"
    assert child.tags[PARENT] == parent.id
    assert runs.artifact(parent.id, "weights/weights.txt") == b"1 2 3\n"
    assert runs.artifact(parent.id, "picture.png").startswith(PNG)
    (data,) = parent.inputs.datasets
    assert (data.name, data.tags) == ("rows", {"mlflow.data.context": "training"})
    (model,) = runs.logged_models([parent.experiment_number]).models
    assert (model.name, model.status, model.run, model.params["a"], model.tags["t"]) == (
        "linear",
        "READY",
        parent.id,
        "1",
        "x",
    )
    assert [(one.point.name, one.point.value, one.run) for one in model.metrics] == [("auc", 0.75, parent.id)]
    assert runs.model_file(model.id, "weights.txt") == b"1 2 3\n"
    assert {(use.model, use.role) for use in parent.inputs.models} == {(model.id, "input"), (model.id, "output")}
    assert by_name["gone"].deleted_at is not None
    assert by_name["failed"].started_at.timestamp() == 1_700_000_000
    assert by_name["failed"].ended_at is not None
    assert by_name["failed"].ended_at.timestamp() == 1_700_000_060
    assert runs.experiment("fixture").tags == {"team": "ops"}
    again_adds_nothing(runs, "mlflow", mlflow_folder / form)


def test_comet(runs: RunService) -> None:
    brought = bring(runs, "comet", FIXTURES / "comet")
    assert (brought.runs, brought.failed, brought.left_out) == (1, (), {})
    ((identity, expected),) = told("comet").items()
    run = all_runs(runs)[identity]
    assert (run.name, run.experiment, run.status) == ("trial", "team/fixture", "FINISHED")
    assert said(runs, run, "loss") == expected["loss"]
    assert said(runs, run, "far") == [[2**40, 1.5]]
    assert said(runs, run, "train_accuracy") == [[1, 0.5]]
    assert (run.params["lr"], run.params["layers"], run.params["optimizer.name"]) == (0.1, [64, 32], "adam")
    assert {"comet.tag.one", "comet.tag.two"} <= run.tags.keys()
    assert run.tags["comet.other.owner"] == "someone"
    assert runs.artifact(run.id, "images/picture.png").startswith(PNG)
    assert runs.artifact(run.id, "models/weights.txt") == b"1 2 3\n"
    assert runs.artifact(run.id, "models/linear/weights.txt") == b"1 2 3\n"
    assert runs.artifact(run.id, "table.csv") == b"a,b\r\n1,x\r\n2,y\r\n"
    assert runs.artifact(run.id, "page.html") == b"<b>hello</b>"
    assert json.loads(runs.artifact(run.id, "confusion-matrices/confusion-matrix.json"))["matrix"] == [[1, 2], [3, 4]]
    assert b"a line on the console" in runs.artifact(run.id, "output.log")
    again_adds_nothing(runs, "comet", FIXTURES / "comet")


def test_neptune(runs: RunService) -> None:
    brought = bring(runs, "neptune", FIXTURES / "neptune" / "data")
    assert (brought.runs, brought.failed) == (2, ())
    assert brought.left_out == {"file that was not exported (give the exporter's --files-path with --files)": 2}
    found = all_runs(runs)
    run, fork = found["team/project/RUN-1"], found["team/project/RUN-2"]
    assert (run.name, run.experiment, run.status) == ("trial", "team/project", "FINISHED")
    assert said(runs, run, "metrics/loss") == told("neptune")["RUN-1"]["loss"]
    assert said(runs, run, "metrics/far") == [[2**39, 1.5]]
    assert run.params == {
        "params/lr": 0.1,
        "params/layers": 3,
        "params/amp": True,
        "params/seen": "2025-03-01T12:00:00+00:00",
    }
    assert run.tags["mlflow.note.content"] == "what we tried"
    assert {"neptune.tag.one", "neptune.tag.two"} <= run.tags.keys()
    assert runs.artifact(run.id, "model/weights.txt") == b"1 2 3\n"
    assert runs.artifact(run.id, "pictures/step_3.png").startswith(PNG)
    assert json.loads(runs.artifact(run.id, "series/log/words.jsonl"))["value"] == "a line\nof two"
    assert json.loads(runs.artifact(run.id, "histograms/hist.jsonl"))["value"]["values"] == [3.0, 4.0]
    assert fork.tags[PARENT] == run.id
    assert fork.tags["neptune.sys/forking/step"] == "19.0"
    assert fork.tags["neptune.step_multiplier"] == "100"
    assert said(runs, fork, "metrics/loss") == [[2050, 0.5], [2125, 0.25]]
    again_adds_nothing(runs, "neptune", FIXTURES / "neptune" / "data")


def test_tensorboard(runs: RunService) -> None:
    brought = bring(runs, "tensorboard", FIXTURES / "tensorboard" / "fixture")
    assert (brought.runs, brought.failed, brought.left_out) == (3, (), {})
    found = all_runs(runs)
    train = found["fixture/train"]
    assert said(runs, train, "loss") == told("tensorboard")["fixture/train"]["loss"]
    assert said(runs, train, "far") == [[2**40, 1.5]]
    assert len(said(runs, found["fixture/eval"], "loss")) == 40
    trial = next(run for run in found.values() if run.params)
    assert trial.params == {"lr": 0.1, "optimizer": "adam", "bias": True}
    assert said(runs, trial, "hparam/accuracy") == [[0, 0.5]]
    assert trial.status == "FINISHED"
    assert runs.artifact(train.id, "media/picture/3.png").startswith(PNG)
    assert json.loads(runs.artifact(train.id, "text/note.jsonl"))["value"] == ["what **we** tried"]
    assert sum(json.loads(runs.artifact(train.id, "histograms/weights.jsonl"))["value"]["counts"]) == 10
    assert json.loads(runs.artifact(train.id, "pr_curves/pr.jsonl"))["step"] == 1
    again_adds_nothing(runs, "tensorboard", FIXTURES / "tensorboard" / "fixture")


def test_a_dry_run_writes_nothing_and_says_what_would_come(runs: RunService) -> None:
    dry = bring(runs, "comet", FIXTURES / "comet", dry_run=True)
    assert runs.list(view="all").runs == ()
    real = bring(runs, "comet", FIXTURES / "comet")
    assert (dry.runs, dry.points, dry.params, dry.tags, dry.files, dry.bytes) == (
        real.runs,
        real.points,
        real.params,
        real.tags,
        real.files,
        real.bytes,
    )
    assert dry.dry_run


def test_runs_are_chosen_and_put_into_an_experiment(runs: RunService, mlflow_folder: Path) -> None:
    brought = bring(
        runs, "mlflow", mlflow_folder / "mlruns", experiment="old", chosen="name like 'par%' and status = 'FINISHED'"
    )
    assert (brought.runs, brought.passed_over) == (1, 4)
    assert [(run.name, run.experiment) for run in runs.list().runs] == [("parent", "old")]
    bring(runs, "mlflow", mlflow_folder / "mlruns", experiment="old")
    child = next(run for run in runs.list().runs if run.name == "child")
    assert child.tags[PARENT] == next(run.id for run in runs.list().runs if run.name == "parent")
