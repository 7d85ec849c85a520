"""From whatever a notebook holds (an array, a pandas or Polars frame, a list of rows) to the columns of a model.

The rows that a model is packaged with say how its inputs are called, which of them are categories, and in which order
their values are coded. Neither pandas nor PyTorch is imported here: who hands in their objects has imported them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from kilter.core.errors import InvalidInput
from kilter.data.encoding import Encoding, Kind
from kilter.packaging.native import Frame

Matrix = np.ndarray[Any, np.dtype[np.float64]]

_ALLOWED = "a NumPy array of rows x columns, a pandas or Polars frame, or a list of rows"
_DEFAULT_NAME = re.compile(r"^(f|x|Column_|column_)\d+$")


class Example(NamedTuple):
    """Rows that a model can be asked about.

    Args:
        encoding: How the columns are called and coded.
        matrix: The rows, (n, d) float64; NaN where a value is missing.
        given: The rows as the model's own ``predict`` takes them.
        frame: Of which library ``given`` is a frame; empty when it is an array.
        shape: The shape of one row when ``given`` is an array of more than two dimensions.
    """

    encoding: Encoding
    matrix: Matrix
    given: Any
    frame: Frame
    shape: tuple[int, ...] = ()


def read_example(example: Any, model: Any = None) -> Example:
    """Read the rows that a model is packaged with.

    A few rows rarely show every category, so those that the model itself knows are added to those of the rows.

    Args:
        example: An array (n, d), or (n, ...) for a model that takes one tensor; a pandas or Polars frame; a mapping of
            columns; or a list of rows, which are mappings.
        model: The model; its own names of inputs are an array's, and its categories a frame's.

    Raises:
        InvalidInput: When it is none of these, is empty, or has a column that is neither numbers nor text.
    """
    root = type(example).__module__.partition(".")[0]
    known = _known_categories(model)
    if root == "pandas":
        return _pandas(example, known)
    if isinstance(example, pl.DataFrame):
        return _polars(example, known)
    if isinstance(example, Mapping) or (
        isinstance(example, Sequence) and example and all(isinstance(row, Mapping) for row in example)
    ):
        try:
            frame = pl.DataFrame(example)
        except (pl.exceptions.PolarsError, TypeError, ValueError) as error:
            raise InvalidInput("the rows don't fit together", where="example", allowed=_ALLOWED) from error
        read = _polars(frame, known)
        return read._replace(given=read.matrix, frame="")
    if root == "torch":
        example = example.detach().cpu().numpy()
    return _array(example, model)


def made_up(model: Any) -> Any:
    """Return the rows that a model file brings along, else one row of zeros as wide as the model's input.

    Raises:
        InvalidInput: When the model doesn't say how wide that is.
    """
    came = getattr(model, "example", None)
    if came is not None:
        return came
    for name in ("n_features_in_", "num_features", "num_feature"):
        found = getattr(model, name, None)
        width = found() if callable(found) else found
        if isinstance(width, int | np.integer) and width > 0:
            return np.zeros((1, int(width)))
    raise InvalidInput(f"a {type(model).__name__} doesn't say how many inputs it has", where="example",
                       fix="hand in some rows as example")  # fmt: skip


def read_table(path: str | Path, model: Any = None) -> Any:
    """Return the rows of a file as an example.

    Args:
        path: A ``.csv``, ``.parquet``, ``.json``, ``.ndjson`` or ``.npy`` file.
        model: When it names its inputs and the file has them all, the file's other columns are left out.

    Raises:
        InvalidInput: When the file can't be read.
    """
    file = Path(path)
    ending = file.suffix.lower()
    try:
        if ending == ".npy":
            return np.load(file, allow_pickle=False)
        readers: dict[str, Callable[[Path], pl.DataFrame]] = {
            ".csv": pl.read_csv,
            ".parquet": pl.read_parquet,
            ".json": pl.read_json,
            ".ndjson": pl.read_ndjson,
        }
        frame = readers[ending](file)
    except KeyError as error:
        raise InvalidInput(f"{ending!r} is no table's", where=str(file),
                           allowed=".csv, .parquet, .json, .ndjson, .npy") from error  # fmt: skip
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise InvalidInput(f"the file can't be read: {str(error)[:200]}", where=str(file)) from error
    wanted = _own_names(model)
    return frame.select(wanted) if wanted and set(wanted) <= set(frame.columns) else frame


def column_names(model: Any, count: int) -> tuple[str, ...]:
    """Return a fitted model's own names of its inputs, or ``x0, x1, ...`` when it has none.

    Args:
        model: An estimator or a booster.
        count: How many inputs there are.
    """
    names = _own_names(model)
    return names if len(names) == count else tuple(f"x{position}" for position in range(count))


def _own_names(model: Any) -> tuple[str, ...]:
    found: Any = getattr(model, "feature_names_in_", None)
    if found is None:
        found = getattr(model, "feature_names", None)
    if found is None and callable(getattr(model, "feature_name", None)):
        found = model.feature_name()
    names = () if found is None or isinstance(found, str) or callable(found) else tuple(str(name) for name in found)
    return () if all(_DEFAULT_NAME.match(name) for name in names) else names


def _array(example: Any, model: Any) -> Example:
    if type(example).__module__.startswith("scipy.sparse"):
        raise InvalidInput("a sparse matrix was given", where="example", allowed=_ALLOWED, fix="call .toarray()")
    try:
        array = np.asarray(example)
        matrix = np.ascontiguousarray(array, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            f"a {type(example).__name__} that holds other things than numbers was given",
            where="example",
            allowed=_ALLOWED,
            fix="hand in a frame: its text columns are read as categories",
        ) from error
    if matrix.ndim < 2 or matrix.size == 0:
        raise InvalidInput(f"an array of shape {matrix.shape} was given", where="example", allowed=_ALLOWED,
                           fix="for one row, write [row]")  # fmt: skip
    shape = matrix.shape[1:] if matrix.ndim > 2 else ()
    flat = matrix.reshape(len(matrix), -1)
    width = flat.shape[1]
    called = column_names(model, width)
    kinds: list[Kind] = ["numeric"] * width
    return Example(Encoding(called, tuple(kinds), {}), flat, array, "", tuple(shape))


def _polars(frame: pl.DataFrame, known: Mapping[str, tuple[str, ...]]) -> Example:
    _require(frame.height, frame.columns)
    encoding = Encoding.fit(frame, frame.columns)
    categories = {
        # whoever gave them an order coded them in it
        name: tuple(kind.categories.to_list())
        if isinstance(kind := frame.schema[name], pl.Enum)
        else tuple(sorted({*values, *known.get(name, ())}))
        for name, values in encoding.categories.items()
    }
    encoding = Encoding(encoding.names, encoding.kinds, categories)
    return Example(encoding, np.ascontiguousarray(encoding.matrix(frame)), frame, "polars")


def _pandas(frame: Any, known: Mapping[str, tuple[str, ...]]) -> Example:
    if type(frame).__name__ != "DataFrame":
        raise InvalidInput(f"a pandas {type(frame).__name__} was given", where="example", allowed=_ALLOWED,
                           fix="call .to_frame().T for one row")  # fmt: skip
    names = [str(name) for name in frame.columns]
    _require(len(frame), names)
    kinds: list[Kind] = []
    categories: dict[str, tuple[str, ...]] = {}
    matrix = np.empty((len(frame), len(names)), dtype=np.float64)
    for position, name in enumerate(names):
        column = frame.iloc[:, position]
        kind = str(column.dtype)
        if kind == "category":
            kinds.append("categorical")
            categories[name] = tuple(str(value) for value in column.cat.categories)
            codes = column.cat.codes.to_numpy().astype(np.float64)
            matrix[:, position] = np.where(codes < 0, np.nan, codes)
        elif kind in {"object", "str", "string"} or kind.startswith("string"):
            kinds.append("categorical")
            missing = column.isna().to_numpy()
            texts = [str(value) for value in column.to_numpy()]
            seen = {text for text, gone in zip(texts, missing, strict=True) if not gone}
            categories[name] = tuple(sorted({*seen, *known.get(name, ())}))
            place = {value: float(code) for code, value in enumerate(categories[name])}
            matrix[:, position] = [np.nan if gone else place[text] for text, gone in zip(texts, missing, strict=True)]
        else:
            kinds.append("numeric")
            matrix[:, position] = _numbers(column, name, kind)
    return Example(Encoding(tuple(names), tuple(kinds), categories), matrix, frame, "pandas")


def _numbers(column: Any, name: str, kind: str) -> Matrix:
    if kind.startswith(("datetime", "timedelta", "period")):
        raise InvalidInput(
            f"column {name!r} is of type {kind}, which a model can't read", where="example",
            allowed="numbers, booleans and text", fix=f"use a number made from {name!r}, such as the hour",
        )  # fmt: skip
    try:
        found: Matrix = column.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"column {name!r} is of type {kind}", where="example",
                           allowed="numbers, booleans and text") from error  # fmt: skip
    return found


def _require(rows: int, names: Sequence[str]) -> None:
    if rows == 0 or not names:
        raise InvalidInput("the example is empty", where="example", allowed="at least one row and one column")
    if len(set(names)) != len(names):
        raise InvalidInput("two columns have the same name", where="example", fix="name each column once")


def _known_categories(model: Any) -> dict[str, tuple[str, ...]]:
    """Return the categories that the encoders inside a scikit-learn estimator have learned, by column."""
    found: dict[str, tuple[str, ...]] = {}
    todo: list[tuple[Any, Any]] = [(model, getattr(model, "feature_names_in_", None))]
    while todo:
        part, columns = todo.pop()
        learned = getattr(part, "categories_", None)
        if learned is not None and columns is not None and len(learned) == len(columns):
            for name, values in zip(columns, learned, strict=True):
                texts = [value for value in values if isinstance(value, str)]
                found[str(name)] = tuple(dict.fromkeys((*found.get(str(name), ()), *texts)))
        for _, step in getattr(part, "steps", None) or ():
            todo.append((step, columns))
        for _, transformer, chosen in getattr(part, "transformers_", None) or ():
            todo.append((transformer, chosen if isinstance(chosen, list) else None))
    return found
