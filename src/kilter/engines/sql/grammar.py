"""The grammar of filters, which is that of MLflow and a little more: comparisons joined by ``and``, as conditions on columns.

``metrics.auc > 0.7 and params.trees = 80 and tags.team LIKE 'ops%' and status = 'FINISHED'``. Which fields there are, a room says.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import GenericFunction

from kilter.core.errors import InvalidInput

Test: TypeAlias = sa.ColumnElement[bool]

ALLOWED = (
    "comparisons joined by 'and': FIELD OPERATOR VALUE, where a field is status, name, experiment, run_id, start_time, end_time, "
    "metrics.NAME, params.NAME, tags.NAME, dataset.name, dataset.digest or dataset.context, an operator is =, !=, <, <=, >, >=, LIKE, ILIKE, IN, NOT IN, IS NULL or IS NOT NULL, "
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


class said(GenericFunction[str]):  # noqa: N801 - SQLAlchemy names a function after its class
    """What an object that is kept as JSON says under a name, as text: the column, the name's path in SQLite's words, and the name."""

    type = sa.Text()
    inherit_cache = True


@compiles(said, "sqlite")
def _said_in_sqlite(element: said, compiler: SQLCompiler, **options: Any) -> str:
    content, path, _ = element.clauses
    return f"CAST(json_extract({compiler.process(content, **options)}, {compiler.process(path, **options)}) AS TEXT)"


@compiles(said)
def _said_in_postgresql(element: said, compiler: SQLCompiler, **options: Any) -> str:
    content, _, name = element.clauses
    return f"(CAST({compiler.process(content, **options)} AS JSON) ->> {compiler.process(name, **options)})"


def clauses(text: str, allowed: str = ALLOWED) -> list[tuple[str, str, Any]]:
    """Return the comparisons of a filter: field, operator and value.

    Args:
        text: The filter.
        allowed: What may be asked for, for the words of a refusal.

    Raises:
        InvalidInput: When it can't be read; the message points at the place.
    """
    found: list[tuple[str, str, Any]] = []
    at = 0
    while True:
        match = _CLAUSE.match(text, at)
        if match is None:
            raise InvalidInput(f"can't read {text[at : at + 40]!r}", where="filter", allowed=allowed)
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
            raise InvalidInput(f"can't read {text[at : at + 40]!r}", where="filter", allowed=allowed)
        at = joined.end()


def field_of(text: str, allowed: str = ALLOWED) -> tuple[str, str]:
    """Return a field's kind (``metrics``, ``params``, ``tags`` or nothing) and its name.

    Raises:
        InvalidInput: When there is no such kind.
    """
    kind, dot, name = text.partition(".")
    if not dot or text[0] in '`"':
        kind, name = "attributes", text
    if kind not in _KIND:
        raise InvalidInput(f"there is no kind of field {kind!r}", where="filter", allowed=allowed)
    if len(name) > 1 and name[0] == name[-1] and name[0] in '`"':
        name = name[1:-1]
    return _KIND[kind], name


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


def _value(text: str, operator: str) -> Any:
    """Return a value: a text that stood in quotes, a number, a bare word as itself in a tuple, or a list of texts."""
    found = texts_of(text, operator)
    if found is not None:
        return found
    try:
        return float(text)
    except ValueError:
        return (text,)


def texts_of(text: str, operator: str) -> str | list[str] | None:
    """Return the text that stands in quotes, or the list of them that IN asks for; None for what has no quotes.

    Raises:
        InvalidInput: When a list can't be read, or the operator compares with something else.
    """
    if operator in {"IN", "NOT IN"} or text[0] == "(":
        if operator not in {"IN", "NOT IN"} or text[0] != "(":
            raise InvalidInput(f"{operator} {text[:40]}", where="filter", allowed="IN ('a', 'b')")
        return _listed(text[1:-1])
    return text[1:-1] if text[0] in "'\"" else None


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
