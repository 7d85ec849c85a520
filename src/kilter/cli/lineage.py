"""``kilter lineage``: what the journal says about lineage, in OpenLineage's words."""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path

import msgspec

from kilter.cli.arguments import Parser, verbs
from kilter.cli.output import answer, say
from kilter.cli.target import connected
from kilter.core.errors import Unavailable

_PAGE = 500


def build(parser: Parser, _command: str) -> None:
    """Add the verbs."""
    add = verbs(parser)
    export = add("export", "the past as run events of OpenLineage 2-0-2, one JSON object per line", _export)
    export.add_argument(
        "--after", type=int, default=0, metavar="SEQ", help="only what lies behind this place in the journal"
    )
    export.add_argument("--namespace", default="kilter", help="the namespace of jobs and datasets (default: kilter)")
    export.add_argument("--output", metavar="FILE", help="write them there instead of to standard output")
    add("state", "how far the journal was told to the place that OPENLINEAGE_URL names", _state)


def _export(options: argparse.Namespace) -> None:
    try:
        opened = open(options.output, "wb") if options.output else nullcontext(sys.stdout.buffer)  # noqa: SIM115, PTH123
    except OSError as error:
        raise Unavailable(f"the file can't be written: {error.strerror}", where=str(Path(options.output))) from error
    with connected(options) as kilter, opened as target:
        after, more = options.after, True
        while more:
            page = kilter.lineage.events(after, _PAGE, options.namespace)
            for event in page.events:
                target.write(msgspec.json.encode(event) + b"\n")
            after, more = page.next, page.more
        target.flush()


def _state(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        found = kilter.lineage.state()
    answer(found, as_json=options.json, show=lambda: say(f"told up to {found.told} of {found.newest} events"))
