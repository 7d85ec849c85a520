"""OpenTelemetry's spans, read from JSON: ids in hexadecimal, whole numbers of 64 bits as texts, as the protocol has it.

Source: https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding. Fields that are not known are passed over.
"""

from __future__ import annotations

from typing import Any

import msgspec

from kilter.core.errors import InvalidInput
from kilter.llm.otlp import (
    DEEPEST,
    KINDS,
    MOST_SPANS,
    STATUSES,
    checked_span,
    checked_times,
    checked_trace,
    finite,
    malformed,
)
from kilter.llm.records import Span, SpanEvent, SpanLink

_Whole = int | str


class _Value(msgspec.Struct, rename="camel"):
    string_value: str | None = None
    bool_value: bool | None = None
    int_value: _Whole | None = None
    double_value: float | str | None = None
    array_value: _Array | None = None
    kvlist_value: _Pairs | None = None
    bytes_value: str | None = None


class _Array(msgspec.Struct):
    values: list[_Value] = []


class _Pair(msgspec.Struct):
    key: str = ""
    value: _Value | None = None


class _Pairs(msgspec.Struct):
    values: list[_Pair] = []


class _Event(msgspec.Struct, rename="camel"):
    name: str = ""
    time_unix_nano: _Whole = 0
    attributes: list[_Pair] = []


class _Link(msgspec.Struct, rename="camel"):
    trace_id: str = ""
    span_id: str = ""
    attributes: list[_Pair] = []


class _Status(msgspec.Struct):
    message: str = ""
    code: _Whole = 0


class _Span(msgspec.Struct, rename="camel"):
    trace_id: str = ""
    span_id: str = ""
    parent_span_id: str = ""
    name: str = ""
    kind: _Whole = 0
    start_time_unix_nano: _Whole = 0
    end_time_unix_nano: _Whole = 0
    attributes: list[_Pair] = []
    events: list[_Event] = []
    links: list[_Link] = []
    status: _Status | None = None


class _Named(msgspec.Struct):
    name: str = ""


class _Scoped(msgspec.Struct, rename="camel"):
    scope: _Named | None = None
    spans: list[_Span] = []


class _Resource(msgspec.Struct):
    attributes: list[_Pair] = []


class _Recorded(msgspec.Struct, rename="camel"):
    resource: _Resource | None = None
    scope_spans: list[_Scoped] = []


class _Request(msgspec.Struct, rename="camel"):
    resource_spans: list[_Recorded] = []


_DECODER = msgspec.json.Decoder(_Request)


def read_json(data: bytes) -> list[Span]:
    """Return the spans of an ``ExportTraceServiceRequest`` in JSON.

    Raises:
        InvalidInput: When it can't be read, or holds a span without an id.
    """
    try:
        request = _DECODER.decode(data)
    except RecursionError:
        raise _too_deep() from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise malformed(str(error)[:200]) from None
    found: list[Span] = []
    for recorded in request.resource_spans:
        resource = _attributes(recorded.resource.attributes, 0) if recorded.resource else {}
        for scoped in recorded.scope_spans:
            if len(found) + len(scoped.spans) > MOST_SPANS:
                raise InvalidInput("too many spans at once", where="body", allowed=f"{MOST_SPANS:,} spans")
            scope = scoped.scope.name if scoped.scope else ""
            found.extend(_span(span, resource, scope) for span in scoped.spans)
    return found


def _span(span: _Span, resource: dict[str, Any], scope: str) -> Span:
    began, ended = checked_times(_whole(span.start_time_unix_nano), _whole(span.end_time_unix_nano))
    parent = _hex(span.parent_span_id)
    status = span.status or _Status()
    return Span(
        trace=checked_trace(_hex(span.trace_id)),
        id=checked_span(_hex(span.span_id)),
        parent=checked_span(parent) if any(parent) else None,
        name=span.name,
        start_ns=began,
        end_ns=ended,
        status=STATUSES[_named(status.code, "STATUS_CODE_", STATUSES)],
        message=status.message,
        kind=KINDS[_named(span.kind, "SPAN_KIND_", KINDS)],
        attributes=_attributes(span.attributes, 0),
        events=tuple(
            SpanEvent(
                name=event.name,
                at_ns=checked_times(_whole(event.time_unix_nano), 0)[0],
                attributes=_attributes(event.attributes, 0),
            )
            for event in span.events
        ),
        links=tuple(
            SpanLink(
                trace=checked_trace(_hex(link.trace_id)),
                span=checked_span(_hex(link.span_id)),
                attributes=_attributes(link.attributes, 0),
            )
            for link in span.links
        ),
        resource=resource,
        scope=scope,
    )


def _attributes(pairs: list[_Pair], depth: int) -> dict[str, Any]:
    return {pair.key: None if pair.value is None else _value(pair.value, depth) for pair in pairs}


def _value(value: _Value, depth: int) -> Any:  # noqa: PLR0911 - one for each kind of value
    if depth > DEEPEST:
        raise _too_deep()
    if value.string_value is not None:
        return value.string_value
    if value.int_value is not None:
        return _whole(value.int_value, -(1 << 63))
    if value.double_value is not None:
        return _double(value.double_value)
    if value.bool_value is not None:
        return value.bool_value
    if value.array_value is not None:
        return [_value(one, depth + 1) for one in value.array_value.values]
    if value.kvlist_value is not None:
        return _attributes(value.kvlist_value.values, depth + 1)
    return value.bytes_value


def _too_deep() -> InvalidInput:
    return InvalidInput("a value is nested too deep", where="body", allowed=f"{DEEPEST} levels")


def _whole(value: _Whole, least: int = 0) -> int:
    if isinstance(value, str):
        if not value.removeprefix("-").isdecimal() or len(value) > 20:
            raise malformed("a whole number is spelled in another way")
        value = int(value)
    if not least <= value < 1 << 64:
        raise malformed("a whole number is out of bounds")
    return value


def _double(value: float | str) -> float | str:
    try:
        return finite(float(value))
    except ValueError:
        raise malformed("a number is spelled in another way") from None


def _named(value: _Whole, prefix: str, names: tuple[str, ...]) -> int:
    """Return which of the names a value means: by its number, or spelled out; the first for all others."""
    if isinstance(value, int):
        return value if 0 <= value < len(names) else 0
    word = value.removeprefix(prefix)
    return max(place for place, name in enumerate(names) if name == word) if word in names else 0


def _hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text) if len(text) <= 64 else b""
    except ValueError:
        raise malformed("an id is not hexadecimal") from None
