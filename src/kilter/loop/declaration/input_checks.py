"""What the model sees and what it learns to say: inputs, feature views and the label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from kilter.data.declare import Columns, Label, Table
from kilter.features.declare import Aggregate, FeatureView
from kilter.loop.declaration.faults import Faults, shown
from kilter.loop.declaration.function_checks import check_function


def check_inputs(faults: Faults) -> None:
    """Check what the model sees."""
    inputs = faults.loop.inputs
    if not inputs:
        faults.wrong("inputs", "the model sees nothing", allowed="at least one column or feature")
        return
    first = inputs[0].table
    others = dict.fromkeys(item.table.name for item in inputs if item.table.name != first.name)
    if others:
        names = " and ".join(map(repr, (first.name, *others)))
        faults.wrong("inputs", f"they come from {names}", allowed="columns and features of one table")
    elif any(item.table != first for item in inputs):
        faults.wrong("inputs", f"table {first.name!r} is declared in two ways", fix="declare it once")
    if not any(isinstance(item, Columns) for item in inputs):
        faults.wrong("inputs", "there are features only", allowed="at least one column of the table beside them")
    _names(faults, inputs)
    for i, item in enumerate(inputs):
        if isinstance(item, FeatureView):
            _view(faults, f"inputs[{i}]", item)
            continue
        for column in item.names:
            faults.column(f"inputs[{i}]", item.table, column)
    faults.column("inputs[0].table.key", first, first.key)
    faults.column("inputs[0].table.time", first, first.time)


def _names(faults: Faults, inputs: Sequence[Columns | FeatureView]) -> None:
    """Note inputs without a name, and names that come twice."""
    seen: dict[str, str] = {}
    for i, item in enumerate(inputs):
        field = f"inputs[{i}]"
        if not item.names:
            faults.wrong(field, "it names no column or feature", fix="leave it out")
        for name in item.names:
            if name in seen:
                faults.wrong(field, f"{name!r} is an input already, in {seen[name]}", fix="rename one of them")
            seen.setdefault(name, field)


def _view(faults: Faults, field: str, view: FeatureView) -> None:
    faults.duration(f"{field}.lag", view.lag, zero=True)
    faults.column(f"{field}.entity", view.table, view.entity)
    faults.column(f"{field}.time", view.table, view.time)
    given: tuple[tuple[str, object], ...] = view.aggregates  # whatever an unchecked file put there
    for name, aggregate in given:
        part = f"{field}.{name}"
        if not isinstance(aggregate, Aggregate):
            faults.wrong(part, f"{shown(aggregate)} was given", allowed='count("3h"), mean("column", "3h"), ...')
            continue
        faults.duration(part, aggregate.over)
        if aggregate.operation != "count":
            faults.column(part, view.table, aggregate.column)
        if not aggregate.resolution > 0:
            faults.wrong(part, f"resolution={aggregate.resolution!r}", allowed="a number above 0, like 1e-6")


def check_label(faults: Faults) -> None:
    """Check the truth: that it can be computed, is late, and is not among the inputs."""
    label = faults.loop.label
    if not faults.loop.inputs:
        return
    table = faults.loop.inputs[0].table
    faults.column("label.known_at", table, label.known_at)
    if label.known_at == table.time:
        faults.wrong(
            "label.known_at",
            f"{label.known_at!r} is the time of the prediction: a label known by then leaks into it",
            allowed="a later time, when the truth of a row became known",
        )
    if not check_function(faults, "label.expression", label.expression):
        return
    expression = _expression(faults, label)
    if expression is None:
        return
    roots = expression.meta.root_names()
    for root in roots:
        faults.column("label.expression", table, root)
    _leaks(faults, table, label, roots)
    _label_type(faults, table, expression)


def _expression(faults: Faults, label: Label) -> pl.Expr | None:
    try:
        expression: object = label.expression()
    except Exception as error:  # noqa: BLE001 - the user's code may raise anything, and the message is for the user
        faults.wrong("label.expression", f"calling it failed: {type(error).__name__}: {error}")
        return None
    if not isinstance(expression, pl.Expr):
        faults.wrong(
            "label.expression",
            f"it returned {shown(expression)}",
            allowed='a Polars expression, like pl.col("arr_delay") > 15',
        )
        return None
    return expression


def _leaks(faults: Faults, table: Table, label: Label, roots: list[str]) -> None:
    """Note inputs that carry the truth before it is known."""
    late = {*roots, label.known_at}
    for i, item in enumerate(faults.loop.inputs):
        if isinstance(item, Columns):
            for name in item.names:
                if name in late:
                    faults.wrong(
                        f"inputs[{i}]",
                        f"{name!r} belongs to the label and is not known when the prediction is made",
                        fix=f"leave it out, or use past rows of it: "
                        f'features({table.name}, ..., time="{label.known_at}")',
                    )
        elif item.time == table.time:
            for name, aggregate in item.aggregates:
                if isinstance(aggregate, Aggregate) and aggregate.column in late:
                    faults.wrong(
                        f"inputs[{i}].{name}",
                        f"at {item.time!r} the column {aggregate.column!r} of an earlier row is not known yet",
                        fix=f'count its rows from when they are known: time="{label.known_at}"',
                    )


def _label_type(faults: Faults, table: Table, expression: pl.Expr) -> None:
    schema = faults.schemas.get(table.name)
    roots = expression.meta.root_names()
    if schema is None:
        kinds = _guessed(expression, roots)
    elif all(root in schema for root in roots):
        kinds = _kinds(faults, expression, schema)
    else:
        return  # the missing columns are noted already
    if kinds is None:
        return
    if len(kinds) != 1 or not (kinds[0] == pl.Boolean or kinds[0].is_numeric()):
        shown_kinds = ", ".join(map(str, kinds))
        faults.wrong("label.expression", f"it gives {shown_kinds}", allowed="one boolean or numeric column")
    elif kinds[0] == pl.Boolean and faults.loop.fallback is not None and not 0 <= faults.loop.fallback <= 1:
        faults.wrong("fallback", f"{faults.loop.fallback!r} is no probability", allowed="0 to 1 for a boolean label")


def _kinds(faults: Faults, expression: pl.Expr, schema: Mapping[str, pl.DataType]) -> list[pl.DataType] | None:
    try:
        return pl.DataFrame(schema=dict(schema)).select(expression).dtypes
    except pl.exceptions.PolarsError as error:
        faults.wrong(
            "label.expression",
            f"it doesn't fit the table: {str(error).splitlines()[0]}",
            allowed="an expression that fits the types of the table's columns",
        )
        return None


def _guessed(expression: pl.Expr, roots: list[str]) -> list[pl.DataType] | None:
    """Return what an expression gives on columns of a type that fits it, when no rows tell their types."""
    for kind in (pl.Float64(), pl.Boolean(), pl.String(), pl.Datetime("us", "UTC")):
        try:
            return pl.DataFrame(schema=dict.fromkeys(roots, kind)).select(expression).dtypes
        except pl.exceptions.PolarsError:
            continue
    return None
