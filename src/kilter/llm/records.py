"""Traces, their spans, what people and judges say about them, and the datasets that they are judged by."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

State = Literal["STATE_UNSPECIFIED", "OK", "ERROR", "IN_PROGRESS"]
SpanStatus = Literal["UNSET", "OK", "ERROR"]
AssessmentKind = Literal["feedback", "expectation", "issue"]
View = Literal["TRACES", "SPANS", "ASSESSMENTS"]

MILLION = 1_000_000
UNKNOWN = "UNKNOWN"


class SpanEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened at one moment of a span: an exception, a chunk of a stream."""

    name: str
    at_ns: int
    attributes: dict[str, Any] = {}


class SpanLink(msgspec.Struct, frozen=True, kw_only=True):
    """Another span that a span has to do with, in any trace."""

    trace: str
    span: str
    attributes: dict[str, Any] = {}


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of work within a trace, as its exporter said it.

    Args:
        trace: The trace's id: ``tr-`` and 32 hexadecimal digits.
        id: 16 hexadecimal digits.
        parent: The span that it is a part of; None for the trace's root.
        name: What it is called.
        start_ns: When it began, in nanoseconds since 1970.
        end_ns: When it ended, or None while it runs.
        status: ``UNSET`` when nobody said.
        message: What went wrong.
        kind: OpenTelemetry's kind: ``INTERNAL``, ``SERVER``, ``CLIENT``, ``PRODUCER`` or ``CONSUMER``.
        type: What kind of work it is: ``LLM``, ``CHAT_MODEL``, ``TOOL``, ``RETRIEVER``, ``AGENT``.
        attributes: By name; values are texts, numbers, truths, lists and objects.
        events: What happened within it.
        links: Other spans that it has to do with.
        resource: Who recorded it: ``service.name`` and what else the exporter says of itself.
        scope: The instrumentation that recorded it.
    """

    trace: str
    id: str
    name: str
    start_ns: int
    end_ns: int | None = None
    parent: str | None = None
    status: SpanStatus = "UNSET"
    message: str = ""
    kind: str = "INTERNAL"
    type: str = UNKNOWN
    attributes: dict[str, Any] = {}
    events: tuple[SpanEvent, ...] = ()
    links: tuple[SpanLink, ...] = ()
    resource: dict[str, Any] = {}
    scope: str = ""


class Assessment(msgspec.Struct, frozen=True, kw_only=True):
    """What a person, a judge or a program says about a trace or one of its spans.

    Args:
        name: What is judged: ``correctness``.
        kind: ``feedback`` says how it was, ``expectation`` how it should have been, ``issue`` names a known fault.
        value: A number, a truth, a text, a list or an object.
        source_type: ``HUMAN``, ``LLM_JUDGE`` or ``CODE``.
        source: Who, by name.
        id: Given when it is kept.
        trace: What it is about.
        span: Which span of it; empty for the whole.
        rationale: Why.
        metadata: What else is to be said.
        error: Why the judge could not say: ``error_code``, ``error_message``, ``stack_trace``.
        run: The run that made it.
        overrides: The assessment that this one takes the place of.
        valid: Whether nothing has taken its place.
        created_ms: When it was made, in milliseconds since 1970.
        changed_ms: When it was changed last.
    """

    name: str
    kind: AssessmentKind
    value: Any = None
    source_type: str = "CODE"
    source: str = "default"
    id: str = ""
    trace: str = ""
    span: str = ""
    rationale: str | None = None
    metadata: dict[str, str] = {}
    error: dict[str, Any] | None = None
    run: str = ""
    overrides: str = ""
    valid: bool = True
    created_ms: int | None = None
    changed_ms: int | None = None


class TraceInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A trace without its spans.

    Args:
        id: ``tr-`` and 32 hexadecimal digits.
        experiment: The number of the experiment that it belongs to.
        request_ms: When it began, in milliseconds since 1970.
        duration_ms: How long it took, or None while it runs.
        state: How it ended.
        name: What it is called; mostly its root span's name.
        client_id: The caller's own id of the request.
        session: The conversation that it is a part of.
        request: The beginning of what was asked.
        response: The beginning of what was answered.
        usage: Tokens: ``input_tokens``, ``output_tokens``, ``total_tokens`` and those read from or written to a cache.
        cost: In US dollars: ``input_cost``, ``output_cost``, ``total_cost``.
        tags: What people say about it.
        metadata: What its client says about it; never changed afterwards.
        assessments: What was said of its quality.
        spans: How many spans are here.
    """

    id: str
    experiment: int
    request_ms: int
    duration_ms: int | None = None
    state: State = "IN_PROGRESS"
    name: str | None = None
    client_id: str | None = None
    session: str | None = None
    request: str | None = None
    response: str | None = None
    usage: dict[str, int] = {}
    cost: dict[str, float] = {}
    tags: dict[str, str] = {}
    metadata: dict[str, str] = {}
    assessments: tuple[Assessment, ...] = ()
    spans: int = 0

    @property
    def started_at(self) -> datetime:
        """When it began, UTC."""
        return datetime.fromtimestamp(self.request_ms / 1000, UTC)


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """A trace with its spans, the root first and then by their beginning."""

    info: TraceInfo
    spans: tuple[Span, ...]


class TracePage(msgspec.Struct, frozen=True, kw_only=True):
    """Some traces, and where the next ones begin."""

    traces: tuple[TraceInfo, ...]
    cursor: str | None = None


class Ingested(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a batch of spans.

    Args:
        traces: The traces that it is of.
        spans: How many spans it had.
        new: How many of them were not here yet.
    """

    traces: tuple[str, ...]
    spans: int
    new: int


class Aggregation(msgspec.Struct, frozen=True, kw_only=True):
    """How values become one: a percentile has to say which."""

    type: Literal["COUNT", "SUM", "AVG", "PERCENTILE", "MIN", "MAX"]
    percentile: float | None = None

    @property
    def label(self) -> str:
        """What it is called in the answer: ``AVG``, ``P99.0``."""
        return self.type if self.percentile is None else f"P{float(self.percentile)}"


class MetricGroup(msgspec.Struct, frozen=True, kw_only=True):
    """The values of a metric over the traces of one group."""

    dimensions: dict[str, str]
    values: dict[str, float]


class Correlation(msgspec.Struct, frozen=True, kw_only=True):
    """How two filters go together: normalised pointwise mutual information, and the counts that it is made of.

    Both are None where it is not defined: when one of the filters matches nothing.
    """

    npmi: float | None
    smoothed: float | None
    first: int
    second: int
    joint: int
    total: int


class EvaluationDataset(msgspec.Struct, frozen=True, kw_only=True):
    """Examples to judge an application by.

    Args:
        id: ``d-`` and 32 hexadecimal digits.
        name: What people call it.
        digest: Changes with each change of its records.
        created_ms: When it was made, in milliseconds since 1970.
        changed_ms: When it was changed last.
        created_by: Who made it.
        changed_by: Who changed it last.
        tags: What people say about it.
        schema: The fields of its records with their kinds, or None while it is empty.
        records: How many records it has.
        experiments: The numbers of the experiments that use it.
    """

    id: str
    name: str
    digest: str
    created_ms: int
    changed_ms: int
    created_by: str | None = None
    changed_by: str | None = None
    tags: dict[str, str] = {}
    schema: dict[str, Any] | None = None
    records: int = 0
    experiments: tuple[int, ...] = ()


class EvaluationDatasetPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some datasets, and where the next ones begin."""

    datasets: tuple[EvaluationDataset, ...]
    cursor: str | None = None


class DatasetRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An example of a dataset: its inputs name it, everything else can be said again.

    Args:
        inputs: What the application is asked.
        outputs: What it answered.
        expectations: What it should have answered.
        tags: What people say about it.
        source: Where it comes from: ``source_type`` and ``source_data``.
        id: Given when it is kept.
        dataset: What it belongs to.
        created_ms: When it was made, in milliseconds since 1970.
        changed_ms: When it was changed last.
        created_by: Who made it.
        changed_by: Who changed it last.
    """

    inputs: dict[str, Any] = {}
    outputs: Any = None
    expectations: dict[str, Any] | None = None
    tags: dict[str, Any] | None = None
    source: dict[str, Any] | None = None
    id: str = ""
    dataset: str = ""
    created_ms: int = 0
    changed_ms: int = 0
    created_by: str | None = None
    changed_by: str | None = None


class DatasetRecordPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some records, and where the next ones begin."""

    records: tuple[DatasetRecord, ...]
    cursor: str | None = None


class Upserted(msgspec.Struct, frozen=True, kw_only=True):
    """What became of records that were written."""

    inserted: int
    updated: int


class Scorer(msgspec.Struct, frozen=True, kw_only=True):
    """A version of what outputs are judged by.

    Args:
        id: The scorer's, the same for all of its versions.
        experiment: The number of the experiment that it judges.
        name: What people call it.
        version: Counted from 1, and never given twice.
        text: The scorer itself, as the client that registered it writes it: a JSON object.
        created_ms: When this version came, in milliseconds since 1970.
    """

    id: str
    experiment: int
    name: str
    version: int
    text: str
    created_ms: int


class ScorerList(msgspec.Struct, frozen=True, kw_only=True):
    """Versions of scorers."""

    scorers: tuple[Scorer, ...]
