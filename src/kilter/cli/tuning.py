"""How endpoints are run, from the command line over what ``kilter.toml`` says."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, Final

from kilter.cli.arguments import Parser
from kilter.core.errors import InvalidInput

if TYPE_CHECKING:
    from kilter.loop.environment import Overlay
    from kilter.serving.settings import Settings

_FLAGS: Final = {
    "replicas": ("N[:M]", "worker processes per version; between N and M they follow the load, from 0 they may sleep"),
    "memory": ("SIZE", "what the models may hold together, like 2GB: others sleep until they are asked"),
    "batch_rows": ("N", "rows that one call of a model may answer (default: 4096)"),
    "queue_rows": ("N", "rows that may wait at an endpoint (default: 20000)"),
    "queue_seconds": ("TIME", "refuse what would wait longer, like 2s (default: 5s)"),
    "concurrency": ("N", "requests that may be under way at an endpoint (default: no bound)"),
    "timeout": ("TIME", "how long a request may take, like 500ms (default: 30s)"),
    "cache": ("SIZE", "keep answers for rows that come again, per endpoint, like 64MB (default: none)"),
}


def add_flags(parser: Parser) -> None:
    """Add the flags; ``kilter.toml`` has the same names, and says them for single endpoints too."""
    group = parser.add_argument_group("how endpoints are run")
    for name, (value, text) in _FLAGS.items():
        group.add_argument("--" + name.replace("_", "-"), metavar=value, help=text)


def passed_on(options: argparse.Namespace) -> list[str]:
    """Return the flags that were given, for the process that serves."""
    given = ((name, getattr(options, name)) for name in _FLAGS)
    return [part for name, value in given if value is not None for part in ("--" + name.replace("_", "-"), value)]


def tuned(options: argparse.Namespace, overlay: Overlay | None) -> tuple[Settings, dict[str, Settings], int]:
    """Return how endpoints are run, how single ones are, and what the models may hold in bytes.

    Raises:
        InvalidInput: When a flag can't be honoured.
    """
    from kilter.serving.recording.retention import parse_size  # noqa: PLC0415 - only the process that serves needs it
    from kilter.serving.settings import Settings, settings_of  # noqa: PLC0415

    settings, endpoints = overlay.settings() if overlay is not None else (Settings(), {})
    said: dict[str, Any] = {}
    for name in _FLAGS:
        value = getattr(options, name)
        if value is not None and name not in {"memory", "replicas"}:
            said[name] = value if name in {"queue_seconds", "timeout", "cache"} else _count(value, name)
    if options.replicas is not None:
        least, _, most = options.replicas.partition(":")
        said["replicas"], said["replicas_max"] = _count(least, "replicas"), _count(most or "0", "replicas")
    memory = options.memory or (overlay.memory if overlay is not None else None)
    own = overlay.endpoints if overlay is not None else {}
    flags = settings_of(said, settings, "flags")
    # A flag goes before the file's general settings, and the settings of a single endpoint before both.
    single = {name: settings_of(own[name], flags, f"endpoints.{name}") for name in endpoints}
    return flags, single, parse_size(memory, where="--memory") if memory else 0


def _count(text: str, name: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise InvalidInput("that is no number", where="--" + name.replace("_", "-"), allowed="0, 1, 2, ...")
    return int(text)
