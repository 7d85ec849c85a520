"""What a worker does for one time of a batch's schedule, and what it says when it can't."""

from datetime import UTC, datetime

import msgspec
import numpy as np
import polars as pl
import pytest

from kilter.data.declare import Table
from kilter.data.encoding import Encoding
from kilter.loop.batches import BatchAnswer, BatchDone, BatchJob, run, slot_text
from kilter.loop.jobs import Failure
from kilter.loop.workspace import Workspace
from kilter.packaging.bundle import package
from kilter.packaging.constant import Constant

TEXT = """
import polars as pl
from kilter import Batch, Dataset, Label, Loop, Table

visits = Table("visits", key="visit", time="at")

def bought() -> pl.Expr:
    return pl.col("spent") > 0

def train(data: Dataset) -> object:
    return None

loop = Loop(name="shop", owner="me@example.org", inputs=[visits.columns("price")], label=Label(bought, known_at="paid_at"),
            train=train, batch=[
    Batch(input="FOLDER/{slot}.parquet", output="FOLDER/out/{slot}", every="6h", name="files"),
    Batch(input="FOLDER/{slot}.parquet", output="online:shop", name="online", max_nulls=0.2),
])
"""
MIDNIGHT = datetime(2013, 3, 1, tzinfo=UTC)


@pytest.fixture
def asked(tmp_path):
    """A function that does a batch for a time of its schedule."""
    with Workspace.open(tmp_path / "store") as workspace:
        spec = workspace.loops.apply(TEXT.replace("FOLDER", str(tmp_path)), "shop.py", by="test").digest
        encoding = Encoding(("price",), ("numeric",), {})
        bundle = package(
            Constant(0.5), encoding, np.zeros((1, 1)), [], workspace.objects, table=Table("v", "visit", "at")
        )
        workspace.models.register("shop", bundle.digest, "run", "spec", "data", "test")

        def ask(name, slot=MIDNIGHT):
            job = BatchJob(store=workspace.store, loop="shop", spec=spec, batch=name, version=1, slot=slot)
            return msgspec.json.decode(run(msgspec.json.encode(job)), type=BatchAnswer)

        ask.workspace = workspace
        yield ask


def fill(place, prices):
    keys = [f"v{number}" for number in range(len(prices))]
    pl.DataFrame({"visit": keys, "price": pl.Series(prices, dtype=pl.Float64)}).write_parquet(place)


def test_a_time_has_its_own_input_and_output_and_is_done_once(asked, tmp_path):
    noon = MIDNIGHT.replace(hour=12)
    assert (slot_text(MIDNIGHT), slot_text(noon)) == ("2013-03-01", "2013-03-01T12-00-00")
    fill(tmp_path / "2013-03-01T12-00-00.parquet", [1.0, 2.0, None])
    out = tmp_path / "out" / "2013-03-01T12-00-00"
    assert asked("files", noon) == BatchDone(rows=3, bad_rows=0, output=str(out))
    (part,) = out.iterdir()
    written = part.stat().st_mtime_ns
    assert asked("files", noon) == BatchDone(rows=3, bad_rows=0, output=str(out))
    assert part.stat().st_mtime_ns == written


def test_what_is_not_there_yet_is_worth_another_attempt(asked):
    found = asked("files")
    assert isinstance(found, Failure)
    assert found.retryable
    assert "2013-03-01.parquet" in found.reason


def test_a_limit_is_not(asked, tmp_path):
    fill(tmp_path / "2013-03-01.parquet", [1.0, None, 2.0])
    found = asked("online")
    assert isinstance(found, Failure)
    assert not found.retryable
    assert "33.33% of 3 rows are missing" in found.reason
    fill(tmp_path / "2013-03-01.parquet", [1.0, 3.0, 2.0])
    assert asked("online").rows == 3
    assert asked.workspace.answers.lookup("shop", ["v2"])[0].answer.values == {"prediction": 0.5}
