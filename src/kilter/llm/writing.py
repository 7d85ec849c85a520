"""Writing traces: spans in batches, and what a client says of a trace as a whole, in whichever order they come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from kilter.core.errors import NotFound
from kilter.llm.conventions import decoded
from kilter.llm.gathering import NAME, Gathered, totals
from kilter.llm.records import Ingested, TraceInfo
from kilter.llm.tables import spans, trace_metadata, trace_tags, traces
from kilter.llm.usage import CACHED, COSTS, TOKENS, Node, dollars, whole
from kilter.tracking.writing import upsert

USER = "mlflow.trace.user"
SESSION = "mlflow.trace.session"
TOKEN_USAGE = "mlflow.trace.tokenUsage"  # noqa: S105 - tokens of a language, no secret
COST = "mlflow.trace.cost"
OPEN = ("IN_PROGRESS", "STATE_UNSPECIFIED")

_CHUNK = 500
_COUNTED = (*TOKENS, *CACHED)
_MERGED = ("request_ms", "duration_ms", "state", "name", "session", "request", "response", *_COUNTED, *COSTS, "spans")
_UPDATE = (
    traces.update()
    .where(traces.c.id == sa.bindparam("its_id"))
    .values({name: sa.bindparam(f"its_{name}") for name in _MERGED})
)
_T = TypeVar("_T")


def write_spans(connection: sa.Connection, experiment: int, found: Mapping[str, Gathered]) -> Ingested:
    """Write the spans of a batch, and bring their traces up to date.

    Args:
        connection: A transaction.
        experiment: The experiment that new traces belong to.
        found: What the batch says of each trace.
    """
    # In the order of their ids, so that two batches of the same traces wait for each other and never both.
    order = sorted(found)
    made = _make(connection, [_new(trace, experiment, found[trace]) for trace in order])
    old = [trace for trace in order if trace not in made]
    known = _lock(connection, old)
    new = {trace: len(found[trace].rows) - count for trace, count in _present(connection, old, found).items()}
    _write_rows(connection, [row for trace in order for row in found[trace].rows.values()])
    if old:
        stored = _stored(connection, [trace for trace in old if _counts(found[trace])])
        connection.execute(
            _UPDATE, [_merged(known[trace], found[trace], new[trace], stored.get(trace)) for trace in old]
        )
    said = [(trace, name, value) for trace in order for name, value in found[trace].tags.items()]
    upsert(connection, trace_tags, [{"trace": trace, "name": name, "value": value} for trace, name, value in said])
    users = [{"trace": trace, "name": USER, "value": user} for trace in order if (user := found[trace].user)]
    if users:
        connection.execute(_insert(connection, trace_metadata).on_conflict_do_nothing(), users)
    total = sum(len(found[trace].rows) for trace in order)
    return Ingested(
        traces=tuple(order), spans=total, new=sum(new.values()) + sum(len(found[trace].rows) for trace in made)
    )


def write_info(connection: sa.Connection, info: TraceInfo) -> None:
    """Write what a client says of a trace as a whole; what it says counts more than what its spans said."""
    usage = _said(info.metadata.get(TOKEN_USAGE), _COUNTED, whole) or info.usage
    cost = _said(info.metadata.get(COST), COSTS, dollars) or info.cost
    session = (info.metadata.get(SESSION) or info.session or "")[:250] or None
    name = info.tags.get(NAME) or info.name
    values: dict[str, Any] = {
        "experiment": info.experiment,
        "request_ms": info.request_ms,
        "duration_ms": info.duration_ms,
        "state": info.state,
        "client_id": info.client_id,
        "finalized": True,
    }
    optional = {"name": name, "session": session, "request": info.request, "response": info.response}
    values |= {key: value for key, value in optional.items() if value is not None}
    if usage:
        values |= {"usage_said": True, **{key: usage.get(key) for key in _COUNTED}}
    if cost:
        values |= {"cost_said": True, **{key: cost.get(key) for key in COSTS}}
    if info.id not in _make(connection, [{**_blank(info.id, info.experiment, info.request_ms), **values}]):
        _lock(connection, [info.id])
        connection.execute(traces.update().where(traces.c.id == info.id).values(**values))
    promoted = {TOKEN_USAGE, COST, SESSION}
    rows = [{"trace": info.id, "name": key, "value": value} for key, value in info.tags.items() if key != NAME]
    upsert(connection, trace_tags, rows)
    rows = [
        {"trace": info.id, "name": key, "value": value} for key, value in info.metadata.items() if key not in promoted
    ]
    upsert(connection, trace_metadata, rows)


def chunks(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    """Yield so many at once as a statement may name."""
    for start in range(0, len(items), _CHUNK):
        yield items[start : start + _CHUNK]


# ---------------------------------------------------------------- traces


def _blank(trace: str, experiment: int, request_ms: int) -> dict[str, Any]:
    return {
        "id": trace,
        "experiment": experiment,
        "request_ms": request_ms,
        "duration_ms": None,
        "state": "IN_PROGRESS",
        "name": None,
        "client_id": None,
        "session": None,
        "request": None,
        "response": None,
        **dict.fromkeys((*_COUNTED, *COSTS)),
        "finalized": False,
        "usage_said": False,
        "cost_said": False,
        "spans": 0,
    }


def _new(trace: str, experiment: int, found: Gathered) -> dict[str, Any]:
    return {
        **_blank(trace, experiment, found.start_ms),
        "duration_ms": None if found.end_ms is None else found.end_ms - found.start_ms,
        "state": found.state,
        "name": found.name,
        "session": found.session,
        "request": found.request,
        "response": found.response,
        **found.totals(),
        "spans": len(found.rows),
    }


def _make(connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> set[str]:
    """Insert the traces that are not there, and return which ones."""
    made: set[str] = set()
    statement = _insert(connection, traces).on_conflict_do_nothing().returning(traces.c.id)
    for some in chunks(rows):
        made.update(connection.execute(statement, list(some)).scalars())
    return made


def _lock(connection: sa.Connection, order: Sequence[str]) -> dict[str, sa.Row[Any]]:
    known: dict[str, sa.Row[Any]] = {}
    for some in chunks(order):
        chosen = sa.select(traces).where(traces.c.id.in_(some)).order_by(traces.c.id).with_for_update()
        known.update({row.id: row for row in connection.execute(chosen)})
    if missing := next((trace for trace in order if trace not in known), None):
        raise NotFound(f"trace {missing} was deleted meanwhile", where="traces")
    return known


def _merged(
    known: sa.Row[Any], found: Gathered, new: int, stored: tuple[list[Node], list[Node]] | None
) -> dict[str, Any]:
    """Return a trace's row as it is with a batch; what its client said as a whole stays."""
    values = {name: getattr(known, name) for name in _MERGED}
    values["spans"] += new
    if not known.finalized:
        ends = [] if known.duration_ms is None else [known.request_ms + known.duration_ms]
        ends += [] if found.end_ms is None else [found.end_ms]
        values["request_ms"] = min(known.request_ms, found.start_ms)
        values["duration_ms"] = max(ends) - values["request_ms"] if ends else None
    if known.state in OPEN and found.root is not None:
        values["state"] = found.state
    for name in ("request", "response", "session", "name"):
        if values[name] is None:
            values[name] = getattr(found, name)
    if stored is not None:
        # Over all spans at once: a parent that sums its children may come in another batch than they.
        counted = totals(stored[0], stored[1])
        values |= {name: counted.get(name) for name in _COUNTED if not known.usage_said}
        values |= {name: counted.get(name) for name in COSTS if not known.cost_said}
    return {f"its_{name}": value for name, value in {"id": known.id, **values}.items()}


# ---------------------------------------------------------------- spans


def _counts(found: Gathered) -> bool:
    return any(node.said for node in found.tokens) or any(node.said for node in found.costs)


def _present(connection: sa.Connection, order: Sequence[str], found: Mapping[str, Gathered]) -> dict[str, int]:
    """Return how many spans of a batch are here already, by trace."""
    counts = dict.fromkeys(order, 0)
    keys = [(trace, span) for trace in order for span in found[trace].rows]
    for some in chunks(keys):
        chosen = sa.select(spans.c.trace).where(sa.tuple_(spans.c.trace, spans.c.id).in_(some))
        for trace in connection.execute(chosen).scalars():
            counts[trace] += 1
    return counts


def _write_rows(connection: sa.Connection, rows: list[dict[str, Any]]) -> None:
    insert = _insert(connection, spans)
    changed = {column.name: insert.excluded[column.name] for column in spans.columns if not column.primary_key}
    # A span that has ended is not replaced by its beginning.
    newer = insert.excluded.end_ns.is_not(None) | spans.c.end_ns.is_(None)
    connection.execute(insert.on_conflict_do_update(index_elements=["trace", "id"], set_=changed, where=newer), rows)


def _stored(connection: sa.Connection, order: Sequence[str]) -> dict[str, tuple[list[Node], list[Node]]]:
    """Return the tokens and costs of all spans of traces."""
    columns = (spans.c.trace, spans.c.id, spans.c.parent, spans.c.usage, *(spans.c[name] for name in COSTS))
    found: dict[str, tuple[list[Node], list[Node]]] = {trace: ([], []) for trace in order}
    for some in chunks(order):
        for row in connection.execute(sa.select(*columns).where(spans.c.trace.in_(some))):
            tokens, costs = found[row.trace]
            tokens.append(Node(row.id, row.parent, msgspec.json.decode(row.usage) if row.usage else {}))
            said = {name: getattr(row, name) for name in COSTS if getattr(row, name) is not None}
            costs.append(Node(row.id, row.parent, said))
    return found


def _said(text: str | None, names: Iterable[str], read: Any) -> dict[str, Any]:
    """Return the counts that a client wrote as a text."""
    said = decoded(text) if text else None
    if not isinstance(said, dict):
        return {}
    return {name: value for name in names if (value := read(said.get(name))) is not None}


def _insert(connection: sa.Connection, table: sa.Table) -> Any:
    return (postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert)(table)
