"""A tree ensemble or a linear model as plain numbers, and what it answers: the one meaning that every target language spells out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from kilter.core.errors import InvalidInput
from kilter.packaging.linear import Linear, linked

Matrix = np.ndarray[Any, np.dtype[np.float64]]
Dialect = Literal["lightgbm", "xgboost"]
Link = Literal["identity", "logit", "sigmoids", "softmax", "exp", "log1pexp", "signed-square", "hinge"]

CATEGORICAL, DEFAULT_LEFT, ZERO_MISSING, NAN_MISSING = 1, 2, 4, 8
"""What a node's flags say, as LightGBM's ``decision_type`` does."""

ZERO = float(np.float32(1e-35))
"""Up to here LightGBM takes a number for zero (``kZeroThreshold``, a float)."""

OUT_OF_RANGE = 16_777_216.0
"""From here on XGBoost takes a number for no category."""


class Node(NamedTuple):
    """A split.

    Args:
        feature: The column that it looks at.
        flags: ``CATEGORICAL``, ``DEFAULT_LEFT``, ``ZERO_MISSING``, ``NAN_MISSING``, added.
        threshold: The number that the column is compared with; 0 when categorical.
        left: The next node, or ``~leaf``.
        right: The same.
        words: Per 32 categories a word of bits; empty when numeric.
    """

    feature: int
    flags: int
    threshold: float
    left: int
    right: int
    words: tuple[int, ...] = ()


class Tree(NamedTuple):
    """A tree.

    Args:
        nodes: Its splits, the root first; empty for a tree of one leaf.
        leaves: What its leaves add.
        output: To which output.
    """

    nodes: tuple[Node, ...]
    leaves: tuple[float, ...]
    output: int


class Forest(NamedTuple):
    """A tree ensemble.

    Args:
        dialect: Whose arithmetic: LightGBM splits at ``x <= threshold`` in float64; XGBoost at ``x < threshold``, everything in
            float32, and sends a category that is in the set to the right.
        columns: How many inputs a row has.
        base: Per output what the sum begins with.
        trees: The trees, in the order in which they are added.
        link: From the sums to the answer.
        scale: What a sum is multiplied with before a logit.
        divisor: What a sum is divided by: the number of trees of a forest that averages, else 1.
    """

    dialect: Dialect
    columns: int
    base: tuple[float, ...]
    trees: tuple[Tree, ...]
    link: Link
    scale: float = 1.0
    divisor: int = 1

    @property
    def outputs(self) -> int:
        """How many numbers an answer has."""
        return len(self.base)


Source = Forest | Linear


def answers(source: Source, rows: Matrix) -> Matrix:
    """Return what a model answers: (n, outputs) for (n, columns), by the arithmetic that the generated sources spell out.

    Args:
        source: The model.
        rows: (n, d) float64; NaN where a value is missing.
    """
    if isinstance(source, Linear):
        return np.array([_linear(source, row) for row in rows.tolist()])
    return np.array([_forest(source, row) for row in rows])


def require_finite(values: Sequence[float], what: str) -> None:
    """Refuse numbers that no source code has a literal for.

    Raises:
        InvalidInput: When one is not finite.
    """
    if not all(math.isfinite(value) for value in values):
        raise InvalidInput(f"the model has {what} that is not finite", where="export", allowed="finite numbers")


def _forest(forest: Forest, row: np.ndarray[Any, Any]) -> list[float]:
    single = forest.dialect == "xgboost"
    with np.errstate(over="ignore"):
        held = (row.astype(np.float32) if single else row).tolist()
    kind: Any = np.float32 if single else np.float64
    goes_left = _xgboost_left if single else _lightgbm_left
    sums = [kind(value) for value in forest.base]
    for tree in forest.trees:
        place = 0 if tree.nodes else -1
        while place >= 0:
            node = tree.nodes[place]
            place = node.left if goes_left(node, held[node.feature]) else node.right
        sums[tree.output] = sums[tree.output] + kind(tree.leaves[~place])
    return _linked(forest, np.array(sums))


def _lightgbm_left(node: Node, value: float) -> bool:
    if node.flags & CATEGORICAL:
        if not -1.0 < value < 2147483648.0:  # NaN, too
            return False
        code = int(value)
        return code // 32 < len(node.words) and bool(node.words[code // 32] >> (code % 32) & 1)
    if math.isnan(value):
        if node.flags & NAN_MISSING:
            return bool(node.flags & DEFAULT_LEFT)
        value = 0.0
    if node.flags & ZERO_MISSING and -ZERO <= value <= ZERO:
        return bool(node.flags & DEFAULT_LEFT)
    return value <= node.threshold


def _xgboost_left(node: Node, value: float) -> bool:
    if math.isnan(value):
        return bool(node.flags & DEFAULT_LEFT)
    if node.flags & CATEGORICAL:
        if not 0.0 <= value < OUT_OF_RANGE:
            return True
        code = int(value)
        return code // 32 >= len(node.words) or not node.words[code // 32] >> (code % 32) & 1
    return value < node.threshold


def _linked(forest: Forest, sums: np.ndarray[Any, Any]) -> list[float]:
    if forest.divisor != 1:
        sums = sums / sums.dtype.type(forest.divisor)
    one = sums.dtype.type(1)
    with np.errstate(over="ignore"):
        match forest.link:
            case "identity":
                found = sums
            case "exp":
                found = np.exp(sums)
            case "log1pexp":
                found = np.log1p(np.exp(sums))
            case "signed-square":
                found = np.sign(sums) * sums * sums
            case "hinge":
                found = (sums > 0).astype(sums.dtype)
            case "softmax":
                raised = np.exp(sums - sums.max())
                found = raised / sums.dtype.type(raised.astype(np.float64).sum())
            case _:
                least = np.minimum(-sums, sums.dtype.type(88.7)) if sums.dtype == np.float32 else -forest.scale * sums
                found = one / (np.exp(least) + one)
    return [float(value) for value in found]


def _linear(form: Linear, row: list[float]) -> list[float]:
    sums = list(form.intercept)
    for place, given in enumerate(row):
        table = form.tables.get(str(place))
        value = given
        if table is not None:
            known = 0.0 <= value < len(table) - 1
            added = table[int(value) if known else len(table) - 1]
        else:
            fill = form.fill[place] if form.fill else None
            value = fill if fill is not None and math.isnan(value) else value
            added = tuple(weights[place] * value for weights in form.weights)
        sums = [total + more for total, more in zip(sums, added, strict=True)]
    return [float(value) for value in linked(np.array([sums]), form.link)[0]]
