"""``kilter endpoints``: what is to be served, how far each front is with it, and what was answered."""

from __future__ import annotations

import argparse

from kilter.cli.arguments import Parser, verbs
from kilter.cli.output import answer, fields, records, say, table
from kilter.cli.target import connected


def build(parser: Parser, _command: str) -> None:
    """Add the verbs."""
    add = verbs(parser)
    add("list", "what every endpoint is to do", _list)
    add("status", "how far each front has followed an endpoint's plan", _status).add_argument("loop")
    add("prediction", "one recorded prediction; `kilter why ID` tells what is behind it", _prediction).add_argument(
        "id"
    )
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


def _prediction(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        found = kilter.endpoints.prediction(options.id)
    answer(found, as_json=options.json, show=lambda: fields(found))


def _forget(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        found = kilter.endpoints.forget(options.front)
    answer(
        {"front": options.front, "endpoints": found},
        as_json=options.json,
        show=lambda: say(f"forgotten in {found} endpoints" if found else "there was no such front"),
    )
