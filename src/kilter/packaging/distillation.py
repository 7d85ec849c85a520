"""Distillation: a smaller model learns the answers of a larger one.

Source: Bucila, Caruana, Niculescu-Mizil 2006, "Model Compression", whose MUNGE makes the unlabelled rows that the teacher is asked about;
Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network", for learning probabilities in place of classes.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal, NamedTuple

import numpy as np

from kilter.core.errors import InvalidInput, Unavailable
from kilter.packaging.bundle import Parts, Runtime, build, folding_inputs
from kilter.packaging.compression import Limits, Score, halves, require, score
from kilter.packaging.examples import Example
from kilter.packaging.formats import Matrix

Student = Literal["trees", "net"]

_SWAP = 0.5
_EPOCHS = 60


class Distilled(NamedTuple):
    """A smaller model.

    Args:
        parts: Its bundle: it takes and gives what the larger one does.
        score: What it costs, on rows that it did not learn from.
    """

    parts: Parts
    score: Score


def distil(
    parts: Parts,
    rows: Matrix | None = None,
    *,
    student: Student = "trees",
    trees: int = 20,
    leaves: int = 15,
    hidden: tuple[int, ...] = (16,),
    made_up: int = 4_000,
    limits: Limits | None = None,
    seed: int = 0,
) -> Distilled:
    """Teach a small model what a large one answers.

    Args:
        parts: The teacher's bundle.
        rows: Rows as it takes them, (n, d) float64, from production or training; they need no labels. The bundle's own rows are
            always used: half of them to teach, the others to judge.
        student: ``trees`` (LightGBM) or ``net`` (a scikit-learn perceptron behind a scaler; it takes no categories or missing values).
        trees: How many trees at most, per output.
        leaves: Leaves of a tree at most.
        hidden: The sizes of a net's layers.
        made_up: How many rows are made up between the given ones.
        limits: What the student may cost; a loss of 0.05 on average and 5 % of changed decisions unless said.
        seed: Of the random numbers.

    Raises:
        InvalidInput: When the student can't learn from such rows.
        GateRefused: When the student misses a limit.
        Unavailable: When its framework is not installed.
    """
    categories, example = folding_inputs(parts)
    given, judging = halves(example)
    if rows is not None and rows.size and rows.shape[1:] != example.shape[1:]:
        raise InvalidInput(f"rows of {rows.shape[1:]} columns", where="rows", allowed=f"{example.shape[1]} columns")
    known = given if rows is None or not rows.size else np.concatenate([given, rows])
    teacher = Runtime(parts.manifest, _loaded(parts))
    asked = np.concatenate([known, munged(known, made_up, set(categories), seed)])
    answers = teacher.predict(asked).reshape(len(asked), -1)
    label = parts.manifest.signature.label
    if student == "trees":
        model = _trees(asked, answers, label, sorted(categories), trees, leaves, seed)
    else:
        model = _net(asked, answers, label, hidden, seed, plain=not categories)
    signature = parts.manifest.signature
    made = build(model, signature, Example(signature.encoding, example, example, ""), parts.manifest.reference)
    found = Runtime.of(made).predict(judging)
    allowed = limits or Limits(loss=math.inf, mean=0.05, flips=0.05)
    judged = score(
        f"distilled {student}", made.model, found, teacher.predict(judging), len(parts.model), label, allowed
    )
    require(judged)
    return Distilled(made, judged)


def munged(rows: Matrix, count: int, categorical: set[int], seed: int = 0) -> Matrix:
    """Return rows made up between given ones (MUNGE): each is a given row that took some columns from its nearest neighbour.

    Args:
        rows: The given rows, (n, d), n >= 1; NaN where a value is missing.
        count: How many to make.
        categorical: Columns whose values are codes: they are taken over, never mixed.
        seed: Of the random numbers.

    Returns:
        (count, d); numbers are drawn around the neighbour's, with the distance of the two as deviation.
    """
    random = np.random.default_rng(seed)
    if not count:
        return rows[:0]
    scale = np.nanstd(np.where(np.isfinite(rows), rows, np.nan), axis=0) if len(rows) > 1 else np.ones(rows.shape[1])
    scale = np.where(np.isfinite(scale) & (scale > 0), scale, 1.0)
    held = np.nan_to_num(rows / scale)
    chosen = random.integers(0, len(rows), count)
    neighbour = np.array([_nearest(held, place) for place in range(len(rows))])[chosen]
    mine, other = rows[chosen], rows[neighbour]
    drawn = np.array(other, copy=True)
    numeric = [place for place in range(rows.shape[1]) if place not in categorical]
    noise = random.normal(size=(count, len(numeric))) * np.abs(mine[:, numeric] - other[:, numeric])
    drawn[:, numeric] = other[:, numeric] + np.nan_to_num(noise)
    whole = [
        place
        for place in numeric
        if np.array_equal(np.nan_to_num(rows[:, place]), np.round(np.nan_to_num(rows[:, place])))
    ]
    drawn[:, whole] = np.round(drawn[:, whole])  # what is counted stays counted
    return np.where(random.random((count, rows.shape[1])) < _SWAP, drawn, mine)


def _nearest(held: Matrix, place: int) -> int:
    apart = np.square(held - held[place]).sum(axis=1)
    apart[place] = np.inf
    return int(apart.argmin()) if len(held) > 1 else place


def _loaded(parts: Parts) -> Any:
    from kilter.packaging.loading import load_model  # noqa: PLC0415 - with the framework behind it

    return load_model(parts.manifest.spec(), parts.model)


def _trees(
    rows: Matrix, answers: Matrix, label: str, categorical: list[int], trees: int, leaves: int, seed: int
) -> Any:
    try:
        import lightgbm  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise Unavailable(
            "lightgbm is not installed", where="distillation", fix="pip install kilter[lightgbm]"
        ) from error
    settings: dict[str, object] = {"verbosity": -1, "num_threads": 1, "seed": seed, "deterministic": True, "force_row_wise": True,
                                   "num_leaves": leaves, "learning_rate": 0.3}  # fmt: skip
    weights = None
    match label:
        case "binary":
            target = np.clip(answers[:, 0], 0.0, 1.0)
            settings["objective"] = "cross_entropy"  # takes probabilities
        case "multiclass":
            rows, target, weights = _by_class(rows, answers)
            settings |= {"objective": "multiclass", "num_class": answers.shape[1]}
        case "regression":
            target = answers[:, 0]
            settings["objective"] = "regression"
        case _:
            raise InvalidInput("the model answers with several values", where="distillation", fix='use student="net"')
    data = lightgbm.Dataset(rows, target, weight=weights, categorical_feature=categorical, free_raw_data=False)
    return lightgbm.train(settings, data, trees)


def _net(rows: Matrix, answers: Matrix, label: str, hidden: tuple[int, ...], seed: int, *, plain: bool) -> Any:
    try:
        from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415 - an extra
        from sklearn.neural_network import MLPClassifier, MLPRegressor  # noqa: PLC0415
        from sklearn.pipeline import make_pipeline  # noqa: PLC0415
        from sklearn.preprocessing import StandardScaler  # noqa: PLC0415
    except ImportError as error:
        raise Unavailable(
            "scikit-learn is not installed", where="distillation", fix="pip install kilter[sklearn]"
        ) from error
    if not plain or not np.isfinite(rows).all():
        raise InvalidInput("a net takes neither categories nor missing values", where="distillation",
                           allowed="rows of numbers", fix='use student="trees"')  # fmt: skip
    settings: dict[str, Any] = {"hidden_layer_sizes": hidden, "random_state": seed, "max_iter": _EPOCHS, "tol": 1e-4}
    scaler = StandardScaler()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the gate says whether it has learned enough
        if label in {"binary", "multiclass"}:
            probabilities = np.column_stack([1 - answers[:, 0], answers[:, 0]]) if answers.shape[1] == 1 else answers
            several, target, weights = _by_class(scaler.fit_transform(rows), probabilities)
            net = MLPClassifier(**settings).fit(several, target, sample_weight=weights)
        else:
            target = answers[:, 0] if answers.shape[1] == 1 else answers
            net = MLPRegressor(**settings).fit(scaler.fit_transform(rows), target)
    return make_pipeline(scaler, net)


def _by_class(rows: Matrix, probabilities: Matrix) -> tuple[Matrix, Any, Matrix]:
    """Return each row once per class, weighted with the class's probability: the log loss is then that of the probabilities."""
    count, classes = probabilities.shape
    weights = probabilities.T.ravel()
    kept = weights > 1e-6
    kept |= np.arange(len(weights)) % count == 0  # every class is there, whatever the teacher thinks of it
    return (
        np.tile(rows, (classes, 1))[kept],
        np.repeat(np.arange(classes), count)[kept],
        np.maximum(weights, 1e-6)[kept],
    )
