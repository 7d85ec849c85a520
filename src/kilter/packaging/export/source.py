"""From a bundle to the model that is written as source code, with what its users need beside it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

import msgspec
import numpy as np

from kilter.core.errors import Damaged, InvalidInput
from kilter.packaging.bundle import Parts, folding_inputs
from kilter.packaging.export import lightgbm_text, xgboost_json
from kilter.packaging.export.forest import Forest, Matrix, Source, answers, require_finite
from kilter.packaging.linear import Linear
from kilter.packaging.native import Flavor

_ROWS = 32
_WIDEST = 65_535
_NOT_A_LETTER = re.compile(r"[^a-z0-9]+")


class Code(NamedTuple):
    """What a source file is made of.

    Args:
        name: The model's name as an identifier.
        title: What stands in the head of each file: the version and its bundle.
        source: The model.
        inputs: The names of its columns.
        categories: Per categorical column its values, in the order of their codes.
        outputs: The names of its answers.
        tolerance: How far an answer may be from the packaged model's, in units of the answer when that is more than 1.
        rows: Example rows.
        values: What the packaged model answers for them, (rows, outputs).
    """

    name: str
    title: str
    source: Source
    inputs: tuple[str, ...]
    categories: dict[str, tuple[str, ...]]
    outputs: tuple[str, ...]
    tolerance: float
    rows: Matrix
    values: Matrix


class Vector(NamedTuple):
    """Example rows and what the packaged model answers.

    Args:
        inputs: The names of the columns.
        outputs: The names of the answers.
        tolerance: How far an answer may be from the packaged model's.
        rows: The rows.
        values: The answers, (rows, outputs).
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    tolerance: float
    rows: Matrix
    values: Matrix


def code_of(parts: Parts, name: str, title: str) -> Code:
    """Return what the source code of a bundle is made of, checked against the packaged model's own answers.

    A graph that was made from a booster, and a pipeline that is one linear model, are written as that booster or linear model.

    Args:
        parts: The bundle.
        name: The model's name.
        title: What to call it in comments.

    Raises:
        Damaged: When the model's bytes can't be read.
        InvalidInput: When it is neither trees nor linear, or its answers differ from the packaged model's.
        Unavailable: When its framework is not installed.
    """
    manifest = parts.manifest
    explainer = manifest.explainer
    if manifest.flavor in _READABLE:
        source, tolerance = _read(manifest.flavor, parts.model, manifest.iterations), 0.0
    elif explainer is not None and explainer.flavor in _READABLE:
        source, tolerance = _read(explainer.flavor, parts.explainer, explainer.iterations), 1e-5
    else:
        raise InvalidInput(
            f"a model of the format {manifest.flavor} can't be written as source code",
            where="export",
            allowed="LightGBM and XGBoost models, and scikit-learn's linear models",
            fix="export it as a container: --target container",
        )
    signature = manifest.signature
    _, example = folding_inputs(parts)
    rows = example[:_ROWS]
    outputs = len(signature.outputs)
    values = np.array(manifest.example_values).reshape(manifest.example_rows, outputs)[:_ROWS]
    columns = source.columns if isinstance(source, Forest) else len(source.weights[0])
    if columns != len(signature.encoding.names):
        raise InvalidInput(f"the model has {columns} inputs, its signature {len(signature.encoding.names)}",
                           where="signature")  # fmt: skip
    if max(columns, outputs) > _WIDEST:
        raise InvalidInput(f"the model has {columns} inputs and {outputs} outputs", where="export",
                           allowed=f"at most {_WIDEST} each")  # fmt: skip
    tolerance = max(tolerance, _TOLERANCES["linear" if isinstance(source, Linear) else source.dialect])
    found = answers(source, rows)
    if found.shape != values.shape or not (apart(found, values) <= tolerance).all():
        raise InvalidInput(
            "the model as source code answers differently from the packaged model",
            where="export",
            allowed=f"a difference of at most {tolerance:g}",
            fix="export it as a container: --target container",
        )
    return Code(
        name=identifier(name),
        title=title,
        source=source,
        inputs=signature.encoding.names,
        categories=dict(signature.encoding.categories),
        outputs=signature.outputs,
        tolerance=tolerance,
        rows=rows,
        values=values,
    )


def identifier(name: str) -> str:
    """Return a model's name as it can stand in source code."""
    found = _NOT_A_LETTER.sub("_", name.lower()).strip("_")
    return found if found[:1].isalpha() else f"model_{found}"


def apart(found: Matrix, wanted: Matrix) -> Matrix:
    """Return how far answers are apart, in units of the wanted one where that is more than 1."""
    return np.where(found == wanted, 0.0, np.abs(found - wanted) / np.maximum(1.0, np.abs(wanted)))


def test_vector(code: Vector | Code) -> bytes:
    """Return example rows and the packaged model's answers as JSON; null is a missing value."""
    rows = [[None if math.isnan(value) else value for value in row] for row in code.rows.tolist()]
    found = {"inputs": code.inputs, "outputs": code.outputs, "tolerance": code.tolerance, "rows": rows,
             "answers": code.values.tolist()}  # fmt: skip
    return msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n"


def wrapped(words: Iterable[str], indent: str = "    ", width: int = 118) -> str:
    """Return words as lines of a list, with a comma behind each."""
    lines, line = [], indent
    for word in words:
        if len(line) + len(word) + 2 > width and line.strip():
            lines.append(line.rstrip())
            line = indent
        line += f"{word}, "
    return "\n".join([*lines, line.rstrip()])


class Tables(NamedTuple):
    """A forest's trees one behind the other, so that a source has one array of each kind.

    Args:
        nodes: Per split: feature, flags, threshold, next node on the left and on the right (or ``~leaf``), where its words of
            categories begin and how many there are.
        leaves: What the leaves add.
        words: The sets of categories.
        roots: Where each tree begins.
        targets: The output of each tree.
    """

    nodes: list[tuple[int, int, float, int, int, int, int]]
    leaves: list[float]
    words: list[int]
    roots: list[int]
    targets: list[int]


def tables_of(forest: Forest) -> Tables:
    """Return a forest as flat tables."""
    found = Tables([], [], [], [], [])
    for tree in forest.trees:
        first, leaf = len(found.nodes), len(found.leaves)

        def moved(child: int, first: int = first, leaf: int = leaf) -> int:
            return child + first if child >= 0 else child - leaf

        found.roots.append(first if tree.nodes else ~leaf)
        found.targets.append(tree.output)
        found.leaves.extend(tree.leaves)
        for node in tree.nodes:
            start = len(found.words)
            found.words.extend(node.words)
            found.nodes.append(
                (node.feature, node.flags, node.threshold, moved(node.left), moved(node.right), start, len(node.words))
            )
    return found


def _read(flavor: Flavor, data: bytes, rounds: int) -> Source:
    match flavor:
        case "lightgbm-text":
            return lightgbm_text.read(data)
        case "xgboost-ubjson":
            return xgboost_json.read(data, rounds)
        case _:
            return _linear(data)


def _linear(data: bytes) -> Linear:
    try:
        form = msgspec.json.decode(data, type=Linear)
    except msgspec.MsgspecError as error:
        raise Damaged("the bytes are not a linear model", where="model.json") from error
    require_finite([value for row in form.weights for value in row], "a weight")
    return form


_READABLE: frozenset[Flavor] = frozenset({"lightgbm-text", "xgboost-ubjson", "linear"})
_TOLERANCES = {"lightgbm": 1e-14, "xgboost": 1e-6, "linear": 1e-12}
"""Sums of trees are equal to the bit. What comes behind them (exp, log) is the platform's own; a linear model's sum depends on the
order in which a library adds."""
