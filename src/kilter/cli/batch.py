"""``kilter batch``: predictions for files, tables and queries, with a version of the registry."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from kilter.cli.arguments import Parser
from kilter.cli.output import answer, progress, say, table
from kilter.cli.target import store_name
from kilter.core.errors import InvalidInput

if TYPE_CHECKING:
    from kilter.serving.scoring.files import Scored
    from kilter.serving.scoring.quality import Limits, Seen

_TEXT = """\
Score the rows of files, of a table or of a query with a version of a model: what its endpoint would answer, in bounded memory. A
batch that was killed goes on where it was when the same command is given again; one that is done is not done again."""


def build(parser: Parser, _command: str) -> None:
    """Add the arguments."""
    parser.description = _TEXT
    parser.set_defaults(run=_batch)
    add = parser.add_argument
    add("model", metavar="MODEL[@VERSION]", help="the champion, or MODEL@v7")
    add("--input", required=True, metavar="PLACE",
        help="a .parquet, .csv or .arrow file, a folder of them, a Delta table, s3://..., table:NAME, or a database")  # fmt: skip
    add("--query", metavar="SQL", help="what to read of a database: SELECT ...")
    add(
        "--key", metavar="COLUMN", help="what identifies a row (default: the model's key); a query is read in its order"
    )
    add("--output", required=True, metavar="PLACE",
        help="a file, a folder for parts, s3://..., table:NAME, online:NAME, or a database's address with ?table=NAME")  # fmt: skip
    add("--format", choices=("parquet", "csv", "arrow", "delta"), help="of a folder (default: parquet)")
    add("--keep", metavar="COLUMN,...", help="columns beside the predictions (default: key and time; * for all)")
    add("--bad-rows", default="fail", metavar="fail|null|PLACE",
        help="what a row that can't be used does; with a place, bad rows go there with the reason (default: fail)")  # fmt: skip
    for kind, text in (
        ("nulls", "missing values"),
        ("unknown", "categories that the model does not know"),
        ("outside", "numbers far outside of the training rows"),
    ):
        add(
            f"--max-{kind}",
            type=_share,
            metavar="SHARE",
            help=f"refuse a batch with more {text} in a column: 5%% or 0.05",
        )
    add("--run-name", default="", metavar="NAME", help="the same batch under another name is done anew")
    add("--part-rows", type=int, default=524_288, metavar="N", help="rows per part (default: 524288)")
    add("--batch-rows", type=int, default=65_536, metavar="N", help="rows per call (default: 65536)")
    add("--threads", type=int, default=0, metavar="N", help="batches at once (default: as many as processors)")
    add("--overwrite", action="store_true", help="replace the output of an earlier batch")
    add("--on", choices=("local", "ray", "spark"), default="local", help="where rows are scored (default: local)")
    add("--cluster", default="", metavar="ADDRESS", help="with --on: the cluster (default: one on this machine)")
    add(
        "--workers",
        type=int,
        default=0,
        metavar="N",
        help="with --on: how many workers (default: as many as there are)",
    )
    add("--split", choices=("lines",), help="each line of a .jsonl or .csv file is one row, as SageMaker's transform")
    add("--join", choices=("input",), help="with --split: answer each line with itself and its prediction")


def _share(text: str) -> float:
    number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share: give 5% or 0.05")
    return number


def _limits(options: argparse.Namespace) -> Limits:
    from kilter.serving.scoring.quality import Limits  # noqa: PLC0415 - Polars

    return Limits(nulls=options.max_nulls, unknown=options.max_unknown, outside=options.max_outside)


def _batch(options: argparse.Namespace) -> None:
    name = store_name(options)
    if name.startswith(("http://", "https://")):
        raise InvalidInput("rows are scored where the models are", where="--store", fix="give the store itself")
    from kilter.loop.versions.batch import batch, transform  # noqa: PLC0415 - Polars and all rooms
    from kilter.loop.workspace import Workspace  # noqa: PLC0415

    with ExitStack() as stack:
        workspace = stack.enter_context(Workspace.open(name, home=options.home))

        def starting(total: int | None) -> Callable[[int], None]:
            return stack.enter_context(progress("rows", total, quiet=options.json))

        if options.split:
            found = transform(options.model, options.input, options.output, store=workspace, join=options.join is not None,
                              threads=options.threads, starting=starting)  # fmt: skip
        else:
            if options.join:
                raise InvalidInput(
                    "--join goes with --split", where="--join", fix="use --keep '*' for files of columns"
                )
            found = batch(
                options.model,
                options.input,
                options.output,
                store=workspace,
                query=options.query or "",
                key=options.key or "",
                keep=options.keep.split(",") if options.keep else None,
                format=options.format,
                bad_rows=options.bad_rows,
                limits=_limits(options),
                run=options.run_name,
                part_rows=options.part_rows,
                batch_rows=options.batch_rows,
                threads=options.threads,
                overwrite=options.overwrite,
                on=options.on,
                cluster=options.cluster,
                workers=options.workers,
                starting=starting,
            )
    answer(found, as_json=options.json, show=lambda: _show(found))


def _show(found: Scored) -> None:
    if found.kept and not found.rows and not found.bad_rows:
        say(f"{found.output} was complete: nothing to do")
        return
    pace = f", {found.rows_per_second:,.0f} rows/s" if found.rows_per_second else ""
    say(f"{found.rows:,} rows scored with {found.model} in {found.parts} parts{pace}: {found.output}")
    if found.bad_rows and found.apart:
        say(f"  {found.bad_rows:,} bad rows are in {found.apart}: the column error says why")
    elif found.bad_rows:
        say(f"  {found.bad_rows:,} rows could not be used: the column error says why")
    if found.seen is not None:
        _show_seen(found.seen)


def _show_seen(seen: Seen) -> None:
    """Show the columns of which something is missing, unknown or far outside."""
    rows = max(seen.rows, 1)
    shown = [
        (
            one.name,
            f"{one.nulls / rows:.2%}",
            "-" if one.expected_nulls is None else f"{one.expected_nulls:.2%}",
            f"{one.unknown / rows:.2%}",
            "-" if one.outside is None else f"{one.outside / rows:.2%}",
        )
        for one in seen.columns
        if one.nulls or one.unknown or one.outside
    ]
    if shown:
        table(("column", "missing", "in training", "unknown", "far outside"), shown)
