"""A declaration as data: loaded from the user's file, written as JSON, and named by its digest."""

from __future__ import annotations

import dataclasses
import linecache
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import msgspec

from kilter.core.digests import digest, digest_json, short
from kilter.core.durations import format_duration, parse_duration
from kilter.core.errors import DeclarationError, InvalidInput
from kilter.data.declare import Columns, Label, Table, Window
from kilter.features.declare import FeatureView
from kilter.loop.declaration.frameworks import importing_later
from kilter.loop.declaration.source import Source
from kilter.loop.declare import AnyLoop, Loop

Json: TypeAlias = Any
"""A JSON value."""

_DURATION_FIELDS = frozenset({"bake", "limit", "over", "lag", "holdout", "every", "cooldown", "p99", "within"})
_BUDGET = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*cpu-(s|min|h)\s*/\s*day\s*$")
_BUDGET_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}

BUDGET_ALLOWED = 'CPU time per day, like "10 cpu-min/day", "90 cpu-s/day" or "2 cpu-h/day"'


@dataclass(frozen=True)
class Declared:
    """A loop with the text that it came from.

    Args:
        loop: The value.
        name: The loop's name.
        filename: The file's base name, for messages.
        text: The file's text: the snapshot from which the controller loads the loop again.
        source: The parsed text.
        module: The name of the module in which the text was run.
    """

    loop: AnyLoop
    name: str
    filename: str
    text: str
    source: Source
    module: str


# ---------------------------------------------------------------- loading


def load(path: str | Path, name: str | None = None) -> Declared:
    """Run a user's file and return the loop that it declares.

    Args:
        path: The file.
        name: The loop's name, or the name of its variable; needed when the file declares several.

    Raises:
        DeclarationError: When the file can't be read or run, declares no loop, or several and none was named.
    """
    return _choose(load_all(path), name, str(path))


def load_all(path: str | Path) -> list[Declared]:
    """Run a user's file and return every loop that it declares, in the order of the file.

    Raises:
        DeclarationError: When the file can't be read or run, with the file and the line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DeclarationError(
            f"the file can't be read: {reason}",
            where=str(path),
            fix="give the path of a Python file that declares a Loop",
        ) from error
    return _run(text, str(path))


def load_source(text: str, filename: str, name: str | None = None) -> Declared:
    """Run the stored text of a user's file and return the loop that it declares.

    Args:
        text: The text, as :class:`Declared` kept it.
        filename: What to call it in messages and tracebacks.
        name: The loop's name, or the name of its variable; needed when the text declares several.

    Raises:
        DeclarationError: As :func:`load`.
    """
    return _choose(_run(text, filename), name, filename)


def _run(text: str, filename: str) -> list[Declared]:
    source = Source(text, filename)
    module = ModuleType(f"kilter_declared_{short(digest(text.encode()))}")
    module.__file__ = filename
    module.__dict__["__builtins__"] = importing_later()
    # dataclasses and type hints look their module up by name; tracebacks look for the line in linecache
    sys.modules[module.__name__] = module
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    try:
        exec(compile(text, filename, "exec"), module.__dict__)  # noqa: S102 - running the user's own file is the purpose
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise _failed(error, filename) from error
    found = {id(loop): loop for loop in _loops(module.__dict__)}  # one value may have two names
    return [
        Declared(
            loop=loop, name=loop.name, filename=Path(filename).name, text=text, source=source, module=module.__name__
        )
        for loop in found.values()
    ]


def _loops(namespace: Mapping[str, object]) -> Iterator[AnyLoop]:
    for value in list(namespace.values()):
        if isinstance(value, Loop):
            yield value
        elif isinstance(value, list | tuple):
            yield from (item for item in value if isinstance(item, Loop))
        elif isinstance(value, dict):
            yield from (item for item in value.values() if isinstance(item, Loop))


def _failed(error: BaseException, filename: str) -> DeclarationError:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == filename]
    where = f"{filename}:{lines[-1]}" if lines else filename
    if isinstance(error, ModuleNotFoundError):
        fix = "install the package, or put what it holds into this file: a declaration is one file, so that it can be stored whole"
    elif isinstance(error, TypeError):
        fix = "compare the call with the names that it accepts"
    else:
        fix = "run the file with Python to see the whole traceback; it must only declare values"
    return DeclarationError(f"running the file failed: {type(error).__name__}: {error}", where=where, fix=fix)


def _choose(found: list[Declared], name: str | None, filename: str) -> Declared:
    if name is not None:
        for declared in found:
            variable = vars(sys.modules[declared.module]).get(name)
            if declared.name == name or variable is declared.loop:
                return declared
        raise DeclarationError(
            f"the file declares no loop named {name!r}",
            where=filename,
            allowed=", ".join(declared.name for declared in found) or "none: it declares no loop",
        )
    if len(found) == 1:
        return found[0]
    if not found:
        raise DeclarationError(
            "the file declares no loop", where=filename, fix="bind one to a name: loop = Loop(name=..., ...)"
        )
    raise DeclarationError(
        f"the file declares {len(found)} loops",
        where=filename,
        allowed=", ".join(declared.name for declared in found),
        fix="name one of them",
    )


# ---------------------------------------------------------------- the spec


class TableSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A table as declared."""

    name: str
    key: str
    time: str


class ColumnsSpec(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="columns"):
    """Columns of a table as inputs."""

    table: str
    names: tuple[str, ...]


class AggregateSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One windowed feature."""

    name: str
    operation: str
    over: str
    column: str
    resolution: float


class ViewSpec(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="features"):
    """Windowed features as inputs."""

    table: str
    entity: str
    time: str
    lag: str
    aggregates: tuple[AggregateSpec, ...]


class FunctionSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A function of the user's file, with the normalised source of all that it uses in that file."""

    name: str
    source: str


class LabelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The label as declared."""

    expression: FunctionSpec
    known_at: str


class ParamsSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters' class and values."""

    kind: str
    values: dict[str, Json]


class WindowSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One window of training."""

    train: str
    holdout: str
    mode: str


class PolicySpec(msgspec.Struct, frozen=True, kw_only=True):
    """A gate, a step of the release or a monitor: its class and its fields, durations in their shortest spelling."""

    kind: str
    values: dict[str, Json]


class RetrainSpec(msgspec.Struct, frozen=True, kw_only=True):
    """When a challenger is trained; ``on`` holds the names of monitors."""

    on: tuple[str, ...]
    every: str | None
    cooldown: str
    budget: str | None
    max_rejections: int


class LoopSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A whole declaration as JSON: equal on every machine, path and engine.

    Two declarations with the same spec do the same; its digest is what the journal, the registry and ``kilter plan``
    call the declaration.
    """

    name: str
    owner: str
    purpose: str
    tables: tuple[TableSpec, ...]
    inputs: tuple[ColumnsSpec | ViewSpec, ...]
    label: LabelSpec
    train: FunctionSpec
    params: ParamsSpec | None
    windows: tuple[WindowSpec, ...]
    gates: tuple[PolicySpec, ...]
    release: tuple[PolicySpec, ...]
    monitors: tuple[PolicySpec, ...]
    retrain: RetrainSpec
    fallback: float | None
    approve: dict[str, str]
    seed: int
    batch: tuple[PolicySpec, ...] | msgspec.UnsetType = msgspec.UNSET
    """Unset without one: a declaration that has no batch has the digest that it had before there were any."""

    @property
    def digest(self) -> str:
        """The digest of the whole declaration."""
        return digest_json(self)

    @property
    def data_digest(self) -> str:
        """The digest of what a model is built from: when it changes, a new model has to be trained."""
        return digest_json({field: getattr(self, field) for field in BUILD_FIELDS})

    def json(self) -> Json:
        """Return the spec as plain JSON values."""
        return msgspec.json.decode(msgspec.json.encode(self))


BUILD_FIELDS = ("tables", "inputs", "label", "train", "params", "windows", "seed")
"""The fields of a spec that a model is built from."""


def spec_from_json(value: Json) -> LoopSpec:
    """Return the spec that :meth:`LoopSpec.json` wrote."""
    return msgspec.convert(value, LoopSpec)


def spec_of(declared: Declared) -> LoopSpec:
    """Return a declaration as data.

    Raises:
        DeclarationError: When a function has no name in the file, or a value can't be written as JSON.
    """
    loop = declared.loop
    tables: dict[str, TableSpec] = {}
    for item in loop.inputs:
        tables.setdefault(item.table.name, _table(item.table))
    return LoopSpec(
        name=loop.name,
        owner=loop.owner,
        purpose=loop.purpose,
        tables=tuple(tables[name] for name in sorted(tables)),
        inputs=tuple(_input(item) for item in loop.inputs),
        label=_label(loop.label, declared),
        train=_function(loop.train, declared, "train", also=_class_name(loop.params)),
        params=_params(loop.params, declared),
        windows=tuple(_window(window) for window in loop.windows),
        gates=tuple(_policy(gate) for gate in loop.gates),
        release=tuple(_policy(step) for step in loop.release),
        monitors=tuple(_policy(monitor) for monitor in loop.monitors),
        retrain=RetrainSpec(
            on=tuple(monitor.name for monitor in loop.retrain.on),
            every=None if loop.retrain.every is None else _duration(loop.retrain.every),
            cooldown=_duration(loop.retrain.cooldown),
            budget=None if loop.retrain.budget is None else f"{parse_budget(loop.retrain.budget):g} cpu-s/day",
            max_rejections=loop.retrain.max_rejections,
        ),
        fallback=None if loop.fallback is None else float(loop.fallback),
        approve={str(environment): str(rule) for environment, rule in sorted(loop.approve.items())},
        seed=loop.seed,
        batch=tuple(_policy(batch) for batch in loop.batch) or msgspec.UNSET,
    )


def _table(table: Table) -> TableSpec:
    return TableSpec(name=table.name, key=table.key, time=table.time)


def _input(item: Columns | FeatureView) -> ColumnsSpec | ViewSpec:
    if isinstance(item, Columns):
        return ColumnsSpec(table=item.table.name, names=item.names)
    return ViewSpec(
        table=item.table.name,
        entity=item.entity,
        time=item.time,
        lag=_duration(item.lag),
        aggregates=tuple(
            AggregateSpec(
                name=name,
                operation=aggregate.operation,
                over=_duration(aggregate.over),
                column=aggregate.column,
                resolution=float(aggregate.resolution),
            )
            for name, aggregate in item.aggregates
        ),
    )


def _label(label: Label, declared: Declared) -> LabelSpec:
    return LabelSpec(expression=_function(label.expression, declared, "label"), known_at=label.known_at)


def _window(window: Window) -> WindowSpec:
    return WindowSpec(train=_duration(window.train), holdout=_duration(window.holdout), mode=window.mode)


def _function(function: object, declared: Declared, field: str, also: str = "") -> FunctionSpec:
    name = getattr(function, "__qualname__", "")
    if getattr(function, "__module__", None) != declared.module or not declared.source.defines(name):
        raise DeclarationError(
            f"{name or function!r} is not a function that the file defines by name",
            where=f"{declared.source.filename}: {field}",
            allowed="a function written with def at the top level of the same file",
            fix=f"write def {field}(...): in {declared.filename} and give that",
        )
    return FunctionSpec(name=name, source=declared.source.closure(*filter(None, (name, also))))


def _class_name(params: object) -> str:
    return "" if params is None else type(params).__qualname__


def _params(params: object, declared: Declared) -> ParamsSpec | None:
    if params is None:
        return None
    if not (dataclasses.is_dataclass(params) or isinstance(params, msgspec.Struct)):
        raise DeclarationError(
            f"params is a {type(params).__name__}",
            where=f"{declared.source.filename}: params",
            allowed="a frozen dataclass (or msgspec Struct) of plain values",
        )
    try:
        values = msgspec.json.decode(msgspec.json.encode(params))
    except (TypeError, ValueError) as error:
        raise DeclarationError(
            f"params can't be written as JSON: {error}",
            where=f"{declared.source.filename}: params",
            allowed="numbers, texts, booleans, None, and lists or dataclasses of them",
        ) from error
    return ParamsSpec(kind=type(params).__qualname__, values=values)


def _policy(value: object) -> PolicySpec:
    written = _written(value)
    return PolicySpec(kind=written.pop("kind"), values=written)


def _written(value: object) -> dict[str, Json]:
    """Return a policy value's fields as JSON, with the class under ``kind``."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        raise DeclarationError(f"{value!r} is no gate, step or monitor")
    fields: dict[str, Json] = {"kind": type(value).__name__}
    for field in dataclasses.fields(value):
        given = getattr(value, field.name)
        if field.name in _DURATION_FIELDS and isinstance(given, str):
            fields[field.name] = _duration(given)
        elif dataclasses.is_dataclass(given):
            fields[field.name] = _written(given)
        elif isinstance(given, tuple | list):
            fields[field.name] = [_written(one) if dataclasses.is_dataclass(one) else one for one in given]
        else:
            fields[field.name] = given
    return fields


def _duration(text: str) -> str:
    return format_duration(parse_duration(text)) if _has_length(text) else "0s"


def _has_length(text: str) -> bool:
    return not re.fullmatch(r"\s*0+(\.0+)?\s*(ms|s|m|h|d|w)\s*", text)


# ---------------------------------------------------------------- what ``decide`` needs


def parse_budget(text: str, *, where: str = "budget") -> float:
    """Return the CPU seconds per day that a text such as ``"10 cpu-min/day"`` names.

    Raises:
        InvalidInput: When the text is no budget.
    """
    found = _BUDGET.match(text) if isinstance(text, str) else None
    if found is None or float(found.group(1)) <= 0:
        raise InvalidInput(f"{text!r} is not a budget", where=where, allowed=BUDGET_ALLOWED)
    return float(found.group(1)) * _BUDGET_UNITS[found.group(2)]


def seconds_of(text: str) -> float:
    """Return the seconds of a duration of a spec, where none may be ``0s``."""
    return parse_duration(text).total_seconds() if _has_length(text) else 0.0
