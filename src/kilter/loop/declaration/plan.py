"""What would change: the difference of two declarations, and what each change leads to."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from kilter.loop.declaration.spec import BUILD_FIELDS, LoopSpec

Effect = Literal["creates the loop", "retrains", "next challenger", "next release", "at once", "nothing"]

_EFFECTS: dict[str, Effect] = {
    **dict.fromkeys(BUILD_FIELDS, "retrains"),
    "gates": "next challenger",
    "release": "next release",
    "approve": "next release",
    "monitors": "at once",
    "retrain": "at once",
    "fallback": "at once",
    "batch": "at once",
    "owner": "at once",
    "purpose": "nothing",
}


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One difference.

    Args:
        field: The path of what changed: ``params.values.trees``, ``gates[1].bound``.
        old: What it was, as JSON; None when there was nothing.
        new: What it will be, as JSON; None when there will be nothing.
        effect: What applying it leads to.
        diff: For source text: the changed lines, as a unified diff.
    """

    field: str
    old: Any
    new: Any
    effect: Effect
    diff: str = ""

    def sentence(self) -> str:
        """Return the change as one line for people."""
        if self.diff:
            return f"{self.field}: the source changed ({self.effect})"
        return f"{self.field}: {_shown(self.old)} -> {_shown(self.new)} ({self.effect})"


def plan(old: LoopSpec | None, new: LoopSpec) -> list[Change]:
    """Return what applying a declaration changes, in the order of its fields; an empty list says nothing.

    Args:
        old: What is applied now, or None.
        new: What would be applied.
    """
    if old is None:
        return [Change(field="loop", old=None, new=new.name, effect="creates the loop")]
    before, after = old.json(), new.json()
    return [
        change
        for field in LoopSpec.__struct_fields__
        for change in _changes(_short(field), before.get(field), after.get(field), _EFFECTS.get(field, "nothing"))
    ]


def rebuilds(changes: list[Change]) -> bool:
    """Say whether one of the changes asks for a new model."""
    return any(change.effect in {"retrains", "creates the loop"} for change in changes)


def _short(field: str) -> str:
    return "data" if field == "windows" else field


def _changes(path: str, old: Any, new: Any, effect: Effect) -> Iterator[Change]:
    if old == new and type(old) is type(new):
        return
    if isinstance(old, dict) and isinstance(new, dict) and old.get("kind") == new.get("kind"):
        for key in dict.fromkeys([*old, *new]):
            # ``values`` is how a spec is written, not how a user writes it
            inner = path if key == "values" else f"{path}.{key}"
            yield from _changes(inner, old.get(key), new.get(key), effect)
    elif isinstance(old, list) and isinstance(new, list) and all(isinstance(item, dict) for item in (*old, *new)):
        for i in range(max(len(old), len(new))):
            before, after = (items[i] if i < len(items) else None for items in (old, new))
            yield from _changes(f"{path}[{i}]", before, after, effect)
    elif path.endswith(".source") and isinstance(old, str) and isinstance(new, str):
        lines = difflib.unified_diff(old.splitlines(), new.splitlines(), "now", "then", lineterm="", n=1)
        yield Change(field=path.removesuffix(".source"), old=None, new=None, effect=effect, diff="\n".join(lines))
    else:
        yield Change(field=path, old=old, new=new, effect=effect)


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, str):
        return value
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 80 else f"{text[:77]}..."
