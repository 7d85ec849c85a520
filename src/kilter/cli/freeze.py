"""``kilter freeze`` and ``kilter unfreeze``: hold the releases of a loop where they are, and let them go on."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from kilter.cli.arguments import Parser
from kilter.cli.output import answer, plain, say
from kilter.cli.target import connected, who
from kilter.core.errors import InvalidInput

if TYPE_CHECKING:
    from kilter.loop.status import LoopStatus

_TEXTS = {
    "freeze": "Hold releases where they are: no challenger gets traffic or more of it, and none is promoted. Going back is free.",
    "unfreeze": "Let releases go on; windows of the declaration and of kilter.toml hold all the same.",
}


def build(parser: Parser, command: str) -> None:
    """Add the arguments of one of the verbs."""
    parser.description = _TEXTS[command]
    parser.add_argument("loop", help="the loop's name")
    if command == "freeze":
        parser.add_argument("--until", help="when it ends by itself: 2026-12-27 or 2026-12-27T06:00, in UTC")
        parser.add_argument("--reason", default="", help="why; it is kept in the journal")
    parser.set_defaults(run=_freeze if command == "freeze" else _unfreeze)


def _freeze(options: argparse.Namespace) -> None:
    until = None if options.until is None else _moment(options.until)
    with connected(options) as kilter:
        found = kilter.loops.freeze(options.loop, options.reason, until, who())
    answer(found, as_json=options.json, show=lambda: _show(found))


def _unfreeze(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        found = kilter.loops.unfreeze(options.loop, who())
    answer(found, as_json=options.json, show=lambda: _show(found))


def _show(found: LoopStatus) -> None:
    held = found.summary
    if not held.frozen:
        say(f"{found.name}: releases go on")
        return
    end = "somebody ends it" if held.frozen_until is None else f"{held.frozen_until:%Y-%m-%d %H:%M} UTC"
    say(f"{found.name}: releases are frozen until {end} ({plain(held.frozen)})")


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput("that is no time", where="--until", allowed="2026-12-27 or 2026-12-27T06:00") from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
