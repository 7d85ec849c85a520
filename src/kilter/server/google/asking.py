"""How models are asked for: Google's filters, orders and masks, over what is shown of a model."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kilter.core.errors import InvalidInput
from kilter.engines.sql.paging import Place
from kilter.server.google.names import camel

Shown = dict[str, Any]

PAGE = 100
MOST = 1000

_CLAUSE = re.compile(
    r"""\s*(?P<field>[A-Za-z_]+)(?:\.(?:"(?P<quoted>[^"]+)"|(?P<key>[\w-]+)))?\s*
        (?P<operator>!=|=|:)\s*
        (?:"(?P<double>(?:[^"\\]|\\.)*)"|'(?P<single>(?:[^'\\]|\\.)*)'|(?P<bare>\*|[\w@%.+-]+))\s*""",
    re.VERBOSE,
)
_AND = re.compile(r"and\s+", re.IGNORECASE)
_TERM = re.compile(r"\s*(?P<field>[A-Za-z_]+)(?:\s+(?P<way>asc|desc))?\s*(?:,|\Z)", re.IGNORECASE)
_ESCAPED = re.compile(r"\\(.)")
_CLAUSES = 50


@dataclass(frozen=True)
class Clause:
    """One comparison of a filter.

    Args:
        field: ``model``, ``displayName`` or ``labels``.
        key: The label.
        operator: ``=``, ``!=`` or ``:``, which asks whether there is such a label.
        value: What it is compared with.
    """

    field: str
    key: str
    operator: str
    value: str

    def holds(self, model: Shown, identity: str) -> bool:
        """Say whether it is so of a model."""
        if self.field == "labels":
            labels = model.get("labels", {})
            return self.key in labels and (self.operator == ":" or labels[self.key] == self.value)
        found = identity if self.field == "model" else model.get(self.field)
        return (found == self.value) == (self.operator == "=")


def clauses(text: str, fields: Sequence[str]) -> tuple[Clause, ...]:
    """Return the comparisons of a filter.

    Args:
        text: The filter: ``labels.team="ops" AND display_name="churn"``.
        fields: What may be compared.

    Raises:
        InvalidInput: When it can't be read.
    """
    allowed = f"{', '.join(fields)} with =, != or :, joined by AND"
    found: list[Clause] = []
    at = 0
    while text[at:].strip():
        match = _CLAUSE.match(text, at)
        joined = _AND.match(text, match.end()) if match is not None else None
        at = match.end() if match is not None else at
        if match is None or (joined is None and text[at:].strip()) or len(found) >= _CLAUSES:
            raise InvalidInput(f"can't read the filter at {text[at : at + 40]!r}", where="filter", allowed=allowed)
        at = joined.end() if joined is not None else at
        if joined is not None and not text[at:].strip():
            raise InvalidInput("something is missing behind AND", where="filter", allowed=allowed)
        found.append(_clause(match, fields, allowed))
    return tuple(found)


def _clause(match: re.Match[str], fields: Sequence[str], allowed: str) -> Clause:
    field, operator = camel(match["field"]), match["operator"]
    key = match["quoted"] or match["key"] or ""
    text = next(part for part in (match["double"], match["single"], match["bare"]) if part is not None)
    value = _ESCAPED.sub(r"\1", text) if match["bare"] is None else text
    if field not in fields:
        raise InvalidInput(f"{match['field'][:60]!r} can't be asked for", where="filter", allowed=allowed)
    if field != "labels":
        if key or operator == ":":
            raise InvalidInput(f"{field} has no parts", where="filter", allowed=f"{field}=VALUE or {field}!=VALUE")
        return Clause(field, "", operator, value)
    if not key and operator == ":":
        return Clause(field, value, ":", "*")
    if not key or operator == "!=" or (operator == ":" and value != "*"):
        raise InvalidInput(
            "a label is asked for otherwise", where="filter", allowed="labels.KEY=VALUE, labels.KEY:* or labels:KEY"
        )
    return Clause(field, key, operator, value)


def order_of(text: str, fields: Sequence[str]) -> tuple[tuple[str, bool], ...]:
    """Return the fields of an order, each with whether the greatest comes first.

    Raises:
        InvalidInput: When it can't be read.
    """
    found: list[tuple[str, bool]] = []
    at = 0
    while text[at:].strip():
        match = _TERM.match(text, at)
        field = camel(match["field"]) if match is not None else ""
        if match is None or field not in fields or field in {name for name, _ in found}:
            raise InvalidInput(
                f"can't read the order at {text[at : at + 40]!r}",
                where="orderBy",
                allowed=f"{', '.join(fields)}, each once",
            )
        found.append((field, (match["way"] or "").lower() == "desc"))
        at = match.end()
    return tuple(found)


def size_of(query: Mapping[str, str]) -> int:
    """Return how many are asked for; more than the most is the most.

    Raises:
        InvalidInput: When it is no number, or less than none.
    """
    text = query.get("pageSize", "") or "0"
    if not (text.isdecimal() and text.isascii() and len(text) < 11):
        raise InvalidInput(f"{text[:40]!r}", where="pageSize", allowed=f"0 to {MOST}")
    return min(int(text), MOST) or PAGE


def masked(query: Mapping[str, str]) -> Callable[[Shown], Shown]:
    """Return what leaves of a model only the fields that a request wants to read."""
    wanted = {camel(part.strip()) for part in query.get("readMask", "").split(",") if part.strip()}
    if not wanted or "*" in wanted:
        return lambda model: model
    return lambda model: {name: value for name, value in model.items() if name in wanted}


def page_of(found: list[Shown], query: Mapping[str, str], of: str) -> tuple[list[Shown], str]:
    """Return one page of models, and where the next begins.

    Args:
        found: All models, in order.
        query: What was asked for.
        of: What the pages are of.

    Raises:
        InvalidInput: When the token can't be read, or is of another question.
    """
    place = Place(f"vertex:{of}:{query.get('filter', '')}:{query.get('orderBy', '')}")
    start, size = place.start(query.get("pageToken") or None), size_of(query)
    more = len(found) > start + size
    return found[start : start + size], place.cursor(start + size) if more else ""


def ordered(found: list[Shown], order: Sequence[tuple[str, bool]]) -> list[Shown]:
    """Return models in an order."""
    for field, descending in reversed(order):
        found = sorted(found, key=lambda model: str(model.get(field, "")), reverse=descending)
    return found
