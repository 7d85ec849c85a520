"""XGBoost's models as plain numbers.

Source: ``xgboost/doc/model.schema``, ``src/common/categorical.h``, ``src/predictor/predict_fn.h`` and the ``PredTransform`` of each
objective.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np

from kilter.core.errors import Damaged, InvalidInput
from kilter.packaging.export.forest import CATEGORICAL, DEFAULT_LEFT, Forest, Link, Node, Tree, require_finite
from kilter.packaging.files import booster_of_xgboost

_LINKS: dict[str, Link] = {
    "binary:hinge": "hinge",
    "binary:logistic": "logit",
    "count:poisson": "exp",
    "multi:softprob": "softmax",
    "reg:gamma": "exp",
    "reg:logistic": "logit",
    "reg:tweedie": "exp",
    **dict.fromkeys(
        (
            "binary:logitraw", "rank:map", "rank:ndcg", "rank:pairwise", "reg:absoluteerror", "reg:pseudohubererror",
            "reg:quantileerror", "reg:squarederror", "reg:squaredlogerror",
        ),
        "identity",
    ),
}  # fmt: skip


def read(data: bytes, rounds: int = 0) -> Forest:
    """Return an XGBoost model.

    Args:
        data: As ``Booster.save_raw("ubj")`` writes it.
        rounds: Boosting rounds to use; 0 for all.

    Raises:
        Damaged: When the bytes are not a model.
        InvalidInput: When it is not an ensemble of trees with one number per leaf, or has an objective whose answer is not
            known here.
        Unavailable: When XGBoost is not installed.
    """
    learner = msgspec.json.decode(bytes(booster_of_xgboost(data).save_raw("json")))["learner"]
    try:
        return _forest(learner, rounds)
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise Damaged("the bytes are not an XGBoost model", where="model.ubj") from error


def _forest(learner: dict[str, Any], rounds: int) -> Forest:
    booster, objective = learner["gradient_booster"], learner["objective"]["name"]
    if booster["name"] != "gbtree":
        raise _refused(f"an XGBoost model of the booster {booster['name']!r}", "gbtree")
    if objective not in _LINKS:
        raise _refused(f"an XGBoost model of the objective {objective!r}", ", ".join(sorted(_LINKS)))
    link, model = _LINKS[objective], booster["model"]
    starts = model["iteration_indptr"]
    count = starts[min(rounds, len(starts) - 1)] if rounds else len(model["trees"])
    trees = tuple(
        _tree(tree, output) for tree, output in zip(model["trees"][:count], model["tree_info"][:count], strict=True)
    )
    parameters = learner["learner_model_param"]
    outputs = max(int(parameters["num_class"]), int(parameters["num_target"]), 1)
    base = [_margin(float(word), link) for word in parameters["base_score"].strip("[]").split(",")]
    base = base * outputs if len(base) == 1 else base
    require_finite(base, "a base score")
    return Forest("xgboost", int(parameters["num_feature"]), tuple(base), trees, link)


def _tree(tree: dict[str, Any], output: int) -> Tree:
    if tree["tree_param"]["size_leaf_vector"] not in {"0", "1"}:
        raise _refused("an XGBoost model of several numbers per leaf", "one number per leaf", "one_output_per_tree")
    lefts, rights = tree["left_children"], tree["right_children"]
    # nodes and leaves are numbered apart, each in the order of the file
    splits = [place for place, left in enumerate(lefts) if left != -1]
    ends = [place for place, left in enumerate(lefts) if left == -1]
    number = {place: index for index, place in enumerate(splits)} | {place: ~index for index, place in enumerate(ends)}
    sets = {
        place: _words(tree["categories"][start : start + size])
        for place, start, size in zip(
            tree["categories_nodes"], tree["categories_segments"], tree["categories_sizes"], strict=True
        )
    }
    leaves = tuple(float(np.float32(tree["split_conditions"][place])) for place in ends)
    require_finite(leaves, "a leaf")
    nodes = []
    for place in splits:
        categorical = tree["split_type"][place] == 1
        threshold = 0.0 if categorical else float(np.float32(tree["split_conditions"][place]))
        flags = CATEGORICAL * categorical + DEFAULT_LEFT * bool(tree["default_left"][place])
        left, right = number[lefts[place]], number[rights[place]]
        nodes.append(Node(tree["split_indices"][place], flags, threshold, left, right, sets.get(place, ())))
    return Tree(tuple(nodes), leaves, output)


def _words(categories: list[int]) -> tuple[int, ...]:
    words = [0] * (max(categories, default=0) // 32 + 1)
    for category in categories:
        words[category // 32] |= 1 << category % 32
    return tuple(words)


def _margin(base: float, link: Link) -> float:
    """Return the sum that a base score is the answer of, in float32 as XGBoost takes it."""
    value = np.float32(base)
    one = np.float32(1)
    match link:
        case "logit":
            odds = float(one / value - one)
            return -float(np.float32(math.log(odds))) if odds > 0.0 else math.inf
        case "exp":
            return float(np.float32(math.log(value)))
        case _:
            return float(value)


def _refused(what: str, allowed: str, fix: str = "") -> InvalidInput:
    return InvalidInput(f"{what} has no form in source code", where="export", allowed=allowed,
                        fix=f"train it with {fix}" if fix else "")  # fmt: skip
