"""The steps of a release, as a user declares them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shadow:
    """The challenger answers a copy of the traffic; users never see its answers.

    Args:
        bake: How long it runs before the first look at its labels.
        limit: How long it may run in all while the evidence stays open; afterwards it is inconclusive.
        confidence: Of the one-sided interval of the paired loss difference, over all looks together.
    """

    bake: str = "14d"
    limit: str = "28d"
    confidence: float = 0.95


@dataclass(frozen=True)
class Canary:
    """The challenger answers a growing share of the traffic.

    Args:
        steps: Traffic shares in per cent, rising, each above 0 and below 100.
        bake: How long each step runs.
        limit: How long the last step may be extended while the evidence stays open; afterwards it goes back.
        margin: How much worse, in outcome units (0 to 1), a promotion may at most be (non-inferiority).
        detect: The harm, in outcome units, that the rollback process is tuned to find fast.
        confidence: One minus the chance of a false rollback, and of a false promotion, over any number of looks.
    """

    steps: tuple[int, ...] = (5, 25, 50)
    bake: str = "2d"
    limit: str = "14d"
    margin: float = 0.02
    detect: float = 0.05
    confidence: float = 0.95


Step = Shadow | Canary
