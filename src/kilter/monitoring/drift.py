"""Drift: how far inputs and predictions moved from the training rows, beyond what sampling explains.

Effect size first. At production size every p-value is small; on real flights every numeric column has p < 0.05 in every month,
also in those in which the model is fine. So a column counts as drifted when its PSI *less the PSI that sampling whole days gives
by itself* is above the threshold, and the move is significant after correction for the number of columns.

A season is drift and is not decay: drift explains and may ask for a challenger; it deploys nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kilter.core.evidence import Finding, Interval
from kilter.core.statistics import resampled_weights
from kilter.monitoring.declare import Drift
from kilter.monitoring.divergence import benjamini_hochberg, chi_square_tail, js, ks, psi, psi_rows
from kilter.monitoring.profile import Bins, Counts, Noise, NumericBins, noise_of
from kilter.monitoring.records import FeatureDrift, Judged

SIGNIFICANT = 0.01
FEW_BLOCKS = 5
RULE = (
    "PSI on the reference's bins less the PSI expected from sampling whole days (Rao-Scott, second order), above the threshold and significant at "
    "1 % by its chi-square law (Yurdakul & Naranjo 2020) after Benjamini-Hochberg over all columns; the interval is a basic bootstrap of "
    "the window's days"
)


def feature_drift(bins: Bins, counted: Counts) -> FeatureDrift:
    """Return one column's drift; ``chance`` is not yet corrected for the number of columns.

    Args:
        bins: The reference.
        counted: The window's counts per day and bin, shape (days, bins).
    """
    reference = np.asarray(bins.counts, dtype=np.int64)
    current = counted.sum(axis=0)
    rows, known = int(current.sum()), int(reference.sum())
    freedom = int(((reference > 0) | (current > 0)).sum()) - 1
    if rows == 0 or known == 0 or freedom < 1:
        return FeatureDrift(bins.name, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0 if isinstance(bins, NumericBins) else None, rows)
    index = psi(reference, current)
    window = _window_noise(bins, counted, rows, known)
    # Never less than for independent rows: one side may have one bin only, and then shows no variance of its own.
    noise = max(bins.noise + window.mean, freedom * (1 / rows + 1 / known))
    degrees = max(1, round(window.freedom))
    return FeatureDrift(
        name=bins.name,
        psi=index,
        noise=noise,
        excess=max(0.0, index - noise),
        chance=chi_square_tail(index / noise * degrees, degrees),
        js=js(reference, current),
        ks=ks(reference, current) if isinstance(bins, NumericBins) else None,
        rows=rows,
    )


def _window_noise(bins: Bins, counted: Counts, rows: int, known: int) -> Noise:
    """Return the window's own noise; with too few days to see how alike a day's rows are, the reference's likeness is used."""
    noise = noise_of(counted)
    if int((counted.sum(axis=1) > 0).sum()) >= FEW_BLOCKS:
        return noise
    return Noise(max(noise.mean, bins.noise * known / rows), noise.freedom)


def measure(bins: Mapping[str, Bins], counted: Mapping[str, Counts]) -> tuple[FeatureDrift, ...]:
    """Return the drift of every counted column, ``chance`` corrected for the number of columns, the farthest first.

    Args:
        bins: The reference's bins by name.
        counted: The window's counts per day and bin, by name.
    """
    found = [feature_drift(bins[name], counts) for name, counts in counted.items()]
    adjusted = benjamini_hochberg(np.array([each.chance for each in found]))
    corrected = [_with_chance(each, float(chance)) for each, chance in zip(found, adjusted, strict=True)]
    return tuple(sorted(corrected, key=lambda each: (-each.excess, each.name)))


def _with_chance(found: FeatureDrift, chance: float) -> FeatureDrift:
    return FeatureDrift(found.name, found.psi, found.noise, found.excess, chance, found.js, found.ks, found.rows)


def judge_drift(
    monitor: Drift, bins: Mapping[str, Bins], counted: Mapping[str, Counts], *, least_blocks: int = 2
) -> Judged:
    """Judge a drift monitor.

    Args:
        monitor: As declared.
        bins: The reference's bins by name, ``prediction`` among them.
        counted: The window's counts per day and bin, by name.
        least_blocks: Columns seen on fewer days are left out.
    """
    usable = {name: counts for name, counts in counted.items() if int((counts.sum(axis=1) > 0).sum()) >= least_blocks}
    measured = measure(bins, usable)
    allowed = f"<= {monitor.above:g}"
    rows = max((each.rows for each in measured), default=0)
    if not measured:
        seen = max((int((counts.sum(axis=1) > 0).sum()) for counts in counted.values()), default=0)
        detail: dict[str, float | int | str | None] = {
            "why": f"{seen} blocks seen, {least_blocks} needed",
            "over": monitor.over,
        }
        return Judged(
            monitor.name, Finding(monitor.name, "inconclusive", None, allowed, rows, RULE, detail), raised=False
        )
    drifted = [each for each in measured if each.excess > monitor.above and each.chance <= SIGNIFICANT]
    worst = (drifted or list(measured))[0]
    low, high = _interval(bins[worst.name], usable[worst.name])
    finding = Finding(
        name=monitor.name,
        verdict="fail" if drifted else "pass",
        value=Interval(worst.excess, max(0.0, low), max(0.0, high), 0.9),
        allowed=allowed,
        rows=rows,
        rule=RULE,
        detail={
            "worst": worst.name,
            "drifted": ", ".join(each.name for each in drifted),
            "noise": round(worst.noise, 6),
            "chance": worst.chance,
            "js": round(worst.js, 6),
            "over": monitor.over,
            **{f"psi({each.name})": round(each.excess, 6) for each in measured},
        },
    )
    return Judged(monitor.name, finding, raised=bool(drifted))


def _interval(bins: Bins, counted: Counts) -> tuple[float, float]:
    """Return the 90 % basic bootstrap interval of the PSI over the window's days; the reflection takes the bias out once."""
    reference = np.asarray(bins.counts, dtype=np.int64)
    drawn = resampled_weights(counted.shape[0], 500, 0) @ counted
    values = psi_rows(reference, drawn)
    index = psi(reference, counted.sum(axis=0))
    low, high = np.quantile(values, (0.05, 0.95))
    return float(2 * index - high) - bins.noise, float(2 * index - low) - bins.noise
