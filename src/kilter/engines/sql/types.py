"""Column types that mean the same on SQLite and on PostgreSQL."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.types import TypeDecorator, TypeEngine

from kilter.core.clock import utc
from kilter.core.digests import canonical_json
from kilter.core.errors import InvalidInput


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC, to the microsecond; a naive time is taken as UTC.

    SQLite keeps it as text of a fixed width, so that text order is time order; PostgreSQL as ``timestamptz``.
    """

    impl = sa.String
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> TypeEngine[Any]:
        """Return the column type of a dialect."""
        if dialect.name == "postgresql":
            return dialect.type_descriptor(sa.TIMESTAMP(timezone=True))
        return dialect.type_descriptor(sa.String(27))

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> Any:
        """Return what the database is given."""
        return None if value is None else moment(value, dialect)

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> datetime | None:  # noqa: ARG002 -- SQLAlchemy's signature
        """Return what the caller gets."""
        return None if value is None else moment_of(value)


def moment(value: datetime, dialect: sa.Dialect) -> Any:
    """Return a moment as a dialect's driver is given it."""
    found = utc(value)
    return found if dialect.name == "postgresql" else f"{found.isoformat(timespec='microseconds')[:26]}Z"


def moment_of(value: Any) -> datetime:
    """Return the moment that a dialect's driver gave."""
    return datetime.fromisoformat(value) if isinstance(value, str) else utc(value)


class Json(TypeDecorator[Any]):
    """Any value that JSON can say, as canonical text; it comes back equal, on both dialects.

    ``jsonb`` would change some numbers and refuse the character NUL, so the text is kept as it is. Records (msgspec Structs) may be
    given and come back as dictionaries. Numbers that JSON cannot say (NaN, infinities) are refused, not changed.
    """

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> str | None:  # noqa: ARG002 -- SQLAlchemy's signature
        """Return what the database is given."""
        return None if value is None else json_text(value)

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:  # noqa: ARG002 -- SQLAlchemy's signature
        """Return what the caller gets."""
        return None if value is None else msgspec.json.decode(value)


def json_text(value: Any) -> str:
    """Return a value as canonical JSON.

    Raises:
        InvalidInput: When JSON cannot say the value exactly.
    """
    try:
        plain = msgspec.to_builtins(value, str_keys=True)
        _refuse_non_finite(plain, "$")
        return canonical_json(plain).decode()
    except (TypeError, OverflowError, UnicodeEncodeError) as error:
        raise InvalidInput(f"JSON can't say this value: {error}", where="json column") from error


def _refuse_non_finite(value: Any, path: str) -> None:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidInput(
                f"{value} at {path}",
                where="json column",
                allowed="finite numbers and null",
                fix="store null, or the text of the number",
            )
    elif isinstance(value, dict):
        for key, item in value.items():
            _refuse_non_finite(item, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _refuse_non_finite(item, f"{path}[{index}]")
