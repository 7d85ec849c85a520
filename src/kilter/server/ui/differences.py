"""What differs between runs or versions: values side by side, and texts line by line."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

_MOST_LINES = 2000


class Line(msgspec.Struct, frozen=True):
    """A name with a value for each of several runs.

    Args:
        name: The name.
        values: The values, as people read them; None where a run has none.
        differs: They are not all the same.
    """

    name: str
    values: tuple[str | None, ...]
    differs: bool


class TextDiff(msgspec.Struct, frozen=True):
    """Two texts line by line.

    Args:
        name: What they are.
        lines: A sign (``+``, ``-``, ``@`` or a space) and the line.
        same: They are equal.
        cut: There are more lines than are shown.
    """

    name: str
    lines: tuple[tuple[str, str], ...]
    same: bool
    cut: bool = False


def spoken(value: Any) -> str:
    """Return a value as people read it."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and not isinstance(value, bool):
        return f"{value:.6g}"
    return msgspec.json.encode(value).decode()


def side_by_side(sides: Sequence[Mapping[str, Any]]) -> tuple[Line, ...]:
    """Return every name with its value on each side, those that differ first."""
    names = sorted({name for side in sides for name in side})
    found = []
    for name in names:
        values = tuple(spoken(side[name]) if name in side else None for side in sides)
        found.append(Line(name, values, len(set(values)) > 1))
    return tuple(sorted(found, key=lambda one: not one.differs))


def text_diff(name: str, left: str, right: str) -> TextDiff:
    """Return two texts line by line, with three lines around each change."""
    if left == right:
        return TextDiff(name, (), same=True)
    found: list[tuple[str, str]] = []
    for line in difflib.unified_diff(left.splitlines(), right.splitlines(), lineterm="", n=3):
        if line.startswith(("---", "+++")) and len(found) < 2 and line[3:4] in {" ", ""}:
            continue
        found.append(("@" if line.startswith("@@") else line[0], line if line.startswith("@@") else line[1:]))
    return TextDiff(name, tuple(found[:_MOST_LINES]), same=False, cut=len(found) > _MOST_LINES)
