"""How long logs are kept: pure rules over segments and the positions of readers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec

from kilter.core.durations import parse_duration
from kilter.core.errors import InvalidInput
from kilter.engines.streams.segments import Segment

_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(B|kB|MB|GB|TB)\s*$")
_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}

SIZE_ALLOWED = 'a number and a unit of B, kB, MB, GB or TB, like "500 MB" or "20GB"'


class Keep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much of a log is kept; with neither age nor size, everything is.

    Args:
        age: Records that are older may go: ``"90d"``.
        size: The log may be so large: ``"20 GB"``; the oldest go first.
    """

    age: str = ""
    size: str = ""

    @property
    def forever(self) -> bool:
        """Whether nothing is ever removed."""
        return not self.age and not self.size


class Retention(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much of a store's logs is kept.

    Args:
        predictions: Of the prediction log of each front.
        rows: Of the row log; its rows stay in the tables, whatever is removed.
        archive: Whether predictions are copied to the archive's tables before they are removed.
    """

    predictions: Keep = Keep()
    rows: Keep = Keep()
    archive: bool = True

    def of(self, log: str) -> Keep:
        """Return the rule for a log: ``rows``, or ``predictions/<front>``."""
        return self.rows if log == "rows" else self.predictions


class Due(NamedTuple):
    """What a rule says of a log.

    Args:
        wanted: The last segment that has outlived its rule; -1 for none.
        allowed: The last of these that every reader has passed; -1 for none.
        held: The readers that have not passed the next one.
    """

    wanted: int
    allowed: int
    held: tuple[str, ...]


NOTHING = Due(-1, -1, ())


def parse_size(text: str, *, where: str = "size") -> int:
    """Return the bytes that ``text`` names.

    Raises:
        InvalidInput: When it names none.
    """
    found = _SIZE.match(text) if isinstance(text, str) else None
    if found is None:
        raise InvalidInput(f"{text!r} is not a size", where=where, allowed=SIZE_ALLOWED)
    return int(float(found.group(1)) * _UNITS[found.group(2)])


def check_keep(keep: Keep, where: str) -> tuple[timedelta | None, int | None]:
    """Return a rule's age and size.

    Raises:
        InvalidInput: When one of them says nothing.
    """
    age = parse_duration(keep.age, where=f"{where}.age") if keep.age else None
    size = parse_size(keep.size, where=f"{where}.size") if keep.size else None
    return age, size


def due(
    segments: Iterable[Segment],
    keep: Keep,
    now: datetime,
    end_of: Callable[[int], tuple[int, datetime]],
    readers: Mapping[str, int],
    *,
    where: str = "keep",
) -> Due:
    """Say which segments may be removed: the oldest, whole, closed, and passed by every reader.

    The newest closed segment always stays: a front that starts again finds the newest Idempotency-Keys there.

    Args:
        segments: Those of the log, oldest first.
        keep: The rule.
        now: The time.
        end_of: Returns the position and the time of a segment's last record; asked only where it matters.
        readers: Per reader the position up to which it needs nothing more.
        where: What to call the rule in errors.
    """
    age, size = check_keep(keep, where)
    known = list(segments)
    closed = [one for one in known if one.closed][:-1]
    total = sum(one.size for one in known)
    wanted = allowed = -1
    held: tuple[str, ...] = ()
    for one in closed:
        too_large = size is not None and total > size
        if not too_large and age is None:
            break
        position, at = end_of(one.number)
        if not too_large and (age is None or now - at <= age):
            break
        wanted = one.number
        total -= one.size
        if not held:
            held = tuple(sorted(name for name, passed in readers.items() if passed < position))
            if not held:
                allowed = one.number
    return Due(wanted, allowed, held)
