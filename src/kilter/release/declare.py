"""The steps of a release, as a user declares them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

METRIC_NAME: Final = re.compile(r"^[a-z0-9][a-z0-9_.-]{0,99}$")
"""What a business metric may be called."""


@dataclass(frozen=True)
class Errors:
    """Guard: how often the version that a row was meant for gave no answer, so that a fallback had to.

    Args:
        margin: How much worse, as a share of rows, is still harmless.
        detect: The harm that it is tuned to find fast.
        prove: Whether a promotion has to wait until the harm is proven to be below ``margin``.
    """

    margin: float = 0.01
    detect: float = 0.02
    prove: bool = False

    @property
    def name(self) -> str:
        """What findings call it."""
        return "errors"


@dataclass(frozen=True)
class Latency:
    """Guard: how often an answer took longer than it may.

    Args:
        over: What counts as slow: ``"50ms"``.
        margin: How much more often, as a share of rows, is still harmless.
        detect: The harm that it is tuned to find fast.
        prove: Whether a promotion has to wait until the harm is proven to be below ``margin``.
    """

    over: str
    margin: float = 0.02
    detect: float = 0.05
    prove: bool = False

    @property
    def name(self) -> str:
        """What findings call it."""
        return f"latency({self.over})"


@dataclass(frozen=True)
class Agreement:
    """Guard: the challenger's answers must stay near the champion's, as long as no label says who is right.

    In a shadow both answer the same rows, and the mean distance of the two answers counts. In a canary the mean answers of
    the two arms are compared, cut to 0 and 1.

    Args:
        within: How far they may be apart, in units of the answer.
        detect: The difference that it is tuned to find fast; twice ``within`` or less if not said.
    """

    within: float = 0.10
    detect: float | None = None

    @property
    def name(self) -> str:
        """What findings call it."""
        return "agreement"

    @property
    def aim(self) -> float:
        """The difference that it is tuned to find fast."""
        return min(2.0 * self.within, 0.5 + self.within / 2.0) if self.detect is None else self.detect


@dataclass(frozen=True)
class Business:
    """Guard: a number that comes from outside for each prediction: revenue, clicks, complaints, minutes of waiting.

    It comes in by ``kilter.releases.observe(loop, name, value, ...)``. Its unit is the row's key: several values of one
    key that were observed under different request ids are corrections, and the newest counts.

    Args:
        metric: The name under which it is observed.
        low: The least value; smaller ones are cut, because the evidence needs bounds.
        high: The greatest value; greater ones are cut.
        margin: How much worse, in the metric's own units, is still harmless.
        detect: The harm, in the metric's own units, that it is tuned to find fast.
        greater_is_better: Which way is up.
        within: How long after its prediction a value may come. Every row then counts at the end of that time, with
            ``missing`` where none came; without it a row counts when its value comes, and rows without one do not.
        missing: What a row without a value counts as; needs ``within``.
        prove: Whether a promotion has to wait until the harm is proven to be below ``margin``.
    """

    metric: str
    low: float
    high: float
    margin: float
    detect: float
    greater_is_better: bool = True
    within: str | None = None
    missing: float | None = None
    prove: bool = False

    @property
    def name(self) -> str:
        """What findings call it."""
        return f"business({self.metric})"


Guard = Errors | Latency | Agreement | Business
"""What may take a canary back beside its labels, and never promotes it."""


@dataclass(frozen=True)
class Shadow:
    """The challenger answers a copy of the traffic; users never see its answers.

    Args:
        bake: How long it runs before the first look at its labels.
        limit: How long it may run in all while the evidence stays open; afterwards it is inconclusive.
        confidence: Of the one-sided interval of the paired loss difference, over all looks together.
        guards: ``Agreement`` is the one that a shadow can have.
    """

    bake: str = "14d"
    limit: str = "28d"
    confidence: float = 0.95
    guards: tuple[Agreement, ...] = ()


@dataclass(frozen=True)
class Canary:
    """The challenger answers a growing share of the traffic.

    Args:
        steps: Traffic shares in per cent, rising, each above 0 and below 100.
        bake: How long each step runs.
        limit: How long the last step may be extended while the evidence stays open; afterwards it goes back.
        margin: How much worse, in outcome units (0 to 1), a promotion may at most be (non-inferiority).
        detect: The harm, in outcome units, that the rollback process is tuned to find fast.
        confidence: One minus the chance of a false rollback, and of a false promotion, over any number of looks and all
            guards together.
        guards: What takes it back beside its labels: ``Errors()``, ``Latency("50ms")``, ``Agreement()``, ``Business(...)``.
    """

    steps: tuple[int, ...] = (5, 25, 50)
    bake: str = "2d"
    limit: str = "14d"
    margin: float = 0.02
    detect: float = 0.05
    confidence: float = 0.95
    guards: tuple[Guard, ...] = ()


@dataclass(frozen=True)
class Freeze:
    """Windows in which no challenger gets traffic or more of it, and none is promoted. Going back is always allowed.

    Args:
        windows: Each is a stretch of dates, ``"2026-12-20 to 2027-01-04"`` or ``"2026-12-24T18:00 to 2026-12-27T06:00"``,
            or a cron line with a duration, ``"0 16 * * fri for 64h"``; in UTC.
    """

    windows: tuple[str, ...]


Step = Shadow | Canary
