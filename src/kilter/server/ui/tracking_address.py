"""How the addresses of tracking's pages are written and read: every state of a page is in its query."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import quote

import msgspec

from kilter.core.errors import InvalidInput, NotFound
from kilter.tracking.filters import View
from kilter.tracking.records import Experiment
from kilter.tracking.service import RunService

_PLAIN = re.compile(r"^[A-Za-z0-9_][\w \-.:@+()]*$")
_UNREAD = re.compile(r"""can't read (?:the list \()?('.*'|".*")""")
_NAMED = re.compile(r"'([^']+)'")
_BEGUN = re.compile(r"^([\w.`/\-]+)")
_FIELD = re.compile(r"""\s*(?:[A-Za-z]+\.)?(?:`[^`]+`|"[^"]+"|[\w/.\-]+)\s*""")
_OPERATOR = re.compile(r"(?:!=|<=|>=|=|<|>|(?:not\s+in|in|like|ilike|is)\b)\s*", re.IGNORECASE)
_MOST_LIMIT = 500


class Asked(msgspec.Struct, frozen=True):
    """What a table of runs is asked for.

    Args:
        filter: The expression.
        order: The order.
        columns: Which columns, or None for those that are chosen by themselves.
        view: ``alive``, ``deleted`` or ``all``.
        tree: Children stand under their parents.
        parent: Only the children of this run.
        group: Grouped by this field.
        value: Only this group.
        ungrouped: Only runs without the field.
        offset: Rows before.
        limit: At most so many rows.
    """

    filter: str = ""
    order: str = "-started"
    columns: tuple[str, ...] | None = None
    view: View = "alive"
    tree: bool = False
    parent: str = ""
    group: str = ""
    value: str | None = None
    ungrouped: bool = False
    offset: int = 0
    limit: int = 100


def asked(query: Mapping[str, Any]) -> Asked:
    """Return what a query asks for.

    Raises:
        InvalidInput: When a number is none, or there is no such view.
    """
    view = str(query.get("view") or "alive")
    if view not in {"alive", "deleted", "all"}:
        raise InvalidInput(f"there is no view {view[:40]!r}", where="view", allowed="alive, deleted, all")
    columns = query.get("columns")
    return Asked(
        filter=str(query.get("filter", "")),
        order=str(query.get("order") or "-started"),
        columns=None if columns is None else tuple(one for one in str(columns).split(",") if one),
        view=cast("View", view),
        tree=query.get("tree") == "1",
        parent=str(query.get("parent", "")),
        group=str(query.get("group", "")),
        value=None if query.get("value") is None else str(query["value"]),
        ungrouped=query.get("ungrouped") == "1",
        offset=whole(query, "offset", 0, 10_000_000),
        limit=max(1, whole(query, "limit", 100, _MOST_LIMIT)),
    )


def whole(query: Mapping[str, Any], name: str, otherwise: int, most: int) -> int:
    """Return a whole number of a query.

    Raises:
        InvalidInput: When it is none, or too large.
    """
    said = str(query.get(name) or otherwise)
    if not said.isdecimal() or len(said) > 12 or int(said) > most:
        raise InvalidInput(f"{said[:40]!r} is not a number here", where=name, allowed=f"0 to {most}")
    return int(said)


def number(query: Mapping[str, Any], name: str) -> float | None:
    """Return a number of a query, or None.

    Raises:
        InvalidInput: When it is none.
    """
    said = query.get(name)
    if not said:
        return None
    try:
        found = float(said)
    except ValueError:
        raise InvalidInput(f"{str(said)[:40]!r} is not a number", where=name) from None
    if found - found != 0:
        raise InvalidInput(f"{str(said)[:40]!r} is not a finite number", where=name)
    return found


def experiment_path(name: str, number: int) -> str:
    """Return an experiment's address: its name where an address can say it, and its number otherwise."""
    plain = _PLAIN.match(name) and not name.endswith(".json")
    return f"/experiments/{quote(name, safe='')}" if plain else f"/experiments/~{number}"


def experiment_of(runs: RunService, said: str) -> Experiment:
    """Return the experiment that an address names.

    Raises:
        NotFound: When there is none.
    """
    if said.startswith("~") and said[1:].isdecimal() and len(said) < 18:
        return runs.experiment(number=int(said[1:]))
    try:
        return runs.experiment(said)
    except NotFound as error:
        raise NotFound(error.message, where="experiments", fix="see /experiments for all of them") from None


def place_of(filter_: str, error: InvalidInput) -> int | None:
    """Return at which character of a filter an error is, where its message tells."""
    unread = _UNREAD.match(error.message)
    if unread is not None:
        text = unread[1][1:-1].replace("\\\\", "\\").replace("\\'", "'")
        at = filter_.find(text) if text else len(filter_)
        joined = at > 0 and not filter_[:at].rstrip().lower().endswith("and")
        return None if at < 0 else at if joined else _within(filter_, at)
    for pattern in (_NAMED, _BEGUN):
        found = pattern.search(error.message)
        if found is not None and (at := filter_.find(found[1])) >= 0:
            return at
    return None


def _within(filter_: str, at: int) -> int:
    """Return where in a comparison that can't be read it goes wrong: after its field, or after its operator."""
    for piece in (_FIELD, _OPERATOR):
        match = piece.match(filter_, at)
        if match is None:
            break
        at = match.end()
    return at
