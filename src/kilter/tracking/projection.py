"""Many runs at a glance: only the wanted columns, a count, groups, and children under their parents.

A table of thousands of runs asks for a screenful of cells at a time; it never needs every parameter of every run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from kilter.core.errors import InvalidInput
from kilter.engines.sql.database import Database
from kilter.operations.table import operation
from kilter.tracking.filters import View, condition, named_field, run_column, viewed
from kilter.tracking.liveness import require
from kilter.tracking.orders import Orders
from kilter.tracking.points import has_blocks, series
from kilter.tracking.records import ColumnNames, NamedColumn, RunGroup, RunRow, RunRows, spelled
from kilter.tracking.rows import restored
from kilter.tracking.tables import metrics, params, runs, summaries, tags

PARENT = "mlflow.parentRunId"
"""The tag that names the run which a run belongs under; clients of MLflow write it for nested runs."""

if TYPE_CHECKING:
    import numpy as np

_MOST = 1000
_MOST_COLUMNS = 200
_MOST_NAMES = 2000
_TABLES = {"params": params, "tags": tags, "metrics": summaries}


class ProjectionOperations:
    """The operations of tables of runs."""

    _database: Database

    @operation
    def columns(self, experiment: str) -> ColumnNames:
        """Return which params, metrics and tags the runs of an experiment have, the most common ones first.

        Args:
            experiment: The experiment.
        """
        with self._database.reading() as connection:
            found = {kind: _names(connection, table, experiment) for kind, table in _TABLES.items()}
        return ColumnNames(params=found["params"], metrics=found["metrics"], tags=found["tags"])

    @operation
    def rows(
        self,
        experiment: str = "",
        filter: str = "",  # noqa: A002 - the word that every tracking tool has for it
        order: str = "-started",
        columns: Sequence[str] = (),
        offset: int = 0,
        limit: int = 100,
        view: View = "alive",
        tree: bool = False,
        parent: str = "",
        group: str = "",
        group_value: str | None = None,
        among: Sequence[str] | None = None,
    ) -> RunRows:
        """Return a part of a table of runs, with only the wanted cells, and how many rows the whole table has.

        In a tree each run that fits the filter has one place: under its parent when that fits too, and at the top otherwise. So pages
        of the top never cut a family in two.

        Args:
            experiment: Only of this experiment.
            filter: As for ``list``.
            order: As for ``list``.
            columns: Which cells: ``params.NAME``, ``metrics.NAME``, ``tags.NAME``.
            offset: How many rows come before.
            limit: At most so many, from 1 to 1,000.
            view: ``alive``, ``deleted`` or ``all``.
            tree: Only the top of the tree.
            parent: Only the children of this run.
            group: Only runs of one group: the field that they are grouped by, ``params.NAME``, ``tags.NAME`` or ``status``.
            group_value: The value that they share, as ``groups`` says it; None for those without one.
            among: Only these runs.

        Raises:
            InvalidInput: When the filter, the order or a column can't be read.
        """
        if not 1 <= limit <= _MOST or offset < 0:
            raise InvalidInput(f"{limit} from {offset}", where="limit", allowed=f"1 to {_MOST}, from 0 on")
        wanted = _wanted(columns)
        placing = Orders(order)
        fits = _fitting(experiment, filter, view, among)
        tests = list(fits)
        inside = sa.select(runs.c.id).where(*fits).correlate(None)
        up = tags.alias("up")
        of_parent = (up.c.run == runs.c.id) & (up.c.name == PARENT)
        if parent:
            tests.append(sa.exists().where(of_parent, up.c.value == parent).correlate(runs))
        elif tree:
            above = of_parent & (up.c.value != runs.c.id) & up.c.value.in_(inside)
            tests.append(~sa.exists().where(above).correlate(runs))
        if group:
            tests.append(_in_group(group, group_value))
        with self._database.reading() as connection:
            total = connection.execute(sa.select(sa.func.count()).select_from(runs).where(*tests)).scalar_one()
            chosen = placing.apply(sa.select(runs).where(*tests)).limit(limit).offset(offset)
            found = connection.execute(chosen).all()
            names = [row.id for row in found]
            cells = _cells(connection, names, wanted)
            parents = _parents(connection, names)
            children = _children(connection, names, inside) if tree or parent else {}
        return RunRows(
            total=total,
            rows=tuple(
                RunRow(
                    id=row.id,
                    name=row.name,
                    status=row.status,
                    started_at=row.started_at,
                    ended_at=row.ended_at,
                    deleted=row.deleted_at is not None,
                    parent=parents.get(row.id, ""),
                    children=children.get(row.id, 0),
                    cells=tuple(cells.get((row.id, *column)) for column in wanted),
                )
                for row in found
            ),
        )

    @operation
    def groups(
        self,
        by: str,
        experiment: str = "",
        filter: str = "",  # noqa: A002 - the word that every tracking tool has for it
        columns: Sequence[str] = (),
        view: View = "alive",
        limit: int = 200,
    ) -> tuple[RunGroup, ...]:
        """Return the groups of a table of runs, the largest first, with the mean, least and greatest of its metrics.

        Args:
            by: The field that they are grouped by: ``params.NAME``, ``tags.NAME`` or ``status``.
            experiment: Only of this experiment.
            filter: As for ``list``.
            columns: Which metrics to sum up: ``metrics.NAME``; other columns have no mean.
            view: ``alive``, ``deleted`` or ``all``.
            limit: At most so many.

        Raises:
            InvalidInput: When the filter or a field can't be read.
        """
        wanted = _wanted(columns)
        tests = _fitting(experiment, filter, view, None)
        source, value = _grouping(by)
        rest: list[sa.ColumnElement[Any]] = [sa.func.count()]
        for place, (kind, name) in enumerate(wanted):
            if kind == "metrics":
                beside = summaries.alias(f"m{place}")
                source = source.outerjoin(beside, (beside.c.run == runs.c.id) & (beside.c.name == name))
                rest += [sa.func.avg(beside.c.last), sa.func.min(beside.c.last), sa.func.max(beside.c.last)]
        query = sa.select(value, *rest).select_from(source).where(*tests)
        query = query.group_by(value).order_by(sa.func.count().desc(), value).limit(max(1, min(limit, _MOST)))
        with self._database.reading() as connection:
            found = connection.execute(query).all()
        measured = [place for place, (kind, _) in enumerate(wanted) if kind == "metrics"]
        return tuple(
            RunGroup(
                value=None if row[0] is None else str(row[0]),
                runs=row[1],
                cells=tuple(
                    tuple(row[2 + 3 * measured.index(place) : 5 + 3 * measured.index(place)])
                    if place in measured
                    else None
                    for place in range(len(wanted))
                ),
            )
            for row in found
        )

    def series(self, run: str, name: str, *, times: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Return a metric as arrays: steps, values (NaN where it was one) and, if wanted, seconds since 1970; by step and writing.

        Args:
            run: The run.
            name: The metric.
            times: The times are wanted too, which cost the most.

        Raises:
            NotFound: When there is no such run.
        """
        import numpy as np  # noqa: PLC0415 - most processes that track have no use for it

        kept = [metrics.c.step, metrics.c.value, *([metrics.c.at] if times else [])]
        query = sa.select(*kept).where(metrics.c.run == run, metrics.c.name == name)
        with self._database.reading() as connection:
            require(connection, run)
            if has_blocks(connection, run, name):
                found = series(connection, run, name)
                at = found.times.astype(np.float64) / 1e6 if times else None
                return found.steps.astype(np.float64), found.values, at
            # A hundred thousand points are wanted in a moment: the driver's own rows, without a record for each.
            answer = connection.execute(query.order_by(metrics.c.step, metrics.c.id))
            rows: list[tuple[Any, ...]] = [] if answer.cursor is None else list(answer.cursor.fetchall())
            answer.close()
        columns = list(zip(*rows, strict=True)) or [()] * len(kept)
        steps = np.asarray(columns[0], np.float64)
        values = np.asarray([math.nan if value is None else value for value in columns[1]], np.float64)
        return steps, values, _seconds(columns[2]) if times else None


def _seconds(moments: Sequence[Any]) -> np.ndarray:
    """Return times as a driver gives them, texts or moments, as seconds since 1970."""
    import numpy as np  # noqa: PLC0415 - see above

    if moments and isinstance(moments[0], str):
        plain = np.asarray([moment.removesuffix("Z") for moment in moments], "datetime64[us]")
        return np.asarray(plain.astype(np.int64) / 1e6)
    return np.asarray([moment.timestamp() for moment in moments], np.float64)


def _fitting(
    experiment: str,
    filter: str,  # noqa: A002 - as above
    view: View,
    among: Sequence[str] | None,
) -> list[sa.ColumnElement[bool]]:
    tests = [*viewed(runs.c.deleted_at, view)]
    if experiment:
        tests.append(runs.c.experiment == experiment)
    if among is not None:
        tests.append(runs.c.id.in_(list(among)))
    if filter.strip():
        tests.append(condition(filter))
    return tests


def _wanted(columns: Sequence[str]) -> list[tuple[str, str]]:
    if len(columns) > _MOST_COLUMNS:
        raise InvalidInput(f"{len(columns)} columns", where="columns", allowed=f"at most {_MOST_COLUMNS}")
    found = []
    for column in columns:
        kind, _, name = column.partition(".")
        if kind not in _TABLES or not name:
            raise InvalidInput(
                f"there is no column {column[:60]!r}", where="columns", allowed="params.NAME, metrics.NAME or tags.NAME"
            )
        found.append((kind, name))
    return found


def _names(connection: sa.Connection, table: sa.Table, experiment: str) -> tuple[NamedColumn, ...]:
    value = table.c.last if table is summaries else table.c.value
    different = sa.func.count(sa.distinct(sa.type_coerce(value, sa.Text())))
    query = sa.select(table.c.name, sa.func.count(), different)
    query = query.join(runs, runs.c.id == table.c.run).where(
        runs.c.experiment == experiment, runs.c.deleted_at.is_(None)
    )
    query = query.group_by(table.c.name).order_by(sa.func.count().desc(), table.c.name).limit(_MOST_NAMES)
    return tuple(NamedColumn(name=row[0], runs=row[1], values=row[2]) for row in connection.execute(query))


def _cells(
    connection: sa.Connection, names: Sequence[str], wanted: Sequence[tuple[str, str]]
) -> dict[tuple[str, str, str], Any]:
    found: dict[tuple[str, str, str], Any] = {}
    for kind, table in _TABLES.items():
        columns = [name for of, name in wanted if of == kind]
        if not columns or not names:
            continue
        value = table.c.last if kind == "metrics" else table.c.value
        query = sa.select(table.c.run, table.c.name, value).where(table.c.run.in_(names), table.c.name.in_(columns))
        for run, name, cell in connection.execute(query):
            found[run, kind, name] = spelled(restored(cell)) if kind == "metrics" else cell
    return found


def _parents(connection: sa.Connection, names: Sequence[str]) -> dict[str, str]:
    query = sa.select(tags.c.run, tags.c.value).where(tags.c.run.in_(names), tags.c.name == PARENT)
    return {row[0]: row[1] for row in connection.execute(query)}


def _children(connection: sa.Connection, names: Sequence[str], inside: sa.Select[Any]) -> dict[str, int]:
    query = sa.select(tags.c.value, sa.func.count())
    query = query.where(tags.c.name == PARENT, tags.c.value.in_(names), tags.c.run != tags.c.value)
    query = query.where(tags.c.run.in_(inside)).group_by(tags.c.value)
    return {row[0]: row[1] for row in connection.execute(query)}


def _grouping(by: str) -> tuple[sa.FromClause, sa.ColumnElement[Any]]:
    kind, name = named_field(by)
    if not kind:
        return runs, sa.type_coerce(run_column(name), sa.Text())
    if kind == "metrics":
        raise InvalidInput(f"runs can't be grouped by {by!r}", where="group", allowed="params.NAME, tags.NAME, status")
    beside = _TABLES[kind].alias("grouped")
    source = runs.outerjoin(beside, (beside.c.run == runs.c.id) & (beside.c.name == name))
    return source, sa.type_coerce(beside.c.value, sa.Text())


def _in_group(by: str, value: str | None) -> sa.ColumnElement[bool]:
    kind, name = named_field(by)
    if not kind:
        column = sa.type_coerce(run_column(name), sa.Text())
        return column.is_(None) if value is None else column == value
    if kind == "metrics":
        raise InvalidInput(f"runs can't be grouped by {by!r}", where="group", allowed="params.NAME, tags.NAME, status")
    beside = _TABLES[kind].alias("grouped")
    test = (beside.c.run == runs.c.id) & (beside.c.name == name)
    if value is None:
        return ~sa.exists().where(test, beside.c.value.is_not(None)).correlate(runs)
    return sa.exists().where(test, sa.type_coerce(beside.c.value, sa.Text()) == value).correlate(runs)
