"""``kilter endpoints``: what is to be served, how far each front is with it, and what was answered."""

from __future__ import annotations

import argparse
import os
from http import HTTPStatus
from urllib.parse import urlsplit

import msgspec

from kilter.cli.arguments import Parser, verbs
from kilter.cli.output import answer, fields, records, say, table
from kilter.cli.target import connected, store_of
from kilter.core.errors import NotFound, Unavailable


def build(parser: Parser, _command: str) -> None:
    """Add the verbs."""
    add = verbs(parser)
    add("list", "what every endpoint is to do", _list)
    add("status", "how far each front has followed an endpoint's plan", _status).add_argument("loop")
    add("running", "the front on this store: workers, memory and queue of every version", _running)
    add("prediction", "one recorded prediction; `kilter why ID` tells what is behind it", _prediction).add_argument(
        "id"
    )
    add("consumers", "who calls: client, program, protocol, first and last seen", _consumers).add_argument(
        "loop", nargs="?", help="the endpoint (default: all)"
    )
    record = add("record", "what is recorded of an endpoint's inputs; without options, what it is now", _record)
    record.add_argument("loop")
    record.add_argument("--drop", action="append", metavar="INPUT", help="an input that is not recorded")
    record.add_argument("--hash", action="append", metavar="INPUT", help="an input of which a keyed hash is recorded")
    record.add_argument("--sample", type=float, metavar="SHARE", help="the share of rows whose inputs are recorded")
    record.add_argument("--everything", action="store_true", help="record all inputs as they are")
    add("forget", "wait no longer for a front that won't come back", _forget).add_argument("front")


def _list(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        found = kilter.endpoints.plans()
    columns = ("endpoint", "champion", "challenger", "mode", "share", "fallback", "generation")
    rows = [
        (plan.loop, plan.champion, plan.challenger, plan.mode, f"{plan.share} %", plan.fallback, plan.generation)
        for plan in found
    ]
    answer(found, as_json=options.json, show=lambda: table(columns, rows))


def _status(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        found = kilter.endpoints.status(options.loop)
    answer(found, as_json=options.json, show=lambda: records(found, empty="no front has served it yet: `kilter serve`"))


def _running(options: argparse.Namespace) -> None:
    from http.client import HTTPConnection, HTTPException  # noqa: PLC0415 - no other verb speaks to the front itself

    store = store_of(options)
    front = store.run.living("serve")
    if front is None:
        raise NotFound("no front runs on this store", where=str(store.run.path), fix="start one with `kilter serve`")
    token = os.environ.get("KILTER_TOKEN")
    connection = HTTPConnection(urlsplit(front.url).netloc, timeout=10)
    try:
        connection.request("GET", "/models", headers={"authorization": f"Bearer {token}"} if token else {})
        reply = connection.getresponse()
        body = reply.read()
    except (OSError, HTTPException) as error:
        raise Unavailable("the front does not answer", where=front.url, fix="look at DIR/run/serve.log") from error
    finally:
        connection.close()
    if reply.status != HTTPStatus.OK:
        raise Unavailable(f"the front answered with {reply.status}", where=front.url,
                          fix="set KILTER_TOKEN to the front's token")  # fmt: skip
    found = msgspec.json.decode(body)["endpoints"]
    columns = ("endpoint", "version", "generation", "ready", "workers", "memory", "queue", "restarts")
    rows = [
        (one["loop"], version["version"], one["generation"],
         ("yes" if version["awake"] else "asleep") if version["ready"] else "no", len(version["pids"]),
         f"{version['memory'] / 1e6:.0f} MB", version["waiting"], version["restarts"])
        for one in found for version in one.get("versions", ())
    ]  # fmt: skip
    answer(found, as_json=options.json, show=lambda: table(columns, rows))


def _prediction(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        found = kilter.endpoints.prediction(options.id)
    answer(found, as_json=options.json, show=lambda: fields(found))


def _consumers(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        found = kilter.consumers.of(options.loop) if options.loop else kilter.consumers.all()
    answer(found, as_json=options.json, show=lambda: records(found, empty="nobody has called yet"))


def _record(options: argparse.Namespace) -> None:
    from kilter.serving.recording.redaction import Recording  # noqa: PLC0415 - opens the way to the rooms

    with connected(options) as kilter:
        if options.everything or options.drop or options.hash or options.sample is not None:
            rule = Recording(
                drop=tuple(options.drop or ()),
                hash=tuple(options.hash or ()),
                sample=1.0 if options.sample is None else options.sample,
            )
            found = kilter.recording.set(options.loop, Recording() if options.everything else rule)
        else:
            found = kilter.recording.get(options.loop)
    answer(found, as_json=options.json, show=lambda: fields(found))


def _forget(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        found = kilter.endpoints.forget(options.front)
    answer(
        {"front": options.front, "endpoints": found},
        as_json=options.json,
        show=lambda: say(f"forgotten in {found} endpoints" if found else "there was no such front"),
    )
