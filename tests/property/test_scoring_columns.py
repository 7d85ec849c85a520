"""A row has the same bits in a file as at an endpoint, or is refused by both."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilter.core.errors import InvalidInput
from kilter.data.encoding import Encoding
from kilter.packaging.records import Signature
from kilter.serving.answering.rows import RowReader
from kilter.serving.scoring.columns import FrameReader

CATEGORIES = ("", "AA", "DL", "Zürich", "a,b")
SIGNATURE = Signature(
    table="t",
    key="id",
    time="at",
    encoding=Encoding(("x", "c", "n", "b"), ("numeric", "categorical", "numeric", "numeric"), {"c": CATEGORIES}),
)
READER, FRAMES = RowReader(SIGNATURE), FrameReader(SIGNATURE)

rows = st.lists(
    st.fixed_dictionaries(
        {
            "x": st.none() | st.floats(allow_nan=False, width=64),
            "c": st.none() | st.sampled_from(CATEGORIES) | st.text(max_size=4),
            "n": st.none() | st.integers(-(1 << 63), (1 << 64) - 1),
            "b": st.none() | st.booleans(),
        }
    ),
    min_size=1,
    max_size=20,
)


def at_an_endpoint(row):
    try:
        return np.asarray(READER.vector(row, 0), dtype=np.float64).tobytes()
    except InvalidInput:
        return None


@given(rows)
def test_a_frame_is_read_as_its_rows_are(table):
    kind = pl.Int128 if any(row["n"] is not None and row["n"] < 0 for row in table) else pl.UInt64
    frame = pl.DataFrame(table, schema={"x": pl.Float64, "c": pl.String, "n": kind, "b": pl.Boolean})
    matrix, unusable = FRAMES.matrix(frame)
    for place, row in enumerate(table):
        expected = at_an_endpoint(row)
        assert (place in unusable) == (expected is None)
        if expected is not None:
            assert matrix[place].tobytes() == expected


@given(
    st.lists(st.none() | st.sampled_from(CATEGORIES), min_size=1, max_size=20), st.sampled_from(["enum", "categorical"])
)
def test_categories_of_other_types_are_the_same(values, kind):
    dtype = (
        pl.Enum(sorted({one for one in values if one is not None} | {"new"})) if kind == "enum" else pl.Categorical()
    )
    frame = pl.DataFrame({"c": pl.Series(values, dtype=dtype)}).with_columns(x=1.0, n=1, b=True)
    expected = [READER.vector({"x": 1.0, "c": value, "n": 1, "b": True}, 0) for value in values]
    assert np.array_equal(FRAMES.matrix(frame)[0], np.asarray(expected), equal_nan=True)


@pytest.mark.parametrize("dtype", [pl.Int8, pl.UInt32, pl.Float32, pl.Decimal(10, 2), pl.Int64])
def test_numbers_of_every_type(dtype):
    frame = pl.DataFrame({"x": pl.Series([1, None, 3]).cast(dtype)}).with_columns(c=None, n=0, b=None)
    matrix, unusable = FRAMES.matrix(frame)
    assert unusable == {}
    assert matrix[0].tolist()[0] == 1.0
    assert math.isnan(matrix[1, 0])
