"""``kilter journal``: list, follow and verify what happened."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING

import msgspec

from kilter.cli.arguments import Parser, verbs
from kilter.cli.output import answer, plain, say
from kilter.cli.target import connected
from kilter.core.errors import Damaged

if TYPE_CHECKING:
    from kilter.journal.records import Event

_POLL = 0.5
_PAGE = 500


def build(parser: Parser, _command: str) -> None:
    """Add the verbs."""
    add = verbs(parser)
    listing = add("list", "events, oldest first", _list)
    listing.add_argument("--subject", help="a loop, or a version such as LOOP@v7")
    listing.add_argument("--kind", help="one kind, such as AlarmRaised")
    listing.add_argument("--after", type=int, default=0, help="only events behind this place")
    listing.add_argument("--limit", type=int, default=100)
    listing.add_argument("--newest", action="store_true", help="the newest, newest first")
    follow = add("follow", "print events as they come, one per line; ends with Ctrl-C", _follow)
    follow.add_argument("--subject")
    follow.add_argument("--after", type=int, help="begin behind this place instead of now")
    follow.add_argument("--count", type=int, help="end after so many events")
    add("verify", "check the whole chain, byte by byte", _verify)


def _list(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        found = kilter.journal.events(options.after, options.limit, options.subject, options.kind, options.newest)

    def show() -> None:
        for event in found:
            say(_line(event))

    answer(found, as_json=options.json, show=show)


def _follow(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        after, left = options.after, options.count
        if after is None:
            newest = kilter.journal.events(limit=1, newest=True)
            after = newest[0].seq if newest else 0
        while left is None or left > 0:
            found = kilter.journal.events(after=after, limit=min(_PAGE, left or _PAGE), subject=options.subject)
            for event in found:
                say(msgspec.json.encode(event).decode() if options.json else _line(event))
                after = event.seq
            left = None if left is None else left - len(found)
            if not found:
                time.sleep(_POLL)


def _verify(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        found = kilter.journal.verify()
    if not found.ok:
        if options.json:
            sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
            sys.exit(Damaged.exit_code)
        raise Damaged(
            f"event {found.broken_at} is not as it was written: {found.reason} ({found.checked:,} before it are whole)",
            where="journal",
            fix="restore the store from a backup; nothing after this event can be trusted",
        )
    answer(found, as_json=options.json, show=lambda: say(f"{found.checked:,} events are whole"))


def _line(event: Event) -> str:
    return f"{event.seq:>6}  {event.at:%Y-%m-%d %H:%M:%S}  {event.subject:<20}  {event.kind:<18}  {plain(event.data)[:200]}"
