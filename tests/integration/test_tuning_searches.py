"""Searches as a user makes them: a function, a loop's file, a command; found with real frameworks and a real store."""

from __future__ import annotations

import io
import json
import math
import sys
from contextlib import redirect_stdout
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import kilter
from kilter import Choice, Pruner, Range, Trial
from kilter.cli.main import main
from kilter.core.errors import Conflict, InvalidInput
from kilter.data.declare import Table
from kilter.loop.tuning.declare import Sampler
from kilter.loop.tuning.records import Goal, StudySpec
from kilter.loop.tuning.search import Search
from kilter.loop.tuning.space import space_of, values_at
from kilter.loop.workspace import Workspace

pytest.importorskip("optuna")

LOOP = """
from dataclasses import dataclass
from typing import Annotated

import polars as pl
from lightgbm import LGBMClassifier

from kilter import Dataset, Label, Loop, Range, Table, Tune, Window, log_loss

parcels = Table("parcels", key="id", time="sent")


@dataclass(frozen=True)
class Params:
    trees: Annotated[int, Range(5, 80, log=True)] = 5
    leaves: int = 31
    rate: Annotated[float, Range(0.01, 0.5, log=True)] = 0.01


def late() -> pl.Expr:
    return pl.col("took") > 3


def train(data: Dataset, p: Params) -> LGBMClassifier:
    print("a training prints")
    model = LGBMClassifier(n_estimators=p.trees, num_leaves=p.leaves, learning_rate=p.rate, n_jobs=1, verbose=-1)
    return model.fit(data.X, data.y)


loop = Loop(
    name="parcel-delay",
    owner="ops@example.org",
    inputs=[parcels.columns("weight", "way")],
    label=Label(late, known_at="came"),
    train=train,
    params=Params(),
    data=Window(train="60d", holdout="7d"),
    tune=Tune(metric=log_loss, trials=6, folds=2),
)
"""


def parcels(days: int = 70, each: int = 40) -> pl.DataFrame:
    chance = np.random.default_rng(5)
    count = days * each
    begin = datetime(2024, 1, 1, tzinfo=UTC)
    sent = [begin + timedelta(minutes=1440 / each * i) for i in range(count)]
    weight, way = chance.normal(size=count), chance.integers(0, 5, count).astype(float)
    took = 2.5 + weight + 0.6 * (way > 2) + chance.normal(size=count)
    return pl.DataFrame(
        {"id": [f"p{i}" for i in range(count)], "sent": sent, "weight": weight, "way": way, "took": took}
    ).with_columns(
        pl.col("sent").dt.cast_time_unit("us"), came=(pl.col("sent") + pl.duration(hours=12)).dt.cast_time_unit("us")
    )


@pytest.fixture
def store(tmp_path: Path) -> Path:
    with Workspace.open(tmp_path / "store") as workspace:
        workspace.data.declare(Table("parcels", key="id", time="sent"))
        workspace.data.append("parcels", parcels().rows(named=True))
    return tmp_path / "store"


def run(*arguments: str) -> Any:
    out = io.StringIO()
    with redirect_stdout(out):
        code = main([*arguments, "--json"])
    return code, json.loads(out.getvalue())


@pytest.mark.slow
def test_a_loop_is_tuned_from_its_file_and_the_file_changed_only_when_asked(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "parcel.py"
    file.write_text(LOOP)
    code, found = run("tune", str(file), "--store", str(store))
    assert code == 0
    assert file.read_text() == LOOP
    assert found["trials"][0]["params"] == {"trees": 5, "rate": 0.01}  # the declared values are tried first
    assert [one["state"] for one in found["trials"]] == ["complete"] * 6
    better = found["comparison"]
    assert better["best"] < better["declared"]
    assert better["difference"]["high"] < 0  # a model that learns is better than one that hardly does, day by day
    newest = datetime.fromisoformat(found["spec"]["detail"]["at"])
    assert newest == parcels()["came"].max()
    with Workspace.open(store) as workspace:
        child = workspace.runs.get(found["trials"][1]["run"])
        assert child.tags["mlflow.parentRunId"] == found["run"]
        assert workspace.runs.artifact(child.id, "output.log") == b"a training prints\n" * 2
        assert [point.step for point in workspace.runs.metrics(child.id, "log_loss")] == [1, 2]
        assert child.metric("log_loss") == found["trials"][1]["values"][0]
        assert workspace.runs.get(found["run"]).status == "FINISHED"
    # The same call has nothing to do, and more trials go on.
    code, again = run("tune", str(file), "--store", str(store), "--write")
    assert [one["run"] for one in again["trials"]] == [one["run"] for one in found["trials"]]
    changed = file.read_text()
    assert f"= {found['best_values']['trees']}\n" in changed
    assert "leaves: int = 31" in changed
    code, listed = run("tune", "list", "--store", str(store))
    assert [one["name"] for one in listed] == [found["name"]]
    code, shown = run("tune", "show", found["name"], "--store", str(store))
    assert shown["best"] == found["best"]
    assert [axis["name"] for axis in shown["axes"]] == ["trees", "rate", "log_loss"]
    assert len(shown["lines"]) == 6


def test_a_retraining_takes_the_values_of_a_search(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "parcel.py"
    file.write_text(LOOP.replace("trials=6", "trials=3"))
    assert run("apply", str(file), "--store", str(store))[0] == 0
    code, found = run("tune", str(file), "--store", str(store), "--sampler", "random", "--study", "mine")
    assert code == 0
    code, status = run("retrain", "parcel-delay", "--tuned", "mine", "--store", str(store))
    assert (code, status["name"]) == (0, "parcel-delay")
    with Workspace.open(store) as workspace:
        params = workspace.loops.spec("parcel-delay").params
        assert params is not None
        assert params.values == {"leaves": 31, **found["best_values"]}
        assert file.read_text() == LOOP.replace("trials=6", "trials=3")
    code, refused = run("retrain", "parcel-delay", "--tuned", "nobody", "--store", str(store))
    assert "no study" in refused["detail"]


def test_no_trial_sees_the_holdout_of_the_gates(store: Path, tmp_path: Path) -> None:
    from kilter.loop.declaration.spec import load
    from kilter.loop.tuning.rehearsal import folds_of

    file = tmp_path / "parcel.py"
    file.write_text(LOOP)
    loop = load(file).loop
    at = parcels()["came"].max()
    assert isinstance(at, datetime)
    folds = folds_of(loop, parcels(), at, 3)
    for fold in folds:
        assert fold.holdout["sent"].max() < at - timedelta(days=7)  # type: ignore[operator]
        assert fold.training["came"].max() <= fold.holdout["sent"].min()  # type: ignore[operator]
    ends = [fold.ends for fold in folds]
    assert ends == [at - timedelta(days=7 * back) for back in (3, 2, 1)]


def test_tpe_beats_random_on_a_known_function() -> None:
    space = space_of({"x": Range(-5.0, 5.0), "y": Range(-5.0, 5.0), "c": Choice("a", "b", "c")})

    def best(sampler: Sampler, seed: int) -> float:
        spec = StudySpec(name="s", kind="python", space=space, goals=(Goal(metric="v"),), sampler=sampler, seed=seed)
        search = Search(spec)
        least = math.inf
        for number in range(40):
            values = values_at(space, search.ask(number))
            loss = (values["x"] - 2) ** 2 + (values["y"] + 1) ** 2 + 3 * (values["c"] != "b")
            search.tell(number, "complete", [loss])
            least = min(least, loss)
        return least

    wins = sum(best("tpe", seed) < best("random", seed) for seed in range(20))
    assert wins >= 15  # by chance alone: 2 in 100


def test_asha_stops_most_trials_early(tmp_path: Path) -> None:
    steps: list[int] = []

    def objective(trial: Trial) -> float | None:
        for step in range(1, 28):
            steps.append(step)
            trial.report(step, trial.params["x"] ** 2 + 1 / step)
            if trial.should_prune():
                return None
        return float(trial.params["x"] ** 2)

    found = kilter.tune(objective, {"x": Range(-3.0, 3.0)}, trials=30, pruner=Pruner("asha", factor=3), store=tmp_path)
    assert found.count("pruned") >= 15
    assert found.count("complete") + found.count("pruned") == 30
    assert len(steps) < 0.5 * 30 * 27
    assert found.best_values["x"] == pytest.approx(0, abs=0.7)
    assert found.importance == {} or found.importance["x"] == 1


def test_a_study_with_several_goals_has_a_front(tmp_path: Path) -> None:
    def objective(trial: Trial) -> tuple[float, float]:
        trial.metric("rows", 7)
        return trial.params["x"] ** 2, (trial.params["x"] - 2) ** 2

    found = kilter.tune(
        objective, {"x": Range(-4.0, 4.0)}, trials=12, metric=("error", "cost"), store=tmp_path, experiment="both"
    )
    assert found.best is None
    front = [found.trials[number] for number in found.front]
    assert front
    for one in front:
        assert not any(
            other.values != one.values
            and all(float(a) <= float(b) for a, b in zip(other.values or (), one.values or (), strict=True))
            for other in found.trials
        )
    with pytest.raises(InvalidInput, match="several metrics"):
        kilter.tune(objective, {"x": Range(0.0, 1.0)}, metric=("a", "b"), pruner="asha", store=tmp_path)


def test_a_named_study_goes_on_and_another_search_of_its_name_is_refused(tmp_path: Path) -> None:
    seen: list[int] = []

    def objective(trial: Trial) -> float:
        seen.append(trial.number)
        if trial.number == 4 and len(seen) < 6:
            raise KeyboardInterrupt
        return float(trial.params["x"])

    space = {"x": Range(0.0, 1.0)}
    with pytest.raises(KeyboardInterrupt):
        kilter.tune(objective, space, trials=8, study="mine", store=tmp_path)
    with Workspace.open(tmp_path) as workspace:
        stopped = workspace.studies.get("mine")
    assert (stopped.status, stopped.trials[4].state) == ("INTERRUPTED", "interrupted")
    found = kilter.tune(objective, space, trials=8, study="mine", store=tmp_path)
    assert seen == [0, 1, 2, 3, 4, 4, 5, 6, 7]
    assert found.trials[4].params == stopped.trials[4].params
    with pytest.raises(Conflict, match="searches something else"):
        kilter.tune(objective, {"x": Range(0.0, 2.0)}, study="mine", store=tmp_path)


def test_failures_are_told_and_budgets_hold(tmp_path: Path) -> None:
    def broken(trial: Trial) -> float:
        raise ValueError(f"no luck with {trial.params['x']}")

    with pytest.raises(InvalidInput, match="first 3 trials failed: ValueError: no luck"):
        kilter.tune(broken, {"x": Range(0, 9)}, store=tmp_path, study="broken")
    with Workspace.open(tmp_path) as workspace:
        assert workspace.runs.get(workspace.studies.get("broken").run).status == "FAILED"

    def half(trial: Trial) -> float:
        return math.nan if trial.number % 2 else trial.params["x"]

    found = kilter.tune(half, {"x": Range(0, 9)}, trials=6, store=tmp_path)
    assert (found.count("complete"), found.count("failed")) == (3, 3)
    assert kilter.tune(half, {"x": Range(0, 9)}, trials=6, seconds=1e-9, store=tmp_path).trials == ()
    grid = kilter.tune(half, {"x": Choice(1, 2), "y": Choice("a", "b", "c")}, sampler="grid", trials=99, store=tmp_path)
    assert len({tuple(one.params.values()) for one in grid.trials}) == len(grid.trials) == 6
    for wrong in (
        {"trials": 0},
        {"seconds": 0},
        {"cpu": -1},
        {"pruner": "ash"},
        {"direction": ("minimize", "maximize")},
    ):
        with pytest.raises(InvalidInput):
            kilter.tune(half, {"x": Range(0, 9)}, store=tmp_path, **wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="by name in another process"):
        kilter.tune(half, {"x": Range(0, 9)}, workers=2, store=tmp_path)


COMMAND = """
import argparse, os, sys, time
import kilter
parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float)
parser.add_argument("--kind")
options = parser.parse_args()
assert options.kind in {"a", "b"}
if os.environ["KILTER_TRIAL"] == "1":
    sys.exit("this one breaks")
with kilter.run("anything", params={"own": 1}) as run:
    for step in range(1, 4):
        run.metric("loss", options.lr * step, step)
print("done")
"""


def test_any_command_is_searched_as_a_sweep_file_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(COMMAND)
    (tmp_path / "sweep.yaml").write_text(
        "program: train.py\nmethod: random\nmetric: {name: loss}\nrun_cap: 4\n"
        "parameters: {lr: {min: 0.1, max: 0.9}, kind: {values: [a, b]}}\n"
    )
    code, found = run("tune", "sweep.yaml", "--store", "store", "--workers", "2")
    assert code == 0
    assert [one["state"] for one in found["trials"]] == ["complete", "failed", "complete", "complete"]
    assert "this one breaks" in found["trials"][1]["reason"]
    with Workspace.open("store") as workspace:
        one = workspace.runs.get(found["trials"][0]["run"])
        assert one.status == "FINISHED"
        assert one.params["own"] == 1
        assert one.metric("loss") == pytest.approx(one.params["lr"] * 3)
        assert workspace.runs.artifact(one.id, "output.log") == b"done\n"
        assert (
            len(workspace.runs.list(limit=100).runs) == 5
        )  # the study and its trials: the command began no run of its own
    (tmp_path / "print.yaml").write_text(
        "command: [echo, '{\"loss\": 0.25}']\nmethod: random\nmetric: {name: loss, target: 0.5}\nparameters: {x: {min: 1, max: 2}}\n"
    )
    code, found = run("tune", "print.yaml", "--store", "store", "--trials", "5")
    assert found["best_result"] == [0.25]
    assert len(found["trials"]) == 1  # the target is reached


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("tune", "nothing.txt"), "can't be searched"),
        (("tune", "show"), "no study was named"),
        (("tune", "show", "nobody"), "no study"),
        (("tune", "none.yaml"), "no such file"),
        (("tune", "none.py"), "can't be read"),
        (("tune", "none.py", "--workers", "0"), "0"),
        (("tune", "none.yaml", "--metric", "x"), "the sweep file says that"),
    ],
)
def test_wrong_calls_say_what_is_wrong(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    code, found = run(*arguments, "--store", str(tmp_path / "store"))
    assert code in {1, 2}
    assert said in found["detail"]


def test_a_search_works_without_its_process_being_a_script(tmp_path: Path) -> None:
    """Workers find a function of a module by its name."""
    module = tmp_path / "objectives_of_a_test.py"
    module.write_text("def square(trial):\n    return trial.params['x'] ** 2\n")
    sys.path.insert(0, str(tmp_path))
    try:
        from objectives_of_a_test import square  # type: ignore[import-not-found]

        found = kilter.tune(square, {"x": Range(-2, 2)}, sampler="grid", workers=2, store=tmp_path / "store")
    finally:
        sys.path.remove(str(tmp_path))
    assert found.best_result == (0.0,)
    assert len(found.trials) == 5
