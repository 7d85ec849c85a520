"""``kilter sync``: send what runs have logged while their store was away, or what their processes left behind."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

from kilter.cli.arguments import Parser
from kilter.cli.output import answer, progress, records, say
from kilter.cli.target import store_name
from kilter.core.errors import InvalidInput
from kilter.tracking.sdk.places import buffers_of, is_server, store_place
from kilter.tracking.sdk.sync import left, sync_buffer


def build(parser: Parser, _command: str) -> None:
    """Add the arguments."""
    parser.add_argument(
        "run_ids", metavar="RUN", nargs="*", help="only these runs; all that are left, if none are named"
    )
    parser.add_argument(
        "--to", default="", metavar="STORE", help="send them there instead of where they were started for"
    )
    parser.add_argument(
        "--buffer", type=Path, metavar="DIR", help="look there (default: KILTER_BUFFER, the store's own, ~/.kilter)"
    )
    parser.add_argument("--list", action="store_true", help="say what is left, and send nothing")
    parser.set_defaults(run=_sync)


def _sync(options: argparse.Namespace) -> None:
    found = left(_roots(options), options.run_ids)
    if options.list:
        waiting = tuple(one for _, one in found)
        columns = ("run", "experiment", "records", "writing", "store")
        answer(waiting, as_json=options.json, show=lambda: records(waiting, columns, "nothing is left to send"))
        return
    missing = set(options.run_ids) - {one.run for _, one in found}
    if missing and not found:
        # Sent already, as far as anybody can tell here: asking again for what was done is no mistake.
        answer((), as_json=options.json, show=lambda: say("nothing is left to send"))
        return
    total = sum(one.records for _, one in found)
    to = store_place(options.to) if options.to else ""
    with progress("records", total, quiet=options.json or not total) as advance:
        results = tuple(sync_buffer(folder, store=to, told=advance) for folder, _ in found)
    shown = ("run", "state", "records", "refused", "store", "problem")
    answer(results, as_json=options.json, show=lambda: records(results, shown, "nothing is left to send"))
    if any(one.state == "waiting" for one in results):
        raise SystemExit(1)  # said in the answer: nothing is lost, and asking again is safe


def _roots(options: argparse.Namespace) -> Iterator[Path]:
    """Yield where buffers may lie."""
    if options.buffer is not None:
        if not options.buffer.is_dir():
            raise InvalidInput(f"there is no folder {str(options.buffer)!r}", where="--buffer")
        yield options.buffer
        return
    if os.environ.get("KILTER_BUFFER"):
        yield Path(os.environ["KILTER_BUFFER"]).expanduser().absolute()
        return
    name = store_name(options)
    if "://" not in name:
        yield buffers_of(store_place(name))
    if is_server(name) or not options.store:
        yield buffers_of("http://")
