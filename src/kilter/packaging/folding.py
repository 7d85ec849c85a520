"""From a scikit-learn pipeline of linear steps to one linear model.

Every step of such a pipeline is an affine map of its columns, or a table per category. Their composition is again one, so
that a row costs one dot product in place of a walk through the pipeline. What can't be composed is not folded: None.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from kilter.packaging.linear import Linear, Link, Matrix, means

_Categories = dict[int, tuple[str, ...]]


class _NotLinear(Exception):
    """A step is of a kind that can't be composed."""


class _Affine(NamedTuple):
    """Features as a function of the columns: ``weights x + offset + sum of tables[position][code]``.

    Args:
        weights: (features, columns).
        offset: (features,).
        tables: Per categorical column (codes + 1, features).
        fill: Per column what stands for a missing number, NaN where nothing does.
        texts: Per column what stands for a missing category.
        raw: Per feature the column that it is, unchanged, or -1.
    """

    weights: Matrix
    offset: Matrix
    tables: dict[int, Matrix]
    fill: Matrix
    texts: dict[int, str]
    raw: tuple[int, ...]

    def take(self, features: Any) -> _Affine:
        """Return some of the features."""
        return self._replace(
            weights=self.weights[features],
            offset=self.offset[features],
            tables={position: table[:, features] for position, table in self.tables.items()},
            raw=tuple(np.array(self.raw, dtype=int)[features].tolist()),
        )

    def then(self, matrix: Matrix, offset: Matrix) -> _Affine:
        """Return ``matrix @ features + offset``."""
        return self._replace(
            weights=matrix @ self.weights,
            offset=matrix @ self.offset + offset,
            tables={position: table @ matrix.T for position, table in self.tables.items()},
            raw=(-1,) * len(matrix),
        )


def fold(estimator: Any, categories: dict[int, tuple[str, ...]], example: Matrix) -> Linear | None:
    """Return a fitted estimator as one linear model, or None when it is none.

    Args:
        estimator: A linear model of scikit-learn, or a pipeline that ends in one.
        categories: Per categorical column (by its position) its values, in the order of their codes.
        example: Rows (n, d) that contributions are told against.
    """
    width = example.shape[1]
    state = _Affine(np.eye(width), np.zeros(width), {}, np.full(width, np.nan), {}, tuple(range(width)))
    try:
        steps = [step for _, step in estimator.steps] if hasattr(estimator, "steps") else [estimator]
        for step in steps[:-1]:
            state = _step(step, state, categories)
        weights, intercept, link = _model(steps[-1])
        if weights.shape[1] != len(state.offset) or any(position in state.raw for position in categories):
            return None
        state = state.then(weights, intercept)
    except (_NotLinear, AttributeError, TypeError, ValueError, IndexError):
        return None
    unused = ~state.weights.any(axis=0)  # what is missing there changes nothing
    fill = [None if np.isnan(value) else float(value) for value in np.where(unused, 0.0, state.fill)]
    form = Linear(
        weights=_rows(state.weights),
        intercept=tuple(state.offset.tolist()),
        link=link,
        fill=tuple(fill) if any(value is not None for value in fill) else (),
        tables={str(position): _rows(table) for position, table in state.tables.items()},
    )
    return means(form, example)


def _step(step: Any, state: _Affine, categories: _Categories) -> _Affine:
    """Return the features behind one more step."""
    if step is None or (isinstance(step, str) and step == "passthrough"):
        return state
    kind = type(step).__name__
    if not type(step).__module__.startswith("sklearn."):
        raise _NotLinear(kind)
    composed = _STEPS.get(kind)
    if composed is not None:
        return composed(step, state, categories)
    scaled = _scaled(step, kind, len(state.offset))
    if scaled is not None:
        return state.then(np.diag(scaled[0]), scaled[1])
    if hasattr(step, "get_support") and hasattr(step, "inverse_transform"):  # a selection of features
        return state.take(np.flatnonzero(step.get_support()))
    raise _NotLinear(kind)


def _scaled(step: Any, kind: str, features: int) -> tuple[Matrix, Matrix] | None:
    """Return what a scaler multiplies each feature with, and what it adds then; None when it is no such scaler."""
    ones, zeros = np.ones(features), np.zeros(features)
    match kind:
        case "FunctionTransformer" if step.func is None:
            return ones, zeros
        case "StandardScaler":
            scale = 1.0 / step.scale_ if step.with_std else ones
            return scale, -(step.mean_ if step.with_mean else zeros) * scale
        case "MinMaxScaler" if not step.clip:
            return step.scale_, step.min_
        case "MaxAbsScaler" if not getattr(step, "clip", False):
            return 1.0 / step.scale_, zeros
        case "RobustScaler":
            scale = 1.0 / step.scale_ if step.with_scaling else ones
            return scale, -(step.center_ if step.with_centering else zeros) * scale
    return None


def _pipeline(step: Any, state: _Affine, categories: _Categories) -> _Affine:
    for _, inner in step.steps:
        state = _step(inner, state, categories)
    return state


def _projected(step: Any, state: _Affine, _: _Categories) -> _Affine:
    across = step.components_ / (np.sqrt(step.explained_variance_)[:, None] if getattr(step, "whiten", False) else 1.0)
    mean = getattr(step, "mean_", None)
    return state.then(across, np.zeros(len(across)) if mean is None else -across @ mean)


def _imputed(step: Any, state: _Affine, categories: _Categories) -> _Affine:
    if step.add_indicator or len(step.statistics_) != len(state.raw) or min(state.raw, default=-1) < 0:
        raise _NotLinear("SimpleImputer")
    fill, texts = state.fill.copy(), dict(state.texts)
    for position, value in zip(state.raw, step.statistics_, strict=True):
        if position in categories:
            texts[position] = str(value)
        elif isinstance(value, str) or np.isnan(value):
            raise _NotLinear("SimpleImputer")
        else:
            fill[position] = float(value)
    return state._replace(fill=fill, texts=texts)


def _one_hot(step: Any, state: _Affine, categories: _Categories) -> _Affine:
    if step.drop_idx_ is not None or getattr(step, "infrequent_categories_", None) not in (None, []):
        raise _NotLinear("OneHotEncoder")
    width = sum(len(values) for values in step.categories_)
    tables: dict[int, Matrix] = {}
    start = 0
    for position, values in zip(state.raw, step.categories_, strict=True):
        if position not in categories:
            raise _NotLinear("OneHotEncoder")
        place = {("" if value is None or value != value else str(value)): start + i for i, value in enumerate(values)}  # noqa: PLR0124 - NaN
        table = np.zeros((len(categories[position]) + 1, width))
        for code, value in enumerate((*categories[position], state.texts.get(position, ""))):
            if value in place:
                table[code, place[value]] = 1.0
        tables[position] = table
        start += len(values)
    columns = state.weights.shape[1]
    return state._replace(weights=np.zeros((width, columns)), offset=np.zeros(width), tables=tables, raw=(-1,) * width)


def _columns(step: Any, state: _Affine, categories: _Categories) -> _Affine:
    parts = []
    for name, transformer, _ in step.transformers_:
        chosen = list(step._transformer_to_input_indices[name])  # noqa: SLF001 - the only place that resolves them all
        if not chosen or (isinstance(transformer, str) and transformer == "drop"):
            continue
        parts.append(_step(transformer, state.take(chosen), categories))
    fill = parts[0].fill
    for part in parts[1:]:
        both = ~np.isnan(fill) & ~np.isnan(part.fill) & (fill != part.fill)
        if both.any():  # one column, filled in two ways
            raise _NotLinear("ColumnTransformer")
        fill = np.where(np.isnan(fill), part.fill, fill)
    width = sum(len(part.offset) for part in parts)
    tables: dict[int, Matrix] = {}
    start = 0
    for part in parts:
        for position, table in part.tables.items():
            whole = tables.setdefault(position, np.zeros((len(table), width)))
            whole[:, start : start + table.shape[1]] += table
        start += len(part.offset)
    return _Affine(
        np.concatenate([part.weights for part in parts]),
        np.concatenate([part.offset for part in parts]),
        tables,
        fill,
        {position: text for part in parts for position, text in part.texts.items()},
        tuple(position for part in parts for position in part.raw),
    )


def _model(model: Any) -> tuple[Matrix, Matrix, Link]:
    """Return a linear model's weights (outputs, features), its intercepts (outputs,) and its link."""
    kind = type(model).__name__
    home = type(model).__module__
    if not home.startswith(("sklearn.linear_model", "sklearn.discriminant_analysis", "sklearn.svm")):
        raise _NotLinear(kind)
    weights = np.atleast_2d(np.asarray(model.coef_, dtype=np.float64))
    intercept = np.broadcast_to(np.asarray(model.intercept_, dtype=np.float64), (len(weights),)).astype(np.float64)
    return weights, intercept, _link(model, kind, len(weights))


def _link(model: Any, kind: str, outputs: int) -> Link:
    if hasattr(model, "classes_"):
        if outputs != (1 if len(model.classes_) == 2 else len(model.classes_)):
            raise _NotLinear(kind)
        if kind in {"LogisticRegression", "LogisticRegressionCV"}:
            several: Link = "one-vs-rest" if model.solver == "liblinear" else "softmax"
            return "logit" if outputs == 1 else several
        if kind == "SGDClassifier" and model.loss == "log_loss":
            return "logit" if outputs == 1 else "one-vs-rest"
        if kind == "LinearDiscriminantAnalysis":
            return "logit" if outputs == 1 else "softmax"
        raise _NotLinear(kind)
    loss = getattr(model, "_base_loss", None)
    if loss is not None and kind in {"PoissonRegressor", "GammaRegressor", "TweedieRegressor"}:
        link = type(loss.link).__name__
        if link not in {"LogLink", "IdentityLink"}:
            raise _NotLinear(kind)
        return "exp" if link == "LogLink" else "identity"
    if not hasattr(model, "predict") or kind in {"RANSACRegressor", "OneClassSVM", "SGDOneClassSVM", "SVR", "NuSVR"}:
        raise _NotLinear(kind)
    return "identity"


def _rows(matrix: Matrix) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in matrix.tolist())


_STEPS: dict[str, Callable[[Any, _Affine, _Categories], _Affine]] = {
    "ColumnTransformer": _columns,
    "OneHotEncoder": _one_hot,
    "PCA": _projected,
    "Pipeline": _pipeline,
    "SimpleImputer": _imputed,
    "TruncatedSVD": _projected,
}
