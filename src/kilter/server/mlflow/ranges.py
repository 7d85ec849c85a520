"""Which part of a file a request asks for: HTTP's ranges and conditions (RFC 9110), as far as one range goes."""

from __future__ import annotations

import re
from dataclasses import dataclass

_RANGE = re.compile(r"^bytes=(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))$")


@dataclass(frozen=True)
class Part:
    """What is answered.

    Args:
        status: 200, 206, 304 or 416.
        start: The first byte.
        end: The byte after the last.
    """

    status: int
    start: int = 0
    end: int = 0


def part_of(headers: dict[bytes, str], digest: str, size: int) -> Part:
    """Return the part of a file that a request asks for; several ranges, or one in other words, are answered with the whole.

    Args:
        headers: The request's headers, by their lower names.
        digest: The digest of the file, which is its entity tag.
        size: Its length in bytes.
    """
    tag = f'"{digest}"'
    known = [one.strip().removeprefix("W/") for one in headers.get(b"if-none-match", "").split(",")]
    if tag in known or "*" in known:
        return Part(304)
    found = _RANGE.match(headers.get(b"range", "").replace(" ", ""))
    if found is None or headers.get(b"if-range", tag) != tag:
        return Part(200, 0, size)
    first, last, tail = found.groups()
    if tail is not None:
        start, end = max(size - int(tail), 0), size
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < int(first):
            return Part(200, 0, size)
    return Part(206, start, end) if start < end else Part(416)
