"""Profiles: what the training rows and the holdout looked like, as counts on fixed bins.

A reference fixes the bins once. Every later day is a vector of counts on them, so days add up exactly: the profile of fourteen
days is the sum of fourteen daily vectors, in any order and however they are grouped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from kilter.core.errors import InsufficientData, InvalidInput
from kilter.evaluation.declare import Metric

Counts: TypeAlias = NDArray[np.int64]
"""Counts per bin, shape (bins,), or per block and bin, shape (blocks, bins)."""

PREDICTION = "prediction"
OTHER = "(other)"
MISSING = "(missing)"


class NumericBins(msgspec.Struct, frozen=True, tag="numeric"):
    """The bins of a numeric column with the reference's counts.

    Args:
        name: The column.
        edges: Rising inner edges, E of them; bin ``k`` holds ``edges[k-1] < x <= edges[k]``, the outer bins are open.
        counts: The reference's rows per bin: E + 1 bins, then the missing ones.
        noise: The PSI that the reference's own sampling is expected to add (see ``sampling_noise``).
    """

    name: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    noise: float = 0.0

    def codes(self, column: pl.Series) -> NDArray[np.int64]:
        """Return each value's bin."""
        values = as_floats(column)
        found = np.searchsorted(np.asarray(self.edges), values, side="left")
        return np.where(np.isnan(values), len(self.edges) + 1, found).astype(np.int64)

    def labels(self) -> tuple[str, ...]:
        """Return a name for each bin, for people."""
        if not self.edges:
            return ("all", MISSING)
        inner = [f"({low:.6g}, {high:.6g}]" for low, high in zip(self.edges, self.edges[1:], strict=False)]
        return (f"<= {self.edges[0]:.6g}", *inner, f"> {self.edges[-1]:.6g}", MISSING)


class CategoricalBins(msgspec.Struct, frozen=True, tag="categorical"):
    """The bins of a categorical column with the reference's counts.

    Args:
        name: The column.
        values: The most frequent values of the reference, most frequent first.
        counts: The reference's rows per value, then of all other values, then the missing ones.
        noise: The PSI that the reference's own sampling is expected to add (see ``sampling_noise``).
    """

    name: str
    values: tuple[str, ...]
    counts: tuple[int, ...]
    noise: float = 0.0

    def codes(self, column: pl.Series) -> NDArray[np.int64]:
        """Return each value's bin; a value that the reference did not keep is ``other``."""
        words = as_words(column)
        other = len(self.values)
        found = np.full(len(words), other, dtype=np.int64)
        if other:
            coded = words.cast(pl.Enum(self.values), strict=False).to_physical().to_numpy().astype(np.float64)
            known = ~np.isnan(coded)
            found[known] = coded[known].astype(np.int64)
        if words.null_count():
            found[words.is_null().to_numpy()] = other + 1
        return found

    def labels(self) -> tuple[str, ...]:
        """Return a name for each bin, for people."""
        return (*self.values, OTHER, MISSING)


Bins = NumericBins | CategoricalBins


class HoldoutMetric(msgspec.Struct, frozen=True):
    """A metric of the model on its holdout.

    Args:
        value: The metric.
        low: One-sided 95 % bound from resampling whole days; None when the holdout has one day.
        high: The bound on the other side.
        rows: Rows of the holdout.
        days: Days of the holdout.
    """

    value: float
    low: float | None
    high: float | None
    rows: int
    days: int


class ReferenceProfile(msgspec.Struct, frozen=True, kw_only=True):
    """What a model version was trained and judged on; kept with the version, and never changed.

    Args:
        inputs: One set of bins per input, counted on the training rows.
        prediction: The bins of the model's own predictions, counted on the holdout.
        rows: Training rows.
        days: Days of the training rows.
        base_rate: Mean label of the training rows.
        holdout: The holdout's metrics by ``metric_key``.
        mean_prediction: Mean prediction on the holdout.
        mean_label: Mean label on the holdout.
    """

    inputs: tuple[Bins, ...]
    prediction: Bins | None = None
    rows: int
    days: int
    base_rate: float
    holdout: dict[str, HoldoutMetric] = {}
    mean_prediction: float | None = None
    mean_label: float | None = None

    def bins(self, name: str) -> Bins:
        """Return the bins of an input, or of ``prediction``."""
        if name == PREDICTION and self.prediction is not None:
            return self.prediction
        for found in self.inputs:
            if found.name == name:
                return found
        known = ", ".join(found.name for found in self.inputs)
        raise InvalidInput(f"the profile has no input {name!r}", where="feature", allowed=known)


def metric_key(metric: Metric) -> str:
    """Return the name under which a metric's holdout value is kept: ``log_loss``, or ``recall@0.3`` at another threshold than 0.5."""
    return metric.name if metric.threshold == 0.5 else f"{metric.name}@{metric.threshold:g}"


def as_floats(column: pl.Series) -> NDArray[np.float64]:
    """Return a column as floats, NaN where it has no number."""
    numbers = column if column.dtype == pl.Float64 else column.cast(pl.Float64, strict=False)
    return numbers.to_numpy().astype(np.float64, copy=False)


def as_words(column: pl.Series) -> pl.Series:
    """Return a column as text; whole floats lose their fraction, so that JSON's ``3`` and ``3.0`` are one category."""
    if column.dtype.is_float():
        column = column.fill_nan(None)
        known = column.drop_nulls()
        if bool(known.is_finite().all()) and bool(((known % 1) == 0).all()):
            column = column.cast(pl.Int64)
    return column if column.dtype == pl.String else column.cast(pl.String)


def numeric_edges(values: NDArray[np.float64], bins: int) -> tuple[float, ...]:
    """Return the inner edges of at most ``bins`` bins of equal counts.

    A column with few distinct values gets one bin per value, with edges half-way between neighbours.

    Args:
        values: The reference's values, any order; NaN is ignored.
        bins: The most bins.
    """
    known = values[np.isfinite(values)]
    if known.size == 0:
        return ()
    distinct = np.unique(known)
    if distinct.size <= bins:
        middle = (distinct[1:] + distinct[:-1]) / 2
        return tuple(middle.tolist())
    cuts = np.unique(np.quantile(known, np.arange(1, bins) / bins))
    # An edge at the greatest value would leave the last bin empty in the reference for good.
    return tuple(cuts[cuts < distinct[-1]].tolist())


def numeric_bins(name: str, column: pl.Series, blocks: NDArray[np.int64], *, bins: int = 10) -> NumericBins:
    """Return the reference bins of a numeric column.

    Args:
        name: The column's name.
        column: The reference's values.
        blocks: The day of each value, as an integer.
        bins: How many bins of equal counts; 4096 gives a grid on which KS is exact to 1/4096.
    """
    values = as_floats(column)
    empty = NumericBins(name, numeric_edges(values, bins), ())
    counted = count_blocks(empty.codes(column), blocks, len(empty.edges) + 2)
    return NumericBins(name, empty.edges, tuple(counted.sum(axis=0).tolist()), sampling_noise(counted))


def categorical_bins(name: str, column: pl.Series, blocks: NDArray[np.int64], *, top: int = 30) -> CategoricalBins:
    """Return the reference bins of a categorical column.

    Args:
        name: The column's name.
        column: The reference's values.
        blocks: The day of each value, as an integer.
        top: How many of the most frequent values get a bin of their own; ties go by the alphabet.
    """
    words = as_words(column).drop_nulls()
    ranked = words.to_frame("value").group_by("value").len().sort(["len", "value"], descending=[True, False]).head(top)
    empty = CategoricalBins(name, tuple(ranked["value"].to_list()), ())
    counted = count_blocks(empty.codes(column), blocks, len(empty.values) + 2)
    return CategoricalBins(name, empty.values, tuple(counted.sum(axis=0).tolist()), sampling_noise(counted))


def count_blocks(codes: NDArray[np.int64], blocks: NDArray[np.int64], bins: int) -> Counts:
    """Return the counts per block and bin, shape (blocks, bins), blocks in rising order; one pass over the rows."""
    names, index = np.unique(blocks, return_inverse=True)
    return _tally(codes, index, names.size, bins)


def _tally(codes: NDArray[np.int64], index: NDArray[np.intp], blocks: int, bins: int) -> Counts:
    return np.bincount(index * bins + codes, minlength=blocks * bins).reshape(blocks, bins).astype(np.int64, copy=False)


class Noise(NamedTuple):
    """What sampling whole blocks does to PSI by itself, when the truth has not moved.

    Args:
        mean: The expected PSI.
        freedom: Degrees of freedom of its law: PSI is about ``mean / freedom`` times a chi-square variable.
    """

    mean: float
    freedom: float


def noise_of(counted: Counts) -> Noise:
    """Return the noise of sampling whole blocks.

    For independent rows the mean is (bins - 1) / n with bins - 1 degrees of freedom. Rows of one day are alike (a storm delays
    everyone), so the covariance of the shares is taken over whole days, as of a ratio estimator under cluster sampling: the mean is the sum of
    its eigenvalues relative to the shares (the first-order correction of Rao and Scott 1981, JASA 76), and the degrees of freedom
    are (sum)^2 / (sum of squares), as bins of an ordered column move together (their second-order correction, after Satterthwaite). The mean is
    never less than for independent rows.

    Args:
        counted: Counts per block and bin, shape (blocks, bins).
    """
    totals = counted.sum(axis=0)
    rows = int(totals.sum())
    used = totals > 0
    bins = int(used.sum())
    if rows == 0 or bins < 2:
        return Noise(0.0, 1.0)
    floor = (bins - 1) / rows
    days = counted.shape[0]
    if days < 3:
        return Noise(floor, bins - 1.0)
    share = totals[used] / rows
    spread = counted[:, used] - counted.sum(axis=1, keepdims=True) * share
    scaled = spread / (rows * np.sqrt(share)) * math.sqrt(days / (days - 1))
    products = scaled @ scaled.T
    total = float(np.trace(products))
    if total <= floor:
        return Noise(floor, bins - 1.0)
    return Noise(total, min(bins - 1.0, max(1.0, total**2 / float((products**2).sum()))))


def sampling_noise(counted: Counts) -> float:
    """Return the PSI that sampling whole blocks is expected to give by itself."""
    return noise_of(counted).mean


def profile_inputs(
    inputs: pl.DataFrame,
    days: NDArray[np.int64],
    *,
    categorical: Sequence[str] | None = None,
    bins: int = 10,
    top: int = 30,
) -> tuple[Bins, ...]:
    """Return the reference bins of every input.

    Args:
        inputs: The training rows' raw inputs, one column each.
        days: The day of each row, as an integer.
        categorical: Columns that are categories; None takes every column that is not numeric or boolean.
        bins: Bins of a numeric column.
        top: Values of a categorical column that get a bin of their own.

    Raises:
        InsufficientData: When there are no rows.
    """
    if inputs.height == 0:
        raise InsufficientData(
            "there are no rows to make a profile of", where="training rows", allowed="one row or more"
        )
    found: list[Bins] = []
    for name in inputs.columns:
        column = inputs[name]
        words = (
            not (column.dtype.is_numeric() or column.dtype == pl.Boolean)
            if categorical is None
            else name in categorical
        )
        found.append(
            categorical_bins(name, column, days, top=top) if words else numeric_bins(name, column, days, bins=bins)
        )
    return tuple(found)


def days_of(times: pl.Series) -> NDArray[np.int64]:
    """Return the UTC day of each time as days since 1970."""
    return times.to_numpy().astype("datetime64[D]").astype(np.int64)


def count(
    bins: Mapping[str, Bins], frame: pl.DataFrame, blocks: NDArray[np.int64], *, prefix: str = ""
) -> dict[str, Counts]:
    """Return, for each profiled column that ``frame`` has, its counts per block and bin.

    Args:
        bins: The reference's bins by name.
        frame: Rows with the columns ``prefix + name``.
        blocks: The block (a day) of each row, as an integer; the result has one row per block that occurs, in rising order.
        prefix: What precedes the names in ``frame``; the prediction log writes ``x_``, and in a column ``recorded`` which rows
            have their inputs on record: the others say nothing about them, and don't count.
    """
    names, index = np.unique(blocks, return_inverse=True)
    if prefix and "recorded" in frame.columns:
        recorded = frame["recorded"].fill_null(value=True)
        frame, index = frame.filter(recorded), index[recorded.to_numpy()]
    return {
        name: _tally(known.codes(frame[prefix + name]), index, names.size, len(known.counts))
        for name, known in bins.items()
        if prefix + name in frame.columns
    }
