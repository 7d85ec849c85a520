"""Spans to an OpenTelemetry collector: of each request, and of the look-up and the prediction of its group.

Off unless a collector is configured. Finished spans go to a bounded queue that a thread empties; when the collector is slow or
gone, spans are dropped and serving goes on. Needs the extra ``otel``.
Source: OpenTelemetry Trace SDK, batch processor; semantic conventions for HTTP server spans.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from kilter.serving.telemetry.tracing import Context, begin

_SERVER_ERROR = 500
_LINKS = 128
_SCOPE = InstrumentationScope("kilter.serving")
_FLAGS = TraceFlags(TraceFlags.SAMPLED)


class Exporter:
    """Makes spans of what has happened, and sends them.

    Args:
        endpoint: The collector: its URL, with or without ``/v1/traces``.
        front: The front's name.
        clock: The event loop's time.
        headers: What the collector wants to be sent, such as a key.
        queue: Spans that may wait; what comes beyond is dropped.
        timeout: Seconds that one attempt to send may take.
        delay: Seconds between two sendings.
    """

    def __init__(
        self,
        endpoint: str,
        front: str,
        clock: Callable[[], float],
        *,
        headers: Mapping[str, str] | None = None,
        queue: int = 4096,
        timeout: float = 5.0,
        delay: float = 1.0,
    ) -> None:
        # An exporter that can't reach its collector would fill the log with it, at every batch.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        self._resource = Resource.create({"service.name": "kilter", "service.instance.id": front})
        exporter = OTLPSpanExporter(
            endpoint=traces_url(endpoint),
            headers=dict(headers or {}),
            timeout=timeout,
            compression=Compression.Gzip,
        )
        self._processor = BatchSpanProcessor(
            exporter,
            max_queue_size=queue,
            max_export_batch_size=min(512, queue),
            schedule_delay_millis=delay * 1000,
            export_timeout_millis=timeout * 1000,
        )
        self._zero = time.time_ns() - int(clock() * 1e9)

    def request(
        self, context: Context, loop: str, protocol: str, status: int, since: float, until: float, rows: int
    ) -> None:
        """Tell of an answered request.

        Args:
            context: Its place in the trace.
            loop: The endpoint.
            protocol: The protocol it spoke.
            status: The status that it was answered with.
            since: When it arrived, on the loop's clock.
            until: When it was answered.
            rows: How many rows it had.
        """
        attributes = {
            "kilter.endpoint": loop,
            "kilter.protocol": protocol,
            "kilter.rows": rows,
            "http.response.status_code": status,
        }
        parent = _span(context.trace, context.parent) if context.parent else None
        failed = Status(StatusCode.ERROR) if status >= _SERVER_ERROR else Status(StatusCode.UNSET)
        own = _span(context.trace, context.span, context.state)
        self._send(f"predict {loop}", own, parent, attributes, (since, until), kind=SpanKind.SERVER, status=failed)

    def step(
        self, name: str, contexts: Sequence[Context], since: float, until: float, attributes: Mapping[str, str | int]
    ) -> None:
        """Tell of a step that was done for several requests at once: it belongs to the first, and links to the others.

        Args:
            name: ``lookup`` or ``predict``.
            contexts: The places of the requests in their traces.
            since: When it began, on the loop's clock.
            until: When it ended.
            attributes: What to say about it.
        """
        first = contexts[0]
        links = [Link(_span(other.trace, other.span)) for other in contexts[1:_LINKS]]
        own = _span(first.trace, begin(sampled=True).span)
        self._send(name, own, _span(first.trace, first.span), attributes, (since, until), links=links)

    def close(self) -> None:
        """Send what waits, for a moment at most, and end."""
        self._processor.shutdown()  # type: ignore[no-untyped-call]  # its author left the annotation out

    def flush(self) -> None:
        """Send what waits."""
        self._processor.force_flush()

    def _send(
        self,
        name: str,
        own: SpanContext,
        parent: SpanContext | None,
        attributes: Mapping[str, Any],
        span: tuple[float, float],
        *,
        links: Sequence[Link] = (),
        kind: SpanKind = SpanKind.INTERNAL,
        status: Status | None = None,
    ) -> None:
        self._processor.on_end(
            ReadableSpan(
                name=name,
                context=own,
                parent=parent,
                resource=self._resource,
                attributes=attributes,
                links=links,
                kind=kind,
                status=status or Status(StatusCode.UNSET),
                start_time=self._zero + int(span[0] * 1e9),
                end_time=self._zero + int(span[1] * 1e9),
                instrumentation_scope=_SCOPE,
            )
        )


def traces_url(endpoint: str) -> str:
    """Return where a collector takes traces."""
    return endpoint if endpoint.endswith("/v1/traces") else f"{endpoint.rstrip('/')}/v1/traces"


def _span(trace: str, span: str, state: bytes = b"") -> SpanContext:
    held = TraceState.from_header([state.decode()]) if state else None
    return SpanContext(int(trace, 16), int(span, 16), is_remote=False, trace_flags=_FLAGS, trace_state=held)
