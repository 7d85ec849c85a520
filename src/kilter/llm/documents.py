"""The file ``traces.json`` in which MLflow's clients keep a trace's spans: read into spans, and written from them."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import msgspec

from kilter.core.errors import InvalidInput
from kilter.llm.conventions import completed
from kilter.llm.otlp import MOST_SPANS, checked_span, checked_times, checked_trace
from kilter.llm.records import Span, SpanEvent, SpanLink, SpanStatus

_STATUSES: dict[str, SpanStatus] = {
    "STATUS_CODE_OK": "OK",
    "STATUS_CODE_ERROR": "ERROR",
    "OK": "OK",
    "ERROR": "ERROR",
}


class _Event(msgspec.Struct):
    name: str = ""
    time_unix_nano: int = 0
    timestamp: int = 0
    attributes: dict[str, Any] = {}


class _Link(msgspec.Struct):
    trace_id: str = ""
    span_id: str = ""
    attributes: dict[str, Any] | None = None


class _Status(msgspec.Struct):
    code: str = ""
    message: str | None = None


class _Context(msgspec.Struct):
    span_id: str


class _Span(msgspec.Struct):
    """A span as clients write it; the last six fields are those of clients before MLflow 3."""

    trace_id: str = ""
    span_id: str = ""
    name: str = ""
    parent_span_id: str | None = None
    start_time_unix_nano: int = 0
    end_time_unix_nano: int | None = None
    status: _Status | None = None
    attributes: dict[str, Any] = {}
    events: list[_Event] = []
    links: list[_Link] = []
    context: _Context | None = None
    parent_id: str | None = None
    start_time: int = 0
    end_time: int | None = None
    status_code: str = ""
    status_message: str | None = None


class _Document(msgspec.Struct):
    spans: list[_Span] = []


_DECODER = msgspec.json.Decoder(_Document, strict=False)


def read_document(data: bytes, trace: str) -> list[Span]:
    """Return the spans of a document.

    Args:
        data: The file.
        trace: The trace that it belongs to: spans of another one are refused.

    Raises:
        InvalidInput: When it can't be read.
    """
    try:
        document = _DECODER.decode(data)
    except RecursionError:
        raise InvalidInput("the file is nested too deep", where="traces.json") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidInput(f"the file can't be read: {str(error)[:200]}", where="traces.json") from None
    if len(document.spans) > MOST_SPANS:
        raise InvalidInput("too many spans", where="traces.json", allowed=f"{MOST_SPANS:,}")
    return [_span(span, trace) for span in document.spans]


def document_of(spans: tuple[Span, ...]) -> bytes:
    """Return spans as the document of a trace."""
    return msgspec.json.encode({"spans": [_shown(span) for span in spans]})


def _span(span: _Span, trace: str) -> Span:
    if span.context is not None:
        return _before_3(span, span.context.span_id, trace)
    found = checked_trace(_bytes(span.trace_id, 16))
    if found != trace:
        raise InvalidInput("a span belongs to another trace", where="traces.json", allowed=trace)
    began, ended = checked_times(span.start_time_unix_nano, span.end_time_unix_nano or 0)
    status = span.status or _Status()
    return Span(
        trace=found,
        id=checked_span(_bytes(span.span_id, 8)),
        parent=checked_span(_bytes(span.parent_span_id, 8)) if span.parent_span_id else None,
        name=span.name,
        start_ns=began,
        end_ns=ended,
        status=_STATUSES.get(status.code, "UNSET"),
        message=status.message or "",
        attributes={name: _plain(value) for name, value in span.attributes.items()},
        events=tuple(
            SpanEvent(name=one.name, at_ns=checked_times(one.time_unix_nano, 0)[0], attributes=one.attributes)
            for one in span.events
        ),
        links=tuple(
            SpanLink(trace=one.trace_id[:64], span=one.span_id[:64], attributes=one.attributes or {})
            for one in span.links
        ),
    )


def _before_3(span: _Span, own: str, trace: str) -> Span:
    """Return a span of a client before MLflow 3: its ids are OpenTelemetry's, and its trace has one of its own."""
    began, ended = checked_times(span.start_time, span.end_time or 0)
    return Span(
        trace=trace,
        id=checked_span(_bytes(own, 8)),
        parent=checked_span(_bytes(span.parent_id, 8)) if span.parent_id else None,
        name=span.name,
        start_ns=began,
        end_ns=ended,
        status=_STATUSES.get(span.status_code, "UNSET"),
        message=span.status_message or "",
        attributes={name: _plain(value) for name, value in span.attributes.items()},
        events=tuple(
            SpanEvent(name=one.name, at_ns=checked_times(one.timestamp, 0)[0], attributes=one.attributes)
            for one in span.events
        ),
    )


def _bytes(text: str, length: int) -> bytes:
    """Return an id, in base64 or in hexadecimal as some versions of the client write it."""
    plain = text.removeprefix("tr-").removeprefix("0x")
    try:
        if len(plain) == 2 * length:
            return bytes.fromhex(plain)
        return base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        return b""


def _plain(value: Any) -> Any:
    """Return an attribute's value, which the client writes as JSON within the JSON."""
    if not isinstance(value, str):
        return value
    try:
        return msgspec.json.decode(value)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return value


def _shown(span: Span) -> dict[str, Any]:
    attributes = completed(span)
    return {
        "trace_id": _base64(span.trace.removeprefix("tr-")),
        "span_id": _base64(span.id),
        "parent_span_id": _base64(span.parent) if span.parent else None,
        "name": span.name,
        "start_time_unix_nano": span.start_ns,
        "end_time_unix_nano": span.end_ns,
        "events": [
            {"name": one.name, "time_unix_nano": one.at_ns, "attributes": one.attributes} for one in span.events
        ],
        "status": {"code": f"STATUS_CODE_{span.status}", "message": span.message},
        "attributes": {name: msgspec.json.encode(value).decode() for name, value in attributes.items()},
        "links": [{"trace_id": one.trace, "span_id": one.span, "attributes": one.attributes} for one in span.links],
    }


def _base64(digits: str) -> str:
    try:
        return base64.b64encode(bytes.fromhex(digits)).decode()
    except ValueError:  # a trace that an old client named otherwise
        return base64.b64encode(digits.encode()).decode()
