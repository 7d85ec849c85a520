"""Names from elsewhere in the form that names have here; a run keeps what each was called before."""

from __future__ import annotations

import math
import posixpath
import re
from typing import Any

from kilter.core.digests import digest

_LONGEST = 250
_LONGEST_FILE = 500
_OTHER = re.compile(r"[^\w ./@:+%()\-]")
_LONGEST_ORIGIN = 120
_PLAIN = re.compile(r"[\w./@:+%()\-]+")


class Names:
    """The names of one kind in one run: the same name in gives the same name out, and no two meet."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}
        self._taken: dict[str, str] = {}

    def __call__(self, name: str) -> str:
        """Return the name to use here."""
        found = self._known.get(name)
        if found is None:
            found = self._known[name] = self._fit(name)
            self._taken[found] = name
        return found

    def changed(self) -> dict[str, str]:
        """Return the names that could not stay: the new one, and what it was."""
        return {new: old for old, new in self._known.items() if new != old}

    def _fit(self, name: str) -> str:
        clean = _OTHER.sub("_", name).lstrip("/")
        if len(clean) > _LONGEST or not clean.strip() or self._taken.get(clean, name) != name:
            return f"{clean[: _LONGEST - 13].strip() or 'name'}-{digest(name.encode(errors='replace'))[:12]}"
        return clean


def file_name(name: str) -> str:
    """Return a relative path without anything that climbs or hides.

    Args:
        name: As the source says it; its folders stay, ``..`` and drives don't.
    """
    plain = name.replace("\\", "/").replace("\x00", "_")
    parts = [part for part in posixpath.normpath(plain).split("/") if part not in {"", ".", ".."}]
    clean = text("/".join(parts)) or "file"
    if len(clean) <= _LONGEST_FILE:
        return clean
    stem, suffix = posixpath.splitext(clean)
    kept = suffix if len(suffix) < 20 else ""
    return f"{stem[:400]}-{digest(clean.encode())[:12]}{kept}"


def origin(kind: str, name: str) -> str:
    """Return what a run of a source is known by: readable where it can be, a digest where it can't."""
    if len(name) <= _LONGEST_ORIGIN and _PLAIN.fullmatch(name):
        return f"{kind}:{name}"
    return f"{kind}:{digest(name.encode(errors='replace'))[:40]}"


def text(value: str) -> str:
    """Return a text that every database takes: without NUL and halves of characters."""
    if value.isascii():
        return value.replace("\x00", "\ufffd") if "\x00" in value else value
    return value.encode("utf-8", "replace").decode("utf-8", "replace").replace("\x00", "\ufffd")


def param(value: Any) -> Any:
    """Return a parameter's value as JSON says it everywhere: numbers beyond it are spelled out."""
    match value:
        case str():
            found: Any = text(value)
        case bool() | None:
            found = value
        case int():
            found = value if -(2**63) <= value < 2**63 else str(value)
        case float():
            found = value if math.isfinite(value) else str(value)
        case dict():
            found = {text(str(name)): param(one) for name, one in value.items()}
        case list() | tuple():
            found = [param(one) for one in value]
        case _:
            found = text(str(value))
    return found


def flat(value: Any, prefix: str = "", depth: int = 0) -> dict[str, Any]:
    """Return nested settings with their paths as names: ``optimizer.lr``."""
    if not isinstance(value, dict) or not value or depth > 16:
        return {prefix: param(value) if depth <= 16 else text(str(value)[:1000])} if prefix else {}
    found: dict[str, Any] = {}
    for name, one in value.items():
        found.update(flat(one, f"{prefix}.{name}" if prefix else str(name), depth + 1))
    return found
