"""Datasets and encodings: the numbers a model sees, the same at training and at serving, named by their content."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import polars as pl
import pytest

from kilter.core.errors import DeclarationError, InvalidInput
from kilter.data.canonical import ColumnHasher, frame_digest
from kilter.data.dataset import dataset
from kilter.data.declare import Columns, Label, Table
from kilter.data.encoding import Encoding
from kilter.data.leakage import leaks, refuse_leaks

AT = datetime(2013, 3, 1, tzinfo=UTC)
ROWS = pl.DataFrame(
    {
        "id": ["c", "a", "b", "d"],
        "due": [AT, AT, AT - timedelta(days=1), AT + timedelta(days=1)],
        "carrier": ["UA", None, "AA", "UA"],
        "hours": [5, None, 7, 8],
        "wet": [True, False, None, True],
        "truth": [True, False, True, False],
    },
    schema_overrides={"due": pl.Datetime("us", "UTC")},
)
INPUTS = ("carrier", "hours", "wet")


def made(frame=ROWS, **options):
    return dataset(frame, INPUTS, "truth", key="id", time="due", **options)


def test_a_dataset_is_ordered_encoded_and_named_by_content():
    found = made(seed=7)
    assert found.keys.tolist() == ["b", "a", "c", "d"]
    assert found.y.tolist() == [1.0, 0.0, 1.0, 0.0]
    assert found.categories == {"carrier": ("AA", "UA")}
    np.testing.assert_array_equal(found.X, [[0, 7, np.nan], [np.nan, np.nan, 0], [1, 5, 1], [1, 8, 1]])
    assert found.X.flags["C_CONTIGUOUS"]
    assert found.times.dtype == np.dtype("datetime64[us]")
    assert (found.seed, len(found), found.rate, found.categorical) == (7, 4, 0.5, (0,))
    assert found.encoding == Encoding.fit(ROWS, INPUTS)
    assert made(ROWS.reverse()).digest == found.digest
    assert (
        made(ROWS.with_columns(pl.col("carrier").cast(pl.Categorical), pl.col("hours").cast(pl.Int16))).digest
        == found.digest
    )


@pytest.mark.parametrize("column", ["carrier", "hours", "wet", "truth", "id", "due"])
def test_any_changed_value_changes_the_digest(column):
    changed = ROWS.with_columns(pl.col(column).shift(1).fill_null(pl.col(column).last()))
    assert made(changed.with_columns(truth=pl.col("truth").fill_null(value=True))).digest != made().digest


def test_a_holdout_uses_the_encoding_of_the_training_rows():
    encoding = Encoding.fit(ROWS.filter(pl.col("carrier") == "UA"), INPUTS)
    found = made(encoding=encoding)
    assert np.isnan(found.X[0, 0])
    with pytest.raises(InvalidInput, match="differ"):
        dataset(ROWS, ("hours",), "truth", key="id", time="due", encoding=encoding)
    with pytest.raises(InvalidInput, match="1 rows have no label"):
        made(ROWS.with_columns(truth=pl.when(pl.col("id") != "a").then(pl.col("truth"))))


def test_rows_of_a_request_become_the_same_numbers_as_a_frame():
    encoding = Encoding.fit(ROWS, INPUTS)
    rows = [{"carrier": "UA", "hours": 3.5, "wet": True}, {"carrier": "??"}, {"hours": 4, "wet": None, "more": 1}]
    expected = encoding.matrix(pl.DataFrame([{name: row.get(name) for name in INPUTS} for row in rows]))
    np.testing.assert_array_equal(encoding.rows(rows), expected)
    np.testing.assert_array_equal(encoding.row(rows[0]), expected[0])
    assert msgspec.json.decode(msgspec.json.encode(encoding), type=Encoding) == encoding
    assert encoding.rows([]).shape == (0, 3)


@pytest.mark.parametrize(
    ("row", "where"),
    [
        ({"hours": "5"}, "rows[1].hours"),
        ({"wet": [1]}, "rows[1].wet"),
        ({"carrier": ["UA"]}, "rows[1].carrier"),
        ({"hours": {}}, "rows[1].hours"),
    ],
)
def test_a_value_of_another_kind_is_refused_with_its_place(row, where):
    with pytest.raises(InvalidInput) as caught:
        Encoding.fit(ROWS, INPUTS).rows([{"carrier": "UA"}, row])
    assert caught.value.where == where


def test_inputs_that_a_model_cannot_read_are_refused():
    with pytest.raises(DeclarationError, match="unknown column 'nothing'"):
        Encoding.fit(ROWS, ["nothing"])
    with pytest.raises(DeclarationError, match="'due' is a column of Datetime"):
        Encoding.fit(ROWS, ["due"])
    with pytest.raises(DeclarationError, match="twice"):
        Encoding.fit(ROWS, ["hours", "hours"])
    with pytest.raises(InvalidInput, match="'hours' is missing"):
        Encoding.fit(ROWS, INPUTS).matrix(ROWS.drop("hours"))
    with pytest.raises(InvalidInput, match="String, expected a number"):
        Encoding.fit(ROWS, INPUTS).matrix(ROWS.with_columns(hours=pl.lit("5")))


def test_canonical_bytes_tell_apart_what_looks_alike():
    def of(values, dtype=None):
        hasher = ColumnHasher()
        hasher.series("x", pl.Series(values, dtype=dtype))
        return hasher.digest()

    different = [
        of(["a", "bc"]), of(["ab", "c"]), of(["", None], pl.String), of([None, ""], pl.String), of([0, None]), of([None, 0]),
        of([0.0, None]), of([0.0, float("nan")]), of([False, None]), of([1.0]), of([1]), of([], pl.Int64), of([], pl.Float64),
    ]  # fmt: skip
    assert len(set(different)) == len(different)
    assert of([1, 2], pl.Int8) == of([1, 2], pl.UInt32)
    assert of(["a", "b"]) == of(["a", "b"], pl.Categorical) == of(["a", "b"], pl.Enum(["b", "a"]))
    assert of([AT, None]) == of([AT, None], pl.Datetime("ms", "UTC"))
    assert frame_digest(ROWS, "id") == frame_digest(ROWS.reverse().select(sorted(ROWS.columns)), "id")
    with pytest.raises(InvalidInput, match="no canonical form"):
        of([[1]])


FLIGHTS = Table("flights", key="id", time="due")
LATE = Label(lambda: pl.col("delay") > 15, known_at="landed")


def flights() -> pl.DataFrame:
    number = pl.col("number")
    known = number < 900
    return (
        pl.DataFrame({"number": range(1000)})
        .with_columns(
            id=pl.format("f{}", "number"), due=pl.lit(AT).cast(pl.Datetime("us", "UTC")) - pl.duration(hours=number)
        )
        .with_columns(
            landed=pl.when(known).then(pl.col("due")),
            delay=pl.when(known).then(number % 40.0),
            air_time=pl.when(known & (number % 9 != 0)).then(number),
            gust=pl.when(number % 2 == 0).then(number),
        )
    )


@pytest.mark.parametrize(
    ("name", "evidence"),
    [
        ("delay", "the label's expression .* is made of it"),
        ("landed", "tells when the label became known"),
        ("air_time", r"missing in 100% of the 100 rows whose label is not known yet, and in 11% of those"),
    ],
)
def test_columns_that_know_the_answer_are_refused_with_evidence_and_fix(name, evidence):
    with pytest.raises(DeclarationError, match=f"input '{name}' leaks the label: .*{evidence}") as caught:
        refuse_leaks([Columns(FLIGHTS, ("number", name))], LATE, flights(), AT)
    assert name in caught.value.fix


def test_honest_columns_pass_and_unknown_ones_do_not():
    refuse_leaks([Columns(FLIGHTS, ("number", "gust"))], LATE, flights(), AT)
    refuse_leaks([Columns(FLIGHTS, ("number", "air_time"))], LATE, flights().head(905), AT)  # too few to tell
    with pytest.raises(DeclarationError, match="did you mean 'gust'"):
        refuse_leaks([Columns(FLIGHTS, ("gusts",))], LATE, flights(), AT)
    assert len(leaks([Columns(FLIGHTS, ("delay", "landed", "zzz"))], LATE, flights(), AT)) == 3
