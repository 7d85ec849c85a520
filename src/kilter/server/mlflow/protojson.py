"""The forms that Protocol Buffers give to moments, durations and OpenTelemetry's values in JSON."""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime, timedelta
from typing import Any

from kilter.llm.conventions import completed
from kilter.llm.records import Span
from kilter.server.mlflow.fields import missing
from kilter.server.mlflow.problems import INVALID, Refused

_START = datetime(1970, 1, 1, tzinfo=UTC)
_MOMENT = re.compile(r"^(\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)$")
_DURATION = re.compile(r"^(-?)(\d{1,12})(?:\.(\d{1,9}))?s$")
_LARGEST_WHOLE = 2**53


def moment(milliseconds: int) -> str:
    """Return a moment as ``2026-11-21T10:00:00.123Z``."""
    at = _START + timedelta(milliseconds=milliseconds)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z"


def duration(milliseconds: int) -> str:
    """Return a duration as ``1.500s``."""
    return f"{milliseconds // 1000}.{milliseconds % 1000:03d}s"


def read_moment(value: Any, name: str) -> int:
    """Return a moment in milliseconds since 1970.

    Raises:
        Refused: When it is none.
    """
    if value is None:
        raise missing(name)
    match = _MOMENT.match(value) if isinstance(value, str) else None
    if match is None:
        raise _wrong(value, name)
    zone = "+00:00" if match[3] in "Zz" else match[3]
    try:
        at = datetime.fromisoformat(f"{match[1]}{zone}")
    except ValueError:
        raise _wrong(value, name) from None
    return int((at - _START) // timedelta(milliseconds=1)) + int((match[2] or "0").ljust(3, "0")[:3])


def read_duration(value: Any, name: str) -> int:
    """Return a duration in milliseconds.

    Raises:
        Refused: When it is none, or less than nothing.
    """
    match = _DURATION.match(value) if isinstance(value, str) else None
    if match is None or match[1]:
        raise _wrong(value, name)
    return int(match[2]) * 1000 + int((match[3] or "0").ljust(3, "0")[:3])


def span_of(span: Span) -> dict[str, Any]:
    """Return a span as ``opentelemetry.proto.trace.v1.Span``."""
    found: dict[str, Any] = {
        "trace_id": _bytes(span.trace.removeprefix("tr-")),
        "span_id": _bytes(span.id),
        "parent_span_id": _bytes(span.parent) if span.parent else "",
        "name": span.name,
        "kind": f"SPAN_KIND_{span.kind}",
        "start_time_unix_nano": span.start_ns,
        "attributes": _pairs(completed(span)),
        "events": [
            {"name": one.name, "time_unix_nano": one.at_ns, "attributes": _pairs(one.attributes)} for one in span.events
        ],
        "links": [
            {
                "trace_id": _bytes(one.trace.removeprefix("tr-")),
                "span_id": _bytes(one.span),
                "attributes": _pairs(one.attributes),
            }
            for one in span.links
        ],
        "status": {"code": f"STATUS_CODE_{span.status}", "message": span.message},
    }
    return found if span.end_ns is None else {**found, "end_time_unix_nano": span.end_ns}


def whole(value: Any) -> Any:
    """Return a number of ``google.protobuf.Value``, which knows floats only, as the whole number that it is."""
    if isinstance(value, float) and value.is_integer() and abs(value) < _LARGEST_WHOLE:
        return int(value)
    return value


def _pairs(attributes: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": name, "value": _value(value)} for name, value in attributes.items()]


def _value(value: Any) -> dict[str, Any]:  # noqa: PLR0911 - one for each kind of value
    if value is None:
        return {}
    if isinstance(value, bool):
        return {"bool_value": value}
    if isinstance(value, int):
        return {"int_value": str(value)} if -(1 << 63) <= value < 1 << 63 else {"double_value": float(value)}
    if isinstance(value, float):
        return {"double_value": value}
    if isinstance(value, list):
        return {"array_value": {"values": [_value(one) for one in value]}}
    if isinstance(value, dict):
        return {"kvlist_value": {"values": _pairs(value)}}
    return {"string_value": str(value)}


def _bytes(digits: str) -> str:
    try:
        return base64.b64encode(bytes.fromhex(digits)).decode()
    except ValueError:
        return base64.b64encode(digits.encode()).decode()


def _wrong(value: Any, name: str) -> Refused:
    return Refused(INVALID, f"Invalid value {str(value)[:60]!r} for parameter '{name}' supplied.")
