"""What a search says and writes: tuned defaults, importance, trials from inside, and wrong declarations."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from kilter.core.errors import InvalidInput
from kilter.loop.declaration.checks import check
from kilter.loop.declaration.spec import load_source, spec_of
from kilter.loop.tuning.declare import Choice, Range
from kilter.loop.tuning.defaults import patch, with_values
from kilter.loop.tuning.importance import importance
from kilter.loop.tuning.processes import is_gone, this_process
from kilter.loop.tuning.records import Goal, PrunerSpec, StudySpec
from kilter.loop.tuning.space import space_of
from kilter.loop.tuning.study import Claim
from kilter.loop.tuning.study import check as check_study
from kilter.loop.tuning.trial import Trial
from kilter.tracking.records import MetricPoint

TEXT = """# größer
@dataclass(frozen=True)
class Params:
    trees: Annotated[int, Range(20, 400)] = 80  # stays
    rate: float = 1e-1
    kind: str = (
        "gbdt"
    )
    bare: int


loop = Loop(name="a", params=Params(trees=100, bare=3))
other = Loop(name="b", params=Params(bare=3))
"""


def test_defaults_change_and_nothing_else_does() -> None:
    after = with_values(TEXT, "Params", "b", {"trees": 120, "rate": 0.1, "kind": "dart"})
    assert after == TEXT.replace("= 80 ", "= 120 ").replace('(\n        "gbdt"\n    )', "(\n        'dart'\n    )")


def test_what_a_loop_says_itself_is_changed_there() -> None:
    after = with_values(TEXT, "Params", "a", {"trees": 120, "bare": 4})
    assert after == TEXT.replace("trees=100, bare=3", "trees=120, bare=4")


def test_values_without_a_place_are_refused() -> None:
    with pytest.raises(InvalidInput, match="not at the top level"):
        with_values(TEXT, "Other", "a", {"trees": 1})
    with pytest.raises(InvalidInput, match=r"Params\.none has no default"):
        with_values(TEXT, "Params", "a", {"none": 1})


def test_a_patch_can_be_applied(tmp_path: Path) -> None:
    file = tmp_path / "f.py"
    file.write_text(TEXT)
    after = with_values(TEXT, "Params", "b", {"trees": 99})
    subprocess.run(
        ["patch", "-p1"], input=patch(TEXT, after, "f.py"), text=True, check=True, cwd=tmp_path, capture_output=True
    )
    assert file.read_text() == after
    assert patch(TEXT, TEXT, "f.py") == ""


def test_what_decides_is_important_and_what_does_not_is_not() -> None:
    chance = np.random.default_rng(3)
    space = space_of({"x": Range(-5.0, 5.0), "n": Range(1, 1000, log=True), "c": Choice("a", "b"), "one": Choice(1)})
    points = [
        (
            {"x": float(x), "n": int(n), "c": int(c), "one": 0},
            float((x - 1) ** 2 + 0.1 * c),
        )
        for x, n, c in zip(
            chance.uniform(-5, 5, 200), chance.integers(1, 1000, 200), chance.integers(0, 2, 200), strict=True
        )
    ]
    found, note = importance(space, points)
    assert note == ""
    assert sum(found.values()) == pytest.approx(1)
    assert found["x"] > 0.7
    assert found["one"] == 0
    assert next(iter(found)) == "x"
    assert importance(space, points[:9])[1].endswith("there are 9")
    assert importance(space, [(point, 1.0) for point, _ in points])[0] == {}
    assert importance(space, [(point, math.nan) for point, _ in points])[0] == {}


def trial(**changes: object) -> tuple[Trial, list[MetricPoint]]:
    written: list[MetricPoint] = []

    def write(points: Sequence[MetricPoint]) -> None:
        written.extend(points)

    spec = StudySpec(name="s", kind="python", space=(), goals=(Goal(metric="v"),), **changes)  # type: ignore[arg-type]
    claim = Claim(number=3, attempt=0, run="run_1", params={}, point={}, seed=3)
    return Trial(claim, spec, write, lambda one: max(one.reports) >= 2), written


def test_a_trial_reports_each_step_once() -> None:
    one, written = trial()
    one.report(1, 5)
    one.report(1, 6)
    one.report(2, math.inf)
    one.metric("other", 1)
    one.flush()
    assert [(point.name, point.step, point.number) for point in written] == [
        ("v", 1, 5.0),
        ("v", 2, math.inf),
        ("other", 0, 1.0),
    ]
    for step in (-1, True, 1.5):
        with pytest.raises(InvalidInput, match="step"):
            one.report(step, 1)  # type: ignore[arg-type]


def test_how_a_trial_ended() -> None:
    one, _ = trial(pruner=PrunerSpec(kind="median"))
    assert not one.should_prune()
    one.report(1, 1)
    assert not one.should_prune()
    one.report(2, 1)
    assert one.should_prune()
    assert one.ended(None).state == "pruned"
    assert one.ended(0.5).values == (0.5,)
    assert one.ended({"v": 2}).values == (2.0,)
    assert one.ended(math.nan).state == "failed"
    assert one.ended("words").state == "failed"
    assert one.ended((1, 2)).state == "failed"
    assert trial()[0].ended(None).state == "failed"


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"name": ""}, "study"),
        ({"goals": ()}, "metric"),
        ({"goals": (Goal(metric="v"), Goal(metric="v"))}, "metric"),
        ({"goals": (Goal(metric="v"), Goal(metric="w")), "sampler": "cma-es"}, "sampler"),
        ({"goals": (Goal(metric="v"), Goal(metric="w")), "pruner": PrunerSpec(kind="asha")}, "pruner"),
        ({"sampler": "cma-es"}, "sampler"),
        ({"sampler": "grid"}, "space.x"),
        ({"pruner": PrunerSpec(kind="asha", factor=1)}, "pruner"),
        ({"pruner": PrunerSpec(kind="hyperband", first=4, last=4)}, "pruner"),
    ],
)
def test_studies_that_cannot_be_searched_are_refused(changes: dict[str, object], where: str) -> None:
    given = {
        "name": "s",
        "kind": "python",
        "space": space_of({"x": Range(0.0, 1.0)}),
        "goals": (Goal(metric="v"),),
    } | changes
    with pytest.raises(InvalidInput) as found:
        check_study(StudySpec(**given))  # type: ignore[arg-type]
    assert found.value.where == where


def test_a_process_that_has_ended_is_known_to_be_gone() -> None:
    assert not is_gone(this_process())
    assert not is_gone("elsewhere/1/2")
    assert not is_gone("")
    host = this_process().partition("/")[0]
    assert is_gone(f"{host}/{2**22 + 1}/5")  # no process has this number
    assert is_gone(f"{host}/1/999999999999")  # another one has it now


DECLARED = """
from dataclasses import dataclass
from typing import Annotated
import polars as pl
from kilter import Choice, Dataset, Label, Loop, Range, Table, Tune, log_loss

t = Table("t", key="k", time="at")

@dataclass(frozen=True)
class Params:
    trees: Annotated[int, Range(20, 400)] = 80
    kind: str = "a"

def late() -> pl.Expr:
    return pl.col("took") > 3

def train(data: Dataset, p: Params) -> object:
    return (data, p)

loop = Loop(
    name="m", owner="o", inputs=[t.columns("a")], label=Label(late, known_at="came"), train=train, params=Params(),
    {tune}
)
"""


@pytest.mark.parametrize(
    ("tune", "field", "said"),
    [
        ("tune=Tune(trials=0)", "tune.trials", "1 or more"),
        ("tune=Tune(folds=True)", "tune.folds", "1 or more"),
        ("tune=Tune(sampler='tpee')", "tune.sampler", "did you mean 'tpe'"),
        ("tune=Tune(pruner='ash')", "tune.pruner", "did you mean 'asha'"),
        ("tune=Tune(metric='log_loss')", "tune.metric", "a metric such as"),
        ("tune=Tune(space={'tree': Range(1, 2)})", "tune.space.tree", "did you mean 'trees'"),
        ("tune=Tune(space={'kind': Choice('b', 'c')})", "tune.space (Params.kind)", "outside of its own space"),
        ("tune=5", "tune", "Tune(...)"),
    ],
)
def test_a_wrong_declaration_is_told_with_file_line_and_field(tune: str, field: str, said: str) -> None:
    (error,) = check(load_source(DECLARED.replace("{tune}", tune), "my.py"))
    assert error.where == f"my.py:{22}: {field}"
    assert said in str(error)


def test_how_a_loop_is_searched_is_no_part_of_what_it_is() -> None:
    without = spec_of(load_source(DECLARED.replace("{tune}", ""), "my.py"))
    searched = spec_of(load_source(DECLARED.replace("{tune}", "tune=Tune(trials=9)"), "my.py"))
    assert without.digest == searched.digest
