"""``kilter drill``: rehearse what must work when it is needed."""

from __future__ import annotations

import argparse

from kilter.cli.arguments import Parser, verbs
from kilter.cli.output import answer, say
from kilter.cli.target import connected, who
from kilter.core.errors import Unavailable


def build(parser: Parser, _command: str) -> None:
    """Add the verbs."""
    add = verbs(parser)
    add(
        "rollback", "prove that the champion before is warm and answers, and time the way back", _rollback
    ).add_argument("loop", help="the loop's name")


def _rollback(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        found = kilter.loops.drill(options.loop, who())
    answer(found, as_json=options.json, show=lambda: say(f"{options.loop}: {found.sentence()}"))
    if not found.passed and not options.json:
        raise Unavailable("a rollback would not have worked", where=options.loop, fix="see the reason above")
