"""Freeze windows: when nothing may go forward. Pure: text and a moment in, the end of the freeze out.

A window is a stretch of dates or a cron line with a duration, in UTC::

    2026-12-20 to 2027-01-04              both days whole
    2026-12-24T18:00 to 2026-12-27T06:00
    0 16 * * fri for 64h                  every Friday at 16:00, until Monday at 08:00

A cron line has the five fields of crontab(5): minute, hour, day of the month, month, day of the week (0 and 7 are Sunday),
with ``*``, lists, ranges, steps and English names. As there, a day counts when it fits one of both day fields, if neither
of them begins with ``*``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final, NamedTuple

from kilter.core.clock import utc
from kilter.core.durations import parse_duration
from kilter.core.errors import InvalidInput

ALLOWED: Final = '"2026-12-20 to 2027-01-04", "2026-12-24T18:00 to 2026-12-27T06:00" or "0 16 * * fri for 64h", in UTC'
_LONGEST: Final = timedelta(days=31)
_DAY: Final = timedelta(days=1)
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_PART: Final = re.compile(r"^(\*|\w+(?:-\w+)?)(?:/(\d{1,3}))?$", re.ASCII)
_LAST: Final = datetime.max.replace(tzinfo=UTC)


class Stretch(NamedTuple):
    """From one moment to another, the end exclusive."""

    start: datetime
    end: datetime

    def ends(self, now: datetime) -> datetime | None:
        """Return the end when the moment lies within."""
        return self.end if self.start <= now < self.end else None


class Cron(NamedTuple):
    """A recurring window."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    either: bool
    length: timedelta

    def ends(self, now: datetime) -> datetime | None:
        """Return when the window that began last ends, if the moment lies within it."""
        day = now.replace(hour=0, minute=0, second=0, microsecond=0)
        while day > now - self.length - _DAY:
            if self._fits(day):
                for hour in reversed(self.hours):
                    for minute in reversed(self.minutes):
                        start = day.replace(hour=hour, minute=minute)
                        if start <= now:
                            return start + self.length if now < start + self.length else None
            day -= _DAY
        return None

    def _fits(self, day: datetime) -> bool:
        if day.month not in self.months:
            return False
        of_month, of_week = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return of_month or of_week if self.either else of_month and of_week


@lru_cache(maxsize=256)
def parse(text: str, where: str = "freeze") -> Stretch | Cron:
    """Return the window that a text names.

    Raises:
        InvalidInput: When it names none.
    """
    head, word, tail = text.strip().rpartition(" to ")
    if word:
        return _stretch(text, head.strip(), tail.strip(), where)
    head, word, tail = text.strip().rpartition(" for ")
    if not word:
        raise _wrong(text, where)
    length = parse_duration(tail, where=where)
    if length > _LONGEST:
        raise InvalidInput(
            f"{text!r} lasts {tail.strip()}", where=where, allowed="up to 31d; a longer one is written with dates"
        )
    return _cron(text, head, length, where)


def frozen_until(windows: Iterable[str], now: datetime) -> datetime | None:
    """Return when the windows in which a moment lies end, or None when it lies in none.

    Windows that follow each other without a gap are one.

    Args:
        windows: As declared.
        now: The moment.
    """
    known = [parse(text) for text in windows]
    end: datetime | None = None
    moment = utc(now)
    for _ in range(366):  # a freeze that renews itself for ever is asked about again at that moment
        ends = max((found for window in known if (found := window.ends(moment)) is not None), default=None)
        if ends is None or ends == _LAST:
            return ends or end
        end = moment = ends
    return end


def _stretch(text: str, start: str, end: str, where: str) -> Stretch:
    first, last = _moment(text, start, where), _moment(text, end, where)
    if "T" not in end.upper() and ":" not in end:
        last = last + _DAY if last < _LAST - _DAY else _LAST
    if first >= last:
        raise InvalidInput(f"{text!r} ends before it begins", where=where, allowed=ALLOWED)
    return Stretch(first, last)


def _moment(text: str, given: str, where: str) -> datetime:
    try:
        moment = datetime.fromisoformat(given)
    except ValueError:
        raise _wrong(text, where) from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _cron(text: str, line: str, length: timedelta, where: str) -> Cron:
    fields = line.lower().split()
    if len(fields) != 5:
        raise _wrong(text, where)
    minute, hour, day, month, weekday = fields
    months = {name: place + 1 for place, name in enumerate(_MONTHS)}
    names = {name: place for place, name in enumerate(_WEEKDAYS)}
    return Cron(
        minutes=tuple(sorted(_field(text, minute, 0, 59, {}, where))),
        hours=tuple(sorted(_field(text, hour, 0, 23, {}, where))),
        days=frozenset(_field(text, day, 1, 31, {}, where)),
        months=frozenset(_field(text, month, 1, 12, months, where)),
        weekdays=frozenset(one % 7 for one in _field(text, weekday, 0, 7, names, where)),
        either=not day.startswith("*") and not weekday.startswith("*"),
        length=length,
    )


def _field(text: str, field: str, low: int, high: int, names: dict[str, int], where: str) -> set[int]:
    found: set[int] = set()
    for part in field.split(","):
        matched = _PART.match(part)
        if matched is None:
            raise _wrong(text, where)
        span, step = matched.group(1), int(matched.group(2) or 1)
        if span == "*":
            first, last = low, high
        else:
            begin, dash, end = span.partition("-")
            first = _number(text, begin, names, where)
            last = _number(text, end, names, where) if dash else high if matched.group(2) else first
            last = 7 if high == 7 and end == "sun" else last
        if not (low <= first <= last <= high and step >= 1):
            raise _wrong(text, where)
        found.update(range(first, last + 1, step))
    return found


def _number(text: str, word: str, names: dict[str, int], where: str) -> int:
    if word in names:
        return names[word]
    if not word.isdecimal():
        raise _wrong(text, where)
    return int(word)


def _wrong(text: str, where: str) -> InvalidInput:
    return InvalidInput(f"{text!r} is no window", where=where, allowed=ALLOWED)
