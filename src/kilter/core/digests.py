"""Content digests: the same inputs give the same digest on every engine and every machine."""

from __future__ import annotations

from typing import Any

import msgspec
from blake3 import blake3

_CANONICAL = msgspec.json.Encoder(order="deterministic")


def canonical_json(value: Any) -> bytes:
    """Return ``value`` as JSON with sorted keys and no spaces (the form of RFC 8785 for our types)."""
    return _CANONICAL.encode(value)


def digest(data: bytes | bytearray | memoryview) -> str:
    """Return the BLAKE3 digest of bytes as 64 hexadecimal characters."""
    return blake3(data).hexdigest()


def digest_json(value: Any) -> str:
    """Return the digest of a value's canonical JSON."""
    return digest(canonical_json(value))


def short(text: str) -> str:
    """Return the first twelve characters of a digest, for people."""
    return text[:12]
