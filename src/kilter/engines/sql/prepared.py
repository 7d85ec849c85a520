"""Statements that are put together once: what is asked with each write of a hot path costs the driver's time, and little more."""

from __future__ import annotations

import sqlite3
from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import sqlalchemy as sa


class Prepared:
    """A statement with named parameters, of which only the text and the order of its values go through SQLAlchemy each time.

    What comes back are the driver's own values: texts where a column type would have made a moment of them.

    Args:
        statement: The statement; no parameter may stand for a list.
        names: The parameters, in the order in which values are given.
        plain: Those whose values are given in the driver's form already.
    """

    def __init__(self, statement: sa.Executable, names: Sequence[str], plain: Sequence[str] = ()) -> None:
        self._statement = statement
        self._names = tuple(names)
        self._plain = frozenset(plain)
        self._forms: dict[str, _Form] = {}

    def first(self, connection: sa.Connection, *values: Any) -> Sequence[Any] | None:
        """Return the first row, or None."""
        return next(iter(self.all(connection, *values)), None)

    def all(self, connection: sa.Connection, *values: Any) -> Sequence[Sequence[Any]]:
        """Return all rows."""
        form = self._form(connection)
        if form.own:
            return _sqlite(connection, form.text, form.arranged(values)).fetchall()
        return connection.exec_driver_sql(form.text, form.arranged(values)).all()

    def rows(self, connection: sa.Connection, *values: Any) -> Sequence[Any]:
        """Return all rows by name, their values as the types of their columns give them."""
        form = self._form(connection)
        if form.shape is None:  # a driver that has types of its own: what they become depends on what comes
            return connection.execute(self._statement, dict(zip(self._names, values, strict=True))).all()
        row, changes = form.shape
        found = self.all(connection, *values)
        if not changes:
            return [row._make(values) for values in found]
        return [
            row._make(
                [
                    value if change is None or value is None else change(value)
                    for value, change in zip(values, changes, strict=True)
                ]
            )
            for values in found
        ]

    def run(self, connection: sa.Connection, *values: Any) -> None:
        """Run it once."""
        form = self._form(connection)
        if form.own:
            _sqlite(connection, form.text, form.arranged(values))
        else:
            connection.exec_driver_sql(form.text, form.arranged(values))

    def many(self, connection: sa.Connection, rows: Iterable[Sequence[Any]]) -> None:
        """Run it once for each row of values."""
        form = self._form(connection)
        arranged = [form.arranged(row) for row in rows]
        if form.own:
            _sqlite(connection, form.text, arranged, many=True)
        else:
            connection.exec_driver_sql(form.text, arranged)

    def _form(self, connection: sa.Connection) -> _Form:
        dialect = connection.dialect
        form = self._forms.get(dialect.name)
        if form is None:
            form = self._forms[dialect.name] = _form(self._statement, self._names, self._plain, dialect)
        return form


_Shape = tuple[Any, Sequence[Callable[[Any], Any] | None]]


class _Form:
    """A statement as one driver wants it.

    Args:
        text: The SQL.
        arranged: Puts values into the driver's form.
        own: The driver is asked by ourselves.
        shape: A row by name, and what makes its values of the driver's, empty where nothing does; None where SQLAlchemy is asked.
    """

    def __init__(self, text: str, arranged: Callable[[Sequence[Any]], Any], *, own: bool, shape: _Shape | None) -> None:
        self.text = text
        self.arranged = arranged
        self.own = own
        self.shape = shape


def _sqlite(connection: sa.Connection, text: str, values: Any, *, many: bool = False) -> sqlite3.Cursor:
    """Ask SQLite's driver itself: in the same process, what SQLAlchemy does around a statement costs more than the statement."""
    driver = cast("sqlite3.Connection", connection.connection.dbapi_connection)
    try:
        return driver.executemany(text, values) if many else driver.execute(text, values)
    except sqlite3.Error as error:
        raise sa.exc.DBAPIError.instance(text, values, error, sqlite3.Error, dialect=connection.dialect) from error


def _form(statement: sa.Executable, names: Sequence[str], plain: frozenset[str], dialect: sa.Dialect) -> _Form:
    own = dialect.name == "sqlite"
    compiled: Any = statement.compile(dialect=dialect)  # type: ignore[attr-defined]
    changes = compiled._bind_processors  # noqa: SLF001 - what SQLAlchemy itself does with them
    processors: Mapping[str, Callable[[Any], Any]] = {
        name: change for name, change in changes.items() if name not in plain
    }
    fixed = {name: value for name, value in compiled.params.items() if name not in names}
    shape = _shape(compiled, dialect) if own else None
    order: Sequence[str] | None = compiled.positiontup if compiled.positional else None

    def value_of(name: str) -> Callable[[Sequence[Any]], Any]:
        change = processors.get(name)
        if name in fixed:
            constant = fixed[name] if change is None else change(fixed[name])
            return lambda _values: constant
        place = names.index(name)
        return (lambda values: values[place]) if change is None else (lambda values: change(values[place]))

    if order is None:
        takers = {name: value_of(name) for name in compiled.params}
        return _Form(
            compiled.string, lambda values: {name: take(values) for name, take in takers.items()}, own=own, shape=shape
        )
    if list(order) == list(names) and not any(name in processors for name in names):
        return _Form(compiled.string, tuple, own=own, shape=shape)
    ordered = [value_of(name) for name in order]
    return _Form(compiled.string, lambda values: tuple([take(values) for take in ordered]), own=own, shape=shape)


def _shape(compiled: Any, dialect: sa.Dialect) -> _Shape:
    columns = compiled._result_columns  # noqa: SLF001 - what SQLAlchemy itself makes rows of
    row = namedtuple("row", [column.keyname for column in columns])  # type: ignore[misc]  # noqa: PYI024 - of any statement
    changes = [column.type._cached_result_processor(dialect, None) for column in columns]  # noqa: SLF001 - see above
    return row, changes if any(change is not None for change in changes) else ()
