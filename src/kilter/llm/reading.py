"""Reading traces back from their rows: one query for each kind of part, not for each trace."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from kilter.core.errors import NotFound
from kilter.llm.content import unpacked
from kilter.llm.records import Assessment, Span, TraceInfo
from kilter.llm.tables import assessments, spans, trace_metadata, trace_tags, traces
from kilter.llm.usage import CACHED, COSTS, TOKENS
from kilter.llm.writing import chunks


def require(connection: sa.Connection, trace: str, *, lock: bool = False) -> sa.Row[Any]:
    """Return the row of a trace.

    Raises:
        NotFound: When there is none.
    """
    chosen = sa.select(traces).where(traces.c.id == trace)
    row = connection.execute(chosen.with_for_update() if lock else chosen).first()
    if row is None:
        raise NotFound(f"there is no trace {trace!r}", where="traces")
    return row


def filled(connection: sa.Connection, rows: Sequence[sa.Row[Any]]) -> tuple[TraceInfo, ...]:
    """Return traces with their tags, metadata and assessments."""
    tags: defaultdict[str, dict[str, str]] = defaultdict(dict)
    metadata: defaultdict[str, dict[str, str]] = defaultdict(dict)
    judged: defaultdict[str, list[Assessment]] = defaultdict(list)
    for some in chunks([row.id for row in rows]):
        for table, into in ((trace_tags, tags), (trace_metadata, metadata)):
            chosen = sa.select(table).where(table.c.trace.in_(some)).order_by(table.c.trace, table.c.name)
            for part in connection.execute(chosen):
                into[part.trace][part.name] = part.value
        chosen = sa.select(assessments).where(assessments.c.trace.in_(some))
        for part in connection.execute(chosen.order_by(assessments.c.created_ms, assessments.c.id)):
            judged[part.trace].append(assessment_of(part))
    return tuple(
        TraceInfo(
            id=row.id,
            experiment=row.experiment,
            request_ms=row.request_ms,
            duration_ms=row.duration_ms,
            state=row.state,
            name=row.name,
            client_id=row.client_id,
            session=row.session,
            request=row.request,
            response=row.response,
            usage=_said(row, (*TOKENS, *CACHED)),
            cost=_said(row, COSTS),
            tags=tags.get(row.id, {}),
            metadata=metadata.get(row.id, {}),
            assessments=tuple(judged.get(row.id, ())),
            spans=row.spans,
        )
        for row in rows
    )


def read_spans(
    connection: sa.Connection, order: Sequence[str], fetch: Callable[[str], bytes] | None
) -> dict[str, tuple[Span, ...]]:
    """Return the spans of traces, of each the root first and then by their beginning.

    Args:
        connection: A transaction.
        order: The traces.
        fetch: Returns long values by their digest; without it, of long values their beginning only.
    """
    found: dict[str, list[Span]] = {trace: [] for trace in order}
    for some in chunks(order):
        chosen = sa.select(spans).where(spans.c.trace.in_(some))
        for row in connection.execute(chosen.order_by(spans.c.parent.is_not(None), spans.c.start_ns, spans.c.id)):
            found[row.trace].append(_span(row, fetch))
    return {trace: tuple(some) for trace, some in found.items()}


def assessment_of(row: sa.Row[Any]) -> Assessment:
    """Return an assessment from its row."""
    return Assessment(
        id=row.id,
        trace=row.trace,
        name=row.name,
        kind=row.kind,
        value=msgspec.json.decode(row.value),
        source_type=row.source_type,
        source=row.source,
        span=row.span,
        rationale=row.rationale,
        metadata=row.metadata,
        error=row.error,
        run=row.run,
        overrides=row.overrides,
        valid=row.valid,
        created_ms=row.created_ms,
        changed_ms=row.changed_ms,
    )


def _span(row: sa.Row[Any], fetch: Callable[[str], bytes] | None) -> Span:
    content = unpacked(row.content, fetch)
    return Span(
        trace=row.trace,
        id=row.id,
        parent=row.parent,
        name=row.name,
        start_ns=row.start_ns,
        end_ns=row.end_ns,
        status=row.status,
        message=content.message,
        kind=content.kind,
        type=row.type,
        attributes=content.attributes,
        events=content.events,
        links=content.links,
        resource=content.resource,
        scope=content.scope,
    )


def _said(row: sa.Row[Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(row, name)) is not None}
