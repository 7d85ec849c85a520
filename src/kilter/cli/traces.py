"""``kilter traces``: what applications on language models did."""

from __future__ import annotations

import argparse
import time
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from kilter.cli.arguments import Parser, verbs
from kilter.cli.output import answer, fields, plain, say, table
from kilter.cli.target import connected
from kilter.core.durations import parse_duration
from kilter.core.errors import InvalidInput

if TYPE_CHECKING:
    from kilter.llm.records import Span, Trace, TraceInfo

_POLL = 0.5
_PAGE = 100
_REMEMBERED = 10_000
_SHOWN = 100


def build(parser: Parser, _command: str) -> None:
    """Add the verbs."""
    add = verbs(parser)
    listing = add("list", "traces, newest first", _list)
    listing.add_argument("--experiment", default="", help="only of this experiment")
    listing.add_argument("--filter", default="", help="such as: status = 'ERROR' AND span.type = 'LLM'")
    listing.add_argument("--order", action="append", default=[], help="such as: execution_time_ms DESC; several count")
    listing.add_argument("--limit", type=int, default=50)
    listing.add_argument("--cursor", help="from the page before")
    add("show", "one trace, with its spans as a tree", _show).add_argument("trace", metavar="TRACE")
    deleting = add("delete", "delete traces with all that belongs to them", _delete)
    deleting.add_argument("traces", metavar="TRACE", nargs="*")
    deleting.add_argument("--experiment", help="or those of this experiment")
    deleting.add_argument("--older", metavar="DURATION", help="that began longer ago than this, such as 30d")
    follow = add("follow", "print traces as they end, one per line; ends with Ctrl-C", _follow)
    follow.add_argument("--experiment", default="", help="only of this experiment")
    follow.add_argument("--filter", default="", help="as for list")
    follow.add_argument("--count", type=int, help="end after so many traces")


def _list(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        found = kilter.traces.list(options.experiment, options.filter, options.order, options.limit, options.cursor)

    def show() -> None:
        columns = ("trace", "name", "state", "started", "ms", "spans", "tokens", "request")
        rows = (
            (one.id, one.name, one.state, one.started_at, one.duration_ms, one.spans, _tokens(one), _short(one.request))
            for one in found.traces
        )
        table(columns, rows)
        if found.cursor:
            say(f"more: --cursor {found.cursor}")

    answer(found, as_json=options.json, show=show)


def _show(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        found = kilter.traces.get(options.trace)

    def show() -> None:
        fields(found.info)
        say()
        for depth, span in _tree(found):
            took = "runs" if span.end_ns is None else f"{(span.end_ns - span.start_ns) / 1e6:.3f} ms"
            say(f"{'  ' * depth}{plain(span.name)}  {span.type}  {span.status}  {took}")
            if span.message:
                say(f"{'  ' * depth}  {plain(span.message)}")

    answer(found, as_json=options.json, show=show)


def _delete(options: argparse.Namespace) -> None:
    if bool(options.traces) == bool(options.experiment) or bool(options.experiment) != bool(options.older):
        raise InvalidInput(
            "it is not said which traces",
            where="traces",
            allowed="TRACE ..., or --experiment NAME --older DURATION",
        )
    if options.experiment:
        _delete_old(options)
        return
    with connected(options) as kilter:
        known = kilter.traces.infos(options.traces)
        missing = sorted(set(options.traces) - {one.id for one in known})
        if missing:
            raise InvalidInput(f"there is no trace {missing[0]!r}", where="traces", fix="nothing was deleted")
        count = 0
        for experiment in sorted({one.experiment for one in known}):
            count += kilter.traces.delete(experiment, [one.id for one in known if one.experiment == experiment])
    answer({"deleted": count}, as_json=options.json, show=lambda: say(f"{count} deleted"))


def _delete_old(options: argparse.Namespace) -> None:
    before_ms = int((time.time() - parse_duration(options.older).total_seconds()) * 1000)
    with connected(options) as kilter:
        number = kilter.runs.experiment(options.experiment).number
        count = kilter.traces.delete(number, before_ms=before_ms)
    answer({"deleted": count}, as_json=options.json, show=lambda: say(f"{count} deleted"))


def _follow(options: argparse.Namespace) -> None:
    """Print what is newer than the start: looked for again and again, each trace once, when it has ended."""
    begun_ms = int(time.time() * 1000)
    printed: deque[str] = deque(maxlen=_REMEMBERED)
    left = options.count
    asked = f"end_time_ms >= {begun_ms} AND status != 'IN_PROGRESS'"
    if options.filter.strip():
        asked = f"{asked} AND {options.filter}"
    with connected(options) as kilter:
        while left is None or left > 0:
            found = kilter.traces.list(options.experiment, asked, ["timestamp_ms DESC"], _PAGE)
            fresh = [one for one in reversed(found.traces) if one.id not in printed]
            for one in fresh if left is None else fresh[:left]:
                say(msgspec.json.encode(one).decode() if options.json else _line(one))
                printed.append(one.id)
                left = None if left is None else left - 1
            if not fresh:
                time.sleep(_POLL)


def _line(one: TraceInfo) -> str:
    took = "-" if one.duration_ms is None else f"{one.duration_ms} ms"
    return f"{one.started_at:%Y-%m-%d %H:%M:%S}  {one.id}  {one.state:<11}  {took:>10}  {plain(one.name)}  {_short(one.request)}"


def _short(text: str | None) -> str:
    return plain(text)[:_SHOWN]


def _tokens(one: TraceInfo) -> int | None:
    return one.usage.get("total_tokens")


def _tree(found: Trace) -> list[tuple[int, Span]]:
    """Return the spans with their depths, each below its parent; those whose parent is not here stand at the top."""
    known = {span.id for span in found.spans}
    children: dict[str | None, list[Span]] = {}
    for span in found.spans:
        children.setdefault(span.parent if span.parent in known else None, []).append(span)
    drawn: list[tuple[int, Span]] = []
    waiting = [(0, span) for span in reversed(children.get(None, []))]
    while waiting:
        depth, span = waiting.pop()
        drawn.append((depth, span))
        waiting += [(depth + 1, child) for child in reversed(children.get(span.id, []))]
    return drawn
