"""Tokens and costs of a trace: each span's own, and no parent's sum of its children a second time."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

TOKENS = ("input_tokens", "output_tokens", "total_tokens")
CACHED = ("cache_read_input_tokens", "cache_creation_input_tokens")
COSTS = ("input_cost", "output_cost", "total_cost")
_MOST = 2**63


class Node(NamedTuple):
    """A span as far as its tokens or costs go: what it says itself, or nothing."""

    id: str
    parent: str | None
    said: Mapping[str, Any]


def total_tokens(nodes: Iterable[Node]) -> dict[str, int]:
    """Return the tokens of a trace; nothing when no span says any."""
    return _total(nodes, (*TOKENS, *CACHED), TOKENS, 0, whole)


def total_costs(nodes: Iterable[Node]) -> dict[str, float]:
    """Return the costs of a trace in US dollars; nothing when no span says any."""
    return _total(nodes, COSTS, COSTS, 0.0, dollars)


def whole(value: Any) -> int | None:
    """Return a count of tokens, or None when it is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST else None


def dollars(value: Any) -> float | None:
    """Return a cost, or None when it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < _MOST and math.isfinite(value) else None


def _total(
    nodes: Iterable[Node],
    names: tuple[str, ...],
    always: tuple[str, ...],
    nothing: Any,
    read: Callable[[Any], Any],
) -> dict[str, Any]:
    known = {node.id: node for node in nodes}
    children: defaultdict[str | None, list[Node]] = defaultdict(list)
    for node in known.values():
        children[node.parent if node.parent in known else None].append(node)
    totals: dict[str, Any] = {}
    # Spans that are each other's parents hang from no root: they are not counted, and nothing runs for ever.
    waiting = list(children[None])
    while waiting:
        node = waiting.pop()
        if not node.said:
            waiting.extend(children.get(node.id, ()))
            continue
        for name in names:
            found = read(node.said.get(name))
            if found is not None or name in always:
                totals[name] = totals.get(name, nothing) + (found or nothing)
    return totals
