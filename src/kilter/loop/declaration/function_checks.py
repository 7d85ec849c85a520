"""The functions of a declaration and their parameters: they must be found again, by name, in the stored file."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable

from kilter.core.words import did_you_mean
from kilter.loop.declaration.faults import Faults, shown


def check_function(faults: Faults, field: str, given: object) -> bool:
    """Say whether a function can be stored and found again by name."""
    file = faults.declared.filename
    name = getattr(given, "__qualname__", "")
    if not callable(given):
        faults.wrong(field, f"{shown(given)} was given", allowed="a function")
    elif name == "<lambda>":
        faults.wrong(
            field,
            "a lambda has no name by which it can be found again",
            allowed=f"a function written with def at the top level of {file}",
            fix=f"write def {field.partition('.')[0]}(...): and give that",
        )
    elif getattr(given, "__module__", None) != faults.declared.module or not faults.declared.source.defines(name):
        faults.wrong(
            field,
            f"{name or shown(given)} is not defined in {file}",
            allowed=f"a function written with def at the top level of {file}",
            fix="write a function here that calls it",
        )
    else:
        for unknown, known in faults.declared.source.unknown(name).items():
            faults.wrong(
                field, f"{name}() uses {unknown!r}, which nothing in {file} defines", fix=did_you_mean(unknown, known)
            )
        return True
    return False


def check_train(faults: Faults) -> None:
    """Check ``train`` and the parameters that it is handed."""
    loop = faults.loop
    if check_function(faults, "train", loop.train):
        required, most = _arity(loop.train)
        given = 1 if loop.params is None else 2
        if required > given:
            faults.wrong(
                "params",
                f"train takes {required} arguments and params is not given",
                fix="give params=Params(), or let train take the dataset alone",
            )
        elif most < given:
            faults.wrong("params", "train takes no parameters", fix="leave params out, or let train take them second")
        elif loop.params is not None:
            _params_kind(faults, loop.train, loop.params)
    _params(faults, loop.params)


def _params_kind(faults: Faults, train: Callable[..., object], params: object) -> None:
    """Note parameters of another class than ``train`` is annotated with."""
    try:
        hints = inspect.get_annotations(train, eval_str=True)
    except (NameError, TypeError, AttributeError, SyntaxError):
        return  # annotations that can't be resolved promise nothing
    second = list(inspect.signature(train).parameters)[1]
    kind = hints.get(second)
    if isinstance(kind, type) and not isinstance(params, kind):
        faults.wrong("params", f"{shown(params)} was given", allowed=f"{kind.__name__}(...), which train takes")


def _params(faults: Faults, params: object) -> None:
    if params is None:
        return
    if not dataclasses.is_dataclass(params) or isinstance(params, type):
        faults.wrong("params", f"{shown(params)} was given", allowed="a value of a frozen dataclass")
        return
    if not type(params).__dataclass_params__.frozen:  # type: ignore[attr-defined]
        faults.wrong("params", f"{type(params).__name__} can be changed after it was declared",
                    fix="write @dataclass(frozen=True)")  # fmt: skip
    if type(params).__module__ != faults.declared.module:
        faults.wrong("params", f"{type(params).__name__} is not defined in {faults.declared.filename}",
                    fix="write the class in the file, so that its source belongs to the declaration")  # fmt: skip


def _arity(function: Callable[..., object]) -> tuple[int, int]:
    """Return the least and the greatest number of positional arguments that a function takes."""
    required = most = 0
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in {parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD}:
            most += 1
            required += parameter.default is parameter.empty
        elif parameter.kind is parameter.VAR_POSITIONAL:
            most = 1000
        elif parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
            required = 1000
    return required, most
