"""The fields of a request, from JSON or from a query, with MLflow's words for those that can't be used.

Its server reads requests as Protocol Buffers in JSON: whole numbers may come as texts, names in snake or in camel case.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from kilter.server.mlflow.problems import INVALID, Refused

_DOCS = " See the API docs for more information about request parameters."
_LARGEST = 2**63


class Fields:
    """What a request says.

    Args:
        given: The values by name; of a query, lists of texts.
        by: Who asks, for the registry's history.
        host: The name by which the server was called.
    """

    def __init__(self, given: Mapping[str, Any], by: str = "", host: str = "") -> None:
        self.given = given
        self.by = by
        self.host = host

    def text(self, name: str, *, required: bool = False, path: str = "") -> str:
        """Return a text; an empty one when it was not said."""
        value = self._one(name, required=required, path=path)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise _wrong(path or name, value)
        return value

    def optional(self, name: str) -> str | None:
        """Return a text, or None when it was not said."""
        return None if self._one(name) is None else self.text(name)

    def integer(
        self, name: str, default: int = 0, *, required: bool = False, least: int | None = None, path: str = ""
    ) -> int:
        """Return a whole number of 64 bits."""
        value = self._one(name, required=required, path=path)
        if value is None:
            return default
        number = _whole(value)
        if number is None:
            raise _wrong(path or name, value)
        if least is not None and number < least:
            raise Refused(
                INVALID, f"Invalid value {number} for parameter '{name}' supplied. It must be a positive integer"
            )
        return number

    def number(self, name: str, *, path: str = "") -> float:
        """Return a number that has to be there; NaN and the infinities may be spelled out."""
        value = self._one(name, required=True, path=path)
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise _wrong(path or name, value)
        try:
            return float(value)
        except (ValueError, OverflowError):
            raise _wrong(path or name, value) from None

    def texts(self, name: str) -> list[str]:
        """Return a list of texts."""
        values = self._list(name)
        for value in values:
            if not isinstance(value, str):
                raise _wrong(name, value)
        return [str(value) for value in values]

    def items(self, name: str) -> list[Fields]:
        """Return a list of objects."""
        values = self._list(name)
        for value in values:
            if not isinstance(value, Mapping):
                raise _wrong(name, value)
        return [Fields(value) for value in values]

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Return a truth."""
        value = self._one(name)
        if value is None:
            return default
        if isinstance(value, str) and value.lower() in {"true", "false"}:
            return value.lower() == "true"
        if not isinstance(value, bool):
            raise _wrong(name, value)
        return value

    def one(self, name: str) -> Fields:
        """Return an object; an empty one when it was not said."""
        value = self._one(name)
        if value is not None and not isinstance(value, Mapping):
            raise _wrong(name, value)
        return Fields(value or {})

    def has(self, name: str) -> bool:
        """Say whether a field was given."""
        return self._one(name) is not None

    def whole(self, name: str) -> bool:
        """Say whether a field is a whole number, or a text that spells one."""
        return _whole(self._one(name)) is not None

    def _list(self, name: str) -> Sequence[Any]:
        value = self.given.get(name, self.given.get(_camel(name)))
        if value is None:
            return ()
        if not isinstance(value, list):
            raise _wrong(name, value)
        return value

    def _one(self, name: str, *, required: bool = False, path: str = "") -> Any:
        value = self.given.get(name)
        if value is None and "_" in name:
            value = self.given.get(_camel(name))
        if isinstance(value, Query):
            value = value[-1]
        if required and (value is None or value == ""):
            raise missing(path or name)
        return value


class Query(list[str]):
    """The values that a query gives to one name."""


def missing(name: str) -> Refused:
    """Return what is said of a field that has to be there."""
    return Refused(INVALID, f"Missing value for required parameter '{name}'.{_DOCS}")


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def _whole(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    try:
        number = int(value) if isinstance(value, int | str) else int(value) if math.isfinite(value) else None
    except (TypeError, ValueError):
        return None
    if number is None or (isinstance(value, float) and value != number) or not -_LARGEST <= number < _LARGEST:
        return None
    return number


def _wrong(name: str, value: Any) -> Refused:
    shown = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)[:200]
    kind = type(value).__name__
    return Refused(
        INVALID, f"Invalid value {shown} for parameter '{name}' supplied:  Hint: Value was of type '{kind}'.{_DOCS}"
    )
