"""``kilter import``: the runs of another tracker, with everything that they hold."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kilter.cli.arguments import Parser
from kilter.cli.output import answer, progress, say, table
from kilter.cli.target import connected, store_name
from kilter.core.errors import Conflict

if TYPE_CHECKING:
    from kilter.tracking.history.records import Brought

_KINDS = ("mlflow", "wandb", "comet", "neptune", "tensorboard")
_TEXT = """\
Bring the runs of another tracker: params, every point of every metric, tags, notes, files, media, data, models, nested runs and
times. A run that is here already gets only what is new, and an import that was killed goes on where it was when the same command
is given again. What has no equivalent is counted by kind. Models are kept as files: nothing is loaded."""
_EXAMPLES = """\
examples:
  kilter import mlflow http://localhost:5000     a server; MLFLOW_TRACKING_TOKEN, or _USERNAME and _PASSWORD, are used
  kilter import mlflow ./mlruns                  or ./mlflow.db, or postgresql+psycopg://user@host/mlflow
  kilter import wandb ./wandb                    runs that were made offline
  kilter import comet ./archive.zip              or a folder of offline archives
  kilter import neptune ./exports/data           what neptune-exporter wrote
  kilter import tensorboard ./logs               event files"""


def build(parser: Parser, _command: str) -> None:
    """Add the arguments."""
    parser.description, parser.epilog = _TEXT, _EXAMPLES
    parser.set_defaults(run=_import)
    add = parser.add_argument
    add("source", choices=_KINDS, help="whose runs")
    add("place", metavar="PLACE", help="where they are: a folder, a file or an address")
    add("--experiment", default="", metavar="NAME", help="put all of them there (default: their own experiments)")
    add("--filter", default="", metavar="TEXT", help="such as: experiment = 'churn' and name like 'trial%%'")
    add(
        "--files",
        type=Path,
        metavar="DIR",
        help="a further folder that files may come from: what lies elsewhere is left out",
    )
    add("--dry-run", action="store_true", help="read everything, write nothing, and report")


def _import(options: argparse.Namespace) -> None:
    from kilter.tracking.history.selection import Selection  # noqa: PLC0415 - all rooms, after the arguments were read
    from kilter.tracking.history.sources import open_source  # noqa: PLC0415
    from kilter.tracking.history.writer import Writer  # noqa: PLC0415

    selection = Selection(options.filter)
    source = open_source(options.source, options.place, options.files)
    try:
        seen = list(source.runs())
        work = sum(getattr(run, "work", 0) for run in seen)
        with connected(options) as kilter:
            _alone(options)
            writer = Writer(kilter.runs, experiment=options.experiment, selection=selection, dry_run=options.dry_run)
            with progress(f"{options.source}: {len(seen):,} runs", work, quiet=options.json) as done:
                brought = writer.bring(source, options.place, done, seen)
    finally:
        source.close()
    answer(brought, as_json=options.json, show=lambda: _show(brought))
    if brought.failed:
        sys.exit(1)


def _alone(options: argparse.Namespace) -> None:
    """Make sure that no other import writes to the store: two that bring the same run would both count its points.

    Raises:
        Conflict: When one does.
    """
    if store_name(options).startswith(("http://", "https://")):
        return
    from kilter.cli.target import store_of  # noqa: PLC0415

    if not store_of(options).run.hold("import"):
        raise Conflict("another import is writing to this store", where="import", fix="wait until it is done")


def _show(brought: Brought) -> None:
    would = "would come" if brought.dry_run else "came"
    say(
        f"{brought.runs:,} runs {would} from {brought.place}, {brought.grown:,} grew, {brought.unchanged:,} were as they are"
        + (f", {brought.passed_over:,} passed over by the filter" if brought.passed_over else "")
    )
    say(
        f"  {brought.points:,} points, {brought.params:,} params, {brought.tags:,} tags, {brought.files:,} files"
        f" ({brought.bytes:,} bytes), {brought.datasets:,} datasets, {brought.models:,} models in {brought.seconds:,.1f} s"
    )
    if brought.renamed:
        say(f"  {brought.renamed:,} names were changed to what names can be here: see the tag kilter.import.names")
    if brought.left_out:
        say("without an equivalent here:")
        table(("count", "what"), [(count, kind) for kind, count in brought.left_out.items()])
    if brought.failed:
        say(f"{len(brought.failed):,} runs did not come as a whole; the same command tries them again:")
        table(("run", "why"), [(one.run, one.why) for one in brought.failed])
