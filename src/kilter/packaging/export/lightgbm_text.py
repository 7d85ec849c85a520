"""LightGBM's text format as plain numbers.

Source: ``LightGBM/src/io/tree.cpp``, ``gbdt_model_text.cpp`` and the ``ConvertOutput`` of each objective.
"""

from __future__ import annotations

from kilter.core.errors import Damaged, InvalidInput
from kilter.packaging.export.forest import CATEGORICAL, Forest, Link, Node, Tree, require_finite

_LINKS: dict[str, Link] = {
    "binary": "logit",
    "cross_entropy": "logit",
    "cross_entropy_lambda": "log1pexp",
    "gamma": "exp",
    "multiclass": "softmax",
    "multiclassova": "sigmoids",
    "poisson": "exp",
    "tweedie": "exp",
    **dict.fromkeys(
        ("", "custom", "fair", "huber", "lambdarank", "mape", "quantile", "rank_xendcg", "regression", "regression_l1"),
        "identity",
    ),
}


def read(text: bytes) -> Forest:
    """Return a LightGBM model.

    Args:
        text: As ``Booster.model_to_string()`` writes it.

    Raises:
        Damaged: When the text is not a model.
        InvalidInput: When it has linear trees or an objective whose answer is not known here.
    """
    try:
        head, *sections = text.decode().partition("\nend of trees")[0].split("\nTree=")
        header = _fields(head)
        link, scale = _link(header.get("objective", ""))
        outputs = int(header["num_tree_per_iteration"])
        trees = tuple(_tree(_fields(section), number % outputs) for number, section in enumerate(sections))
        columns = int(header["max_feature_idx"]) + 1
    except (KeyError, ValueError, IndexError) as error:
        raise Damaged("the bytes are not a LightGBM model", where="model.txt") from error
    divisor = len(trees) // outputs if "average_output" in head.splitlines() else 1
    return Forest("lightgbm", columns, (0.0,) * outputs, trees, link, scale, max(divisor, 1))


def _fields(section: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in section.splitlines() if "=" in line)


def _link(objective: str) -> tuple[Link, float]:
    name, *parameters = objective.split() or [""]
    if name not in _LINKS:
        raise InvalidInput(
            f"a LightGBM model of the objective {name!r} has no form in source code",
            where="export",
            allowed=", ".join(sorted(filter(None, _LINKS))),
        )
    link = _LINKS[name]
    if "sqrt" in parameters:
        link = "signed-square"
    scale = next((float(word[8:]) for word in parameters if word.startswith("sigmoid:")), 1.0)
    return link, scale


def _tree(fields: dict[str, str], output: int) -> Tree:
    if fields.get("is_linear", "0") != "0":
        raise InvalidInput("the model has linear functions in its leaves", where="export",
                           allowed="constant leaves", fix="train it without linear_tree")  # fmt: skip
    leaves = _numbers(fields["leaf_value"])
    require_finite(leaves, "a leaf")
    if int(fields["num_leaves"]) == 1:
        return Tree((), leaves, output)
    features, kinds = _integers(fields["split_feature"]), _integers(fields["decision_type"])
    thresholds = _numbers(fields["threshold"])
    lefts, rights = _integers(fields["left_child"]), _integers(fields["right_child"])
    bounds, words = _integers(fields.get("cat_boundaries", "")), _integers(fields.get("cat_threshold", ""))
    nodes = []
    for feature, flags, threshold, left, right in zip(features, kinds, thresholds, lefts, rights, strict=True):
        if flags & CATEGORICAL:
            place = int(threshold)
            nodes.append(Node(feature, flags, 0.0, left, right, words[bounds[place] : bounds[place + 1]]))
        else:
            nodes.append(Node(feature, flags, threshold, left, right))
    return Tree(tuple(nodes), leaves, output)


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(word) for word in text.split())


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split())
