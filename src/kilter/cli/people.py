"""``kilter people``: who works with the store, and with which rights."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from kilter.cli.arguments import Parser, verbs
from kilter.cli.output import answer, say, table
from kilter.cli.target import connected
from kilter.core.durations import parse_duration

if TYPE_CHECKING:
    from kilter.governance.records import Person

ROLES = ("viewer", "editor", "approver", "admin")


def build(parser: Parser, _command: str) -> None:
    """Add the verbs."""
    add = verbs(parser)
    new = add("add", "let somebody work with the store; from the first person on, nobody comes in unnamed", _add)
    new.add_argument("name")
    new.add_argument("--role", choices=ROLES, default="viewer", help="in the whole store (default: viewer)")
    new.add_argument("--email", default="", help="who signs in with this verified address is this person")
    add("list", "everybody who was ever added", _list)
    role = add("role", "give a role in the whole store, or on one project", _role)
    role.add_argument("name")
    role.add_argument("role", choices=ROLES)
    role.add_argument("--on", default="*", metavar="NAMES", help='a project, by its names: "fraud-*" (default: all)')
    add("disable", "shut somebody out: tokens and sessions end within a second", _disable).add_argument("name")
    add("enable", "let somebody in again", _enable).add_argument("name")
    token = add("token", "give somebody a token; it is printed once and kept nowhere", _token)
    token.add_argument("name", nargs="?", default="", help="whose (default: who asks)")
    token.add_argument("--for", dest="label", default="", metavar="WHAT", help='what it is for: "my laptop"')
    token.add_argument("--expires", metavar="DURATION", help='how long it holds, like "90d" (default: until revoked)')
    tokens = add("tokens", "somebody's tokens, without the tokens themselves", _tokens)
    tokens.add_argument("name", nargs="?", default="", help="whose (default: who asks)")
    add("revoke", "take a token back", _revoke).add_argument("token", type=int, help="its number")
    add("me", "who asks, and with which rights", _me)


def _add(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        made = kilter.people.add(options.name, options.role, options.email)
    answer(made, as_json=options.json, show=lambda: say(f"{made.name} is {made.role}"))


def _list(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        found = kilter.people.list()
    columns = ("name", "role", "projects", "email", "signed in", "disabled")
    rows = [(one.name, one.role, _projects(one), one.email, one.seen_at, one.disabled_at) for one in found]
    empty = "nobody yet: whoever has the store's token does all; `kilter people add NAME --role admin` begins"
    answer(found, as_json=options.json, show=lambda: table(columns, rows, empty=empty))


def _role(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        found = kilter.people.role(options.name, options.role, options.on)
    on = "" if options.on == "*" else f" on {options.on}"
    answer(found, as_json=options.json, show=lambda: say(f"{found.name} is {options.role}{on}"))


def _disable(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        found = kilter.people.disable(options.name)
    answer(found, as_json=options.json, show=lambda: say(f"{found.name} is shut out"))


def _enable(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        found = kilter.people.enable(options.name)
    answer(found, as_json=options.json, show=lambda: say(f"{found.name} may come in again, as {found.role}"))


def _token(options: argparse.Namespace) -> None:
    from kilter.core.access import new_secret  # noqa: PLC0415 - only for this verb
    from kilter.governance.service import PREFIX  # noqa: PLC0415 - opens the way to the rooms

    expires = datetime.now(UTC) + parse_duration(options.expires, where="--expires") if options.expires else None
    token, digest = new_secret(PREFIX)
    with connected(options) as kilter:
        made = kilter.people.token(digest, options.name, options.label, expires)

    def show() -> None:
        say(token)
        until = f", until {made.expires_at:%Y-%m-%d %H:%M} UTC" if made.expires_at else ""
        say(f"  number {made.id}, of {made.person}{until}. This is the only time it is shown.")
        say("  KILTER_TOKEN for kilter, MLFLOW_TRACKING_TOKEN for MLflow's clients, or sign in with it at /login.")

    result = {"id": made.id, "person": made.person, "token": token, "expires_at": made.expires_at}
    answer(result, as_json=options.json, show=show)


def _tokens(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        found = kilter.people.tokens(options.name)
    columns = ("number", "for", "made", "expires", "revoked")
    rows = [(one.id, one.label, one.created_at, one.expires_at, one.revoked_at) for one in found]
    answer(found, as_json=options.json, show=lambda: table(columns, rows, empty="no token was ever made"))


def _revoke(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        found = kilter.people.revoke(options.token)
    answer(found, as_json=options.json, show=lambda: say(f"token {found.id} of {found.person} opens nothing any more"))


def _me(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        found = kilter.people.me()

    def show() -> None:
        on = "".join(f", {role} on {names}" for names, role in found.projects.items())
        say(f"{found.name or 'the store itself'}: {found.role}{on}")

    answer(found, as_json=options.json, show=show)


def _projects(person: Person) -> str:
    return ", ".join(f"{names}: {role}" for names, role in sorted(person.projects.items()))
