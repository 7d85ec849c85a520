"""Stretches on Spark: one task each, in Python workers that keep the model from one task to the next."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import polars as pl
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from kilter.core.errors import Unavailable
from kilter.serving.scoring.stretches import carry_out

_LOOPBACK = "127.0.0.1"
_ATTEMPTS = 4
_RAISED = re.compile(r"^(?!org\.|java\.|pyspark\.)[\w.]+(?:Error|Exception): .+$", re.MULTILINE)


def run(work: bytes, stretches: int, *, address: str, workers: int) -> Iterator[bytes]:
    """Score; see :class:`kilter.serving.scoring.cluster.Run`. The answers come when all stretches are scored.

    Raises:
        Unavailable: When the cluster can't be reached, or lost the job.
    """
    with session(address, workers) as spark:
        numbers = spark.range(0, stretches, 1, numPartitions=stretches)
        try:
            found = numbers.mapInArrow(partial(score_batches, work), "done string").collect()
        except PySparkException as error:
            raise Unavailable(
                f"the cluster lost the job: {_cause(error)}",
                where="spark",
                fix="give the same command again: what is scored is kept",
            ) from error
    for row in found:
        yield str(row["done"]).encode()


def score_batches(work: bytes, batches: Iterator[Any]) -> Iterator[Any]:
    """Score the stretches whose numbers come in a column ``id``: what ``mapInArrow`` runs in a Python worker.

    Args:
        work: The work, as JSON.
        batches: Record batches of Arrow.
    """
    for batch in batches:
        done = [carry_out(work, int(place)).decode() for place in batch.column("id").to_pylist()]
        yield from pl.DataFrame({"done": done}, schema={"done": pl.String}).to_arrow().to_batches()


@contextmanager
def session(address: str, workers: int = 0) -> Iterator[SparkSession]:
    """Be in a session; one that this process has is used and left as it is.

    Args:
        address: The master's URL; empty for a Spark on this machine, which listens to nobody else.
        workers: Of a Spark on this machine: tasks at once; 0 for as many as there are processors.

    Raises:
        Unavailable: When it can't be had.
    """
    active = SparkSession.getActiveSession()
    if active is not None:
        yield active
        return
    here = f"local[{workers or '*'},{_ATTEMPTS}]"
    builder = SparkSession.builder.appName("kilter").master(address or here).config("spark.ui.enabled", "false")
    if not address:
        builder = (
            builder.config("spark.driver.host", _LOOPBACK)
            .config("spark.driver.bindAddress", _LOOPBACK)
            .config("spark.driver.memory", "512m")
            .config("spark.ui.showConsoleProgress", "false")
            .config("spark.log.level", "ERROR")
        )
    try:
        spark = builder.getOrCreate()
    except (PySparkException, RuntimeError, OSError) as error:
        said = str(error).strip().splitlines()
        raise Unavailable(
            f"the cluster can't be reached: {said[0] if said else type(error).__name__}",
            where=address or "spark",
            fix="check the master's URL, and that java is installed",
        ) from error
    if not address:
        spark.sparkContext.pythonExec = sys.executable  # workers that have what this process has
    try:
        yield spark
    finally:
        spark.stop()


def _cause(error: PySparkException) -> str:
    """Return what a worker raised, in one line, or else what Spark says first."""
    text = str(error).strip()
    said = _RAISED.findall(text) or text.splitlines() or [type(error).__name__]
    return str(said[-1] if _RAISED.search(text) else said[0])
