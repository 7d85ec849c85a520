"""What types can't say about guards and freeze windows."""

from __future__ import annotations

from typing import Any, get_args

from kilter.core.errors import InvalidInput
from kilter.loop.declaration.faults import Faults, shown
from kilter.release.declare import (
    METRIC_NAME,
    Agreement,
    Business,
    Errors,
    Freeze,
    Guard,
    Latency,
    Shadow,
    Step,
)
from kilter.release.freeze import ALLOWED, parse


def check_freeze(faults: Faults, field: str, step: Freeze) -> None:
    """Check the windows in which nothing goes forward."""
    windows: Any = step.windows  # what a type checker would have refused is refused here
    if not isinstance(windows, list | tuple) or not windows:
        faults.wrong(f"{field}.windows", f"{shown(windows)} was given", allowed=f"a tuple of texts: {ALLOWED}")
        return
    for place, window in enumerate(windows):
        where = f"{field}.windows[{place}]"
        if not isinstance(window, str):
            faults.wrong(where, f"{shown(window)} is no window", allowed=ALLOWED)
            continue
        try:
            parse(window)
        except InvalidInput as error:
            faults.wrong(where, error.message, allowed=error.allowed or ALLOWED)


def check_guards(faults: Faults, field: str, step: Step) -> None:
    """Check what may take a canary or a shadow back."""
    kinds = (Agreement,) if isinstance(step, Shadow) else get_args(Guard)
    guards: Any = step.guards
    if not isinstance(guards, list | tuple):
        faults.wrong(f"{field}.guards", f"{shown(guards)} was given", allowed="a tuple of guards")
        return
    names: set[str] = set()
    for place, guard in enumerate(guards):
        where = f"{field}.guards[{place}]"
        if not isinstance(guard, kinds):
            faults.wrong(where, f"{shown(guard)} can't be one", allowed=", ".join(kind.__name__ for kind in kinds))
            continue
        _guard(faults, where, guard)
        if guard.name in names:
            faults.wrong(where, f"{guard.name} is declared twice", fix="leave one of them out")
        names.add(guard.name)


def _guard(faults: Faults, where: str, guard: Guard) -> None:
    match guard:
        case Agreement():
            faults.between(f"{where}.within", guard.within, 0, 1)
            if 0 < guard.within < 1 and not guard.within < guard.aim < 1:
                faults.wrong(f"{where}.detect", f"{guard.detect!r}", allowed="above within and below 1")
        case Business():
            _business(faults, where, guard)
        case Latency() | Errors():
            faults.between(f"{where}.margin", guard.margin, 0, 1)
            faults.between(f"{where}.detect", guard.detect, 0, 1)
            if isinstance(guard, Latency):
                faults.duration(f"{where}.over", guard.over)


def _business(faults: Faults, where: str, guard: Business) -> None:
    if not METRIC_NAME.match(guard.metric):
        allowed = "up to 100 lower-case letters, digits, '_', '.' and '-'"
        faults.wrong(f"{where}.metric", f"{guard.metric!r} is no name", allowed=allowed)
    span = guard.high - guard.low
    if not 0 < span < float("inf"):
        faults.wrong(f"{where}.high", f"{guard.low!r} to {guard.high!r}", allowed="finite bounds, high above low")
        return
    for name, given in (("margin", guard.margin), ("detect", guard.detect)):
        if not 0 < given < span:
            faults.wrong(f"{where}.{name}", f"{given!r}", allowed=f"above 0 and below high - low = {span:g}")
    if guard.within is not None:
        faults.duration(f"{where}.within", guard.within)
    if (guard.missing is None) != (guard.within is None):
        faults.wrong(
            f"{where}.missing",
            "only one of within and missing is given",
            allowed="both, or none of them",
            fix="say what a row counts as whose value did not come within that time",
        )
    elif guard.missing is not None and not guard.low <= guard.missing <= guard.high:
        faults.wrong(f"{where}.missing", f"{guard.missing!r}", allowed="between low and high")
