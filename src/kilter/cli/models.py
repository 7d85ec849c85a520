"""``kilter models``: models, versions and what is known about them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from kilter.cli.arguments import Parser, verbs
from kilter.cli.life import split_version
from kilter.cli.output import answer, fields, plain, say, table
from kilter.cli.target import connected, who
from kilter.core.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kilter.registry.records import Change, RegisteredModel, RegisteredVersion, VersionHistory

_VERSION = "MODEL@v7, or MODEL@ALIAS"


def build(parser: Parser, _command: str) -> None:
    """Add the verbs."""
    add = verbs(parser)
    listing = add("list", "all models: those of loops, and those that clients registered", _list)
    listing.add_argument("--filter", default="", help="such as: name LIKE 'fraud%%' and tags.team = 'ops'")
    listing.add_argument("--order", default="", help="name, changed or created; with - the greatest first")
    listing.add_argument("--limit", type=int, default=100)
    listing.add_argument("--cursor", help="from the page before")
    add("show", "a model, or one of its versions, with tags and aliases", _show).add_argument(
        "model", metavar="MODEL[@v7]"
    )
    add("versions", "the versions of a model, newest first", _versions).add_argument("model")
    add("get", "one version that was packaged here", _get).add_argument("version", help="MODEL@v7 or MODEL@champion")
    add("lineage", "what a version was built from", _lineage).add_argument("version", help="MODEL@v7")
    add(
        "history", "who set which alias, stage or tag when and why; of a loop's version its evidence, too", _history
    ).add_argument("version", metavar="MODEL[@v7]")
    comparing = add("compare", "two versions side by side", _compare)
    comparing.add_argument("left", metavar="VERSION", help=_VERSION)
    comparing.add_argument("right", metavar="OTHER", help=_VERSION)
    comparing.add_argument("--all", action="store_true", help="what is the same, too")
    _build_writing(add)


def _build_writing(add: Callable[[str, str, Callable[[argparse.Namespace], None]], Parser]) -> None:
    def writing(name: str, text: str, run: Callable[[argparse.Namespace], None], target: str) -> Parser:
        verb = add(name, text, run)
        verb.add_argument("target", metavar=target)
        verb.add_argument("--reason", default="", help="why; it is kept in the history")
        return verb

    create = add("create", "a model without versions", _create)
    create.add_argument("model")
    create.add_argument("--description", default="")
    writing("rename", "give a model another name", _rename, "MODEL").add_argument("new_name", metavar="NEW-NAME")
    writing("delete", "delete a model that no loop owns, or one of its versions", _delete, "MODEL[@v7]")
    alias = writing("alias", "point an alias at a version, or take it away", _alias, "MODEL[@v7]")
    alias.add_argument("alias", metavar="ALIAS")
    alias.add_argument("--delete", action="store_true", help="take it away")
    tag = writing("tag", "say something about a model or a version", _tag, "MODEL[@v7]")
    tag.add_argument("tags", metavar="NAME=VALUE", nargs="*")
    tag.add_argument("--delete", metavar="NAME", action="append", default=[], help="take a tag back")
    describe = writing("describe", "describe a model or a version", _describe, "MODEL[@v7]")
    describe.add_argument("text", metavar="TEXT")
    stage = writing("stage", "give a version one of MLflow's stages, a label that moves no traffic", _stage, "MODEL@v7")
    stage.add_argument("stage", metavar="STAGE", help="None, Staging, Production or Archived")
    stage.add_argument("--archive-existing", action="store_true", help="archive those that have this stage now")
    approval = writing("approve-state", "say whether a version may be used", _approve_state, "MODEL@v7")
    approval.add_argument("state", choices=("pending", "approved", "rejected"))


# ---------------------------------------------------------------- reading


def _list(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        found = kilter.models.search(options.filter, options.order, options.limit, options.cursor)

    def show() -> None:
        columns = ("model", "owner", "newest", "aliases", "tags", "changed")
        table(columns, (_row(model) for model in found.models))
        if found.cursor:
            say(f"more: --cursor {found.cursor}")

    answer(found, as_json=options.json, show=show)


def _row(model: RegisteredModel) -> tuple[object, ...]:
    newest = max((version.version for version in model.latest), default=None)
    aliases = ", ".join(f"{alias}=v{number}" for alias, number in model.aliases.items())
    tags = ", ".join(f"{name}={value[:40]}" for name, value in model.tags.items())
    return model.name, model.owner, f"v{newest}" if newest else "-", aliases or "-", tags or "-", model.changed_at


def _show(options: argparse.Namespace) -> None:
    model, version = _target(options.model)
    with connected(options) as kilter:
        found = kilter.models.registered(model) if version is None else kilter.models.registered_version(model, version)
    answer(found, as_json=options.json, show=lambda: fields(found))


def _versions(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        if kilter.models.registered(options.model).owner == "loop":
            made = kilter.models.versions(options.model)
            columns = ("version", "stage", "aliases", "trained because", "registered", "why it stands there")
            rows = [
                (f"v{one.version}", one.stage, ", ".join(one.aliases) or "-", one.trigger, one.at, one.reason)
                for one in made
            ]
            answer(made, as_json=options.json, show=lambda: table(columns, rows))
            return
        found = kilter.models.search_versions(order="-version_number", model=options.model).versions
    answer(found, as_json=options.json, show=lambda: _registered(found))


def _registered(found: Sequence[RegisteredVersion]) -> None:
    columns = ("version", "stage", "approval", "aliases", "source", "run", "registered")
    table(
        columns,
        (
            (
                f"v{one.version}",
                one.stage,
                one.approval,
                ", ".join(one.aliases) or "-",
                one.source,
                one.run or "-",
                one.created_at,
            )
            for one in found
        ),
    )


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
    model, version = _target(options.version)
    with connected(options) as kilter:
        if version is None:
            changes = kilter.models.changes(model)
        else:
            known = kilter.models.registered_version(model, version)
            if known.owner == "loop":
                found = kilter.models.history(model, known.version)
                answer(found, as_json=options.json, show=lambda: _whole(found))
                return
            changes = kilter.models.changes(model, known.version)
    answer(changes, as_json=options.json, show=lambda: _changes(changes))


def _whole(found: VersionHistory) -> None:
    say(found.version.reference)
    for mark in found.stages:
        say(f"  {plain(mark.at)}  {mark.stage:<12}  {plain(mark.reason)}")
    for evidence in found.evidence:
        say(f"  {plain(evidence.at)}  {evidence.kind}")
        for finding in evidence.findings:
            say(f"    {plain(finding.sentence())}")
    for approval in found.approvals:
        say(f"  {plain(approval.at)}  approved by {plain(approval.by)}  {plain(approval.comment)}")
    if found.changes:
        say("changes")
        _changes(found.changes)


def _changes(found: Sequence[Change]) -> None:
    for change in found:
        of = f"{change.model}@v{change.version}" if change.version is not None else change.model
        why = f"  ({plain(change.reason)})" if change.reason else ""
        say(f"  {plain(change.at)}  {plain(of)}  {plain(change.sentence())[:200]}  by {plain(change.by) or '-'}{why}")
    if not found:
        say("nothing yet")


def _compare(options: argparse.Namespace) -> None:
    from kilter.loop.versions.comparing import compare  # noqa: PLC0415 - nobody else pays for it

    with connected(options) as kilter:
        found = compare(kilter, split_version(options.left), split_version(options.right))
    shown = [one for one in found.differences if options.all or not one.same]

    def show() -> None:
        columns = ("", "", found.left, found.right)
        table(columns, ((one.part, one.name, one.left, one.right) for one in shown), empty="nothing differs")

    answer(found, as_json=options.json, show=show)


# ---------------------------------------------------------------- writing


def _create(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        found = kilter.models.create(options.model, options.description, by=who())
    answer(found, as_json=options.json, show=lambda: say(f"made {plain(found.name)}"))


def _rename(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        found = kilter.models.rename(options.target, options.new_name, by=who(), reason=options.reason)
    answer(found, as_json=options.json, show=lambda: say(f"{plain(options.target)} is now {plain(found.name)}"))


def _delete(options: argparse.Namespace) -> None:
    model, version = _target(options.target)
    with connected(options) as kilter:
        if version is None:
            kilter.models.delete(model, by=who(), reason=options.reason)
        else:
            number = _number(kilter.models.registered_version(model, version))
            kilter.models.delete_version(model, number, by=who(), reason=options.reason)
    answer({"deleted": options.target}, as_json=options.json, show=lambda: say(f"deleted {plain(options.target)}"))


def _alias(options: argparse.Namespace) -> None:
    model, version = _target(options.target)
    with connected(options) as kilter:
        if options.delete:
            kilter.models.drop_alias(model, options.alias, by=who(), reason=options.reason)
        elif version is None:
            raise InvalidInput(f"{model!r} names no version", where="MODEL", allowed=_VERSION)
        else:
            number = _number(kilter.models.registered_version(model, version))
            kilter.models.assign_alias(model, options.alias, number, by=who(), reason=options.reason)
        found = kilter.models.registered(model)
    pointed = ", ".join(f"{alias}=v{number}" for alias, number in found.aliases.items())
    answer(found, as_json=options.json, show=lambda: say(f"{plain(model)}: {pointed or 'no aliases'}"))


def _tag(options: argparse.Namespace) -> None:
    model, version = _target(options.target)
    given: dict[str, str] = {}
    for text in options.tags:
        name, mark, value = text.partition("=")
        if not mark:
            raise InvalidInput(f"{text!r} says nothing", where="TAG", allowed="NAME=VALUE")
        given[name] = value
    if not (given or options.delete):
        raise InvalidInput("no tag is given", where="TAG", allowed="NAME=VALUE, or --delete NAME")
    with connected(options) as kilter:
        number = None if version is None else _number(kilter.models.registered_version(model, version))
        if given:
            kilter.models.tag(model, given, number, by=who(), reason=options.reason)
        for name in options.delete:
            kilter.models.untag(model, name, number, by=who(), reason=options.reason)
        tags = (
            kilter.models.registered(model).tags
            if number is None
            else kilter.models.registered_version(model, number).tags
        )
    answer(tags, as_json=options.json, show=lambda: fields(tags) if tags else say("no tags"))


def _describe(options: argparse.Namespace) -> None:
    model, version = _target(options.target)
    with connected(options) as kilter:
        number = None if version is None else _number(kilter.models.registered_version(model, version))
        kilter.models.describe(model, options.text, number, by=who(), reason=options.reason)
    said = {"described": options.target, "description": options.text}
    answer(said, as_json=options.json, show=lambda: say(f"described {plain(options.target)}"))


def _stage(options: argparse.Namespace) -> None:
    model, version = split_version(options.target)
    with connected(options) as kilter:
        number = _number(kilter.models.registered_version(model, version))
        found = kilter.models.set_stage(
            model, number, options.stage, options.archive_existing, by=who(), reason=options.reason
        )
    answer(found, as_json=options.json, show=lambda: say(f"{plain(found.reference)} is {found.stage}"))


def _approve_state(options: argparse.Namespace) -> None:
    model, version = split_version(options.target)
    with connected(options) as kilter:
        number = _number(kilter.models.registered_version(model, version))
        found = kilter.models.set_approval(model, number, options.state, who(), options.reason)
    answer(found, as_json=options.json, show=lambda: say(f"{plain(found.reference)} is {found.approval}"))


def _target(text: str) -> tuple[str, int | str | None]:
    """Return model and version of ``MODEL`` or ``MODEL@v7``; a name may have an @ of its own only where a version follows."""
    return split_version(text) if "@" in text else (text, None)


def _number(version: RegisteredVersion) -> int:
    return version.version
