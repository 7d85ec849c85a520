"""``kilter models``: models, versions and what is known about them."""

from __future__ import annotations

import argparse

from kilter.cli.arguments import Parser, verbs
from kilter.cli.life import split_version
from kilter.cli.output import answer, fields, plain, records, say, table
from kilter.cli.target import connected


def build(parser: Parser, _command: str) -> None:
    """Add the verbs."""
    add = verbs(parser)
    add("list", "all models", _list)
    add("versions", "the versions of a model, newest first", _versions).add_argument("model")
    add("get", "one version", _get).add_argument("version", help="MODEL@v7 or MODEL@champion")
    add("lineage", "what a version was built from", _lineage).add_argument("version", help="MODEL@v7")
    add("history", "stages, evidence and approvals of a version", _history).add_argument("version", help="MODEL@v7")


def _list(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        found = kilter.models.models()
    answer(found, as_json=options.json, show=lambda: records(found))


def _versions(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        found = kilter.models.versions(options.model)
    columns = ("version", "stage", "aliases", "trained because", "registered", "why it stands there")
    rows = [
        (f"v{one.version}", one.stage, ", ".join(one.aliases) or "-", one.trigger, one.at, one.reason) for one in found
    ]
    answer(found, as_json=options.json, show=lambda: table(columns, rows))


def _get(options: argparse.Namespace) -> None:
    model, version = split_version(options.version)
    with connected(options) as kilter:
        found = kilter.models.get(model, version)
    answer(found, as_json=options.json, show=lambda: fields(found))


def _lineage(options: argparse.Namespace) -> None:
    model, version = split_version(options.version)
    with connected(options) as kilter:
        found = kilter.models.lineage(model, version)
    answer(found, as_json=options.json, show=lambda: fields(found))


def _history(options: argparse.Namespace) -> None:
    model, version = split_version(options.version)
    with connected(options) as kilter:
        found = kilter.models.history(model, version)

    def show() -> None:
        say(found.version.reference)
        for mark in found.stages:
            say(f"  {plain(mark.at)}  {mark.stage:<12}  {plain(mark.reason)}")
        for evidence in found.evidence:
            say(f"  {plain(evidence.at)}  {evidence.kind}")
            for finding in evidence.findings:
                say(f"    {plain(finding.sentence())}")
        for approval in found.approvals:
            say(f"  {plain(approval.at)}  approved by {plain(approval.by)}  {plain(approval.comment)}")

    answer(found, as_json=options.json, show=show)
