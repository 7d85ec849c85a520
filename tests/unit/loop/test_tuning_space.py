"""Search spaces: what can be said, what a coordinate stands for, and what is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Annotated

import pytest

from kilter import Choice, Normal, Range
from kilter.core.errors import InvalidInput
from kilter.loop.tuning.space import Dimension, grid_point, grid_size, point_of, space_of, space_of_params, values_at


@dataclass(frozen=True)
class Params:
    trees: Annotated[int, Range(20, 400, log=True)] = 80
    rate: Annotated[float, Range(0, 1)] = 0.1
    kind: Annotated[str, Choice("gbdt", "dart")] = "gbdt"
    fixed: int = 3


def test_a_class_says_what_its_fields_may_be() -> None:
    trees, rate, kind = space_of_params(Params())
    assert (trees.kind, trees.low, trees.high, trees.log) == ("int", 20, 400, True)
    assert (rate.kind, rate.low, rate.high) == ("float", 0, 1)  # whole bounds of a float are a float's
    assert kind.choices == ("gbdt", "dart")


def test_what_is_given_goes_before_the_class() -> None:
    space = space_of_params(Params(), {"trees": Range(10, 100), "fixed": Choice(1, 3)})
    assert [one.name for one in space] == ["trees", "rate", "kind", "fixed"]
    assert space[0].high == 100
    assert not space[0].log


@pytest.mark.parametrize(
    ("given", "where", "said"),
    [
        ({"tree": Range(1, 2)}, "tune.space.tree", "did you mean 'trees'"),
        ({"trees": Range(100, 400)}, "Params.trees", "outside of its own space"),
        ({"trees": Range(1.0, 400.0)}, "Params.trees", "whole"),
        ({"kind": Range(1, 2)}, "Params.kind", "Choice"),
        ({"kind": Normal()}, "Params.kind", "normally"),
    ],
)
def test_a_space_that_does_not_fit_its_class_is_refused(given: dict[str, Range], where: str, said: str) -> None:
    with pytest.raises(InvalidInput) as found:
        space_of_params(Params(), given)
    assert found.value.where == where
    assert said in str(found.value)


def test_a_class_that_says_nothing_is_refused() -> None:
    @dataclass(frozen=True)
    class Silent:
        trees: int = 1

    with pytest.raises(InvalidInput, match="no field of Silent"):
        space_of_params(Silent())
    with pytest.raises(InvalidInput, match="no parameters"):
        space_of_params(None)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (Range(2, 1), "least number first"),
        (Range(0, 1, log=True), "no logarithm"),
        (Range(float("nan"), 1), "no bound"),
        (Range(1, float("inf")), "no bound"),
        (Range(1, 5, step=0), "step"),
        (Range(1, 5, step=9), "step"),
        (Range(True, 5), "no bound"),
        (Range(0, 2**60), "2\\*\\*53"),
        (Choice(), "0 values"),
        (Choice("a", "a"), "twice"),
        (Choice(["a", "b"]), "without the brackets"),
        (Choice(object()), "can't be kept"),
        (Normal(0, 0), "above 0"),
        (Normal(0, 1, step=-1), "above 0"),
        (5, "5 was given"),
    ],
)
def test_values_that_cannot_be_searched_are_refused_by_name(values: Range, said: str) -> None:
    with pytest.raises(InvalidInput, match=said) as found:
        space_of({"depth": values})
    assert found.value.where == "space.depth"


@pytest.mark.parametrize("name", ["", "1x", "a b", "a/b"])
def test_a_name_that_cannot_be_a_parameter_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput):
        space_of({name: Range(1, 2)})
    with pytest.raises(InvalidInput, match="nothing to search"):
        space_of({})


def test_true_is_not_one() -> None:
    (one,) = space_of({"x": Choice(1, True, 1.0, None, "1")})
    assert [type(one.value(i)) for i in range(5)] == [int, bool, float, type(None), str]
    assert [one.coordinate(value) for value in (1, True, 1.0, None, "1")] == [0, 1, 2, 3, 4]


def test_a_normal_coordinate_is_a_probability() -> None:
    plain, log, stepped, whole = space_of(
        {
            "a": Normal(5, 2),
            "b": Normal(0, 1, log=True),
            "c": Normal(0, 10, step=5),
            "d": Normal(10, 3),
        },
        kinds={"d": int},
    )
    assert plain.value(0.5) == 5
    assert plain.value(0.975) == pytest.approx(NormalDist(5, 2).inv_cdf(0.975))
    assert log.value(0.5) == 1
    assert stepped.value(0.7) % 5 == 0
    assert isinstance(whole.value(0.31), int)
    assert math.isfinite(plain.value(0.0))
    assert math.isfinite(plain.value(1.0))
    assert plain.value(plain.coordinate(7.5)) == pytest.approx(7.5)


def test_a_beta_coordinate_is_its_quantile() -> None:
    uniform = Dimension(name="x", kind="float", shape="beta", of=(1.0, 1.0))
    assert [uniform.value(p) for p in (0.1, 0.5, 0.9)] == pytest.approx([0.1, 0.5, 0.9], abs=1e-9)
    bent = Dimension(name="x", kind="float", shape="beta", of=(2.0, 5.0))
    # From tables of the beta distribution with a = 2 and b = 5.
    assert [bent.value(p) for p in (0.05, 0.5, 0.95)] == pytest.approx([0.0628, 0.2644, 0.5818], abs=2e-4)


def test_weights_pick_by_their_share() -> None:
    one = Dimension(name="x", kind="float", choices=("a", "b", "c"), shape="weights", of=(0.2, 0.0, 0.8))
    assert [one.value(p) for p in (0.0, 0.19, 0.21, 0.9999, 1.0)] == ["a", "a", "c", "c", "c"]
    assert one.value(one.coordinate("c")) == "c"


def test_a_grid_is_the_product_the_last_dimension_first() -> None:
    space = space_of({"a": Choice("x", "y"), "b": Range(1, 3), "c": Range(0.0, 0.3, step=0.1)})
    assert grid_size(space) == 2 * 3 * 4
    first = [values_at(space, grid_point(space, number)) for number in range(5)]
    assert first[0] == {"a": "x", "b": 1, "c": 0.0}
    assert [one["c"] for one in first] == [0.0, 0.1, 0.2, 0.3, 0.0]
    assert first[4]["b"] == 2


def test_a_grid_without_end_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no end") as found:
        grid_size(space_of({"a": Choice(1), "lr": Range(0.0, 1.0)}))
    assert found.value.where == "space.lr"


def test_first_values_must_lie_inside() -> None:
    space = space_of({"a": Range(1, 10), "b": Choice("x")})
    assert point_of(space, {"a": 4, "b": "x"}) == {"a": 4, "b": 0}
    with pytest.raises(InvalidInput, match="'b' has no value"):
        point_of(space, {"a": 4})
    with pytest.raises(InvalidInput, match="outside"):
        point_of(space, {"a": 40, "b": "x"})
    with pytest.raises(InvalidInput, match="no number"):
        point_of(space, {"a": True, "b": "x"})
