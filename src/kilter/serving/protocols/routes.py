"""From a method and a path to who answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple
from urllib.parse import unquote

from kilter.core.errors import NotFound
from kilter.serving.front.http import HttpError, Request, Shape

Handler = Callable[..., None]
"""Takes the request and the parts of the path that the route leaves open."""

_REMEMBERED = 2_000
_PART = re.compile(r"\{[a-z]+\}")


class Route(NamedTuple):
    """One route.

    Args:
        method: The method.
        path: The path; ``{name}`` is a part of it without a slash or a colon.
        handle: Who answers.
        shape: How errors are said; None for problem documents.
        open: Whether it answers without a token: probes only.
    """

    method: bytes
    path: str
    handle: Handler
    shape: Shape | None = None
    open: bool = False


class Found(NamedTuple):
    """What a path leads to."""

    handle: Handler
    arguments: tuple[str, ...]
    shape: Shape | None
    open: bool


class Routes:
    """All routes of a front.

    Args:
        routes: The routes; of two for the same path and method the first counts.
    """

    def __init__(self, routes: Sequence[Route]) -> None:
        self._exact: dict[str, list[Route]] = {}
        self._patterns: list[tuple[re.Pattern[str], Route]] = []
        for route in routes:
            self.add(route)
        self._known: dict[tuple[bytes, bytes], Found] = {}

    def add(self, route: Route) -> None:
        """Add a route."""
        if "{" in route.path:
            pieces = [re.escape(piece) for piece in _PART.split(route.path)]
            self._patterns.append((re.compile("([^/:]+)".join(pieces)), route))
        else:
            self._exact.setdefault(route.path, []).append(route)

    def find(self, method: bytes, target: bytes) -> Found:
        """Return who answers; for what nobody answers, someone who says so.

        Args:
            method: The method.
            target: The request's target, with or without a query.
        """
        raw = target.partition(b"?")[0] if b"?" in target else target
        known = self._known.get((method, raw))
        if known is not None:
            return known
        path = raw.decode("latin-1")
        whole: list[tuple[Route, tuple[str, ...]]] = [(route, ()) for route in self._exact.get(path, ())]
        matches = whole or [
            (route, tuple(map(unquote, match.groups())))
            for pattern, route in self._patterns
            if (match := pattern.fullmatch(path)) is not None
        ]
        for route, arguments in matches:
            if route.method == method:
                found = Found(route.handle, arguments, route.shape, route.open)
                if len(self._known) >= _REMEMBERED:
                    self._known.clear()
                self._known[method, raw] = found
                return found
        if matches:
            methods = b", ".join(sorted({route.method for route, _ in matches}))
            return Found(_other_method(methods), (), matches[0][0].shape, open=False)
        return Found(_nobody, (), None, open=False)


def _nobody(request: Request) -> None:
    raise NotFound("there is no such path", where=request.method.decode("latin-1"), fix="docs/protocols.md lists them")


def _other_method(methods: bytes) -> Handler:
    def refuse(_request: Request) -> None:
        raise HttpError(405, "the path has other methods", headers=b"allow: %b\r\n" % methods, allowed=methods.decode())

    return refuse
