"""The three simulations by which the canary's evidence was chosen, run through the code that judges canaries.

Outcomes are failures (0 or 1); harm is in points of failure rate; errors are 5 %; the figures of the first study are in
comments. Rates may pass their bound by three standard errors of the simulation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest

from kilter.release.evidence import CanaryEvidence

pytestmark = pytest.mark.slow
ROWS = 50_000
BAR = math.log(20.0)


def constant(base, share):
    return np.full(ROWS, base), np.full(ROWS, share)


def ramp():
    """1 % -> 5 % -> 25 % -> 50 % of the traffic from a quiet hour on, while the failure rate swings between 2 and 8 %."""
    t = np.arange(ROWS) / ROWS
    share = np.select([t < 0.05, t < 0.25, t < 0.6], [0.01, 0.05, 0.25], 0.5)
    return 0.05 - 0.03 * np.cos(2 * np.pi * 1.5 * t), share


@dataclass
class Course:
    rolled_back: float
    promoted: float
    rollback_rows: float
    promote_rows: float
    covered: float


def simulate(world, harm, runs, seed):
    base, share = world
    rng = np.random.default_rng(seed)
    rollbacks, promotions, covered = [], [], 0
    for _ in range(runs):
        arms = rng.random(ROWS) < share
        bad = (rng.random(ROWS) < base + harm * arms).astype(float)
        evidence = CanaryEvidence(margin=0.01, detect=0.02)
        path = evidence.update(arms, share, bad)
        for found, column in ((rollbacks, 0), (promotions, 1)):
            if path[:, column].max() >= BAR:
                found.append(int(np.argmax(path[:, column] >= BAR)) + 1)
        band = evidence.band()
        covered += band.low <= harm <= band.high
    middle = lambda rows: float(np.median(rows)) if rows else math.inf  # noqa: E731
    return Course(len(rollbacks) / runs, len(promotions) / runs, middle(rollbacks), middle(promotions), covered / runs)


def bound(runs, error=0.05):
    return error + 3 * math.sqrt(error * (1 - error) / runs)


def pooled_rules(world, runs, seed):
    """How often rules on pooled counts, looked at every 500 rows, take a healthy canary back: z-test and mSPRT."""
    base, share = world
    rng = np.random.default_rng(seed)
    looks = np.arange(499, ROWS, 500)
    z_back = msprt_back = 0
    for _ in range(runs):
        arms = rng.random(ROWS) < share
        bad = rng.random(ROWS) < base
        new, old = np.cumsum(arms)[looks], np.cumsum(~arms)[looks]
        new_bad, old_bad = np.cumsum(arms & bad)[looks], np.cumsum(~arms & bad)[looks]
        rate = (new_bad + old_bad) / (new + old)
        with np.errstate(divide="ignore", invalid="ignore"):
            apart = new_bad / new - old_bad / old
            variance = rate * (1 - rate) * (1 / new + 1 / old)
            z = apart / np.sqrt(variance)
            mixing = 0.02**2
            ratio = np.sqrt(variance / (variance + mixing)) * np.exp(
                np.minimum(mixing * apart**2 / (2 * variance * (variance + mixing)), 700)
            )
        z_back += bool(np.any((z > 1.96) & (new_bad >= 1)))
        msprt_back += bool(np.any((ratio >= 20) & (apart > 0) & (new_bad >= 1)))
    return z_back / runs, msprt_back / runs


@pytest.mark.parametrize(
    ("base", "share", "detected_by"),
    # first study, exact e-processes: 4,360; 1,654; 8,938 rows until a harm of 2 points is taken back
    [(0.02, 0.1, 4_800), (0.02, 0.5, 1_900), (0.05, 0.1, 9_500)],
)
def test_1_constant_shares(base, share, detected_by):
    healthy = simulate(constant(base, share), 0.0, 300, seed=1)
    assert healthy.rolled_back <= bound(300)
    assert healthy.covered >= 0.95
    harmful = simulate(constant(base, share), 0.02, 100, seed=2)
    assert harmful.rolled_back >= 0.97
    assert harmful.rollback_rows <= detected_by
    assert harmful.promoted <= bound(100)


def test_2_a_ramp_with_swinging_rates():
    healthy = simulate(ramp(), 0.0, 400, seed=3)
    assert healthy.rolled_back <= bound(400)  # first study: 3.8 %
    harmful = simulate(ramp(), 0.02, 100, seed=4)
    assert harmful.rolled_back == 1.0  # 100 %, median 15,940
    assert harmful.rollback_rows <= 17_000
    assert min(healthy.covered, harmful.covered) >= 0.95


def test_2_pooled_rules_take_healthy_canaries_back_in_the_same_ramp():
    z, msprt = pooled_rules(ramp(), 200, seed=5)
    assert z > 0.5  # first study: 91 %
    assert msprt > 0.5  # first study: 55 %


@pytest.mark.parametrize(
    ("world", "promoted_by"),
    # first study: a harmless canary is promoted in 90 % after 10,996 rows, and in 98.8 % after 24,599 rows
    [(constant(0.02, 0.1), 13_000), (ramp(), 30_000)],
    ids=["constant", "ramp"],
)
def test_3_promotion(world, promoted_by):
    harmless = simulate(world, 0.0, 150, seed=6)
    assert harmless.promoted >= 0.8
    assert harmless.promote_rows <= promoted_by
    on_the_margin = simulate(world, 0.01, 400, seed=7)
    assert on_the_margin.promoted <= bound(400)  # first study: 4.8 %, 4.2 %
    assert on_the_margin.rolled_back >= 0.6  # 74 %, 80 %
    assert on_the_margin.covered >= 0.95
