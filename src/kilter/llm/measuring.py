"""How traces, spans and assessments do in numbers: over time, by name, by model; and which filters go together."""

from __future__ import annotations

import math
from array import array
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import sqlalchemy as sa

from kilter.core.errors import InvalidInput
from kilter.engines.sql.database import Database
from kilter.llm.filters import Test, clauses, condition, prepare
from kilter.llm.records import MILLION, Aggregation, Correlation, MetricGroup, View
from kilter.llm.tables import assessments, spans, trace_metadata, trace_tags, traces
from kilter.operations.table import operation
from kilter.tracking.filters import on_text

BUCKET = "time_bucket"
_MOST = 1000
_TOKENS = ("input_tokens", "output_tokens", "total_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
_COSTS = ("input_cost", "output_cost", "total_cost")
_COUNT = ("COUNT",)
_SPREAD = ("AVG", "MIN", "MAX", "PERCENTILE")
_SUMMED = ("SUM", *_SPREAD)

_METRICS: Mapping[View, Mapping[str, tuple[Any, tuple[str, ...]]]] = {
    "TRACES": {
        "trace_count": (traces.c.id, _COUNT),
        "session_count": (traces.c.session, _COUNT),
        "latency": (traces.c.duration_ms, _SPREAD),
        **{name: (traces.c[name], _SUMMED) for name in _TOKENS},
    },
    "SPANS": {
        "span_count": (spans.c.id, _COUNT),
        "latency": ((spans.c.end_ns - spans.c.start_ns) / sa.literal(float(MILLION)), _SPREAD),
        **{name: (spans.c[name], _SUMMED) for name in _COSTS},
    },
    "ASSESSMENTS": {
        "assessment_count": (assessments.c.id, _COUNT),
        "assessment_value": (assessments.c.number, _SPREAD),
    },
}
_DIMENSIONS: Mapping[View, Mapping[str, Any]] = {
    "TRACES": {"trace_name": traces.c.name, "trace_status": traces.c.state},
    "SPANS": {
        "span_name": spans.c.name,
        "span_type": spans.c.type,
        "span_status": spans.c.status,
        "span_model_name": spans.c.model,
        "span_model_provider": spans.c.provider,
    },
    "ASSESSMENTS": {"assessment_name": assessments.c.name, "assessment_value": assessments.c.value},
}
_JEFFREYS = 0.5


class MeasureOperations:
    """The operations that count and compare."""

    _database: Database

    @operation
    def measure(
        self,
        among: Sequence[int],
        view: View,
        metric: str,
        aggregations: Sequence[Aggregation],
        dimensions: Sequence[str] = (),
        filters: Sequence[str] = (),
        interval: int | None = None,
        start_ms: int | None = None,
        end_ms: int | None = None,
        limit: int = _MOST,
    ) -> tuple[MetricGroup, ...]:
        """Return a metric of experiments' traces, in groups.

        Args:
            among: The numbers of the experiments.
            view: Whether traces, spans or assessments are counted.
            metric: ``trace_count``, ``session_count``, ``latency`` (milliseconds), ``input_tokens``, ``total_cost``,
                ``assessment_value`` and so on.
            aggregations: How the values of a group become one.
            dimensions: What makes a group: ``trace_name``, ``span_type``, ``span_model_name``.
            filters: ``trace.status = 'OK'``, ``trace.tag.NAME = 'x'``, ``span.name = 'x'``, ``assessment.name = 'x'``.
            interval: A group for each so many seconds.
            start_ms: Only from this moment on, in milliseconds since 1970.
            end_ms: Only up to it.
            limit: At most so many groups.

        Raises:
            InvalidInput: When there is no such metric, or it isn't aggregated so.
        """
        value, keys = _checked(view, metric, aggregations, dimensions, interval, limit)
        moment = spans.c.start_ns / MILLION if view == "SPANS" else traces.c.request_ms
        query = sa.select(moment.label("moment"), value.label("value"), *keys).where(
            traces.c.experiment.in_(list(among))
        )
        for table in {"TRACES": (), "SPANS": (spans,), "ASSESSMENTS": (assessments,)}[view]:
            query = query.join_from(traces, table, table.c.trace == traces.c.id)
        if view == "ASSESSMENTS":
            query = query.where(assessments.c.valid)
        if start_ms is not None:
            query = query.where(moment >= start_ms)
        if end_ms is not None:
            query = query.where(moment <= end_ms)
        for text in filters:
            query = query.where(*_filtered(view, text))
        with self._database.reading() as connection:
            prepare(connection, *filters)
            rows = connection.execution_options(yield_per=10_000).execute(query)
            groups = _grouped(rows, interval, metric)
            return _answered(groups, dimensions, aggregations, interval)[:limit]

    @operation
    def correlate(self, among: Sequence[int], first: str, second: str, base: str = "") -> Correlation:
        """Return how two filters go together.

        Args:
            among: The numbers of the experiments.
            first: A filter, as for :meth:`list`.
            second: Another one.
            base: What all traces that count have in common.

        Raises:
            InvalidInput: When a filter can't be read.
        """
        basis = [traces.c.experiment.in_(list(among)), *condition(base)]
        one, other = sa.and_(*condition(first)), sa.and_(*condition(second))

        def count(*of: Test) -> Any:
            return sa.func.coalesce(sa.func.sum(sa.case((sa.and_(*of), 1), else_=0)), 0)

        query = (
            sa.select(count(one), count(other), count(one, other), sa.func.count()).select_from(traces).where(*basis)
        )
        with self._database.reading() as connection:
            prepare(connection, first, second, base)
            numbers = [int(number) for number in connection.execute(query).one()]
        plain, smoothed = together(*numbers)
        return Correlation(
            npmi=plain, smoothed=smoothed, first=numbers[0], second=numbers[1], joint=numbers[2], total=numbers[3]
        )


def together(first: int, second: int, joint: int, total: int) -> tuple[float | None, float | None]:
    """Return the normalised pointwise mutual information of two events, and the same smoothed by Jeffreys' prior.

    Source: Bouma (2009), Normalized (pointwise) mutual information in collocation extraction.
    """
    if total <= 0 or not first or not second:
        return None, None
    cells = (joint, first - joint, second - joint, total - first - second + joint)
    if min(cells) < 0:
        return None, None
    return (-1.0 if not joint else _npmi(cells, 0.0)), _npmi(cells, _JEFFREYS)


def _npmi(cells: tuple[int, int, int, int], smoothing: float) -> float | None:
    both, one, other, none = (cell + smoothing for cell in cells)
    total = both + one + other + none
    share = both / total
    if share >= 1:
        return 1.0
    information = math.log(both * total / ((both + one) * (both + other)))
    return max(-1.0, min(1.0, -information / math.log(share)))


def _checked(
    view: View,
    metric: str,
    aggregations: Sequence[Aggregation],
    dimensions: Sequence[str],
    interval: int | None,
    limit: int,
) -> tuple[Any, list[Any]]:
    if metric not in _METRICS[view]:
        raise InvalidInput(f"metric_name: {metric[:60]!r}", where="metric", allowed=", ".join(_METRICS[view]))
    value, allowed = _METRICS[view][metric]
    if not aggregations:
        raise InvalidInput("none is said", where="aggregations", allowed=", ".join(allowed))
    for one in aggregations:
        if one.type not in allowed:
            raise InvalidInput(
                f"{metric} is not aggregated by {one.type}", where="aggregations", allowed=", ".join(allowed)
            )
        if (one.type == "PERCENTILE") != (one.percentile is not None) or not 0 <= (one.percentile or 0) <= 100:
            raise InvalidInput("a percentile is from 0 to 100", where="aggregations")
    for name in dimensions:
        if name not in _DIMENSIONS[view]:
            raise InvalidInput(f"dimension {name[:60]!r}", where="dimensions", allowed=", ".join(_DIMENSIONS[view]))
    if interval is not None and not 1 <= interval <= 10 * 366 * 86400:
        raise InvalidInput(f"{interval}", where="interval", allowed="at least one second")
    if not 1 <= limit <= _MOST:
        raise InvalidInput(f"{limit}", where="limit", allowed=f"1 to {_MOST}")
    return value, [_DIMENSIONS[view][name] for name in dimensions]


def _filtered(view: View, text: str) -> list[Test]:
    """Return a filter of a metric as conditions; ``trace.`` is for all views, the others for their own."""
    kind, _, rest = text.strip().partition(".")
    if kind == "trace":
        head, dot, tail = rest.partition(".")
        table = {"tag": trace_tags, "metadata": trace_metadata}.get(head) if dot else None
        return condition(f"{'tag' if table is trace_tags else 'metadata'}.{tail}" if table is not None else rest)
    own = {"span": (spans, "SPANS"), "assessment": (assessments, "ASSESSMENTS")}.get(kind)
    if own is None or own[1] != view:
        raise InvalidInput(f"Invalid filter: '{text[:60]}'", where="filters", allowed="trace.status = 'OK'")
    found: list[Test] = []
    # Read as a filter of spans, whose names are the same: name, type, status.
    for _, name, operator, value in clauses(f"span.{rest}"):
        column = {"name": "name", "status": "status", "type": "kind" if kind == "assessment" else "type"}.get(name, "")
        if column not in own[0].c or not isinstance(value, str):
            raise InvalidInput(
                f"Invalid filter: '{text[:60]}'", where="filters", allowed="name, type or status and a text"
            )
        found.append(on_text(own[0].c[column], operator, value))
    return found


_Groups = dict[tuple[Any, ...], list[Any]]


def _grouped(rows: Iterable[sa.Row[Any]], interval: int | None, metric: str) -> _Groups:
    """Return the values of each group: the numbers, a one for each thing that is only counted, or the distinct sessions."""
    distinct, counted = metric == "session_count", metric.endswith("_count")
    found: defaultdict[tuple[Any, ...], Any] = defaultdict(set if distinct else lambda: array("d"))
    for row in rows:
        said: list[Any] = [*row]
        moment, value, keys = said[0], said[1], said[2:]
        if value is None or any(key is None for key in keys):
            continue
        bucket = () if interval is None else (int(moment // (interval * 1000)) * interval * 1000,)
        into = found[(*bucket, *keys)]
        if distinct:
            into.add(value)
        else:
            into.append(1.0 if counted else float(value))
    return dict(found)


def _answered(
    groups: _Groups, dimensions: Sequence[str], aggregations: Sequence[Aggregation], interval: int | None
) -> tuple[MetricGroup, ...]:
    answer = []
    for key, values in sorted(groups.items(), key=lambda group: tuple(map(str, group[0]))):
        named = dict(zip(dimensions, map(str, key if interval is None else key[1:]), strict=True))
        if interval is not None:
            named[BUCKET] = datetime.fromtimestamp(key[0] / 1000, UTC).isoformat()
        answer.append(
            MetricGroup(dimensions=named, values={one.label: _aggregate(one, values) for one in aggregations})
        )
    return tuple(answer)


def _aggregate(how: Aggregation, values: Any) -> float:
    if how.type == "COUNT":
        return float(len(values))
    numbers = np.frombuffer(values, dtype=np.float64)
    if how.type == "PERCENTILE":
        return float(np.percentile(numbers, how.percentile or 0.0))
    if how.type == "SUM":
        return float(numbers.sum())
    if how.type == "AVG":
        return float(numbers.mean())
    return float(numbers.min() if how.type == "MIN" else numbers.max())
