"""``kilter mcp``: all reads as tools for an agent, over standard input and output."""

from __future__ import annotations

import argparse

from kilter.cli.arguments import Parser
from kilter.cli.output import answer, say
from kilter.cli.target import connected
from kilter.core.errors import Unavailable


def build(parser: Parser, _command: str) -> None:
    """Add the arguments."""
    parser.description = (
        "Offer all reads to an agent over stdio (Model Context Protocol). Nothing can be changed through it."
    )
    parser.add_argument("--list", action="store_true", help="list the tools and end")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from kilter.loop.remote import SERVICES  # noqa: PLC0415
    from kilter.operations.table import collect  # noqa: PLC0415

    try:
        from kilter.operations.mcp import readable, serve_stdio  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise Unavailable(
            "the package mcp is not installed", where="kilter mcp", fix="pip install 'kilter[mcp]'"
        ) from error
    with connected(options) as kilter:
        registry = collect({noun: getattr(kilter, noun) for noun in SERVICES})
        if options.list:
            names = [found.name for found in readable(registry)]
            answer(names, as_json=options.json, show=lambda: say("\n".join(names)))
            return
        serve_stdio(registry)
