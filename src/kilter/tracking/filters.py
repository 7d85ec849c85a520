"""The little language in which runs and experiments are asked for, which is that of MLflow and a little more.

``metrics.auc > 0.7 and params.trees = 80 and tags.team LIKE 'ops%' and dataset.name = 'flights' and status = 'FINISHED'``
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
import sqlalchemy as sa

from kilter.core.errors import InvalidInput
from kilter.engines.sql.grammar import ALLOWED, COMPARE, Test, clauses, field_of, on_text, said
from kilter.engines.sql.types import json_text
from kilter.tracking.tables import datasets, experiment_tags, experiments, params, runs, summaries, tags

__all__ = [
    "ALLOWED",
    "COMPARE",
    "Test",
    "View",
    "clauses",
    "condition",
    "experiment_column",
    "experiment_condition",
    "named_field",
    "on_column",
    "on_text",
    "run_column",
    "viewed",
]

View = Literal["alive", "deleted", "all"]

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
_CONTEXT = "mlflow.data.context"
_OF_DATA = ("dataset.", "datasets.")
_DATA: dict[str, sa.ColumnElement[Any]] = {
    "name": datasets.c.name,
    "digest": datasets.c.digest,
    "context": said(datasets.c.tags, sa.literal(f'$."{_CONTEXT}"', sa.Text()), sa.literal(_CONTEXT, sa.Text())),
}
_DATA_OPERATORS = frozenset({"=", "!=", "LIKE", "ILIKE", "IN", "NOT IN"})
_STATUSES = {"KILLED": "INTERRUPTED"}


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
    kind, name = field_of(text)
    return kind, (_NAMES.get(name, name) if not kind else name)


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


# ---------------------------------------------------------------- comparing


def _on_data(field: str, operator: str, value: Any) -> Test:
    """Say whether a run read data of which this is true; what several comparisons say may be true of several data."""
    name = field.partition(".")[2].strip('`"')
    if name not in _DATA:
        raise InvalidInput(
            f"data have no field {name!r}", where="filter", allowed="dataset.name, dataset.digest, dataset.context"
        )
    if operator not in _DATA_OPERATORS:
        raise InvalidInput(
            f"data are not compared with {operator!r}", where="filter", allowed="=, !=, LIKE, ILIKE, IN or NOT IN"
        )
    if not isinstance(value, str | list):
        said_of = f"{value:g}" if isinstance(value, float) else _shown(value)
        raise InvalidInput(
            f"data are not compared with the value {said_of}", where="filter", allowed="a text in quotes"
        )
    return sa.exists().where(datasets.c.run == runs.c.id, on_text(_DATA[name], operator, value)).correlate(runs)


def _on_runs(field: str, operator: str, value: Any) -> Test:
    if field.startswith(_OF_DATA):
        return _on_data(field, operator, value)
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
