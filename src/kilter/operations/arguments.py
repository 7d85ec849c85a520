"""Arguments from outside: checked against the request's Struct, refused with path, allowed and fix, never echoed."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Literal

import msgspec

from kilter.core.errors import InvalidInput

_PATH = re.compile(r" - at `(?P<path>[^`]*)`$")
_EXPECTED = re.compile(r"^Expected `(?P<expected>[^`]+)`(?P<bound>.*?)(?:, got `(?P<given>[^`]+)`)?$")
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<name>.*)`$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(?P<name>[^`]+)`$")
_WORD = re.compile(r"^[A-Za-z_][A-Za-z0-9_-]{0,39}$")
_STEP = re.compile(r"\.([A-Za-z_][A-Za-z0-9_]*)|(\[[^\]]*\])")

T = typing.TypeVar("T")


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Return ``did you mean 'limit'?``, or nothing when no known name is near."""
    near = difflib.get_close_matches(given, list(known), n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else ""


def read_arguments(request: type[T], arguments: Mapping[str, object], *, text: bool = False) -> T:
    """Return the arguments as the request's Struct.

    Args:
        request: The Struct made from an operation's signature.
        arguments: Plain JSON values by name.
        text: Values are strings of a query string: numbers, booleans, ``null`` and JSON are read from them.

    Raises:
        InvalidInput: With the path, the type that was given, what is allowed, and the nearest known name.
    """
    values = _from_text(request, arguments) if text else arguments
    try:
        return msgspec.convert(values, request, strict=not text)
    except msgspec.ValidationError as error:
        raise _refusal(str(error), request) from None


def _from_text(request: type[Any], arguments: Mapping[str, object]) -> dict[str, object]:
    hints = typing.get_type_hints(request, include_extras=True)
    return {name: _parse(hints.get(name, str), value) for name, value in arguments.items()}


def _parse(kind: Any, value: object) -> object:
    """Read one value of a query string: repeated names are lists, containers are JSON, the rest stays text."""
    choices = _choices(kind)
    origins = {typing.get_origin(choice) or choice for choice in choices}
    many = bool(origins & {list, tuple, set, frozenset})
    if isinstance(value, list):
        values: list[object] = value
        return values if many or len(values) != 1 else _parse(kind, values[0])
    if not isinstance(value, str) or (value == "null" and type(None) in origins and str not in origins):
        return value if value != "null" else None
    if any(_is_container(origin) for origin in origins) and value[:1] in {"[", "{"}:
        try:
            return msgspec.json.decode(value)
        except msgspec.DecodeError:
            return value
    return [value] if many else value


def _is_container(origin: Any) -> bool:
    return origin in {list, tuple, set, frozenset, dict, Mapping} or (
        isinstance(origin, type) and issubclass(origin, msgspec.Struct | Mapping)
    )


def _choices(kind: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the type alone."""
    if typing.get_origin(kind) is typing.Annotated:
        return _choices(typing.get_args(kind)[0])
    if typing.get_origin(kind) in {typing.Union, types.UnionType}:
        return tuple(choice for member in typing.get_args(kind) for choice in _choices(member))
    return (kind,)


def _refusal(message: str, request: type[Any]) -> InvalidInput:
    """Turn msgspec's message into ours; only types, paths of our own fields and plain words of a name are kept."""
    found = _PATH.search(message)
    path = _clean_path(found["path"]) if found else "$"
    body = message[: found.start()] if found else message
    if unknown := _UNKNOWN.match(body):
        fields = _fields_at(request, path)
        name = unknown["name"]
        shown = f"unknown argument {name!r}" if _WORD.match(name) else "unknown argument"
        return InvalidInput(
            shown, where=path, allowed=", ".join(fields) or "no arguments", fix=did_you_mean(name, fields)
        )
    if missing := _MISSING.match(body):
        name = missing["name"]
        allowed = describe_type(_type_at(request, f"{path}.{name}"))
        return InvalidInput(f"argument {name!r} is missing", where=f"{path}.{name}", allowed=allowed)
    kind = _type_at(request, path)
    allowed = describe_type(kind) if kind is not None else ""
    if expected := _EXPECTED.match(body):
        given = f"got {expected['given']}" if expected["given"] else "the value is out of bounds"
        bound = f"{expected['expected']}{expected['bound']}"
        return InvalidInput(f"{given}, expected {bound}", where=path, allowed=allowed or bound)
    if body.startswith("Invalid enum value"):
        return InvalidInput("not one of the allowed values", where=path, allowed=allowed)
    if body.startswith("Invalid RFC3339"):
        return InvalidInput("not a time", where=path, allowed='RFC 3339, like "2013-03-01T12:00:00Z"')
    return InvalidInput("the value can't be used", where=path, allowed=allowed)


def _clean_path(path: str) -> str:
    """Keep our own field names and positions of a path; keys of the caller's dictionaries become ``[...]`` already."""
    steps = "".join(f".{name}" if name else bracket for name, bracket in _STEP.findall(path))
    return f"${steps}"[:200]


def _type_at(request: type[Any], path: str) -> Any:
    """Return the annotated type at a path, or None when the path leads through a union or a dictionary."""
    kind: Any = request
    for name, bracket in _STEP.findall(path):
        members = [choice for choice in _choices(kind) if choice is not type(None)]
        if len(members) != 1:
            return None
        kind = members[0]
        if bracket:
            arguments = typing.get_args(kind)
            kind = arguments[-1 if typing.get_origin(kind) is dict else 0] if arguments else None
        elif isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            kind = typing.get_type_hints(kind, include_extras=True).get(name)
        else:
            return None
        if kind is None:
            return None
    return kind


def _fields_at(request: type[Any], path: str) -> tuple[str, ...]:
    kind = _type_at(request, path)
    for choice in _choices(kind):
        if isinstance(choice, type) and issubclass(choice, msgspec.Struct):
            return choice.__struct_encode_fields__
    return ()


_NAMES: dict[Any, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
    datetime: 'a time like "2013-03-01T12:00:00Z"',
    dict: "an object",
    list: "a list",
    tuple: "a list",
    bytes: "base64 text",
    Any: "any JSON value",
    object: "any JSON value",
}


def describe_type(kind: Any) -> str:
    """Return a type in words: ``a whole number or null``."""
    words: list[str] = []
    for choice in _choices(kind):
        origin = typing.get_origin(choice)
        if origin is Literal:
            words.extend(msgspec.json.encode(value).decode() for value in typing.get_args(choice))
        elif origin in {list, tuple, set, frozenset} and typing.get_args(choice):
            words.append(f"a list of {describe_type(typing.get_args(choice)[0])}")
        elif isinstance(choice, type) and issubclass(choice, msgspec.Struct):
            words.append(f"an object with {', '.join(choice.__struct_encode_fields__)}")
        else:
            words.append(_NAMES.get(origin or choice, getattr(choice, "__name__", str(choice))))
    return " or ".join(dict.fromkeys(words))
