"""The fields of a body, by the names that they have in JSON."""

from __future__ import annotations

from typing import Any

from kilter.core.errors import InvalidInput
from kilter.server.google.names import camel

Said = dict[str, Any]


def fields_of(said: object, allowed: set[str] | frozenset[str] | None, where: str) -> Said:
    """Return an object's fields by their names in JSON; what can't be kept is refused, not lost."""
    if not isinstance(said, dict):
        raise InvalidInput("it is not an object", where=where, allowed="an object")
    found = {camel(str(name)): value for name, value in said.items()}
    for name in found:
        if allowed is not None and name not in allowed:
            raise InvalidInput(f"{name[:60]!r} is not kept here", where=where, allowed=", ".join(sorted(allowed)))
    return found


def object_of(said: Said, field: str) -> Said:
    """Return a field that has to be an object."""
    value = said.get(field)
    if not isinstance(value, dict):
        raise InvalidInput("it is not an object", where=field, allowed="an object")
    return value


def text_of(said: Said, field: str) -> str:
    """Return a field that is a text; empty when it is not there."""
    value = said.get(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidInput(f"{str(value)[:60]!r} is not a text", where=field, allowed="a text")
    return value


def texts_of(said: Said, field: str) -> list[str]:
    """Return a field that is a list of texts; empty when it is not there."""
    value = said.get(field) or []
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise InvalidInput("it is not a list of texts", where=field, allowed="a list of texts")
    return value
