"""How much each parameter decides about being among the best: PED-ANOVA (Watanabe, Bansal & Hutter 2023, IJCAI).

For each parameter alone, the density of the best trials is held against the density of all trials; the importance is their Pearson
divergence. A parameter that does not matter is spread among the best as it is among all. Densities are kernel estimates with Scott's
bandwidth on 64 cells, and smoothed shares for choices. Optuna's own would load scikit-learn and SciPy to come to the same order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from kilter.core.statistics import Floats
from kilter.loop.tuning.space import Dimension, Point, Space

LEAST: Final = 10
"""Complete trials from which importance is told."""
_BEST: Final = 0.1
_LEAST_BEST: Final = 4
_CELLS: Final = 64


def importance(space: Space, points: Sequence[tuple[Point, float]]) -> tuple[dict[str, float], str]:
    """Return each parameter's share, the greatest first, and why there is nothing if there is not.

    Args:
        space: The dimensions.
        points: Each complete trial's coordinates with its cost: less is better.
    """
    usable = [(point, cost) for point, cost in points if math.isfinite(cost)]
    if len(usable) < LEAST:
        return {}, f"importance needs {LEAST} complete trials, there are {len(usable)}"
    costs = np.array([cost for _, cost in usable])
    if costs.min() == costs.max():
        return {}, "importance needs trials that differ"
    count = max(_LEAST_BEST, math.ceil(_BEST * len(costs)))
    best = np.argsort(costs, kind="stable")[:count]
    found = {one.name: _divergence(one, [point[one.name] for point, _ in usable], best) for one in space}
    total = sum(found.values())
    if total <= 0:
        return {}, "importance needs trials that differ"
    return dict(sorted(((name, value / total) for name, value in found.items()), key=lambda item: -item[1])), ""


def _divergence(one: Dimension, coordinates: Sequence[Any], best: Any) -> float:
    """Return the mean over all trials' density of ``(best / all - 1)`` squared."""
    if len(set(coordinates)) < 2:
        return 0.0
    if one.kind == "choice":
        every = _shares(np.array(coordinates, dtype=np.int64), len(one.choices))
        good = _shares(np.array(coordinates, dtype=np.int64)[best], len(one.choices))
    else:
        places = _places(one, np.array(coordinates, dtype=np.float64))
        every, good = _density(places), _density(places[best])
    return float(np.sum(every * np.square(good / every - 1.0)))


def _places(one: Dimension, coordinates: Floats) -> Floats:
    """Return coordinates between 0 and 1, over orders of magnitude where the dimension is searched so."""
    ends = np.array([one.low, one.high])
    if one.log:
        coordinates, ends = np.log(coordinates), np.log(ends)
    return np.asarray((coordinates - ends[0]) / max(ends[1] - ends[0], 1e-12), dtype=np.float64)


def _density(places: Floats) -> Floats:
    """Return the share of each cell, with a uniform prior that weighs as much as one trial."""
    centres = (np.arange(_CELLS) + 0.5) / _CELLS
    width = max(float(places.std()) * len(places) ** -0.2, 1.0 / _CELLS)
    kernels = np.exp(-0.5 * np.square((centres[None, :] - places[:, None]) / width))
    kernels /= kernels.sum(axis=1, keepdims=True)
    return np.asarray((kernels.sum(axis=0) + 1.0 / _CELLS) / (len(places) + 1.0), dtype=np.float64)


def _shares(places: Any, choices: int) -> Floats:
    counts = np.bincount(places, minlength=choices).astype(np.float64)
    return np.asarray((counts + 1.0 / choices) / (counts.sum() + 1.0), dtype=np.float64)
