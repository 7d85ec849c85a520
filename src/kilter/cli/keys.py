"""``kilter keys``: who may call the endpoints."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

from kilter.cli.arguments import Parser, verbs
from kilter.cli.output import answer, say, table
from kilter.cli.target import connected
from kilter.core.durations import parse_duration


def build(parser: Parser, _command: str) -> None:
    """Add the verbs."""
    add = verbs(parser)
    create = add("create", "let somebody call endpoints; the key is printed once and kept nowhere", _create)
    create.add_argument("name", help="who will use it: a service, a team, a person")
    create.add_argument("--endpoint", action="append", default=[], help="an endpoint that it may call (default: all)")
    create.add_argument("--expires", metavar="DURATION", help='how long it holds, like "90d" (default: until revoked)')
    add("list", "every key that was ever given out, without the keys themselves", _list)
    add("revoke", "take a key back: fronts refuse it within a second or two", _revoke).add_argument("name")


def _create(options: argparse.Namespace) -> None:
    from kilter.core.access import new_secret  # noqa: PLC0415 - only for this verb
    from kilter.serving.access.keys import PREFIX  # noqa: PLC0415 - opens the way to the rooms

    expires = datetime.now(UTC) + parse_duration(options.expires, where="--expires") if options.expires else None
    key, digest = new_secret(PREFIX)
    with connected(options) as kilter:
        made = kilter.keys.create(options.name, digest, options.endpoint, expires)
    where = ", ".join(made.endpoints) or "all endpoints"

    def show() -> None:
        say(key)
        until = f", until {made.expires_at:%Y-%m-%d %H:%M} UTC" if made.expires_at else ""
        say(f"  {made.name} may call {where}{until}. Send it as: Authorization: Bearer KEY")
        say("  This is the only time it is shown. Endpoints now answer nobody without a key.")

    result = {"name": made.name, "key": key, "endpoints": made.endpoints, "expires_at": made.expires_at}
    answer(result, as_json=options.json, show=show)


def _list(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        found = kilter.keys.all()
    columns = ("name", "endpoints", "created", "expires", "revoked")
    rows = [
        (key.name, ", ".join(key.endpoints) or "all", key.created_at, key.expires_at, key.revoked_at) for key in found
    ]
    answer(found, as_json=options.json, show=lambda: table(columns, rows, empty="no key was ever given out"))


def _revoke(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        found = kilter.keys.revoke(options.name)
    answer(found, as_json=options.json, show=lambda: say(f"{found.name} may call nothing any more"))
