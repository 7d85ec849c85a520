"""Scoring files: any number of rows, in bounded memory, and from where it was after a kill.

The rows of a piece (a file, or a version of a Delta table) are cut into parts of a fixed number of rows. A part is scored in
batches by several threads and written whole, in the order of the rows; the last part that is there says where to go on.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal, Protocol

import msgspec
import polars as pl

from kilter.core.digests import digest_json
from kilter.core.errors import InvalidInput
from kilter.engines.files.reading import Format, Piece, batches, count, head, pieces
from kilter.engines.files.writing import NOWHERE, Job, Output
from kilter.serving.scoring.model import ERROR, Scorer

_BATCH_ROWS = 65_536
_PART_ROWS = 524_288


class Scored(msgspec.Struct, frozen=True, kw_only=True):
    """What a scoring did.

    Args:
        model: The version.
        input: What was read.
        output: What was written.
        rows: Rows scored by this run.
        parts: Parts written by this run.
        kept: Whether an earlier run had written some of the output.
        bad_rows: Rows of this run that could not be used and have a null.
    """

    model: str
    input: str
    output: str
    rows: int
    parts: int
    kept: bool
    bad_rows: int


class Input(Protocol):
    """Rows in an order that stays, in pieces."""

    @property
    def pieces(self) -> Sequence[Piece]:
        """What there is to read."""
        ...

    def batches(self, piece: Piece, rows: int, skip: int, kinds: Mapping[str, pl.DataType]) -> Iterator[pl.DataFrame]:
        """Yield a piece's rows but the first ``skip``, in frames of at most ``rows``."""
        ...

    def head(self, piece: Piece, kinds: Mapping[str, pl.DataType]) -> pl.DataFrame:
        """Return a piece's columns, without rows."""
        ...

    def total(self) -> int | None:
        """Return how many rows there are, or None when only reading them would tell."""
        ...


class Files:
    """Files of one format in a folder or a bucket, or a Delta table.

    Args:
        place: Where.
    """

    def __init__(self, place: str) -> None:
        self._place = place
        self.pieces = pieces(place)

    def batches(self, piece: Piece, rows: int, skip: int, kinds: Mapping[str, pl.DataType]) -> Iterator[pl.DataFrame]:
        """Yield a piece's rows but the first ``skip``, in frames of at most ``rows``."""
        return batches(piece, self._place, rows=rows, skip=skip, kinds=kinds)

    def head(self, piece: Piece, kinds: Mapping[str, pl.DataType]) -> pl.DataFrame:
        """Return a piece's columns, without rows."""
        return head(piece, self._place, kinds)

    def total(self) -> int | None:
        """Return how many rows there are, or None when only reading them would tell."""
        found = [count(piece, self._place) for piece in self.pieces]
        return None if None in found else sum(rows for rows in found if rows is not None)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How rows are scored.

    Args:
        model: The version, for people: ``flight-delay@v7``.
        bundle: Digest of its bundle.
        input: Where the rows come from, for the answer.
        output: Where the predictions go, for the answer.
        keep: Columns of the input that go beside the predictions; None for the key and the time, ``("*",)`` for all.
        bad_rows: ``fail``, or ``null`` for an empty prediction with the reason beside it.
        part_rows: Rows per part.
        batch_rows: Rows per call of the model.
        threads: How many batches are scored at once; 0 for as many as there are processors.
        overwrite: Whether the output of another scoring may be replaced.
    """

    model: str
    bundle: str
    input: str
    output: str
    keep: tuple[str, ...] | None = None
    bad_rows: Literal["fail", "null"] = "fail"
    part_rows: int = _PART_ROWS
    batch_rows: int = _BATCH_ROWS
    threads: int = 0


def job_of(plan: Plan, given: Input, format: Format | None = None) -> Job:  # noqa: A002
    """Return the name of a scoring: the digest of all that decides what comes out of it."""
    if plan.part_rows < 1 or plan.batch_rows < 1 or plan.threads < 0:
        raise InvalidInput("a size is not positive", where="score", allowed="part rows and batch rows from 1 on")
    decides = [plan.bundle, tuple(given.pieces), plan.keep, plan.bad_rows, plan.part_rows, plan.output, format]
    return Job(digest_json(decides), {"kilter.model": plan.model, "kilter.bundle": plan.bundle})


def score(
    scorer: Scorer, plan: Plan, given: Input, output: Output, tell: Callable[[int], None] = lambda _rows: None
) -> Scored:
    """Score rows.

    Args:
        scorer: The model.
        plan: How.
        given: The rows.
        output: Where the predictions go; it goes on from the last part that is there.
        tell: Is told of rows that are done, whether in this run or an earlier one.

    Raises:
        InvalidInput: When a column or a row can't be used.
        Conflict: When the output holds something else.
        Damaged: When a file of the input can't be read to its end.
    """
    last = output.last()
    run = _Run(scorer, plan, given, output, tell)
    with ThreadPoolExecutor(plan.threads or os.cpu_count() or 1, "kilter-score") as pool:
        for number, piece in enumerate(given.pieces):
            if number >= last[0]:
                run.piece(pool, number, piece, last[1] + 1 if number == last[0] else 0)
    output.finish()
    return Scored(
        model=plan.model,
        input=plan.input,
        output=plan.output,
        rows=run.rows,
        parts=run.parts,
        kept=last != NOWHERE,
        bad_rows=run.bad_rows,
    )


class _Run:
    """One run over the pieces of a job."""

    def __init__(self, scorer: Scorer, plan: Plan, given: Input, output: Output, tell: Callable[[int], None]) -> None:
        self._scorer = scorer
        self._plan = plan
        self._given = given
        self._kinds = scorer.reader.kinds()
        self._output = output
        self._tell = tell
        self._lenient = plan.bad_rows == "null"
        self.rows = 0
        self.parts = 0
        self.bad_rows = 0

    def piece(self, pool: ThreadPoolExecutor, number: int, piece: Piece, first: int) -> None:
        """Score a piece from its part ``first`` on."""
        plan = self._plan
        skip = first * plan.part_rows
        self._tell(skip)
        part = first
        held: list[pl.DataFrame] = []
        size = 0
        for frame in self._scored(pool, self._batches(piece, skip), skip):
            held.append(frame)
            size += frame.height
            if size == plan.part_rows:
                self._write(number, part, held)
                held, size, part = [], 0, part + 1
        if held or (first == 0 and part == 0):
            self._write(number, part, held or [self._score(self._given.head(piece, self._kinds), 0)])

    def _batches(self, piece: Piece, skip: int) -> Iterator[pl.DataFrame]:
        """Yield batches that no end of a part falls into."""
        plan = self._plan
        left = plan.part_rows
        for frame in self._given.batches(piece, plan.batch_rows, skip, self._kinds):
            rest = frame
            while rest.height:
                batch = rest.head(left)
                rest = rest.slice(batch.height)
                left = left - batch.height or plan.part_rows
                yield batch

    def _scored(self, pool: ThreadPoolExecutor, frames: Iterator[pl.DataFrame], start: int) -> Iterator[pl.DataFrame]:
        """Yield what comes out, in order, with a few batches under way at once."""
        under_way: deque[Future[pl.DataFrame]] = deque()
        most = 2 * (self._plan.threads or os.cpu_count() or 1)
        try:
            for frame in frames:
                under_way.append(pool.submit(self._score, frame, start))
                start += frame.height
                if len(under_way) >= most:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            for future in under_way:
                future.cancel()

    def _score(self, frame: pl.DataFrame, start: int) -> pl.DataFrame:
        found = self._scorer.score(frame, start=start, lenient=self._lenient)
        kept = frame.select(self._kept(frame))
        taken = [one.name for one in found if one.name in kept.columns]
        if taken:
            raise InvalidInput(
                f"the input has a column {taken[0]!r}, which the output adds", where="keep", fix="keep other columns"
            )
        return kept.with_columns(found)

    def _kept(self, frame: pl.DataFrame) -> Sequence[str]:
        keep = self._plan.keep
        if keep is None:
            reader = self._scorer.reader
            return [name for name in (reader.key, reader.time) if name and name in frame.columns]
        if keep == ("*",):
            return frame.columns
        missing = [name for name in keep if name not in frame.columns]
        if missing:
            raise InvalidInput(f"there is no column {missing[0]!r}", where="keep", allowed=", ".join(frame.columns))
        return list(keep)

    def _write(self, piece: int, part: int, frames: list[pl.DataFrame]) -> None:
        frame = pl.concat(frames)
        self._output.write(piece, part, frame)
        self.rows += frame.height
        self.parts += 1
        if self._lenient:
            self.bad_rows += frame.height - frame[ERROR].null_count()
        self._tell(frame.height)
