"""``kilter runs``: experiments, runs and their metrics."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from kilter.cli.arguments import Parser, verbs
from kilter.cli.output import answer, fields, plain, records, say, table
from kilter.cli.target import connected


def build(parser: Parser, _command: str) -> None:
    """Add the verbs."""
    add = verbs(parser)
    listing = add("list", "runs, newest first", _list)
    listing.add_argument("--experiment", default="", help="only of this experiment")
    listing.add_argument("--filter", default="", help="such as: metrics.auc > 0.7 and status = 'FINISHED'")
    listing.add_argument("--order", default="-started", help="started, or metrics.NAME; with - the greatest first")
    listing.add_argument("--limit", type=int, default=50)
    listing.add_argument("--cursor", help="from the page before")
    add("experiments", "all experiments", _experiments)
    add("get", "one run", _get).add_argument("run_id", metavar="RUN")
    metrics = add("metrics", "the points of a metric", _metrics)
    metrics.add_argument("run_id", metavar="RUN")
    metrics.add_argument("name", metavar="METRIC")
    artifact = add("artifact", "write a run's file to standard output or to --output", _artifact)
    artifact.add_argument("run_id", metavar="RUN")
    artifact.add_argument("name", metavar="NAME")
    artifact.add_argument("--output", type=Path)


def _list(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        found = kilter.runs.list(options.experiment, options.filter, options.order, options.limit, options.cursor)

    def show() -> None:
        columns = ("run", "experiment", "name", "status", "started", "metrics")
        table(
            columns,
            (
                (
                    run.id,
                    run.experiment,
                    run.name,
                    run.status,
                    run.started_at,
                    ", ".join(f"{one.name}={plain(one.last)}" for one in run.metrics[:4]),
                )
                for run in found.runs
            ),
        )
        if found.cursor:
            say(f"more: --cursor {found.cursor}")

    answer(found, as_json=options.json, show=show)


def _experiments(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        found = kilter.runs.experiments()
    answer(found, as_json=options.json, show=lambda: records(found))


def _get(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        found = kilter.runs.get(options.run_id)
    answer(found, as_json=options.json, show=lambda: fields(found))


def _metrics(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        found = kilter.runs.metrics(options.run_id, options.name)
    answer(found, as_json=options.json, show=lambda: records(found, ("step", "value", "at")))


def _artifact(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        data = kilter.runs.artifact(options.run_id, options.name)
    if options.json:
        answer(data, as_json=True, show=lambda: None)  # base64, as every JSON of bytes
    elif options.output is not None:
        options.output.write_bytes(data)
        say(f"{options.output}: {len(data):,} bytes")
    else:
        sys.stdout.buffer.write(data)
