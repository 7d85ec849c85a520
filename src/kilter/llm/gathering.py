"""What a batch of spans says of each of its traces, found before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from kilter.llm.content import cleaned, packed
from kilter.llm.conventions import TAG, Meaning, meaning, session_of, user_of
from kilter.llm.previews import preview
from kilter.llm.records import MILLION, Span, State
from kilter.llm.usage import COSTS, TOKENS, Node, total_costs, total_tokens

NAME = "mlflow.traceName"
TAG_KEY = 250
TAG_VALUE = 8000
_NOT_SAID = ("telemetry.sdk.", "mlflow.")


@dataclass
class Gathered:
    """What a batch says of one trace.

    Args:
        start_ms: When its first span began.
        end_ms: When its last one ended, or None.
        rows: Rows of the table of spans, by the span's id: the last one of each id counts.
        tokens: Each span's tokens.
        costs: Each span's costs.
        root: The root span, if it came.
        request: What was asked.
        response: What was answered.
        session: The conversation that it is a part of.
        user: Whose request it is.
        tags: What its exporter says about it.
        name: What it is to be called.
        resource: Who recorded the span that was looked at last.
    """

    start_ms: int
    end_ms: int | None = None
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    tokens: list[Node] = field(default_factory=list)
    costs: list[Node] = field(default_factory=list)
    root: Span | None = None
    request: str | None = None
    response: str | None = None
    session: str | None = None
    user: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    name: str | None = None
    resource: Mapping[str, Any] | None = None

    @property
    def state(self) -> State:
        """How the trace stands, as far as the batch knows."""
        if self.root is None or self.root.end_ns is None:
            return "IN_PROGRESS"
        return "ERROR" if self.root.status == "ERROR" else "OK"

    def totals(self) -> dict[str, Any]:
        """Return the columns of the tokens and costs of these spans alone."""
        return totals(self.tokens, self.costs)


def totals(tokens: Iterable[Node], costs: Iterable[Node]) -> dict[str, Any]:
    """Return the columns of a trace's tokens and costs; none of what no span says."""
    return {**total_tokens(tokens), **total_costs(costs)}


def gathered(batch: Sequence[Span], keep: Callable[[bytes], str]) -> dict[str, Gathered]:
    """Return what a batch says of each of its traces, by the traces' ids.

    Args:
        batch: Spans, of any traces, in any order.
        keep: Keeps long values and returns their digest.
    """
    found: dict[str, Gathered] = {}
    for span in batch:
        start_ms = span.start_ns // MILLION
        of = found.get(span.trace)
        if of is None:
            of = found[span.trace] = Gathered(start_ms)
        before = of.rows.get(span.id)
        if before is not None and before["end_ns"] is not None and span.end_ns is None:
            continue  # the whole span came before its beginning
        _add(of, span, start_ms, keep)
    return found


def _add(of: Gathered, span: Span, start_ms: int, keep: Callable[[bytes], str]) -> None:
    of.start_ms = min(of.start_ms, start_ms)
    if span.end_ns is not None:
        of.end_ms = max(of.end_ms or 0, span.end_ns // MILLION)
    means = meaning(span.attributes)
    of.rows[span.id] = _row(span, means, keep)
    # The same span twice in one batch is one: the sums are by id, and the last one counts.
    of.tokens.append(Node(span.id, span.parent, means.usage))
    of.costs.append(Node(span.id, span.parent, means.cost))
    if of.session is None:
        of.session = _clean(session_of(span.attributes))
    if of.user is None:
        of.user = _clean(user_of(span.attributes))
    if span.resource is not of.resource:  # mostly one and the same for a whole batch
        of.resource = span.resource
        for name, value in span.resource.items():
            if not name.startswith(_NOT_SAID):
                _tag(of.tags, name, value)
    if span.parent is None:
        of.root = span
        of.request = _clean(preview(means.inputs, "user"))
        of.response = _clean(preview(means.outputs, "assistant"))
        of.name = of.name or _clean(span.name)
        for name, value in span.attributes.items():
            if name.startswith(TAG):
                _tag(of.tags, name[len(TAG) :], value)
        of.name = of.tags.pop(NAME, None) or of.name


def _row(span: Span, means: Meaning, keep: Callable[[bytes], str]) -> dict[str, Any]:
    cost = means.cost
    return {
        "trace": span.trace,
        "id": span.id,
        "parent": span.parent,
        "name": _clean(span.name),
        "type": _clean(means.type if span.type == "UNKNOWN" else span.type[:100]),
        "status": span.status,
        "start_ns": span.start_ns,
        "end_ns": span.end_ns,
        "model": _clean(means.model),
        "provider": _clean(means.provider),
        "usage": msgspec.json.encode(means.usage).decode() if means.usage else None,
        **{name: cost.get(name) for name in COSTS},
        "content": packed(span, keep),
    }


def _clean(text: str | None) -> str | None:
    return text.replace("\x00", "\ufffd") if text else text


def _tag(tags: dict[str, str], name: str, value: Any) -> None:
    """Note a tag, if its name is one."""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    if name and len(name) <= TAG_KEY:
        tags[cleaned(name)] = cleaned(text[:TAG_VALUE])


__all__ = ["COSTS", "NAME", "TAG_KEY", "TAG_VALUE", "TOKENS", "Gathered", "gathered", "totals"]
