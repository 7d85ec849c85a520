"""How templates write times, numbers and intervals."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import date, datetime

import msgspec

from kilter.core.evidence import Finding, Interval

DASH, MINUS, INFINITY = "\N{EN DASH}", "\N{MINUS SIGN}", "\N{INFINITY}"
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?%?")


def moment(at: datetime | None) -> str:
    """``26 Apr 2013, 14:30``."""
    return "" if at is None else f"{at:%-d %b %Y, %H:%M}"


def day(at: date | datetime | None) -> str:
    """``26 Apr 2013``."""
    return "" if at is None else f"{at:%-d %b %Y}"


def short(at: datetime | None) -> str:
    """``26 Apr, 14:30``."""
    return "" if at is None else f"{at:%-d %b, %H:%M}"


def iso(at: date | datetime | None) -> str:
    """The machine's spelling."""
    return "" if at is None else at.isoformat().replace("+00:00", "Z")


def number(value: float | None) -> str:
    """Four significant digits, with a real minus sign."""
    if value is None:
        return DASH
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    text = f"{value:,.{max(0, 3 - size)}f}" if -4 < size < 15 else f"{value:.3g}"
    return text.replace("-", MINUS)


def brief(value: float | None) -> str:
    """Three significant digits and no zeros for nothing; whole thousands."""
    if value is None:
        return DASH
    return (f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.3g}").replace("-", MINUS)


def signed(value: float | None) -> str:
    """A number that says its sign."""
    text = number(value)
    return f"+{text}" if value is not None and value > 0 else text


def ends(value: Interval) -> str:
    """Both ends of an interval; an open one is infinite."""
    low = f"{MINUS}{INFINITY}" if value.low is None else signed(value.low)
    return f"{low}, {INFINITY if value.high is None else signed(value.high)}"


def percent(value: float | None) -> str:
    """A part of one in per cent."""
    return DASH if value is None else f"{100 * value:.1f} %"


def as_json(value: object) -> str:
    """A value as JSON, for an attribute."""
    return msgspec.json.encode(value).decode()


class Band(msgspec.Struct, frozen=True):
    """Where an interval lies on its own scale, in per cent of the width.

    Args:
        low: Lower end; 0 when it is open.
        high: Upper end; 100 when it is open.
        estimate: The estimate.
        bounds: What it was held against, if that is a number; two for a size without a sign.
        width: From low to high.
    """

    low: float
    high: float
    estimate: float
    bounds: tuple[float, ...]
    width: float


def band(finding: Finding) -> Band | None:
    """Return a finding's interval as it is drawn; the bound is on the scale, with room on both sides."""
    value = finding.value
    if value is None:
        return None
    bound = bound_of(finding)
    bounds = () if bound is None else (-bound, bound) if "|" in finding.allowed else (bound,)
    ends = (value.low, value.high, value.estimate, *bounds)
    known = [one for one in ends if one is not None and math.isfinite(one)]
    least, most = min(known), max(known)
    room = (most - least) * 0.12 or abs(most) * 0.1 or 1.0
    least, most = least - room, most + room

    def place(at: float) -> float:
        return float(round(100 * (at - least) / (most - least), 2))

    low = 0.0 if value.low is None else place(value.low)
    high = 100.0 if value.high is None else place(value.high)
    return Band(low, high, place(value.estimate), tuple(place(one) for one in bounds), round(high - low, 2))


def bound_of(finding: Finding) -> float | None:
    """Return the number in what was allowed: -0.05 of ``< -0.05``, 0.1 of ``< +10% worse``."""
    found = _NUMBER.search(finding.allowed)
    if found is None:
        return None
    text = found.group()
    return float(text[:-1]) / 100 if text.endswith("%") else float(text)


def waits(waiting: str) -> str:
    """Return what a loop waits for as a sentence of its own."""
    if waiting.startswith("paused"):
        return "Nothing is trained until it is resumed."
    text = waiting if " waits for " in waiting else f"waits for {waiting}"
    return f"{text[:1].upper()}{text[1:]}."


_VERDICTS = {"pass": "passed", "fail": "failed", "inconclusive": "open"}


def lasted(seconds: float | None) -> str:
    """``42 s``, ``3 min 20 s``, ``5 h 12 min``, ``3 d 4 h``."""
    if seconds is None or seconds < 0:
        return DASH
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    whole = int(seconds)
    for size, big, small, name in ((3600, 60, 1, ("min", "s")), (86400, 3600, 60, ("h", "min"))):
        if whole < size:
            return f"{whole // big} {name[0]} {whole % big // small} {name[1]}"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def size(count: int) -> str:
    """``812 B``, ``4.2 kB``, ``1.3 GB``."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def measured(value: float | str | None) -> str:
    """A metric's value; the three that are no numbers in words."""
    if isinstance(value, str):
        return value.replace("-", MINUS)
    return number(value)


def verdict(word: str) -> str:
    """A verdict in one word."""
    return _VERDICTS.get(word, word)


def stage(word: str) -> str:
    """A stage as people write it."""
    return word.replace("_", " ")


def combined(one: dict[str, object], other: dict[str, object]) -> dict[str, object]:
    """Two queries as one."""
    return one | other


FILTERS: dict[str, Callable[..., object]] = {
    "moment": moment,
    "day": day,
    "short": short,
    "iso": iso,
    "number": number,
    "brief": brief,
    "signed": signed,
    "ends": ends,
    "percent": percent,
    "json": as_json,
    "band": band,
    "verdict": verdict,
    "lasted": lasted,
    "size": size,
    "measured": measured,
    "combined": combined,
    "waits": waits,
    "stage": stage,
}
