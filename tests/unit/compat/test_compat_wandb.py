"""A script for Weights & Biases tracks here when its import is changed."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from kilter.compat import wandb
from kilter.core.errors import InvalidInput
from kilter.loop.workspace import Workspace
from kilter.tracking.records import Run


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("KILTER_STORE", str(tmp_path / "store"))
    yield tmp_path / "store"
    wandb.finish()


def tracked(store: Path) -> tuple[Run, dict[str, list[tuple[int, float]]]]:
    with Workspace.open(str(store)) as workspace:
        (run,) = workspace.runs.list().runs
        return run, {
            one.name: [(point.step, point.number) for point in workspace.runs.metrics(run.id, one.name)]
            for one in run.metrics
        }


def artifact(store: Path, run: Run, name: str) -> bytes:
    with Workspace.open(str(store)) as workspace:
        return workspace.runs.artifact(run.id, name)


def test_a_script_of_the_usual_kind(store: Path, tmp_path: Path) -> None:
    run = wandb.init(
        project="churn",
        name="trial",
        config={"lr": 0.1, "model": {"layers": [64, 32]}},
        tags=["one"],
        notes="why",
        group="g",
    )
    assert wandb.run is run
    wandb.config.epochs = 3
    wandb.config.update(argparse.Namespace(seed=1))
    assert (wandb.config.lr, wandb.config["epochs"]) == (0.1, 3)
    for epoch in range(wandb.config.epochs):
        wandb.log({"loss": 1 / (epoch + 1), "valid": {"acc": epoch / 2}})
    wandb.log({"late": 1.0}, step=2**40)
    wandb.log({"later": math.inf}, step=2**40)
    table = wandb.Table(columns=["a", "b"])
    table.add_data(1, "x")
    wandb.log({"table": table, "page": wandb.Html("<b>hello</b>"), "words": "a text"})
    (tmp_path / "notes.txt").write_text("kept")
    wandb.save(str(tmp_path / "*.txt"))
    wandb.summary["best"] = 0.5
    assert wandb.summary["loss"] == 1 / 3
    wandb.finish()
    found, metrics = tracked(store)
    assert (found.experiment, found.name, found.status) == ("churn", "trial", "FINISHED")
    assert found.params == {"lr": 0.1, "model.layers": [64, 32], "epochs": 3, "seed": 1}
    assert found.tags["mlflow.note.content"] == "why"
    assert found.tags["wandb.tag.one"] == "true"
    assert found.tags["wandb.summary.best"] == "0.5"
    assert metrics["loss"] == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    assert metrics["valid.acc"] == [(0, 0.0), (1, 0.5), (2, 1.0)]
    assert (metrics["late"], metrics["later"]) == ([(2**40, 1.0)], [(2**40, math.inf)])
    assert artifact(store, found, "notes.txt") == b"kept"
    (name,) = [kept.name for kept in found.artifacts if kept.name.startswith("media/table/")]
    assert json.loads(artifact(store, found, name)) == {"columns": ["a", "b"], "data": [[1, "x"]]}


def test_values_of_one_step_may_come_in_several_calls(store: Path) -> None:
    with wandb.init(project="p") as run:
        run.log({"a": 1}, commit=False)
        run.log({"b": 2})
        run.log({"a": 3})
    _, metrics = tracked(store)
    assert metrics == {"a": [(0, 1.0), (1, 3.0)], "b": [(0, 2.0)]}


def test_a_block_that_raises_is_a_run_that_failed(store: Path) -> None:
    with pytest.raises(ZeroDivisionError), wandb.init(project="p"):
        1 / 0  # noqa: B018
    run, _ = tracked(store)
    assert run.status == "FAILED"


def test_what_is_not_there_says_so(store: Path) -> None:
    with pytest.raises(InvalidInput, match="no run"):
        wandb.log({"a": 1})
    with pytest.raises(AttributeError, match="has no 'sweep'"):
        _ = wandb.sweep
    with pytest.raises(InvalidInput):
        wandb.Table(columns=["a"]).add_data(1, 2)
