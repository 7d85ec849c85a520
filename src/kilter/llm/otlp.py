"""OpenTelemetry's spans, read from Protocol Buffers by hand: nothing is installed for it, and nothing is read twice.

Source: https://github.com/open-telemetry/opentelemetry-proto/blob/v1.8.0/opentelemetry/proto/trace/v1/trace.proto and its neighbours.
A field that is not known is passed over, as the encoding asks; what is cut off or nested without end is refused as a whole.
"""

from __future__ import annotations

import base64
import math
import struct
from typing import Any

from kilter.core.errors import InvalidInput
from kilter.llm.records import Span, SpanEvent, SpanLink, SpanStatus

DEEPEST = 64
MOST_SPANS = 50_000
PREFIX = "tr-"
LATEST_NS = 2**63

KINDS = ("INTERNAL", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
STATUSES: tuple[SpanStatus, ...] = ("UNSET", "OK", "ERROR")

_NO_TRACE, _NO_SPAN = b"\x00" * 16, b"\x00" * 8
_DOUBLE = struct.Struct("<d")
_Field = tuple[int, int, int]
"""A field: number and wire type as in the encoding, then where it begins and ends, or its value."""


def read_protobuf(data: bytes) -> list[Span]:
    """Return the spans of an ``ExportTraceServiceRequest``.

    Raises:
        InvalidInput: When it can't be read, or holds a span without an id.
    """
    try:
        found: list[Span] = []
        for key, start, stop in _fields(data, 0, len(data)):
            if key == 0x0A:
                _resource_spans(data, start, stop, found)
    except (IndexError, struct.error) as error:
        raise malformed("it is cut off") from error
    return found


def malformed(why: str) -> InvalidInput:
    """Return what is said of spans that can't be read."""
    return InvalidInput(f"Invalid OpenTelemetry format: {why}", where="body", allowed="an ExportTraceServiceRequest")


def checked_trace(data: bytes) -> str:
    """Return a trace's id, which has to be 16 bytes and not all zero."""
    if len(data) != 16 or data == _NO_TRACE:
        raise malformed("a trace_id has to be 16 bytes that are not all zero")
    return PREFIX + data.hex()


def checked_span(data: bytes) -> str:
    """Return a span's id, which has to be 8 bytes and not all zero."""
    if len(data) != 8 or data == _NO_SPAN:
        raise malformed("a span_id has to be 8 bytes that are not all zero")
    return data.hex()


def checked_times(start_ns: int, end_ns: int) -> tuple[int, int | None]:
    """Return when a span began and ended; it has not ended when its end is zero."""
    if not (0 <= start_ns < LATEST_NS and 0 <= end_ns < LATEST_NS):
        raise malformed("a time lies beyond the year 2262")
    return start_ns, end_ns or None


def finite(value: float) -> float | str:
    """Return a number in a form that JSON can say: NaN and the infinities by their names."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


# ---------------------------------------------------------------- the encoding


def _fields(data: bytes, at: int, end: int) -> list[_Field]:
    """Return the fields of a message that lies from ``at`` to ``end``."""
    found: list[_Field] = []
    while at < end:
        key = data[at]
        at += 1
        if key >= 0x80:
            key, at = _varint(data, at - 1)
        wire = key & 7
        if wire == 2:
            length = data[at]
            at += 1
            if length >= 0x80:
                length, at = _varint(data, at - 1)
            stop = at + length
            if stop > end:
                raise IndexError(stop)
            found.append((key, at, stop))
            at = stop
        elif wire == 0:
            value, at = _varint(data, at)
            found.append((key, value, 0))
        elif wire in {1, 5}:
            stop = at + (8 if wire == 1 else 4)
            if stop > end:
                raise IndexError(stop)
            found.append((key, at, stop))
            at = stop
        else:
            raise malformed("a field has a type that is not used any more")
    if at > end:
        raise IndexError(at)
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
        shift += 7
        if shift > 63:
            raise malformed("a number is longer than 64 bits")


def _text(data: bytes, start: int, stop: int) -> str:
    # Some exporters cut long texts within a character: its rest is shown as such, the batch is not lost for it.
    return data[start:stop].decode("utf-8", "replace")


# ---------------------------------------------------------------- the messages


def _resource_spans(data: bytes, at: int, end: int, found: list[Span]) -> None:
    resource: dict[str, Any] = {}
    scopes: list[tuple[int, int]] = []
    for key, start, stop in _fields(data, at, end):
        if key == 0x0A:
            resource = _attributes(data, start, stop, 0x0A)
        elif key == 0x12:
            scopes.append((start, stop))
    for start, stop in scopes:
        _scope_spans(data, start, stop, resource, found)


def _scope_spans(data: bytes, at: int, end: int, resource: dict[str, Any], found: list[Span]) -> None:
    scope = ""
    spans: list[tuple[int, int]] = []
    for key, start, stop in _fields(data, at, end):
        if key == 0x12:
            spans.append((start, stop))
        elif key == 0x0A:
            scope = next((_text(data, a, b) for one, a, b in _fields(data, start, stop) if one == 0x0A), "")
    if len(found) + len(spans) > MOST_SPANS:
        raise InvalidInput("too many spans at once", where="body", allowed=f"{MOST_SPANS:,} spans")
    for start, stop in spans:
        found.append(_span(data, start, stop, resource, scope))


def _span(data: bytes, at: int, end: int, resource: dict[str, Any], scope: str) -> Span:  # noqa: C901, PLR0912 - a branch for each field
    trace = span = parent = b""
    name = message = ""
    kind = start_ns = end_ns = status = 0
    attributes: dict[str, Any] = {}
    events: list[SpanEvent] = []
    links: list[SpanLink] = []
    for key, start, stop in _fields(data, at, end):
        if key == 0x4A:
            _key_value(data, start, stop, attributes, 0)
        elif key == 0x0A:
            trace = data[start:stop]
        elif key == 0x12:
            span = data[start:stop]
        elif key == 0x22:
            parent = data[start:stop]
        elif key == 0x2A:
            name = _text(data, start, stop)
        elif key == 0x30:
            kind = start
        elif key == 0x39:
            start_ns = int.from_bytes(data[start:stop], "little")
        elif key == 0x41:
            end_ns = int.from_bytes(data[start:stop], "little")
        elif key == 0x5A:
            events.append(_event(data, start, stop))
        elif key == 0x6A:
            links.append(_link(data, start, stop))
        elif key == 0x7A:
            for one, begin, over in _fields(data, start, stop):
                if one == 0x12:
                    message = _text(data, begin, over)
                elif one == 0x18:
                    status = begin
    began, ended = checked_times(start_ns, end_ns)
    return Span(
        trace=checked_trace(trace),
        id=checked_span(span),
        parent=checked_span(parent) if parent and parent != _NO_SPAN else None,
        name=name,
        start_ns=began,
        end_ns=ended,
        status=STATUSES[status] if status < len(STATUSES) else "UNSET",
        message=message,
        kind=KINDS[kind] if kind < len(KINDS) else KINDS[0],
        attributes=attributes,
        events=tuple(events),
        links=tuple(links),
        resource=resource,
        scope=scope,
    )


def _event(data: bytes, at: int, end: int) -> SpanEvent:
    name, moment = "", 0
    attributes: dict[str, Any] = {}
    for key, start, stop in _fields(data, at, end):
        if key == 0x1A:
            _key_value(data, start, stop, attributes, 0)
        elif key == 0x12:
            name = _text(data, start, stop)
        elif key == 0x09:
            moment = int.from_bytes(data[start:stop], "little")
    return SpanEvent(name=name, at_ns=checked_times(moment, 0)[0], attributes=attributes)


def _link(data: bytes, at: int, end: int) -> SpanLink:
    trace = span = b""
    attributes: dict[str, Any] = {}
    for key, start, stop in _fields(data, at, end):
        if key == 0x0A:
            trace = data[start:stop]
        elif key == 0x12:
            span = data[start:stop]
        elif key == 0x22:
            _key_value(data, start, stop, attributes, 0)
    return SpanLink(trace=checked_trace(trace), span=checked_span(span), attributes=attributes)


def _attributes(data: bytes, at: int, end: int, wanted: int, depth: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, start, stop in _fields(data, at, end):
        if key == wanted:
            _key_value(data, start, stop, found, depth)
    return found


def _key_value(data: bytes, at: int, end: int, into: dict[str, Any], depth: int) -> None:
    # Nearly all are a short name and then a value, which reaches to the end: looked at without a list of fields.
    if end - at > 4 and data[at] == 0x0A and data[at + 1] < 0x80:
        over = at + 2 + data[at + 1]
        if over + 1 < end and data[over] == 0x12:
            length, begin = _varint(data, over + 1)
            if begin + length == end:
                into[_text(data, at + 2, over)] = _value(data, begin, end, depth)
                return
    name, value = "", None
    for key, start, stop in _fields(data, at, end):
        if key == 0x0A:
            name = _text(data, start, stop)
        elif key == 0x12:
            value = _value(data, start, stop, depth)
    into[name] = value


def _value(data: bytes, at: int, end: int, depth: int) -> Any:  # noqa: C901 - a branch for each kind of value
    """Return an ``AnyValue``; bytes as base64, and numbers that JSON can't say by their names."""
    if end - at >= 2 and data[at] == 0x0A:  # nearly all are one text
        length, begin = _varint(data, at + 1)
        if begin + length == end:
            return _text(data, begin, end)
    value: Any = None
    for key, start, stop in _fields(data, at, end):
        if key == 0x0A:
            value = _text(data, start, stop)
        elif key == 0x10:
            value = bool(start)
        elif key == 0x18:
            value = start - (1 << 64) if start >= 1 << 63 else start
        elif key == 0x21:
            value = finite(_DOUBLE.unpack_from(data, start)[0])
        elif key in {0x2A, 0x32}:
            if depth >= DEEPEST:
                raise InvalidInput("a value is nested too deep", where="body", allowed=f"{DEEPEST} levels")
            if key == 0x2A:
                value = [_value(data, a, b, depth + 1) for one, a, b in _fields(data, start, stop) if one == 0x0A]
            else:
                value = _attributes(data, start, stop, 0x0A, depth + 1)
        elif key == 0x3A:
            value = base64.b64encode(data[start:stop]).decode()
    return value
