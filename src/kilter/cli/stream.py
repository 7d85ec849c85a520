"""``kilter stream``: answer the messages of a stream with a model, each once."""

from __future__ import annotations

import argparse
import gc
import signal
import sys
import time
from types import FrameType
from typing import TYPE_CHECKING

import msgspec

from kilter.cli.arguments import Parser
from kilter.cli.output import say
from kilter.cli.target import store_name
from kilter.core.errors import InvalidInput

if TYPE_CHECKING:
    from kilter.serving.scoring.streams import Turn

_TEXT = """\
Read messages (a JSON object each: a row), answer them with a model, write the answers to another stream, and commit. A process
that is killed loses nothing and answers nothing twice. Messages that can't be used go to the dead letters with the reason.
Streams: log:NAME (in the store), kafka://host:port/topic, nats://host:port/subject, redis://host:port/stream,
rabbitmq://host:port/stream, kinesis://region/stream, pubsub://project/topic; options behind a question mark are each engine's own
(see docs/streaming.md)."""
_EVERY = 10.0


def build(parser: Parser, _command: str) -> None:
    """Add the arguments."""
    parser.description = _TEXT
    parser.set_defaults(run=_stream)
    parser.add_argument("model", metavar="MODEL[@VERSION]", help="the champion, which is followed, or MODEL@v7")
    parser.add_argument("--from", required=True, dest="source", metavar="STREAM", help="where messages come from")
    parser.add_argument("--to", required=True, dest="target", metavar="STREAM", help="where answers go")
    parser.add_argument("--dead", default="", metavar="STREAM", help="where unusable messages go (default: TO-dead)")
    parser.add_argument("--group", default="", metavar="NAME", help="who reads (default: the model's name)")
    parser.add_argument("--batch", type=int, default=4_000, metavar="N", help="messages per call (default: 4000)")
    parser.add_argument("--no-record", action="store_true", help="keep the predictions out of the prediction log")
    parser.add_argument(
        "--front", default="", metavar="NAME", help="the prediction log's name (default: from the group)"
    )
    parser.add_argument("--drain", action="store_true", help="end when nothing is left to read")


def _stream(options: argparse.Namespace) -> None:
    name = store_name(options)
    if name.startswith(("http://", "https://")):
        raise InvalidInput("streams are scored where the models are", where="--store", fix="give the store itself")
    from kilter.loop.versions.streaming import StreamPlan, stream  # noqa: PLC0415 - Polars and all rooms
    from kilter.loop.workspace import Workspace  # noqa: PLC0415

    plan = StreamPlan(
        model=options.model,
        source=options.source,
        target=options.target,
        dead=options.dead,
        group=options.group,
        record=not options.no_record,
        front=options.front,
        batch=options.batch,
        drain=options.drain,
    )
    stopping = False

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True  # between two turns, so that nothing is taken that isn't committed

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    workspace = Workspace.open(name, home=options.home)
    told = _Counts(as_json=options.json)
    try:
        for turn in stream(workspace, plan, lambda: stopping):
            if not gc.get_freeze_count():
                # What is loaded by now stays: looking through it for garbage, every few batches, took half of the processor's time.
                gc.collect()
                gc.freeze()
            told.add(turn)
    finally:
        gc.unfreeze()
        workspace.close()
    told.tell(last=True)


class _Counts:
    """Counts what was done, and says so now and then."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._counts = {"taken": 0, "answered": 0, "dead": 0, "skipped": 0}
        self._waiting: int | None = None
        self._began = self._told = time.monotonic()
        self._loaded = False

    def add(self, turn: Turn) -> None:
        if not self._loaded:  # opening the streams and the model is no part of the pace
            self._loaded, self._began = True, time.monotonic()
        for name in self._counts:
            self._counts[name] += getattr(turn, name)
        self._waiting = self._waiting if turn.waiting is None else turn.waiting
        if time.monotonic() - self._told >= _EVERY:
            self.tell()

    def tell(self, *, last: bool = False) -> None:
        self._told = time.monotonic()
        rate = self._counts["taken"] / max(self._told - self._began, 1e-9)
        if self._as_json:
            event = {"event": "done" if last else "running", **self._counts, "per_second": round(rate, 1)}
            if self._waiting is not None and not last:
                event["waiting"] = self._waiting
            sys.stdout.write(msgspec.json.encode(event).decode() + "\n")
            sys.stdout.flush()
        else:
            counts = self._counts if self._waiting is None or last else self._counts | {"waiting": self._waiting}
            say(", ".join(f"{count:,} {name}" for name, count in counts.items()) + f" ({rate:,.0f} per second)")
