"""Which parameters go with a metric: rank correlations, with a permutation's p-value. An association, not a cause."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

METHOD = (
    "Numbers: Spearman's rank correlation. Words: the share of the ranks' variance between the values (Kruskal and Wallis ε²), "
    "as its root. p by 999 shuffles. It says what goes together in these runs, not what causes what."
)
_SHUFFLES = 999
_MOST_VALUES = 30
_FEWEST = 4


class Importance(msgspec.Struct, frozen=True):
    """How strongly a parameter goes with a metric.

    Args:
        param: The parameter.
        strength: 0 to 1.
        sign: 1 when more goes with more, -1 when more goes with less, 0 for words.
        p: How often shuffled values go with it as strongly.
        runs: How many runs have both.
        kind: ``number`` or ``word``.
    """

    param: str
    strength: float
    sign: int
    p: float
    runs: int
    kind: str


def importance(params: Sequence[Mapping[str, Any]], metric: Sequence[float | None]) -> tuple[Importance, ...]:
    """Return the parameters that vary, the strongest first.

    Args:
        params: The parameters of each run.
        metric: The metric of each run, or None.
    """
    names = sorted({name for one in params for name in one})
    found = []
    for name in names:
        pairs = [
            (one[name], value)
            for one, value in zip(params, metric, strict=True)
            if name in one and one[name] is not None and value is not None and np.isfinite(value)
        ]
        if len(pairs) < _FEWEST or len({str(given) for given, _ in pairs}) < 2:
            continue
        judged = _judged(name, [given for given, _ in pairs], np.asarray([value for _, value in pairs]))
        if judged is not None:
            found.append(judged)
    return tuple(sorted(found, key=lambda one: (-one.strength, one.param)))


def _judged(name: str, given: list[Any], values: NDArray[np.float64]) -> Importance | None:
    ranks = ranked(values)
    numbers = _numbers(given)
    random = np.random.default_rng(len(given))
    shuffled = np.vstack([random.permutation(ranks) for _ in range(_SHUFFLES)])
    if numbers is not None:
        own = ranked(numbers)
        found = float(_correlation(own, ranks[None, :])[0])
        by_chance = np.abs(_correlation(own, shuffled))
        strength, sign, kind = abs(found), int(np.sign(found)), "number"
    else:
        words, place = np.unique([str(one) for one in given], return_inverse=True)
        if len(words) > _MOST_VALUES or len(words) == len(given):
            return None  # a name of its own for each run says nothing
        strength = float(_epsilon(place, len(words), ranks[None, :])[0])
        by_chance = _epsilon(place, len(words), shuffled)
        sign, kind = 0, "word"
    p = float((1 + np.count_nonzero(by_chance >= strength - 1e-12)) / (1 + _SHUFFLES))
    return Importance(name, round(strength, 4), sign, p, len(given), kind)


def ranked(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the ranks of values, equal ones sharing the mean of theirs."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    upper = np.cumsum(count)
    mean = upper - (count - 1) / 2
    return np.asarray(mean[place], np.float64)


def _numbers(given: list[Any]) -> NDArray[np.float64] | None:
    if any(isinstance(one, bool) for one in given):
        return None
    try:
        found = np.asarray([float(one) for one in given])
    except (TypeError, ValueError):
        return None
    return found if np.isfinite(found).all() else None


def _correlation(own: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    own = own - own.mean()
    others = others - others.mean(axis=1, keepdims=True)
    size = np.sqrt((own**2).sum() * (others**2).sum(axis=1))
    return np.asarray(np.divide(others @ own, size, out=np.zeros(len(others)), where=size > 0))


def _epsilon(place: NDArray[np.int64], words: int, ranks: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the root of the share of the ranks' variance that lies between the words, corrected for their number."""
    member = np.zeros((ranks.shape[1], words))
    member[np.arange(ranks.shape[1]), place] = 1.0
    count = member.sum(axis=0)
    means = (ranks @ member) / count
    grand = ranks.mean(axis=1, keepdims=True)
    between = ((means - grand) ** 2 * count).sum(axis=1)
    whole = ((ranks - grand) ** 2).sum(axis=1)
    n = ranks.shape[1]
    share = np.divide(between, whole, out=np.zeros(len(ranks)), where=whole > 0)
    corrected = share - (1 - share) * (words - 1) / max(n - words, 1)
    return np.asarray(np.sqrt(np.clip(corrected, 0.0, 1.0)))
