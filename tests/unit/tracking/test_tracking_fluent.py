from __future__ import annotations

import logging
from pathlib import Path

import pytest

import kilter
from kilter.core.clock import SystemClock
from kilter.core.errors import Conflict
from kilter.engines.objects.store import ObjectStore
from kilter.engines.sql.database import Database
from kilter.tracking.environment import environment_lock
from kilter.tracking.service import RunService


def service(store: Path) -> RunService:
    return RunService(
        Database.open(f"sqlite:///{store / 'kilter.db'}"), ObjectStore.open(str(store / "objects")), SystemClock()
    )


def test_two_lines_track_a_run(tmp_path: Path) -> None:
    (tmp_path / "plot.txt").write_text("plot")
    with kilter.run("notebook", params={"trees": 80}, seed=3, store=tmp_path / "store") as run:
        run.param("leaves", 31)
        for step in range(1200):
            run.metric("loss", 1 / (step + 1))
        run.metrics(step=7, auc=0.7, bad=float("nan"))
        run.artifact(tmp_path / "plot.txt")
        run.tag("team", "ops")
    runs = service(tmp_path / "store")
    found = runs.get(run.id)
    assert (found.experiment, found.status, found.seed) == ("notebook", "FINISHED", 3)
    assert found.params == {"trees": 80, "leaves": 31}
    assert found.tags["team"] == "ops"
    assert [point.step for point in runs.metrics(run.id, "loss")] == list(range(1200))
    assert found.metric("auc") == 0.7
    assert {"environment.lock", "plot.txt"} <= {kept.name for kept in found.artifacts}
    assert runs.artifact(run.id, "environment.lock") == environment_lock()


def test_an_error_ends_the_run_as_failed_and_passes_through(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), kilter.run("x", store=tmp_path) as run:
        run.metric("loss", 1 / 0)
    found = service(tmp_path).get(run.id)
    assert (found.status, found.reason) == ("FAILED", "ZeroDivisionError: division by zero")


def test_logging_never_breaks_the_work(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("not a folder")
    with caplog.at_level(logging.WARNING), kilter.run("x", store=tmp_path / "file" / "store") as run:
        run.param("a", 1)
        run.metric("loss", 0.5)
        run.artifact(tmp_path / "nothing.png")
        assert run.get() is None
        work = "done"
    assert work == "done"
    assert [record.levelname for record in caplog.records] == ["WARNING"]  # it complains once
    with kilter.run("x", store=tmp_path / "store") as run:
        run.artifact(tmp_path / "nothing.png")
        run.metric("loss", "a word")  # type: ignore[arg-type]
        run.param("odd", object())
        run.param("a", 1)
        run.param("a", 2)
        run.metric("loss", 1.0)
    found = service(tmp_path / "store").get(run.id)
    assert (found.status, found.params, found.metric("loss")) == ("FINISHED", {"a": 1}, 1.0)
    with pytest.raises(Conflict):
        service(tmp_path / "store").log_params(run.id, {"a": 2})


def test_the_lock_names_exact_versions() -> None:
    lines = environment_lock().decode().splitlines()
    assert lines[0].startswith("python==3.")
    assert lines[1:] == sorted(lines[1:])
    assert any(line.startswith("msgspec==") for line in lines)
