"""Are the canary's verdicts true? Thousands of simulated canaries, looked at after every request.

    python benchmarks/release_verdicts.py                  # 1,000 trials of each world
    python benchmarks/release_verdicts.py --trials 10000   # the figures of docs/releases.md; some CPU-minutes

A trial is a canary of 30,000 requests with outcomes good or bad. Two worlds:

- ``constant``: 10 % of the traffic, 5 % of the answers are bad;
- ``ramp``: 5 -> 25 -> 50 % of the traffic, while the share of bad answers swings between 2 and 8 % over time.

Judged are Kilter's own processes (``CanaryEvidence.walk``, the code that judges canaries), what dashboards do (fixed
thresholds, pooled z-tests), and the best methods known:

- ``routing e-process``: exact. Given its outcome, a row's arm is a coin; the bet is that bad rows come from the canary
  more often than its share says. A mixture over harms, the rate estimated from the rows before (the sequential form of
  Turner, Ly & Gruenwald's safe tests for two streams).
- ``mixture SPRT, weighted``: normal mixture on the same weighted differences that Kilter bets on; asymptotic.
- ``mixture SPRT, pooled``: the usual one (Johari et al.), on pooled rates.
- ``oracle``: GROW: the routing e-process told the true rate at every moment and the true harm. No method that has to
  learn them can be expected to beat it.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kilter.release.evidence import CanaryEvidence

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

ROWS = 30_000
ALPHA = 0.05
BAR = math.log(1.0 / ALPHA)
MARGIN, HARM = 0.01, 0.02
WINDOW = 500
_HARMS = np.array([0.005, 0.01, 0.02, 0.04, 0.08])
_T = np.arange(ROWS) / ROWS
_N = np.arange(1.0, ROWS + 1.0)


@dataclass(frozen=True)
class World:
    name: str
    base: Floats
    share: Floats


CONSTANT = World("constant", np.full(ROWS, 0.05), np.full(ROWS, 0.10))
RAMP = World(
    "ramp", 0.05 - 0.03 * np.cos(2 * np.pi * 1.5 * _T), np.select([_T < 0.25, _T < 0.6], [0.05, 0.25], default=0.50)
)
WORLDS = (CONSTANT, RAMP)


@dataclass(frozen=True)
class Trial:
    world: World
    arms: Flags
    bad: Floats


def draw(rng: np.random.Generator, world: World, harm: float) -> Trial:
    arms = rng.random(ROWS) < world.share
    return Trial(world, arms, (rng.random(ROWS) < world.base + harm * arms).astype(float))


def first(path: Floats | Flags, bar: float = 0.5) -> float:
    """The number of requests after which a path first reaches its bar; infinity when it never does."""
    reached = path >= bar
    place = int(np.argmax(reached))
    return place + 1.0 if reached[place] else math.inf


# ---------------------------------------------------------------- Kilter


def kilter(trial: Trial) -> tuple[float, float]:
    """When Kilter rolls back, and when it could promote."""
    walk = CanaryEvidence(margin=MARGIN, detect=HARM, confidence=1 - ALPHA).walk(
        trial.arms, trial.world.share, trial.bad
    )
    return first(walk.rollback, BAR), first(walk.promote, BAR)


# ---------------------------------------------------------------- the best known


def _before(values: Floats, prior: float, weight: float) -> Floats:
    total = np.concatenate(([0.0], np.cumsum(values)[:-1]))
    return (total + weight * prior) / (_N - 1.0 + weight)


def _routing(trial: Trial, rate: Floats, harms: Floats) -> Floats:
    share, bad = trial.world.share, trial.bad > 0.5
    logs = []
    for harm in harms:
        worse = np.minimum(rate + harm, 0.999)
        tilt = np.where(bad, worse / rate, (1.0 - worse) / (1.0 - rate))
        logs.append(np.cumsum(np.log(np.where(trial.arms, tilt, 1.0) / (1.0 + share * (tilt - 1.0)))))
    return logs[0] if len(logs) == 1 else np.logaddexp.reduce(np.stack(logs)) - math.log(len(logs))


def routing(trial: Trial) -> float:
    return first(_routing(trial, np.clip(_before(trial.bad, 0.1, 20.0), 0.001, 0.99), _HARMS), BAR)


def oracle(trial: Trial) -> float:
    return first(_routing(trial, trial.world.base, np.array([HARM])), BAR)


def msprt_weighted(trial: Trial) -> float:
    share = trial.world.share
    mean = _before(trial.bad, 0.1, 20.0)
    z = np.where(trial.arms, 1.0 / share, -1.0 / (1.0 - share)) * (trial.bad - mean)
    total, variance = np.cumsum(z), np.cumsum(mean * (1.0 - mean) / (share * (1.0 - share)))
    mixing = 1.0 / HARM**2  # of 1 / variance of the prior of the harm
    log_e = 0.5 * np.log(mixing / (mixing + variance)) + total**2 / (2.0 * (mixing + variance))
    return first((log_e >= BAR) & (total > 0))


# ---------------------------------------------------------------- what dashboards do


def _looks(trial: Trial) -> tuple[Floats, Floats, Floats, Floats]:
    """Counts so far at every look: canary rows, stable rows, bad ones of each."""
    at = np.arange(WINDOW - 1, ROWS, WINDOW)
    arms, bad = trial.arms, trial.bad
    counts = (arms, ~arms, arms * bad, ~arms * bad)
    found = [np.cumsum(count, dtype=float)[at] for count in counts]
    return found[0], found[1], found[2], found[3]


def _rates(trial: Trial) -> tuple[Floats, Floats]:
    new, old, new_bad, old_bad = _looks(trial)
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = new_bad / new - old_bad / old
        rate = (new_bad + old_bad) / (new + old)
        return apart, np.sqrt(rate * (1.0 - rate) * (1.0 / new + 1.0 / old))


def threshold_cumulative(trial: Trial) -> float:
    return WINDOW * first(_rates(trial)[0] > MARGIN)


def threshold_window(trial: Trial) -> float:
    new, old, new_bad, old_bad = (np.diff(count, prepend=0.0) for count in _looks(trial))
    with np.errstate(divide="ignore", invalid="ignore"):
        return WINDOW * first(new_bad / new - old_bad / old > MARGIN)


def pooled_z(trial: Trial) -> float:
    apart, error = _rates(trial)
    with np.errstate(divide="ignore", invalid="ignore"):
        return WINDOW * first((apart / error > 1.645) & (_looks(trial)[2] >= 1))


def pooled_z_promotes(trial: Trial) -> float:
    apart, error = _rates(trial)
    with np.errstate(divide="ignore", invalid="ignore"):
        return WINDOW * first(((MARGIN - apart) / error > 1.645) & (_looks(trial)[2] >= 1))


def msprt_pooled(trial: Trial) -> float:
    apart, error = _rates(trial)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        log_e = 0.5 * np.log(error**2 / (error**2 + HARM**2)) + HARM**2 * apart**2 / (
            2.0 * error**2 * (error**2 + HARM**2)
        )
        return WINDOW * first((log_e >= BAR) & (apart > 0) & (_looks(trial)[2] >= 1))


METHODS: dict[str, Callable[[Trial], float]] = {
    "routing e-process": routing,
    "mixture SPRT, weighted": msprt_weighted,
    "oracle": oracle,
    "mixture SPRT, pooled": msprt_pooled,
    "pooled z, peeking": pooled_z,
    "threshold, cumulative": threshold_cumulative,
    "threshold, per window": threshold_window,
}
"""Whatever rolls back, beside Kilter."""

VALID = ("routing e-process", "mixture SPRT, weighted")
"""Methods that know no secrets and keep their error in both worlds."""


@dataclass
class Rates:
    """What a method did in one world.

    Args:
        false_rollback: Share of healthy canaries that it took back.
        found: Share of canaries with the harm that it took back.
        delay: Median requests until then.
        false_promotion: Share of canaries at the margin that it would have promoted at some moment.
        promoted: Share of harmless canaries that it would have promoted.
        promoted_after: Median requests until then.
    """

    false_rollback: float = math.nan
    found: float = math.nan
    delay: float = math.nan
    false_promotion: float = math.nan
    promoted: float = math.nan
    promoted_after: float = math.nan


def simulate(world: World, trials: int, seed: int = 1, *, others: int | None = None) -> dict[str, Rates]:
    """Judge simulated canaries of one world.

    Args:
        world: The world.
        trials: How many canaries of each harm (none, the margin, 2 points) Kilter judges.
        seed: Of the draws.
        others: How many of them the other methods judge; all if not said.
    """
    compared = trials if others is None else min(trials, others)
    ends: dict[tuple[str, float], list[tuple[float, float]]] = {}
    for number, harm in enumerate((0.0, MARGIN, HARM)):
        for trial in range(trials):
            case = draw(np.random.default_rng([seed, number, trial]), world, harm)
            ends.setdefault(("Kilter", harm), []).append(kilter(case))
            if trial >= compared:
                continue
            for name, method in METHODS.items():
                if harm != MARGIN:
                    ends.setdefault((name, harm), []).append((method(case), math.inf))
            ends.setdefault(("pooled z promotes", harm), []).append((math.inf, pooled_z_promotes(case)))
    names = list(dict.fromkeys(name for name, _ in ends))
    return {name: _rated(name, ends) for name in names}


def _rated(name: str, ends: dict[tuple[str, float], list[tuple[float, float]]]) -> Rates:
    def column(harm: float, place: int) -> Floats:
        return np.array([one[place] for one in ends.get((name, harm), [])])

    promotes = name in {"Kilter", "pooled z promotes"}
    back = name != "pooled z promotes"
    return Rates(
        false_rollback=_share(column(0.0, 0)) if back else math.nan,
        found=_share(column(HARM, 0)) if back else math.nan,
        delay=float(np.median(column(HARM, 0))) if back else math.nan,
        false_promotion=_share(column(MARGIN, 1)) if promotes else math.nan,
        promoted=_share(column(0.0, 1)) if promotes else math.nan,
        promoted_after=float(np.median(column(0.0, 1))) if promotes else math.nan,
    )


def _share(ends: Floats) -> float:
    return float(np.isfinite(ends).mean()) if ends.size else math.nan


def _cell(value: float, form: str) -> str:
    return "-" if math.isnan(value) else "more" if math.isinf(value) else format(value, form)


def bound(trials: int) -> float:
    """The accepted error with three standard errors of the simulation."""
    return ALPHA + 3.0 * math.sqrt(ALPHA * (1.0 - ALPHA) / trials)


def delay_ratio(found: dict[str, Rates]) -> float:
    """Kilter's delay over that of the best method that could be used in its place."""
    return found["Kilter"].delay / min(found[name].delay for name in VALID)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--others", type=int, default=None, help="trials for the other methods (default: all)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    begun = time.process_time()
    results = {world.name: simulate(world, options.trials, others=options.others) for world in WORLDS}
    if options.json:
        print(
            json.dumps(
                {world: {name: vars(rates) for name, rates in found.items()} for world, found in results.items()}
            )
        )
        return
    print(
        f"{options.trials:,} trials of each harm, {ROWS:,} requests, a look after each; errors of {ALPHA:.0%} accepted\n"
    )
    good = True
    for world, found in results.items():
        print(f"{world}\n  {'method':<24}{'false rollback':>16}{'2 points found':>16}{'median after':>14}"
              f"{'false promotion':>17}{'promoted':>10}{'median after':>14}")  # fmt: skip
        for name, rates in found.items():
            print(f"  {name:<24}{_cell(rates.false_rollback, '.2%'):>16}{_cell(rates.found, '.1%'):>16}"
                  f"{_cell(rates.delay, ',.0f'):>14}{_cell(rates.false_promotion, '.2%'):>17}"
                  f"{_cell(rates.promoted, '.1%'):>10}{_cell(rates.promoted_after, ',.0f'):>14}")  # fmt: skip
        ours, ratio = found["Kilter"], delay_ratio(found)
        best = min(VALID, key=lambda name: found[name].delay)
        print(
            f"  delay: {ratio:.2f} times that of the {best}, {ours.delay / found['oracle'].delay:.2f} times the oracle's\n"
        )
        good &= max(ours.false_rollback, ours.false_promotion) <= bound(options.trials) and ratio <= 1.5
    print(f"{time.process_time() - begun:.0f} CPU seconds; {'as promised' if good else 'NOT as promised'}")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
