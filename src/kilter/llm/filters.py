"""The little language in which traces are asked for, which is MLflow's.

``status = 'ERROR' AND timestamp_ms > 1700000000000 AND tags.env = 'prod' AND span.type = 'LLM' AND feedback.correctness = 'no'``
"""

from __future__ import annotations

import re
from typing import Any, TypeAlias

import polars as pl
import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import GenericFunction

from kilter.core.errors import InvalidInput
from kilter.engines.sql.grammar import COMPARE, on_text, texts_of
from kilter.engines.sql.types import json_text
from kilter.llm.gathering import NAME
from kilter.llm.tables import assessments, spans, trace_metadata, trace_prompts, trace_runs, trace_tags, traces
from kilter.llm.writing import SESSION

Test: TypeAlias = sa.ColumnElement[bool]
Clause: TypeAlias = tuple[str, str, str, Any]
"""Kind, name, operator and value."""

SOURCE_RUN = "mlflow.sourceRun"
PROMPTS = "mlflow.linkedPrompts"
ALLOWED = (
    "comparisons joined by AND: FIELD OPERATOR VALUE, where a field is status, timestamp_ms, execution_time_ms, end_time_ms, name, "
    "request_id, client_request_id, run_id, prompt, text, tags.NAME, metadata.NAME, span.name, span.type, span.status, "
    "span.attributes.NAME, feedback.NAME, expectation.NAME or issue.id, an operator is =, !=, <, <=, >, >=, LIKE, ILIKE, RLIKE, IN, "
    "NOT IN, IS NULL or IS NOT NULL, and texts stand in quotes"
)

_CLAUSE = re.compile(
    r"""\s*(?P<field>(?:[A-Za-z_]+\.){0,2}(?:`[^`]+`|"[^"]+"|[\w/.:\-]+))\s*
        (?:(?P<null>is\s+(?:not\s+)?null\b)
        |(?P<operator>!=|<=|>=|=|<|>|not\s+in\b|in\b|like\b|ilike\b|rlike\b)\s*
         (?P<value>\([^()]*\)|'[^']*'|"[^"]*"|[-+]?[\w.+\-]+))\s*""",
    re.VERBOSE | re.IGNORECASE,
)
_AND = re.compile(r"and\b", re.IGNORECASE)
_KINDS = {
    "tag": "tag",
    "tags": "tag",
    "attribute": "attribute",
    "attributes": "attribute",
    "trace": "attribute",
    "request_metadata": "metadata",
    "metadata": "metadata",
    "span": "span",
    "feedback": "feedback",
    "expectation": "expectation",
    "issue": "issue",
}
_NUMBERS = {
    "timestamp": "request_ms",
    "timestamp_ms": "request_ms",
    "execution_time": "duration_ms",
    "execution_time_ms": "duration_ms",
    "end_time": "end_ms",
    "end_time_ms": "end_ms",
}
_TEXTS = {"status": "state", "request_id": "id", "trace_id": "id", "client_request_id": "client_id", "name": "name"}
_ATTRIBUTES = (*_NUMBERS, *_TEXTS, "run_id", "prompt", "text")
_ORDERING = frozenset({"=", "!=", "<", "<=", ">", ">="})
_TEXT_OPERATORS = frozenset({"=", "!=", "IN", "NOT IN", "LIKE", "ILIKE", "RLIKE"})
_TAG_OPERATORS = frozenset({"=", "!=", "LIKE", "ILIKE", "RLIKE", "IS NULL", "IS NOT NULL"})
_JUDGED_OPERATORS = _TAG_OPERATORS | _ORDERING
_LONGEST_FILTER = 20_000
_LONGEST_PATTERN = 200


class said_by_span(GenericFunction[str]):  # noqa: N801 - SQLAlchemy names a function after its class
    """An attribute of a span as text: the content, the attribute's path in SQLite's words, and its name."""

    type = sa.Text()
    inherit_cache = True


@compiles(said_by_span, "sqlite")
def _said_in_sqlite(element: said_by_span, compiler: SQLCompiler, **options: Any) -> str:
    content, path, _ = element.clauses
    return f"CAST(json_extract({compiler.process(content, **options)}, {compiler.process(path, **options)}) AS TEXT)"


@compiles(said_by_span)
def _said_in_postgresql(element: said_by_span, compiler: SQLCompiler, **options: Any) -> str:
    content, _, name = element.clauses
    inner = f"CAST({compiler.process(content, **options)} AS JSON)"
    return f"({inner} #>> ARRAY['attributes', {compiler.process(name, **options)}])"


def condition(text: str) -> list[Test]:
    """Return a filter as conditions on the table of traces.

    Raises:
        InvalidInput: When the text can't be read.
    """
    found: list[Test] = []
    of_one_span: list[Test] = []
    for kind, name, operator, value in clauses(text):
        if kind == "span":
            of_one_span.append(_on_span(name, operator, value))
        else:
            found.append(_on_trace(kind, name, operator, value))
    if of_one_span:  # all of them mean the same span
        found.append(sa.exists().where(spans.c.trace == traces.c.id, *of_one_span).correlate(traces))
    return found


def prepare(connection: sa.Connection, *texts: str) -> None:
    """Make a connection ready for filters: SQLite asks us for what ``RLIKE`` means.

    SQLAlchemy answers it with Python's own expressions, with which a single pattern can stop a whole process.
    """
    if connection.dialect.name == "sqlite" and any("rlike" in text.lower() for text in texts):
        driver: Any = connection.connection.driver_connection
        driver.create_function("regexp", 2, _matches, deterministic=True)


def clauses(text: str) -> list[Clause]:
    """Return the comparisons of a filter; none of an empty one."""
    if len(text) > _LONGEST_FILTER:
        raise InvalidInput("the filter is too long", where="filter", allowed=f"{_LONGEST_FILTER:,} characters")
    found: list[Clause] = []
    at = 0
    while text.strip():
        match = _CLAUSE.match(text, at)
        if match is None:
            raise InvalidInput(
                f"Invalid clause(s) in filter string: '{text[at : at + 60]}'", where="filter", allowed=ALLOWED
            )
        kind, name = named(match["field"])
        if match["null"]:
            found.append((kind, name, " ".join(match["null"].upper().split()), None))
        else:
            operator = " ".join(match["operator"].upper().split())
            found.append((kind, name, operator, _value(match["value"], operator)))
        at = match.end()
        if at == len(text):
            break
        joined = _AND.match(text, at)
        if joined is None:
            raise InvalidInput(
                f"Invalid clause(s) in filter string: '{text[at : at + 60]}'", where="filter", allowed=ALLOWED
            )
        at = joined.end()
    return found


def named(field: str) -> tuple[str, str]:
    """Return a field's kind and its name.

    Raises:
        InvalidInput: When there is no such field.
    """
    kind, dot, name = field.partition(".")
    if not dot or field[0] in '`"':
        kind, name = "attribute", field
    if kind not in _KINDS:
        raise InvalidInput(
            f"Invalid entity type '{kind[:60]}'. Valid values are {sorted(_KINDS)}", where="filter", allowed=ALLOWED
        )
    kind = _KINDS[kind]
    if kind == "span" and name.startswith("attributes."):
        return kind, f"attributes.{_bare(name.removeprefix('attributes.'))}"
    name = _bare(name)
    if kind == "attribute":
        name = name.lower() if name.lower() in _ATTRIBUTES else name
        if name not in _ATTRIBUTES:
            raise InvalidInput(
                f"Invalid attribute key '{name[:60]}' specified. Valid keys are '{sorted(_ATTRIBUTES)}'",
                where="filter",
                allowed=ALLOWED,
            )
    return kind, name


def column_of(name: str) -> sa.ColumnElement[Any]:
    """Return what an attribute of a trace is compared by: its column, or its end."""
    key = _NUMBERS.get(name, _TEXTS.get(name, name))
    if key == "end_ms":
        return traces.c.request_ms + sa.func.coalesce(traces.c.duration_ms, 0)
    return traces.c[key]


# ---------------------------------------------------------------- reading


def _bare(name: str) -> str:
    return name[1:-1] if len(name) > 1 and name[0] == name[-1] and name[0] in '`"' else name


def _value(text: str, operator: str) -> Any:
    """Return a text that stood in quotes, a number, or a list of texts."""
    found = texts_of(text, operator)
    if found is not None:
        return found
    try:
        return float(text) if not text.lstrip("+-").isdecimal() else int(text)
    except ValueError:
        raise InvalidInput(
            f"Parameter value is either not quoted or unidentified quote types used for string value {text[:60]}. "
            "Use either single or double quotes.",
            where="filter",
        ) from None


# ---------------------------------------------------------------- comparing


def _on_trace(kind: str, name: str, operator: str, value: Any) -> Test:  # noqa: PLR0911 - one for each kind of field
    if kind == "attribute":
        return _on_attribute(name, operator, value)
    if kind == "tag":
        if name == NAME:
            return _on_own(traces.c.name, name, operator, value)
        if name == PROMPTS:
            return _on_prompt(operator, value)
        return _on_pairs(trace_tags, name, operator, value)
    if kind == "metadata":
        if name == SESSION:
            return _on_own(traces.c.session, name, operator, value)
        if name == SOURCE_RUN and operator == "=":
            return _on_run([_text(name, value)])
        return _on_pairs(trace_metadata, name, operator, value)
    if kind == "issue":
        if name != "id":
            raise InvalidInput(f"Invalid issue attribute '{name[:60]}'. Supported attributes: id", where="filter")
        _check(f"issue.{name}", operator, frozenset({"="}))
        return _judged(assessments.c.kind == "issue", assessments.c.name == _text(name, value))
    return _on_assessment(kind, name, operator, value)


def _on_attribute(name: str, operator: str, value: Any) -> Test:  # noqa: PLR0911 - one for each kind of field
    if name in _NUMBERS:
        _check(name, operator, _ORDERING)
        if not isinstance(value, int | float):
            raise InvalidInput(f"{name} is compared with a number: {str(value)[:40]!r}", where="filter")
        if abs(value) >= 2**63:
            raise InvalidInput(f"{name}: {value:g} is out of bounds", where="filter")
        return COMPARE[operator](column_of(name), value)
    if name == "run_id" and operator in {"=", "IN"}:
        return _on_run(value if isinstance(value, list) else [_text(name, value)])
    if name == "run_id":
        return _on_pairs(trace_metadata, SOURCE_RUN, operator, value)
    if name == "prompt":
        return _on_prompt(operator, value)
    if name == "text":
        _check("span.content", operator, frozenset({"LIKE", "ILIKE"}))
        has = on_text(spans.c.content, operator, _text(name, value))
        return sa.exists().where(spans.c.trace == traces.c.id, has).correlate(traces)
    if name == "name":
        return _on_own(traces.c.name, name, operator, value)
    _check(name, operator, _TEXT_OPERATORS)
    return _compared(column_of(name), operator, _text(name, value))


def _on_own(column: sa.Column[Any], name: str, operator: str, value: Any) -> Test:
    """Compare what is a tag to the client and a column here."""
    if value is None:
        return column.is_(None) if operator == "IS NULL" else column.is_not(None)
    _check(name, operator, _TAG_OPERATORS | {"IN", "NOT IN"})
    return _compared(column, operator, _text(name, value))


def _on_pairs(table: sa.Table, name: str, operator: str, value: Any) -> Test:
    of = (table.c.trace == traces.c.id) & (table.c.name == name)
    if value is None:
        present = sa.exists().where(of).correlate(traces)
        return ~present if operator == "IS NULL" else present
    _check(name, operator, _TAG_OPERATORS | {"IN", "NOT IN"})
    return sa.exists().where(of, _compared(table.c.value, operator, _text(name, value))).correlate(traces)


def _on_run(runs: list[str]) -> Test:
    linked = sa.exists().where(trace_runs.c.trace == traces.c.id, trace_runs.c.run.in_(runs)).correlate(traces)
    table = trace_metadata
    of = (table.c.trace == traces.c.id) & (table.c.name == SOURCE_RUN) & table.c.value.in_(runs)
    return linked | sa.exists().where(of).correlate(traces)


def _on_prompt(operator: str, value: Any) -> Test:
    if operator != "=":
        raise InvalidInput(
            f"Invalid comparator '{operator}' for prompts filter. Only '=' is supported with format: prompt = \"name/version\"",
            where="filter",
        )
    name, slash, version = str(value).rpartition("/")
    if not slash or "/" in name:
        raise InvalidInput(
            f"Invalid prompts filter value '{str(value)[:60]}'. Expected format: prompt = \"name/version\"",
            where="filter",
        )
    of = (trace_prompts.c.name == name) & (trace_prompts.c.version == version)
    return sa.exists().where(trace_prompts.c.trace == traces.c.id, of).correlate(traces)


def _on_span(name: str, operator: str, value: Any) -> Test:
    if name.startswith("attributes."):
        key = name.removeprefix("attributes.")
        if not key or '"' in key:
            raise InvalidInput("Span attribute name cannot be empty after 'attributes.'", where="filter")
        _check(f"span.{name}", operator, _TEXT_OPERATORS)
        path = f'$.attributes."{key}"'
        return _compared(said_by_span(spans.c.content, path, key), operator, _text(name, value))
    if name == "content":
        _check("span.content", operator, frozenset({"LIKE", "ILIKE"}))
        return _compared(spans.c.content, operator, _text(name, value))
    if name not in {"name", "type", "status"}:
        raise InvalidInput(
            f"Invalid span attribute '{name[:60]}'. Supported attributes: name, status, type, attributes.<attribute_name>.",
            where="filter",
        )
    _check(f"span.{name}", operator, _TEXT_OPERATORS)
    return _compared(spans.c[name], operator, _text(name, value))


def _on_assessment(kind: str, name: str, operator: str, value: Any) -> Test:
    _check(f"assessment.{name}", operator, _JUDGED_OPERATORS)
    of = (assessments.c.kind == kind) & (assessments.c.name == name) & assessments.c.valid
    if value is None:
        present = _judged(of)
        return ~present if operator == "IS NULL" else present
    if operator in _ORDERING - {"=", "!="}:
        if not isinstance(value, int | float):
            raise InvalidInput(
                f"Expected a numeric value for {kind} when using comparator '{operator}'. Got value {str(value)[:60]}",
                where="filter",
            )
        return _judged(of, assessments.c.numeric, COMPARE[operator](assessments.c.number, value))
    if not isinstance(value, str):
        raise InvalidInput(
            f"Expected a quoted string value for {kind} (e.g. 'my-value'). Got value {str(value)[:60]}", where="filter"
        )
    if operator in {"=", "!="}:
        same = assessments.c.value.in_([value, json_text(value)])  # a text, or the number or the truth that it spells
        return _judged(of, same if operator == "=" else ~same)
    return _judged(of, _compared(assessments.c.value, operator, value))


def _judged(*of: Test) -> Test:
    """Return the condition for traces with such an assessment, or in a session of which one was made as a whole."""
    own = sa.exists().where(assessments.c.trace == traces.c.id, *of).correlate(traces)
    beside = traces.alias()
    of_session = (
        sa.select(beside.c.session)
        .join(assessments, assessments.c.trace == beside.c.id)
        .where(*of, sa.type_coerce(assessments.c.metadata, sa.Text()).contains(f'"{SESSION}":', autoescape=True))
        .where(beside.c.session.is_not(None), beside.c.experiment == traces.c.experiment)
        .correlate(traces)
    )
    return own | traces.c.session.in_(of_session)


def _compared(column: sa.ColumnElement[Any], operator: str, value: Any) -> Test:
    if operator == "RLIKE":
        _check_pattern(value)
        return column.regexp_match(value)
    return on_text(column, operator, value)


def _check_pattern(text: Any) -> None:
    if not isinstance(text, str) or len(text) > _LONGEST_PATTERN:
        raise InvalidInput("the pattern is too long", where="filter", allowed=f"{_LONGEST_PATTERN} characters")
    try:
        _matches(text, "")
    except pl.exceptions.ComputeError as error:
        raise InvalidInput(
            f"{text[:60]!r} is no pattern: {str(error).splitlines()[-1][:100]}",
            where="filter",
            allowed="a regular expression without look-around and references back, which can take for ever",
        ) from None


def _matches(pattern: str, value: str | None) -> bool | None:
    """Say whether a pattern is found in a text, in a time that grows with the text alone, and beside all other threads."""
    return None if value is None else bool(pl.Series([value]).str.contains(pattern)[0])


def _check(name: str, operator: str, allowed: frozenset[str]) -> None:
    if operator not in allowed:
        raise InvalidInput(f"{name[:60]} comparator '{operator}' not one of '{sorted(allowed)}'", where="filter")


def _text(name: str, value: Any) -> Any:
    if isinstance(value, str | list):
        return value
    raise InvalidInput(
        f"Expected a quoted string value for {name[:60]} (e.g. 'my-value'). Got value {str(value)[:60]}", where="filter"
    )
