"""Studies: a grid is the product, a search that was cut goes on as if it had not been, and claims never collide."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilter import Choice, Range
from kilter.core.clock import SystemClock
from kilter.engines.objects.store import ObjectStore
from kilter.engines.sql.database import Database
from kilter.loop.tuning.declare import Sampler, Values
from kilter.loop.tuning.records import Goal, PrunerSpec, StudySpec
from kilter.loop.tuning.search import Search
from kilter.loop.tuning.space import grid_point, grid_size, space_of, values_at
from kilter.loop.tuning.study import Study
from kilter.tracking.service import RunService

pytest.importorskip("optuna")

SPACE: dict[str, Values] = {"x": Range(-5.0, 5.0), "n": Range(1, 100, log=True), "c": Choice("a", "b", None)}
SAMPLERS: tuple[Sampler, ...] = ("tpe", "cma-es", "random", "grid")

finite = st.one_of(
    st.lists(st.integers(-9, 9), min_size=1, max_size=4, unique=True).map(lambda values: Choice(*values)),
    st.tuples(st.integers(-5, 5), st.integers(0, 4), st.integers(1, 3)).map(
        lambda t: Range(t[0], t[0] + t[1], step=min(t[2], t[1]) or None)
    ),
)


def spec(sampler: Sampler, seed: int = 0, **changes: Any) -> StudySpec:
    space = (
        SPACE if sampler != "grid" else {"n": Range(1, 6), "c": Choice("a", "b")} | {"x": Range(0.0, 1.0, step=0.25)}
    )
    return StudySpec(
        name="s", kind="python", space=space_of(space), goals=(Goal(metric="v"),), sampler=sampler, seed=seed, **changes
    )


def loss(values: dict[str, Any]) -> float:
    return (values["x"] - 1) ** 2 + abs(values["n"] - 30) / 30 + (values["c"] == "a")


@given(st.dictionaries(st.sampled_from("abcd"), finite, min_size=1, max_size=4))
def test_a_grid_covers_exactly_the_product(space: dict[str, Values]) -> None:
    dimensions = space_of(space)
    found = [tuple(grid_point(dimensions, number).values()) for number in range(grid_size(dimensions))]
    assert found == list(itertools.product(*(one.grid or () for one in dimensions)))


@given(st.sampled_from(SAMPLERS), st.integers(0, 2**31), st.integers(0, 20), st.integers(0, 3))
@settings(max_examples=20, deadline=None)
def test_a_search_that_was_cut_goes_on_as_if_it_had_not_been(sampler: Sampler, seed: int, cut: int, every: int) -> None:
    def go(
        search: Search, history: list[tuple[dict[str, Any], float]], count: int
    ) -> list[tuple[dict[str, Any], float]]:
        done = list(history)
        for number in range(len(done), count):
            point = search.ask(number)
            value = loss(values_at(study.space, point))
            # Some fail: they are part of the history too.
            failed = every and number % (every + 1) == every
            search.tell(number, "failed" if failed else "complete", None if failed else [value])
            done.append((point, float("nan") if failed else value))
        return done

    study = spec(sampler, seed)
    whole = go(Search(study), [], 20)
    again = Search(study)
    for number, (point, value) in enumerate(whole[:cut]):
        again.place(number, point)
        again.tell(number, "complete" if value == value else "failed", [value] if value == value else None)  # noqa: PLR0124
    assert [point for point, _ in go(again, whole[:cut], 20)] == [point for point, _ in whole]


def opened(database: Database, folder: Path, study: StudySpec) -> Study:
    return Study.open(RunService(database, ObjectStore.open(str(folder / "objects")), SystemClock()), study, "e")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_processes_that_share_a_study_run_each_trial_once(sampler: Sampler, database: Database, tmp_path: Path) -> None:
    """Three openings of one study take turns at random, as processes would; each knows the others from the runs alone."""
    chance = random.Random(7)
    studies = [opened(database, tmp_path, spec(sampler)) for _ in range(3)]
    running: list[tuple[Study, Any]] = []
    begun: list[int] = []
    while True:
        study = chance.choice(studies)
        if running and chance.random() < 0.6:
            owner, claim = running.pop(chance.randrange(len(running)))
            owner.end(claim, "complete", [loss(claim.params)])
            continue
        if chance.random() < 0.3:
            study.refresh()
        claim = study.claim(15)
        if claim is None:
            if not running:
                break
            continue
        begun.append(claim.number)
        running.append((study, claim))
    assert sorted(begun) == list(range(15))
    for study in studies:
        study.refresh()
        assert [study.trials[number].state for number in range(15)] == ["complete"] * 15
        assert not study.unfinished()
    shown = [sorted(str(one.params) for one in study.trials.values()) for study in studies]
    assert shown[0] == shown[1] == shown[2]


def test_a_study_in_the_store_goes_on_as_if_it_had_not_been_cut(database: Database, tmp_path: Path) -> None:
    def go(study: Study, count: int) -> None:
        while (claim := study.claim(count)) is not None:
            study.end(claim, "complete", [loss(claim.params)])

    pruner = PrunerSpec(kind="asha")
    whole = opened(database, tmp_path, spec("tpe", 3, pruner=pruner))
    go(whole, 20)
    changed = StudySpec(**{**{name: getattr(whole.spec, name) for name in whole.spec.__struct_fields__}, "name": "t"})
    for count in (1, 4, 13, 20):  # opened anew each time, as after a kill
        part = opened(database, tmp_path, changed)
        part.refresh()
        go(part, count)
    assert [part.trials[n].params for n in range(20)] == [whole.trials[n].params for n in range(20)]
