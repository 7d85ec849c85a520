"""W&B's sweep files, read exactly: what has no equivalent is refused by name, and nothing is ignored in silence.

The format is that of W&B's documentation ("Sweep configuration options"). Numbers with a ``q_`` distribution are multiples of
``q``; ``log_uniform`` bounds are natural exponents; ``early_terminate: hyperband`` is successive halving without a fixed last step,
which is ASHA here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from kilter.core.errors import InvalidInput, Unavailable
from kilter.core.words import did_you_mean
from kilter.loop.tuning.declare import Sampler
from kilter.loop.tuning.records import Goal, PrunerSpec, StudySpec
from kilter.loop.tuning.searching import study_name
from kilter.loop.tuning.space import Dimension, Space, grid_size

COMMAND: Final = ("${env}", "${interpreter}", "${program}", "${args}")
"""What runs when the file names a program and no command."""

_MACROS: Final = (
    "${env}",
    "${interpreter}",
    "${program}",
    "${args}",
    "${args_no_hyphens}",
    "${args_no_boolean_flags}",
    "${args_json}",
    "${args_json_file}",
    "${envvar:NAME}",
)
_METHODS: Final[dict[str, Sampler]] = {"grid": "grid", "random": "random", "bayes": "tpe"}
_KEYS: Final = (
    "name",
    "description",
    "project",
    "entity",
    "program",
    "command",
    "method",
    "metric",
    "parameters",
    "early_terminate",
    "run_cap",
)
_ELSEWHERE: Final = {
    "job": "jobs of W&B Launch run on W&B's queues",
    "launch": "W&B Launch runs on W&B's queues",
    "scheduler": "W&B Launch runs on W&B's queues",
    "image_uri": "W&B Launch runs on W&B's queues",
    "controller": "W&B's controller chooses there; here the search does",
    "settings": "they are settings of W&B's own agent",
    "prior_runs": "runs of W&B are not known here",
}
_PLAIN: Final = (str, int, float, bool, type(None))

_FIELDS: Final[dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "constant": (("value",), ()),
    "categorical": (("values",), ("probabilities",)),
    "categorical_w_probabilities": (("values", "probabilities"), ()),
    "int_uniform": (("min", "max"), ()),
    "uniform": (("min", "max"), ()),
    "q_uniform": (("min", "max"), ("q",)),
    "log_uniform": (("min", "max"), ()),
    "log_uniform_values": (("min", "max"), ()),
    "q_log_uniform": (("min", "max"), ("q",)),
    "q_log_uniform_values": (("min", "max"), ("q",)),
    "inv_log_uniform": (("min", "max"), ()),
    "inv_log_uniform_values": (("min", "max"), ()),
    "normal": ((), ("mu", "sigma")),
    "q_normal": ((), ("mu", "sigma", "q")),
    "log_normal": ((), ("mu", "sigma")),
    "q_log_normal": ((), ("mu", "sigma", "q")),
    "beta": ((), ("a", "b")),
    "q_beta": ((), ("a", "b", "q")),
}
"""Per distribution: what it must say, and what it may say."""


class Sweep(msgspec.Struct, frozen=True, kw_only=True):
    """A sweep file as a study.

    Args:
        spec: The study.
        experiment: The file's project, or the study's name.
        trials: The file's ``run_cap``, or all of a grid.
        said: What people said about it: description and entity.
    """

    spec: StudySpec
    experiment: str
    trials: int | None
    said: dict[str, str]


def load_sweep(path: Path, name: str = "", seed: int = 0) -> Sweep:
    """Read a sweep file.

    Args:
        path: A ``.yaml``, ``.yml`` or ``.json`` file.
        name: The study's name; made from the file and its content, if not said.
        seed: Of the search.

    Raises:
        InvalidInput: With the file, the field, what was given, what is allowed and the fix.
        Unavailable: When a YAML file can't be read because PyYAML is not installed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InvalidInput("there is no such file", where=str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"the file can't be read: {error}", where=str(path)) from None
    return sweep_of(_parsed(text, path), file=str(path), name=name, seed=seed)


def sweep_of(given: object, *, file: str = "sweep.yaml", name: str = "", seed: int = 0) -> Sweep:
    """Return a sweep's configuration as a study.

    Raises:
        InvalidInput: As :func:`load_sweep`.
    """
    if not isinstance(given, Mapping):
        raise InvalidInput(
            f"a {type(given).__name__} was given", where=file, allowed="a mapping with method and parameters"
        )
    for key in given:
        if key in _ELSEWHERE:
            raise InvalidInput(
                f"{key!r} has no equivalent: {_ELSEWHERE[key]}", where=f"{file}: {key}", fix="leave it out"
            )
        if key not in _KEYS:
            raise InvalidInput(
                f"{key!r} is no field of a sweep", where=f"{file}: {key}", allowed=", ".join(_KEYS),
                fix=did_you_mean(key, _KEYS),
            )  # fmt: skip
    method = given.get("method")
    if method not in _METHODS:
        raise InvalidInput(
            f"{method!r} was given",
            where=f"{file}: method",
            allowed=", ".join(_METHODS),
            fix=did_you_mean(method, _METHODS),
        )
    space = _space(given.get("parameters"), f"{file}: parameters")
    sampler = _METHODS[method]
    if sampler == "grid":
        grid_size(space)
    goal = _goal(given.get("metric"), f"{file}: metric", needed=method == "bayes" or "early_terminate" in given)
    command, program = _command(given, file)
    detail: dict[str, Any] = {"command": list(command), "program": program}
    cap = given.get("run_cap")
    if cap is not None and (isinstance(cap, bool) or not isinstance(cap, int) or cap < 1):
        raise InvalidInput(f"{cap!r} was given", where=f"{file}: run_cap", allowed="a whole number, 1 or more")
    pruner = _pruner(given.get("early_terminate"), f"{file}: early_terminate")
    stem = str(given.get("name") or Path(file).stem)
    spec = StudySpec(
        name=name or study_name(stem, [dict(given), seed]),
        kind="command",
        space=space,
        goals=(goal,),
        sampler=sampler,
        pruner=pruner,
        seed=seed,
        detail=detail,
    )
    return Sweep(
        spec=spec,
        experiment=str(given.get("project") or spec.name),
        trials=cap if cap is not None else (grid_size(space) if sampler == "grid" else None),
        said={key: str(given[key]) for key in ("description", "entity") if given.get(key)},
    )


def _parsed(text: str, path: Path) -> object:
    if path.suffix == ".json":
        try:
            return msgspec.json.decode(text)
        except msgspec.DecodeError as error:
            raise InvalidInput(f"that is no JSON: {error}", where=str(path)) from None
    try:
        return msgspec.yaml.decode(text)
    except ImportError as error:
        raise Unavailable("reading YAML needs PyYAML", where=str(path), fix="pip install 'kilter[tune]'") from error
    except msgspec.DecodeError as error:
        raise InvalidInput(f"that is no YAML: {error}", where=str(path)) from None


def _space(given: object, where: str) -> Space:
    if not isinstance(given, Mapping) or not given:
        raise InvalidInput("there is nothing to search", where=where, allowed="a name with values, or with min and max")
    found: list[Dimension] = []
    for name, said in given.items():
        at = f"{where}.{name}"
        if not isinstance(said, Mapping):
            raise InvalidInput(
                f"{said!r} was given", where=at, allowed="value, values, or min and max", fix=f"value: {said}"
            )
        if "parameters" in said:
            if set(said) - {"parameters"}:
                raise InvalidInput("a group holds parameters only", where=at, allowed="parameters")
            found += [msgspec.structs.replace(one, name=f"{name}.{one.name}") for one in _space(said["parameters"], at)]
        else:
            found.append(_dimension(str(name), said, at))
    return tuple(found)


def _dimension(name: str, said: Mapping[str, Any], at: str) -> Dimension:
    distribution = said.get("distribution") or _inferred(said, at)
    if distribution not in _FIELDS:
        raise InvalidInput(
            f"{distribution!r} was given",
            where=f"{at}.distribution",
            allowed=", ".join(_FIELDS),
            fix=did_you_mean(distribution, _FIELDS),
        )
    needed, optional = _FIELDS[distribution]
    for key in needed:
        if key not in said:
            raise InvalidInput(f"{distribution} says no {key}", where=at, allowed=", ".join((*needed, *optional)))
    for key in said:
        if key not in {*needed, *optional, "distribution"}:
            raise InvalidInput(
                f"{distribution} has no {key!r}", where=f"{at}.{key}", allowed=", ".join((*needed, *optional)),
                fix=did_you_mean(key, (*needed, *optional)),
            )  # fmt: skip
    if distribution in {"constant", "categorical", "categorical_w_probabilities"}:
        return _categories(name, said, at)
    for key in ("min", "max", "q", "mu", "sigma", "a", "b"):
        if key in said and (
            isinstance(said[key], bool) or not isinstance(said[key], int | float) or not math.isfinite(said[key])
        ):
            raise InvalidInput(f"{said[key]!r} is no number", where=f"{at}.{key}", allowed="a finite number",
                               fix="YAML reads 1e-3 as a text: write 1.0e-3" if isinstance(said[key], str) else "")  # fmt: skip
    if "min" in said:
        return _between(name, distribution, said, at)
    return _shaped(name, distribution, said, at)


def _inferred(said: Mapping[str, Any], at: str) -> str:
    if "value" in said:
        return "constant"
    if "values" in said:
        return "categorical"
    if "min" in said and "max" in said:
        whole = all(isinstance(said[key], int) and not isinstance(said[key], bool) for key in ("min", "max"))
        return "int_uniform" if whole else "uniform"
    raise InvalidInput(
        "it says neither value, nor values, nor min and max", where=at, allowed="one of these, or distribution"
    )


def _categories(name: str, said: Mapping[str, Any], at: str) -> Dimension:
    values = [said["value"]] if "value" in said else said["values"]
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise InvalidInput(f"{values!r} was given", where=f"{at}.values", allowed="a list of one or more values")
    if len({msgspec.json.encode(value) for value in values}) < len(values):
        raise InvalidInput("a value is there twice", where=f"{at}.values", allowed="each value once")
    weights = said.get("probabilities")
    if weights is None:
        return Dimension(name=name, kind="choice", choices=tuple(values))
    usable = isinstance(weights, Sequence) and all(
        isinstance(weight, int | float) and not isinstance(weight, bool) and 0 <= weight <= 1 for weight in weights
    )
    if not usable or len(weights) != len(values) or not math.isclose(sum(weights), 1.0, abs_tol=1e-6):
        raise InvalidInput(
            f"{weights!r} was given", where=f"{at}.probabilities", allowed=f"{len(values)} numbers that add up to 1"
        )
    return Dimension(
        name=name, kind="float", choices=tuple(values), shape="weights", of=tuple(float(weight) for weight in weights)
    )


def _between(name: str, distribution: str, said: Mapping[str, Any], at: str) -> Dimension:
    low, high = said["min"], said["max"]
    if not low < high:
        raise InvalidInput(f"min {low!r} and max {high!r}", where=at, allowed="a min below the max")
    quantum = said.get("q", 1) if distribution.startswith("q_") else None
    if quantum is not None and quantum <= 0:
        raise InvalidInput(f"{quantum!r} was given", where=f"{at}.q", allowed="more than 0")
    if distribution == "int_uniform":
        if not (isinstance(low, int) and isinstance(high, int)):
            raise InvalidInput(f"min {low!r} and max {high!r}", where=at, allowed="whole numbers, or uniform")
        return Dimension(name=name, kind="int", low=low, high=high)
    if distribution == "uniform":
        return Dimension(name=name, kind="float", low=low, high=high)
    if distribution == "q_uniform":
        return _multiples(name, low, high, 1 if quantum is None else quantum, at)
    least, most = _logarithmic(distribution, low, high, at)
    if quantum is None:
        return Dimension(name=name, kind="float", low=least, high=most, log=True)
    return Dimension(
        name=name,
        kind="float",
        low=least,
        high=most,
        log=True,
        shape="rounded",
        quantum=float(quantum),
        whole=isinstance(quantum, int),
    )


def _multiples(name: str, low: float, high: float, quantum: float, at: str) -> Dimension:
    """Return the multiples of ``q`` between two bounds, whole ones of a whole ``q``."""
    first, last = math.ceil(low / quantum - 1e-9), math.floor(high / quantum + 1e-9)
    if first > last:
        raise InvalidInput(f"no multiple of {quantum!r} is there", where=at, allowed="a q below max - min")
    if isinstance(quantum, int):
        return Dimension(name=name, kind="int", low=first * quantum, high=last * quantum, step=quantum)
    bounds = [float(f"{end * quantum:.12g}") for end in (first, last)]
    return Dimension(name=name, kind="float", low=bounds[0], high=bounds[1], step=quantum)


def _logarithmic(distribution: str, low: float, high: float, at: str) -> tuple[float, float]:
    """Return the bounds of what is searched evenly over orders of magnitude."""
    if distribution.endswith("_values"):  # log(1/X) is uniform exactly when log(X) is: "inv" makes no difference
        if low <= 0:
            raise InvalidInput(f"{low!r} has no logarithm", where=f"{at}.min", allowed="more than 0")
        return float(low), float(high)
    try:
        least, most = math.exp(low), math.exp(high)
    except OverflowError:
        raise InvalidInput(
            f"e to the power of {high!r} is too large",
            where=f"{at}.max",
            allowed="the natural exponent",
            fix="log_uniform takes exponents: use log_uniform_values for the numbers themselves",
        ) from None
    return (1 / most, 1 / least) if distribution.startswith("inv_") else (least, most)


def _shaped(name: str, distribution: str, said: Mapping[str, Any], at: str) -> Dimension:
    quantum = float(said.get("q", 1)) if distribution.startswith("q_") else None
    if quantum is not None and quantum <= 0:
        raise InvalidInput(f"{quantum!r} was given", where=f"{at}.q", allowed="more than 0")
    if distribution.endswith("beta"):
        of = (float(said.get("a", 1)), float(said.get("b", 1)))
        if min(of) <= 0:
            raise InvalidInput(f"a and b of {of}", where=at, allowed="more than 0")
        return Dimension(name=name, kind="float", shape="beta", of=of, quantum=quantum)
    of = (float(said.get("mu", 0)), float(said.get("sigma", 1)))
    if of[1] <= 0:
        raise InvalidInput(f"{of[1]!r} was given", where=f"{at}.sigma", allowed="more than 0")
    shape: Any = "log_normal" if distribution.endswith("log_normal") else "normal"
    return Dimension(name=name, kind="float", shape=shape, of=of, quantum=quantum)


def _goal(given: object, where: str, *, needed: bool) -> Goal:
    if given is None and not needed:
        return Goal(metric="loss")
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str) or not given["name"]:
        raise InvalidInput(f"{given!r} was given", where=where, allowed="name, goal (minimize or maximize) and target")
    for key in given:
        if key not in {"name", "goal", "target"}:
            raise InvalidInput(f"a metric has no {key!r}", where=f"{where}.{key}", allowed="name, goal, target")
    goal = given.get("goal", "minimize")
    if goal not in {"minimize", "maximize"}:
        raise InvalidInput(f"{goal!r} was given", where=f"{where}.goal", allowed="minimize or maximize",
                           fix=did_you_mean(goal, ("minimize", "maximize")))  # fmt: skip
    target = given.get("target")
    if target is not None and (isinstance(target, bool) or not isinstance(target, int | float)):
        raise InvalidInput(f"{target!r} was given", where=f"{where}.target", allowed="a number")
    return Goal(metric=given["name"], direction=goal, target=None if target is None else float(target))


def _command(given: Mapping[str, Any], file: str) -> tuple[tuple[str, ...], str]:
    command, program = given.get("command"), given.get("program", "")
    if not isinstance(program, str):
        raise InvalidInput(f"{program!r} was given", where=f"{file}: program", allowed="the path of a program")
    parts = COMMAND if command is None else command
    if isinstance(parts, str) or not isinstance(parts, Sequence) or not parts:
        raise InvalidInput(f"{command!r} was given", where=f"{file}: command", allowed="a list of its parts",
                           fix="write each part as an item of a list")  # fmt: skip
    for part in parts:
        if not isinstance(part, str | int | float):
            raise InvalidInput(f"{part!r} was given", where=f"{file}: command", allowed="texts")
        known = (
            part in _MACROS or not isinstance(part, str) or not part.startswith("${") or part.startswith("${envvar:")
        )
        if not known:
            raise InvalidInput(f"{part!r} was given", where=f"{file}: command", allowed=", ".join(_MACROS),
                               fix=did_you_mean(part, _MACROS))  # fmt: skip
    if "${program}" in parts and not program:
        raise InvalidInput(
            "there is no program", where=f"{file}: program", allowed="the path of a program", fix="program: train.py"
        )
    return tuple(str(part) for part in parts), program


def _pruner(given: object, where: str) -> PrunerSpec:
    if given is None:
        return PrunerSpec()
    if not isinstance(given, Mapping) or given.get("type") != "hyperband":
        kind = given.get("type") if isinstance(given, Mapping) else given
        raise InvalidInput(f"{kind!r} was given", where=f"{where}.type", allowed="hyperband")
    for key, value in given.items():
        if key not in {"type", "min_iter", "max_iter", "s", "eta", "strict"}:
            raise InvalidInput(
                f"hyperband has no {key!r}", where=f"{where}.{key}", allowed="min_iter, max_iter, s, eta, strict"
            )
        if key in {"min_iter", "max_iter", "s", "eta"} and (
            isinstance(value, bool) or not isinstance(value, int) or value < 1
        ):
            raise InvalidInput(f"{value!r} was given", where=f"{where}.{key}", allowed="a whole number, 1 or more")
    factor = given.get("eta", 3)
    if factor < 2:
        raise InvalidInput(f"{factor!r} was given", where=f"{where}.eta", allowed="2 or more")
    if "min_iter" in given and "max_iter" in given:
        raise InvalidInput("min_iter and max_iter are there both", where=where, allowed="min_iter, or max_iter with s")
    if "min_iter" in given:
        return PrunerSpec(kind="asha", first=given["min_iter"], factor=factor)
    if "max_iter" in given and "s" in given:
        first = max(given["max_iter"] // factor ** given["s"], 1)
        return PrunerSpec(kind="asha", first=first, factor=factor)
    raise InvalidInput("it says not where the first bracket is", where=where, allowed="min_iter, or max_iter with s")
