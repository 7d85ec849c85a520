"""``kilter promote``: end a bake here or, with ``--to``, bring a version to another environment."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from kilter.cli.arguments import Parser
from kilter.cli.life import split_version, told
from kilter.cli.output import answer, plain, say
from kilter.cli.target import connected, environment, environment_name, opened, store_in, store_name, who
from kilter.core.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from kilter.loop.promotion.records import Promoted

TOKEN = "KILTER_TARGET_TOKEN"  # noqa: S105 - the variable's name
"""The token of a server that ``--to`` names by its address."""


def build(parser: Parser, _command: str) -> None:
    """Add the arguments."""
    parser.description = (
        "End the bake of the release in flight and give it all traffic now.\n\n"
        "With --to, bring a version that passed its gates to another environment: its bytes are copied by their digests, nothing is "
        "trained or built again, and the rules there (approval, shadow, canary) take it on. A second time nothing is sent."
    )
    parser.add_argument("version", help="LOOP@v7, or LOOP@champion")
    parser.add_argument(
        "--to",
        metavar="ENV",
        help="an environment of kilter.toml (dev, staging, prod); or a folder, the URL of a database, or a server's address, "
        f"whose token is in {TOKEN}",
    )
    parser.add_argument("--dry-run", action="store_true", help="with --to: say what would happen, and change nothing")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    model, version = split_version(options.version)
    if options.to is None:
        if options.dry_run:
            raise InvalidInput("there is nothing to try without another environment", where="--dry-run", fix="add --to")
        with connected(options) as kilter:
            told(options, kilter.loops.promote(model, version, who()))
        return
    from kilter.loop.promotion.records import Sender  # noqa: PLC0415
    from kilter.loop.promotion.sending import address_of, promote_to  # noqa: PLC0415

    def tell(line: str) -> None:
        if not options.json:
            sys.stderr.write(f"{line}\n")

    name, token = _target(options.to)
    named = options.env or ("" if options.store or environment(None) is None else environment_name(None))
    sender = Sender(store=address_of(store_name(options)), environment=named)
    with connected(options) as source, opened(name, None, token) as target:
        found = promote_to(source, target, model, version, sender=sender, by=who(), dry_run=options.dry_run, tell=tell)
    answer(found, as_json=options.json, show=lambda: _show(found, options.to))


def _target(wanted: str) -> tuple[str, str]:
    """Return the store that ``--to`` means, and its token.

    Raises:
        InvalidInput: When it is neither an environment nor a place.
        NotFound: When no ``kilter.toml`` says where the environment is, or a token is missing.
    """
    if "/" in wanted or "\\" in wanted or wanted in {".", ".."}:
        token = os.environ.get(TOKEN, "")
        if wanted.startswith(("http://", "https://")) and not token:
            # The token of the source is not sent elsewhere.
            raise NotFound("the server's token is not known", where="--to", fix=f"export {TOKEN}=...")
        return wanted, token
    overlay = environment(environment_name(wanted))
    if overlay is None:
        raise NotFound(
            f"no kilter.toml here or above says where {wanted!r} is",
            where="--to",
            fix=f'write one: [env.{wanted}] store = "https://..." token = "env:NAME", or give the address itself',
        )
    name, token = store_in(overlay), overlay.url("token")
    if name.startswith(("http://", "https://")) and not token:
        raise NotFound(f"[env.{wanted}] has a server and no token", where="--to", fix='add token = "env:NAME"')
    return name, token


def _show(found: Promoted, to: str) -> None:
    if found.dry_run:
        state = f"is there already, as {found.version}" if found.known else "would be promoted"
        say(f"{found.source} {state}: {found.size:,} bytes, {found.sent:,} of them would be sent")
    elif found.known:
        say(f"{found.source} is in {plain(to)} already, as {found.version}")
    else:
        say(f"{found.source} is {found.version} in {plain(to)}: {found.size:,} bytes, {found.sent:,} of them sent")
    say(f"  bundle  {found.bundle}")
    say(f"  next    {plain(found.next)}")
