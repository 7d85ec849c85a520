"""A search space as data: dimensions with an inner coordinate that samplers work on, and the value that it stands for.

Most dimensions are their own coordinate. A normal or weighted one is searched as a probability between 0 and 1, and its
value is the quantile, so that every sampler sees the declared prior.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

import msgspec

from kilter.core.errors import InvalidInput
from kilter.core.words import did_you_mean
from kilter.loop.tuning.declare import Choice, Normal, Range, Values

Point: TypeAlias = dict[str, Any]
"""A coordinate per dimension."""

_NAME = re.compile(r"^[A-Za-z_][\w.\-]{0,199}$")
_MOST_CHOICES = 10_000
_LARGEST_WHOLE = 2**53
_ALLOWED = "Range(low, high), Choice(value, ...) or Normal(mean, deviation)"


class Dimension(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One parameter of a space.

    Args:
        name: The parameter.
        kind: Of the coordinate: ``int``, ``float``, or ``choice``, whose coordinate is the position among the choices.
        low: The least coordinate.
        high: The greatest coordinate.
        log: The coordinate is searched over orders of magnitude.
        step: The coordinate's step.
        choices: The values of a choice.
        shape: What the coordinate stands for, if it is not the value itself: a probability whose quantile is the value
            (``normal``, ``log_normal``, ``beta``), one that picks a choice by its ``weights``, or a number to be ``rounded``.
        of: The shape's parameters: mean and deviation, the two of a beta, or the weights.
        quantum: Values are rounded to multiples of it.
        whole: Values are whole numbers.
    """

    name: str
    kind: Literal["int", "float", "choice"]
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    step: float | None = None
    choices: tuple[Any, ...] = ()
    shape: Literal["", "normal", "log_normal", "beta", "weights", "rounded"] = ""
    of: tuple[float, ...] = ()
    quantum: float | None = None
    whole: bool = False

    def value(self, coordinate: Any) -> Any:
        """Return the value at a coordinate."""
        if self.kind == "choice":
            return self.choices[int(coordinate)]
        if self.shape == "weights":
            return self.choices[_picked(self.of, float(coordinate))]
        found = float(coordinate)
        if self.shape in {"normal", "log_normal"}:
            found = NormalDist(*self.of).inv_cdf(min(max(found, 1e-12), 1 - 1e-12))
            found = math.exp(found) if self.shape == "log_normal" else found
        elif self.shape == "beta":
            found = _beta_quantile(found, *self.of)
        if self.quantum is not None:
            found = _multiple(found, self.quantum)
        return round(found) if self.kind == "int" or self.whole else found

    def coordinate(self, value: Any) -> Any:
        """Return a coordinate whose value this is.

        Raises:
            InvalidInput: When the value is outside of the dimension.
        """
        if self.choices:
            place = next((i for i, one in enumerate(self.choices) if one == value and type(one) is type(value)), None)
            if place is None:
                raise InvalidInput(f"{value!r}", where=self.name, allowed=", ".join(map(repr, self.choices)))
            if self.kind == "choice":
                return place
            return (sum(self.of[:place]) + self.of[place] / 2) / sum(self.of)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise InvalidInput(f"{value!r} is no number", where=self.name)
        if self.shape == "normal":
            return NormalDist(*self.of).cdf(value)
        if self.shape == "log_normal" and value > 0:
            return NormalDist(*self.of).cdf(math.log(value))
        if self.shape in {"beta", "log_normal"} or not self.low <= value <= self.high:
            raise InvalidInput(f"{value!r} is outside", where=self.name, allowed=f"{self.low:g} to {self.high:g}")
        return int(value) if self.kind == "int" else float(value)

    @property
    def grid(self) -> tuple[Any, ...] | None:
        """Every coordinate in order, or None when there are infinitely many."""
        if self.kind == "choice":
            return tuple(range(len(self.choices)))
        if self.shape or (self.kind == "float" and self.step is None):
            return None
        step = self.step or 1
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        if self.kind == "int":
            return tuple(int(self.low) + int(step) * i for i in range(count))
        return tuple(float(f"{self.low + step * i:.12g}") for i in range(count))


Space: TypeAlias = tuple[Dimension, ...]


def space_of(space: Mapping[str, Values], *, where: str = "space", kinds: Mapping[str, type] | None = None) -> Space:
    """Return the dimensions of a space.

    Args:
        space: What each parameter may be.
        where: What to call it in messages.
        kinds: The types of the parameters where they are known: a ``float`` is searched over numbers that are not whole.

    Raises:
        InvalidInput: When it can't be searched; the message names the parameter.
    """
    if not isinstance(space, Mapping) or not space:
        raise InvalidInput(
            "there is nothing to search",
            where=where,
            allowed=f"a parameter's name with {_ALLOWED}",
            fix='such as {"trees": Range(20, 400, log=True)}',
        )
    return tuple(_dimension(name, values, where, (kinds or {}).get(name)) for name, values in space.items())


def space_of_params(params: object, given: Mapping[str, Values] | None = None) -> Space:
    """Return the space of a dataclass's fields: what their annotations say, and over them what is given.

    Raises:
        InvalidInput: When a name is no field, or a default is outside of its own space.
    """
    where = type(params).__name__
    if not dataclasses.is_dataclass(params) or isinstance(params, type):
        raise InvalidInput("there are no parameters to search over", where="params", fix="give params=Params()")
    names = [field.name for field in dataclasses.fields(params)]
    unknown = next((name for name in given or {} if name not in names), None)
    if unknown is not None:
        raise InvalidInput(
            f"{unknown!r} is no field of {where}",
            where=f"tune.space.{unknown}",
            allowed=", ".join(names),
            fix=did_you_mean(unknown, names),
        )
    said, kinds = _annotated(type(params))
    merged = {**said, **(given or {})}
    found = {name: merged[name] for name in names if name in merged}
    if not found:
        raise InvalidInput(
            f"no field of {where} says what it may be",
            where="params",
            allowed=f"{_ALLOWED} beside the field's type, or in Tune(space=...)",
            fix=f"write {names[0] if names else 'trees'}: Annotated[int, Range(20, 400, log=True)] = ...",
        )
    space = space_of(found, where=where, kinds=kinds)
    for dimension in space:
        default = getattr(params, dimension.name)
        try:
            dimension.coordinate(default)
        except InvalidInput as error:
            raise InvalidInput(
                f"the declared value {default!r} is outside of its own space",
                where=f"{where}.{dimension.name}",
                allowed=error.allowed,
                fix="widen the space, or change the value: the declared values are tried first",
            ) from error
    return space


def _annotated(kind: type) -> tuple[dict[str, Values], dict[str, type]]:
    """Return what the fields of a class say they may be, and their types."""
    found: dict[str, Values] = {}
    kinds: dict[str, type] = {}
    for name, written in get_type_hints(kind, include_extras=True).items():
        hint = written
        if get_origin(hint) is Annotated:
            hint, *extras = get_args(hint)
            said = next((extra for extra in extras if isinstance(extra, Range | Choice | Normal)), None)
            if said is not None:
                found[name] = said
        if isinstance(hint, type):
            kinds[name] = hint
    return found, kinds


def values_at(space: Space, point: Point) -> dict[str, Any]:
    """Return the values at a point."""
    return {one.name: one.value(point[one.name]) for one in space}


def point_of(space: Space, values: Mapping[str, Any]) -> Point:
    """Return a point with these values.

    Raises:
        InvalidInput: When one is missing or outside of the space.
    """
    missing = [one.name for one in space if one.name not in values]
    if missing:
        raise InvalidInput(f"{missing[0]!r} has no value", where="first", allowed="a value for each parameter")
    return {one.name: one.coordinate(values[one.name]) for one in space}


def grid_size(space: Space) -> int:
    """Return how many points a grid has.

    Raises:
        InvalidInput: When a dimension has infinitely many.
    """
    size = 1
    for one in space:
        size *= len(_finite(one))
    return size


def grid_point(space: Space, number: int) -> Point:
    """Return one point of the grid; each number below :func:`grid_size` names another, the last dimension changes first."""
    point: Point = {}
    for one in reversed(space):
        number, place = divmod(number, len(_finite(one)))
        point[one.name] = _finite(one)[place]
    return {one.name: point[one.name] for one in space}


def _finite(one: Dimension) -> tuple[Any, ...]:
    found = one.grid
    if found is None:
        raise InvalidInput(
            "a grid has no end here",
            where=f"space.{one.name}",
            allowed="Choice(...), whole numbers, or Range(..., step=...)",
            fix="give it a step, or search with tpe or random",
        )
    return found


def _dimension(name: str, values: object, where: str, kind: type | None) -> Dimension:
    at = f"{where}.{name}"
    if not isinstance(name, str) or not _NAME.match(name):
        raise InvalidInput(
            f"{name!r} can't be the name of a parameter", where=where, allowed="letters, digits, _, . or -"
        )
    match values:
        case Choice():
            return _choice(name, values, at)
        case Range():
            return _range(name, values, at, kind)
        case Normal():
            return _normal(name, values, at, kind)
    raise InvalidInput(f"{values!r} was given", where=at, allowed=_ALLOWED)


def _choice(name: str, given: Choice, at: str) -> Dimension:
    values = given.values
    if len(values) == 1 and isinstance(values[0], list | tuple | set | dict):
        raise InvalidInput("the choices are one list", where=at, fix="write Choice('a', 'b'), without the brackets")
    if not 1 <= len(values) <= _MOST_CHOICES:
        raise InvalidInput(f"{len(values)} values", where=at, allowed=f"1 to {_MOST_CHOICES:,}")
    try:
        plain = tuple(msgspec.json.decode(msgspec.json.encode(value)) for value in values)
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            f"a value can't be kept: {error}", where=at, allowed="texts, numbers, booleans, None"
        ) from error
    if len({msgspec.json.encode(value) for value in plain}) < len(plain):
        raise InvalidInput("a value is there twice", where=at, allowed="each value once")
    return Dimension(name=name, kind="choice", choices=plain)


def _range(name: str, given: Range, at: str, kind: type | None) -> Dimension:
    low, high, step = given.low, given.high, given.step
    for number in (low, high, *(() if step is None else (step,))):
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise InvalidInput(f"{number!r} is no bound", where=at, allowed="finite numbers")
    whole = all(isinstance(number, int) for number in (low, high, step or 1))
    if kind is int and not whole:
        raise InvalidInput(f"Range({low!r}, {high!r}) of a whole number", where=at, allowed="whole bounds and step")
    if kind is not None and kind not in {int, float}:
        raise InvalidInput(f"a {kind.__name__} has no range", where=at, allowed="Choice(value, ...)")
    whole = whole and kind is not float
    if not low <= high:
        raise InvalidInput(f"from {low!r} to {high!r}", where=at, allowed="the least number first")
    if max(abs(low), abs(high)) > _LARGEST_WHOLE and whole:
        raise InvalidInput(f"from {low!r} to {high!r}", where=at, allowed="whole numbers up to 2**53")
    if given.log and low <= 0:
        raise InvalidInput(f"{low!r} has no logarithm", where=at, allowed="a range above 0 with log=True")
    if step is not None and not 0 < step <= max(high - low, step if low == high else 0):
        raise InvalidInput(f"step={step!r}", where=at, allowed="above 0, and not wider than the range")
    if given.log and step is not None:
        return Dimension(
            name=name, kind="float", low=low, high=high, log=True, shape="rounded", quantum=step, whole=whole
        )
    return Dimension(name=name, kind="int" if whole else "float", low=low, high=high, log=given.log, step=step)


def _normal(name: str, given: Normal, at: str, kind: type | None) -> Dimension:
    numbers = (given.mean, given.deviation, *(() if given.step is None else (given.step,)))
    if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
        raise InvalidInput(f"{given!r}", where=at, allowed="finite numbers")
    if given.deviation <= 0 or (given.step is not None and given.step <= 0):
        raise InvalidInput(f"{given!r}", where=at, allowed="a deviation and a step above 0")
    if kind is not None and kind not in {int, float}:
        raise InvalidInput(f"a {kind.__name__} is not normally distributed", where=at, allowed="Choice(value, ...)")
    return Dimension(
        name=name,
        kind="float",
        shape="log_normal" if given.log else "normal",
        of=(float(given.mean), float(given.deviation)),
        quantum=given.step if given.step is not None else (1.0 if kind is int else None),
        whole=kind is int,
    )


def _multiple(number: float, quantum: float) -> float:
    return float(f"{round(number / quantum) * quantum:.12g}")


def _picked(weights: Sequence[float], probability: float) -> int:
    left = probability * sum(weights)
    for place, weight in enumerate(weights):
        left -= weight
        if left < 0:
            return place
    return max(place for place, weight in enumerate(weights) if weight > 0)


def _beta_quantile(probability: float, a: float, b: float) -> float:
    """Return the quantile of a beta distribution, by halving: its distribution function rises from 0 to 1."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if _beta_cdf(middle, a, b) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _beta_cdf(x: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function (continued fraction of Lentz; Numerical Recipes 6.4)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta_cdf(1 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    tiny, c, d = 1e-300, 1.0, 1 / max(1 - (a + b) * x / (a + 1), 1e-300)
    total = d
    for m in range(1, 300):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / (1 + term * d or tiny)
            c = 1 + term / c or tiny
            total *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    return front * total
