"""``kilter score``: predictions for files and tables, with a version of the registry."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import ExitStack

from kilter.cli.arguments import Parser
from kilter.cli.output import answer, progress, say
from kilter.cli.target import store_name
from kilter.core.errors import InvalidInput

_TEXT = """\
Score the rows of files or of a table with a version of a model: what its endpoint would answer, in bounded memory. A scoring
that was killed goes on where it was when the same command is given again; one that is done is not done again."""


def build(parser: Parser, _command: str) -> None:
    """Add the arguments."""
    parser.description = _TEXT
    parser.set_defaults(run=_score)
    parser.add_argument("model", metavar="MODEL[@VERSION]", help="the champion, or MODEL@v7")
    parser.add_argument("--input", required=True, metavar="PLACE",
                        help="a .parquet, .csv or .arrow file, a folder of them, a Delta table, s3://..., or table:NAME")  # fmt: skip
    parser.add_argument(
        "--output", required=True, metavar="PLACE", help="a file, a folder for parts, s3://..., or table:NAME"
    )
    parser.add_argument("--format", choices=("parquet", "csv", "arrow", "delta"), help="of a folder (default: parquet)")
    parser.add_argument(
        "--keep", metavar="COLUMN,...", help="columns beside the predictions (default: key and time; * for all)"
    )
    parser.add_argument(
        "--bad-rows", choices=("fail", "null"), default="fail", help="what a row that can't be used does"
    )
    parser.add_argument("--part-rows", type=int, default=524_288, metavar="N", help="rows per part (default: 524288)")
    parser.add_argument("--batch-rows", type=int, default=65_536, metavar="N", help="rows per call (default: 65536)")
    parser.add_argument(
        "--threads", type=int, default=0, metavar="N", help="batches at once (default: as many as processors)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the output of an earlier scoring")
    parser.add_argument(
        "--split", choices=("lines",), help="each line of a .jsonl or .csv file is one row, as SageMaker's transform"
    )
    parser.add_argument(
        "--join", choices=("input",), help="with --split: answer each line with itself and its prediction"
    )


def _score(options: argparse.Namespace) -> None:
    name = store_name(options)
    if name.startswith(("http://", "https://")):
        raise InvalidInput("rows are scored where the models are", where="--store", fix="give the store itself")
    from kilter.loop.versions.scoring import score, transform  # noqa: PLC0415 - Polars and all rooms
    from kilter.loop.workspace import Workspace  # noqa: PLC0415

    workspace = Workspace.open(name, home=options.home)
    with ExitStack() as stack:
        stack.callback(workspace.close)

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
            found = score(
                options.model,
                options.input,
                options.output,
                store=workspace,
                keep=options.keep.split(",") if options.keep else None,
                format=options.format,
                bad_rows=options.bad_rows,
                part_rows=options.part_rows,
                batch_rows=options.batch_rows,
                threads=options.threads,
                overwrite=options.overwrite,
                starting=starting,
            )

    def show() -> None:
        if found.kept and not found.rows:
            say(f"{found.output} was complete: nothing to do")
            return
        say(f"{found.rows:,} rows scored with {found.model} in {found.parts} parts: {found.output}")
        if found.bad_rows:
            say(f"  {found.bad_rows:,} rows could not be used: the column error says why")

    answer(found, as_json=options.json, show=show)
