"""The little language in which runs and experiments are asked for, which is that of MLflow and a little more.

``metrics.auc > 0.7 and params.trees = 80 and tags.team LIKE 'ops%' and status = 'FINISHED'``
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import GenericFunction

from kilter.core.errors import InvalidInput
from kilter.engines.sql.types import json_text
from kilter.tracking.tables import experiment_tags, experiments, params, runs, summaries, tags

View = Literal["alive", "deleted", "all"]
Test: TypeAlias = sa.ColumnElement[bool]

ALLOWED = (
    "comparisons joined by 'and': FIELD OPERATOR VALUE, where a field is status, name, experiment, run_id, start_time, end_time, "
    "metrics.NAME, params.NAME or tags.NAME, an operator is =, !=, <, <=, >, >=, LIKE, ILIKE, IN, NOT IN, IS NULL or IS NOT NULL, "
    "and texts stand in quotes"
)

_CLAUSE = re.compile(
    r"""\s*(?P<field>(?:[A-Za-z]+\.)?(?:`[^`]+`|"[^"]+"|[\w/.\-]+))\s*
        (?:(?P<null>is\s+(?:not\s+)?null\b)
        |(?P<operator>!=|<=|>=|=|<|>|not\s+in\b|in\b|like\b|ilike\b)\s*
         (?P<value>\([^()]*\)|'[^']*'|"[^"]*"|[-+]?[\w.+\-]+))\s*""",
    re.VERBOSE | re.IGNORECASE,
)
_AND = re.compile(r"and\b", re.IGNORECASE)
_QUOTED = re.compile(r"\s*(?:'([^']*)'|\"([^\"]*)\")\s*(?:,|$)")
_KINDS = {
    "metrics": ("metric", "metrics"),
    "params": ("param", "params", "parameter", "parameters"),
    "tags": ("tag", "tags"),
    "": ("attribute", "attributes", "attr", "run"),
}
_KIND = {word: kind for kind, words in _KINDS.items() for word in words}
_NAMES = {
    "run_id": "id",
    "run_name": "name",
    "Run name": "name",
    "Run Name": "name",
    "run name": "name",
    "start_time": "started_at",
    "created": "started_at",
    "Created": "started_at",
    "started": "started_at",
    "end_time": "ended_at",
    "ended": "ended_at",
}
_COLUMNS = (
    "id",
    "status",
    "experiment",
    "name",
    "started_at",
    "ended_at",
    "spec",
    "data_digest",
    "code_digest",
    "environment",
)
_EXPERIMENT_COLUMNS = {
    "name": "name",
    "experiment_id": "id",
    "creation_time": "created_at",
    "created": "created_at",
    "last_update_time": "changed_at",
    "changed": "changed_at",
}
_USER = "mlflow.user"
_STATUSES = {"KILLED": "INTERRUPTED"}

COMPARE: dict[str, Callable[[Any, Any], Test]] = {
    "=": lambda column, value: column == value,
    "!=": lambda column, value: column != value,
    "<": lambda column, value: column < value,
    "<=": lambda column, value: column <= value,
    ">": lambda column, value: column > value,
    ">=": lambda column, value: column >= value,
}


class like(GenericFunction[bool]):  # noqa: N801 - SQLAlchemy names a function after its class
    """A comparison with a pattern that minds the case, which SQLite's own LIKE does not: column, pattern, and the pattern as a GLOB."""

    type = sa.Boolean()
    inherit_cache = True


@compiles(like)
def _like(element: like, compiler: SQLCompiler, **options: Any) -> str:
    column, pattern, _ = element.clauses
    return f"({compiler.process(column, **options)} LIKE {compiler.process(pattern, **options)})"


@compiles(like, "sqlite")
def _glob(element: like, compiler: SQLCompiler, **options: Any) -> str:
    column, _, pattern = element.clauses
    return f"({compiler.process(column, **options)} GLOB {compiler.process(pattern, **options)})"


_TO_GLOB = str.maketrans({"%": "*", "_": "?", "*": "[*]", "?": "[?]", "[": "[[]"})


def condition(text: str) -> Test:
    """Return a filter as a condition on the table of runs.

    Raises:
        InvalidInput: When the text can't be read; the message points at the place.
    """
    return sa.and_(*(_on_runs(*clause) for clause in clauses(text)))


def experiment_condition(text: str) -> Test:
    """Return a filter as a condition on the table of experiments.

    Raises:
        InvalidInput: When the text can't be read.
    """
    return sa.and_(*(_on_experiments(*clause) for clause in clauses(text)))


def viewed(deleted_at: sa.ColumnElement[Any], view: View) -> tuple[Test, ...]:
    """Return the condition for the living, the deleted, or none for all."""
    return {"alive": (deleted_at.is_(None),), "deleted": (deleted_at.is_not(None),), "all": ()}[view]


def named_field(text: str) -> tuple[str, str]:
    """Return a field's kind (``metrics``, ``params``, ``tags`` or nothing) and its name.

    Raises:
        InvalidInput: When there is no such kind.
    """
    kind, dot, name = text.partition(".")
    if not dot or text[0] in '`"':
        kind, name = "attributes", text
    if kind not in _KIND:
        raise InvalidInput(f"there is no kind of field {kind!r}", where="filter", allowed=ALLOWED)
    if len(name) > 1 and name[0] == name[-1] and name[0] in '`"':
        name = name[1:-1]
    found = _KIND[kind]
    return found, (_NAMES.get(name, name) if not found else name)


def run_column(name: str) -> sa.Column[Any]:
    """Return a column of the runs by its public name.

    Raises:
        InvalidInput: When there is none.
    """
    if name not in _COLUMNS:
        raise InvalidInput(f"there is no field {name!r}", where="filter", allowed=ALLOWED)
    return runs.c[name]


def experiment_column(name: str) -> sa.Column[Any]:
    """Return a column of the experiments by its public name.

    Raises:
        InvalidInput: When there is none.
    """
    if name not in _EXPERIMENT_COLUMNS:
        raise InvalidInput(
            f"there is no field {name!r}", where="filter", allowed=f"tags.NAME, {', '.join(_EXPERIMENT_COLUMNS)}"
        )
    return experiments.c[_EXPERIMENT_COLUMNS[name]]


# ---------------------------------------------------------------- reading


def clauses(text: str) -> list[tuple[str, str, Any]]:
    """Return the comparisons of a filter: field, operator and value."""
    found: list[tuple[str, str, Any]] = []
    at = 0
    while True:
        match = _CLAUSE.match(text, at)
        if match is None:
            raise InvalidInput(f"can't read {text[at : at + 40]!r}", where="filter", allowed=ALLOWED)
        if match["null"]:
            found.append((match["field"], " ".join(match["null"].upper().split()), None))
        else:
            operator = " ".join(match["operator"].upper().split())
            found.append((match["field"], operator, _value(match["value"], operator)))
        at = match.end()
        if at == len(text):
            return found
        joined = _AND.match(text, at)
        if joined is None:
            raise InvalidInput(f"can't read {text[at : at + 40]!r}", where="filter", allowed=ALLOWED)
        at = joined.end()


def _value(text: str, operator: str) -> Any:
    """Return a value: a text that stood in quotes, a number, a bare word as itself in a tuple, or a list of texts."""
    if operator in {"IN", "NOT IN"} or text[0] == "(":
        if operator not in {"IN", "NOT IN"} or text[0] != "(":
            raise InvalidInput(f"{operator} {text[:40]}", where="filter", allowed="IN ('a', 'b')")
        return _listed(text[1:-1])
    if text[0] in "'\"":
        return text[1:-1]
    try:
        return float(text)
    except ValueError:
        return (text,)


def _listed(text: str) -> list[str]:
    found: list[str] = []
    at = 0
    while at < len(text):
        match = _QUOTED.match(text, at)
        if match is None:
            raise InvalidInput(f"can't read the list ({text[:40]})", where="filter", allowed="texts in quotes")
        found.append(match[1] if match[1] is not None else match[2])
        at = match.end()
    if not found:
        raise InvalidInput("the list is empty", where="filter", allowed="at least one text in quotes")
    return found


# ---------------------------------------------------------------- comparing


def _on_runs(field: str, operator: str, value: Any) -> Test:
    kind, name = named_field(field)
    if kind == "metrics":
        if not isinstance(value, float) or operator not in COMPARE:
            raise InvalidInput(f"{field} {operator} {_shown(value)}", where="filter", allowed="a number")
        return _exists(summaries, name, COMPARE[operator](summaries.c.last, value))
    if kind == "params":
        return _absent(params, name, operator) if value is None else _exists(params, name, _on_param(operator, value))
    if kind == "tags":
        return (
            _absent(tags, name, operator)
            if value is None
            else _exists(tags, name, on_text(tags.c.value, operator, value))
        )
    if name == "user_id":
        return _exists(tags, _USER, on_text(tags.c.value, operator, value))
    return on_column(run_column(name), field, operator, value)


def _on_experiments(field: str, operator: str, value: Any) -> Test:
    kind, name = named_field(field)
    if kind == "tags":
        of = (experiment_tags.c.experiment == experiments.c.id) & (experiment_tags.c.name == name)
        if value is None:
            present = sa.exists().where(of)
            return ~present if operator == "IS NULL" else present
        return sa.exists().where(of, on_text(experiment_tags.c.value, operator, value))
    if kind:
        raise InvalidInput(f"an experiment has no {kind}", where="filter", allowed="tags.NAME, name, created, changed")
    public = {"started_at": "created"}.get(name, name)
    return on_column(experiment_column(public), field, operator, value)


def on_column(column: sa.Column[Any], field: str, operator: str, value: Any) -> Test:
    """Compare a column of the thing itself: a time with milliseconds, anything else with a text.

    Raises:
        InvalidInput: When the value is of another kind.
    """
    if value is None:
        raise InvalidInput(f"{field} {operator}", where="filter", allowed="IS NULL is for params and tags")
    if column.name.endswith("_at"):
        if operator not in COMPARE or not isinstance(value, float):
            raise InvalidInput(f"{field} {operator} {_shown(value)}", where="filter", allowed="milliseconds since 1970")
        return COMPARE[operator](column, _moment(value, field))
    if column.name == "status":
        value = (
            [_STATUSES.get(one, one) for one in value] if isinstance(value, list) else _STATUSES.get(str(value), value)
        )
    if isinstance(value, float):
        raise InvalidInput(f"{field} {operator} {value:g}", where="filter", allowed="a text in quotes")
    return on_text(column, operator, value)


def _moment(milliseconds: float, field: str) -> datetime:
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        raise InvalidInput(f"{field}: {milliseconds:g} is no time", where="filter") from None


def on_text(column: sa.ColumnElement[Any], operator: str, value: Any) -> Test:
    """Compare a text, with a text or a list of them."""
    plain = value[0] if isinstance(value, tuple) else value
    if isinstance(plain, float):
        plain = f"{plain:g}"
    if operator == "IN":
        return column.in_(plain)
    if operator == "NOT IN":
        return column.not_in(plain)
    if operator == "LIKE":
        return like(column, plain, str(plain).translate(_TO_GLOB))
    if operator == "ILIKE":
        return column.ilike(plain)
    return COMPARE[operator](column, plain)


def _on_param(operator: str, value: Any) -> Test:
    """Compare a parameter: a number with its number, a text with its text, whether it was logged as one or not."""
    if isinstance(value, float):
        if operator not in COMPARE:
            raise InvalidInput(f"params {operator} {value:g}", where="filter", allowed="a text in quotes")
        return COMPARE[operator](params.c.number, value)
    column = sa.type_coerce(params.c.value, sa.Text())
    if isinstance(value, list):
        spelled = [form for one in value for form in _forms(one)]
        return column.in_(spelled) if operator == "IN" else column.not_in(spelled)
    word = value[0] if isinstance(value, tuple) else value
    if operator in {"LIKE", "ILIKE"}:
        return sa.or_(*(on_text(column, operator, form) for form in (json_text(word), word)))
    forms = _forms(word)
    if operator == "=":
        return column.in_(forms)
    if operator == "!=":
        return column.not_in(forms)
    return COMPARE[operator](column, forms[0])


def _forms(word: str) -> list[str]:
    """Return how a parameter may be stored that reads so: as a text, or as the number or the truth that it spells."""
    forms = [json_text(word)]
    try:
        value = msgspec.json.decode(word.lower() if word in {"True", "False"} else word)
    except msgspec.DecodeError:
        return forms
    return [*forms, json_text(value)] if isinstance(value, bool | int | float) else forms


def _exists(table: sa.Table, name: str, test: Test) -> Test:
    return sa.exists().where(table.c.run == runs.c.id, table.c.name == name, test).correlate(runs)


def _absent(table: sa.Table, name: str, operator: str) -> Test:
    present = sa.exists().where(table.c.run == runs.c.id, table.c.name == name).correlate(runs)
    return ~present if operator == "IS NULL" else present


def _shown(value: Any) -> str:
    return str(value[0] if isinstance(value, tuple) else value)[:40]
