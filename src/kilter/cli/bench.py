"""``kilter bench``: the curve of a version under growing load, and what a load would need."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from kilter.cli.arguments import Parser
from kilter.cli.output import answer, say
from kilter.cli.target import connected
from kilter.core.durations import parse_duration
from kilter.core.errors import GateRefused, InvalidInput

if TYPE_CHECKING:
    from kilter.loop.versions.sizing import Bench
    from kilter.serving.load import Point

_TEXT = """\
Serve a version on this machine, away from the store's own endpoints, and ask it with more and more callers. Nothing is recorded
in the store. The callers run on this machine too and take their part of it."""


def build(parser: Parser, _command: str) -> None:
    """Add the arguments."""
    parser.description = _TEXT
    parser.set_defaults(run=_bench)
    parser.add_argument("model", metavar="MODEL[@VERSION]", help="the champion, or MODEL@v7")
    parser.add_argument(
        "--callers", default="1,4,16,64", metavar="N,...", help="callers at the same time (default: 1,4,16,64)"
    )
    parser.add_argument("--rows", type=int, default=1, metavar="N", help="rows of each request (default: 1)")
    parser.add_argument(
        "--seconds", type=float, default=2.0, metavar="N", help="for each number of callers (default: 2)"
    )
    parser.add_argument("--replicas", type=int, default=1, metavar="N", help="worker processes (default: 1)")
    parser.add_argument("--rate", type=float, metavar="N", help="rows per second to plan machines for")
    parser.add_argument(
        "--p99", default="100ms", metavar="TIME", help="with --rate: the 99th percentile (default: 100ms)"
    )


def _bench(options: argparse.Namespace) -> None:
    from kilter.loop.versions.sizing import bench  # noqa: PLC0415 - opens the way to every room

    try:
        callers = [int(text) for text in options.callers.split(",")]
    except ValueError as error:
        raise InvalidInput(f"{options.callers!r} was given", where="--callers", allowed="like 1,4,16,64") from error
    allowed = parse_duration(options.p99, where="--p99").total_seconds() * 1e3

    def measured(point: Point) -> None:
        if not options.json:
            say(_line(point))

    if not options.json:
        say(f"{'callers':>8} {'requests/s':>11} {'rows/s':>11} {'p50 ms':>9} {'p99 ms':>9} {'CPU us':>9}")
    with connected(options) as kilter:
        found = bench(
            kilter,
            options.model,
            callers=callers,
            rows=options.rows,
            seconds=options.seconds,
            replicas=options.replicas,
            rate=options.rate,
            p99_ms=allowed,
            measured=measured,
        )
    answer(found, as_json=options.json, show=lambda: _show(found))
    if found.capacity is not None and not found.capacity.met:
        raise GateRefused(
            f"no point keeps a 99th percentile of {allowed:g} ms",
            where="--p99",
            fix="allow more, or see `kilter optimize`",
        )


def _line(point: Point) -> str:
    cpu = "" if point.cpu_us is None else f"{point.cpu_us:,.0f}"
    refused = f"  {point.refused:,} refused" if point.refused else ""
    return (
        f"{point.callers:>8} {point.requests_per_second:>11,.0f} {point.rows_per_second:>11,.0f} "
        f"{point.p50_ms:>9.2f} {point.p99_ms:>9.2f} {cpu:>9}{refused}"
    )


def _show(found: Bench) -> None:
    workers = "1 worker process" if found.replicas == 1 else f"{found.replicas} worker processes"
    say(f"{found.model}@v{found.version} ({found.runtime}), {workers}, {found.processors} processors")
    if found.cpu_seconds_per_million is not None:
        say(f"a million rows take {found.cpu_seconds_per_million:,.0f} processor seconds at best")
    plan = found.capacity
    if plan is not None and plan.met:
        machines = "1 machine" if plan.machines == 1 else f"{plan.machines} machines"
        busy = "" if plan.processor_share is None else f", {plan.processor_share:.0%} of the processors busy"
        say(
            f"{plan.rate:,.0f} rows/s within {plan.p99_ms:g} ms need {machines} like this one{busy}: "
            f"each carries {plan.rows_per_second:,.0f} rows/s and is used to 70 %"
        )
