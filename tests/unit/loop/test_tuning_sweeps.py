"""W&B's sweep files: every distribution, and what is refused, with file, field, given, allowed and fix."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kilter.core.errors import InvalidInput
from kilter.loop.tuning.command import arguments, nest
from kilter.loop.tuning.space import Dimension
from kilter.loop.tuning.sweeps import load_sweep, sweep_of


def sweep(**changes: Any) -> dict[str, Any]:
    given = {"method": "random", "program": "train.py", "parameters": {"x": {"value": 1}}} | changes
    return {key: value for key, value in given.items() if value is not None}


def dimension(**said: Any) -> Dimension:
    (one,) = sweep_of(sweep(parameters={"x": said})).spec.space
    return one


def drawn(one: Dimension) -> list[Any]:
    """Return values of evenly spread coordinates, as a sampler that knows the distribution draws them."""
    u = (np.arange(1000) + 0.5) / 1000
    if one.grid is not None:
        return [one.value(one.grid[int(p * len(one.grid))]) for p in u]
    inner = (
        np.exp(math.log(one.low) + u * math.log(one.high / one.low)) if one.log else one.low + u * (one.high - one.low)
    )
    return [one.value(float(p)) for p in inner]


@pytest.mark.parametrize(
    ("said", "least", "middle", "most"),
    [
        ({"min": 1, "max": 9}, 1, 5, 9),
        ({"min": 1.0, "max": 9.0}, 1, 5, 9),
        ({"distribution": "int_uniform", "min": 1, "max": 9}, 1, 5, 9),
        ({"distribution": "uniform", "min": 1, "max": 9}, 1, 5, 9),
        ({"distribution": "log_uniform", "min": 0, "max": 2}, 1, math.e, math.e**2),
        ({"distribution": "log_uniform_values", "min": 0.01, "max": 1}, 0.01, 0.1, 1),
        ({"distribution": "inv_log_uniform", "min": 0, "max": 2}, math.e**-2, math.e**-1, 1),
        ({"distribution": "inv_log_uniform_values", "min": 0.01, "max": 1}, 0.01, 0.1, 1),
        ({"distribution": "normal", "mu": 4, "sigma": 2}, 4 - 2 * 3.29, 4, 4 + 2 * 3.29),
        ({"distribution": "log_normal"}, math.exp(-3.29), 1, math.exp(3.29)),
        ({"distribution": "beta", "a": 2, "b": 2}, 0, 0.5, 1),
    ],
)
def test_a_distribution_without_steps(said: dict[str, Any], least: float, middle: float, most: float) -> None:
    values = drawn(dimension(**said))
    assert min(values) == pytest.approx(least, rel=0.02, abs=0.02)
    assert float(np.median(values)) == pytest.approx(middle, rel=0.01)
    assert max(values) == pytest.approx(most, rel=0.02)


@pytest.mark.parametrize(
    ("said", "quantum"),
    [
        ({"distribution": "q_uniform", "min": 0, "max": 1, "q": 0.25}, 0.25),
        ({"distribution": "q_uniform", "min": 3, "max": 20, "q": 5}, 5),
        ({"distribution": "q_log_uniform", "min": 0, "max": 4, "q": 2}, 2),
        ({"distribution": "q_log_uniform_values", "min": 1, "max": 100, "q": 10}, 10),
        ({"distribution": "q_normal", "mu": 0, "sigma": 3, "q": 0.5}, 0.5),
        ({"distribution": "q_log_normal", "q": 0.5}, 0.5),
        ({"distribution": "q_beta", "a": 1, "b": 3, "q": 0.1}, 0.1),
    ],
)
def test_a_distribution_with_steps_gives_multiples(said: dict[str, Any], quantum: float) -> None:
    values = drawn(dimension(**said))
    assert len(set(values)) > 2
    assert all(abs(value / quantum - round(value / quantum)) < 1e-9 for value in values)
    if isinstance(quantum, int):
        assert all(isinstance(value, int) for value in values)


def test_a_step_stays_within_the_bounds() -> None:
    assert sorted(set(drawn(dimension(distribution="q_uniform", min=3, max=21, q=5)))) == [5, 10, 15, 20]


def test_values_and_probabilities() -> None:
    assert set(drawn(dimension(values=["a", 2, None, True]))) == {"a", 2, None, True}
    assert dimension(value=[1, 2]).choices == ([1, 2],)
    values = drawn(dimension(values=["a", "b"], probabilities=[0.25, 0.75]))
    assert values.count("a") == 250
    assert dimension(distribution="categorical_w_probabilities", values=[1], probabilities=[1.0]).of == (1.0,)


def test_groups_have_dotted_names_and_come_back_as_groups() -> None:
    given = {"opt": {"parameters": {"lr": {"value": 0.1}, "kind": {"values": ["a", "b"]}}}, "n": {"min": 1, "max": 2}}
    space = sweep_of(sweep(parameters=given)).spec.space
    assert [one.name for one in space] == ["opt.lr", "opt.kind", "n"]
    assert nest({"opt.lr": 0.1, "opt.kind": "a", "n": 1}) == {"opt": {"lr": 0.1, "kind": "a"}, "n": 1}


def test_method_metric_cap_and_early_end() -> None:
    found = sweep_of(
        sweep(
            method="bayes",
            metric={"name": "auc", "goal": "maximize", "target": 0.9},
            early_terminate={"type": "hyperband", "min_iter": 3, "eta": 2},
            run_cap=7,
            project="p",
            description="words",
            entity="team",
        )
    )
    assert found.spec.sampler == "tpe"
    assert (found.spec.goals[0].metric, found.spec.goals[0].direction, found.spec.goals[0].target) == (
        "auc",
        "maximize",
        0.9,
    )
    assert (found.spec.pruner.kind, found.spec.pruner.first, found.spec.pruner.factor) == ("asha", 3, 2)
    assert (found.trials, found.experiment, found.said) == (7, "p", {"description": "words", "entity": "team"})
    early = {"type": "hyperband", "max_iter": 27, "s": 2}
    other = sweep_of(sweep(metric={"name": "l"}, early_terminate=early))
    assert other.spec.pruner.first == 3  # the first bracket of max_iter, max_iter / eta, ...
    grid = sweep_of(sweep(method="grid", parameters={"a": {"values": [1, 2]}, "b": {"min": 1, "max": 3}}))
    assert grid.trials == 6


def test_the_same_file_is_the_same_study_and_a_changed_one_another() -> None:
    assert sweep_of(sweep()).spec == sweep_of(sweep()).spec
    assert sweep_of(sweep()).spec.name != sweep_of(sweep(parameters={"x": {"value": 2}})).spec.name


@pytest.mark.parametrize(
    ("changes", "where", "said"),
    [
        ({"method": "bayesian"}, "method", "grid, random, bayes"),
        ({"method": None}, "method", "grid"),
        ({"parameters": None}, "parameters", "nothing to search"),
        ({"parameters": {"x": 5}}, "parameters.x", "value: 5"),
        ({"parameters": {"x": {}}}, "parameters.x", "neither value"),
        ({"parameters": {"x": {"min": 1}}}, "parameters.x", "neither value"),
        ({"parameters": {"x": {"min": 2, "max": 1}}}, "parameters.x", "min below"),
        ({"parameters": {"x": {"values": "abc"}}}, "parameters.x.values", "list"),
        ({"parameters": {"x": {"values": []}}}, "parameters.x.values", "list"),
        ({"parameters": {"x": {"values": [1, 1]}}}, "parameters.x.values", "twice"),
        ({"parameters": {"x": {"values": [1, 2], "probabilities": [0.5, 0.4]}}}, "parameters.x.probabilities", "add up"),
        ({"parameters": {"x": {"values": [1, 2], "probability": [0.5, 0.5]}}}, "parameters.x.probability", "did you mean"),
        ({"parameters": {"x": {"distribution": "log_unifrm", "min": 1, "max": 2}}}, "parameters.x.distribution", "log_uniform"),
        ({"parameters": {"x": {"distribution": "uniform", "min": 1}}}, "parameters.x", "no max"),
        ({"parameters": {"x": {"distribution": "uniform", "min": 1, "max": 2, "q": 1}}}, "parameters.x.q", "no 'q'"),
        ({"parameters": {"x": {"distribution": "int_uniform", "min": 1.5, "max": 2}}}, "parameters.x", "whole"),
        ({"parameters": {"x": {"distribution": "log_uniform_values", "min": 0, "max": 2}}}, "parameters.x.min", "logarithm"),
        ({"parameters": {"x": {"distribution": "log_uniform", "min": 0, "max": 1000}}}, "parameters.x.max", "log_uniform_values"),
        ({"parameters": {"x": {"distribution": "log_uniform_values", "min": "1e-4", "max": 1}}}, "parameters.x.min", "1.0e-3"),
        ({"parameters": {"x": {"distribution": "q_uniform", "min": 0, "max": 1, "q": 0}}}, "parameters.x.q", "more than 0"),
        ({"parameters": {"x": {"distribution": "normal", "sigma": 0}}}, "parameters.x.sigma", "more than 0"),
        ({"parameters": {"x": {"distribution": "beta", "a": 0}}}, "parameters.x", "more than 0"),
        ({"method": "grid", "parameters": {"x": {"min": 0.0, "max": 1.0}}}, "space.x", "no end"),
        ({"metric": {"name": "l", "goal": "minimise"}}, "metric.goal", "minimize"),
        ({"metric": {"goal": "minimize"}}, "metric", "name"),
        ({"metric": {"name": "l", "mode": "min"}}, "metric.mode", "name, goal, target"),
        ({"method": "bayes"}, "metric", "name"),
        ({"metric": {"name": "l"}, "early_terminate": {"type": "envelope"}}, "early_terminate.type", "hyperband"),
        ({"metric": {"name": "l"}, "early_terminate": {"type": "hyperband"}}, "early_terminate", "min_iter"),
        ({"metric": {"name": "l"}, "early_terminate": {"type": "hyperband", "min_iter": 0}}, "early_terminate.min_iter", "1 or more"),
        ({"metric": {"name": "l"}, "early_terminate": {"type": "hyperband", "max_iter": 9}}, "early_terminate", "max_iter with s"),
        ({"run_cap": 0}, "run_cap", "1 or more"),
        ({"program": None}, "program", "train.py"),
        ({"command": "python train.py"}, "command", "list"),
        ({"command": ["${envs}"]}, "command", "${env}"),
        ({"job": "x"}, "job", "no equivalent"),
        ({"controller": {"type": "local"}}, "controller", "no equivalent"),
        ({"metod": "grid"}, "metod", "did you mean 'method'"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_its_field(changes: dict[str, Any], where: str, said: str) -> None:
    with pytest.raises(InvalidInput) as found:
        sweep_of(sweep(**changes), file="my.yaml")
    assert found.value.where.removeprefix("my.yaml: ") == where
    assert said in str(found.value)


def test_a_file_is_yaml_or_json(tmp_path: Path) -> None:
    yaml, json = tmp_path / "s.yaml", tmp_path / "s.json"
    yaml.write_text("method: random\nprogram: t.py\nparameters: {lr: {min: 0.1, max: 0.5}}\n")
    json.write_text('{"method": "random", "program": "t.py", "parameters": {"lr": {"min": 0.1, "max": 0.5}}}')
    assert load_sweep(yaml).spec.space == load_sweep(json).spec.space
    for text in ("method: [", "- 1", "method: !!python/object/apply:os.system [id]"):
        yaml.write_text(text)
        with pytest.raises(InvalidInput):
            load_sweep(yaml)
    with pytest.raises(InvalidInput, match="no such file"):
        load_sweep(tmp_path / "none.yaml")


def test_macros_of_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHERE", "here")
    params = {"lr": 0.1, "fast": True, "slow": False, "opt": {"kind": "a"}}
    assert arguments(["x", "${args}"], "", params, "") == [
        "x",
        "--lr=0.1",
        "--fast=True",
        "--slow=False",
        '--opt={"kind": "a"}',
    ]
    assert arguments(["${args_no_hyphens}"], "", {"lr": 0.1}, "") == ["lr=0.1"]
    assert arguments(["${args_no_boolean_flags}"], "", params, "")[:2] == ["--lr=0.1", "--fast"]
    assert "--slow" not in arguments(["${args_no_boolean_flags}"], "", params, "")
    assert arguments(["${args_json}"], "", {"a": 1}, "") == ['{"a": 1}']
    assert arguments(["${args_json_file}", "${program}", "${envvar:WHERE}"], "t.py", {}, "f") == ["f", "t.py", "here"]
    with pytest.raises(InvalidInput, match="NOWHERE"):
        arguments(["${envvar:NOWHERE}"], "", {}, "")
