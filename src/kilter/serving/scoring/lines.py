"""Files of lines, one row each, as SageMaker's batch transform reads and writes them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl

from kilter.core.digests import digest_json
from kilter.core.errors import InvalidInput, NotFound
from kilter.engines.files.writing import FolderOutput, Job
from kilter.packaging.formats import Matrix
from kilter.serving.answering.rows import RowReader
from kilter.serving.scoring.files import Scored
from kilter.serving.scoring.model import Scorer

ENDINGS = (".jsonl", ".csv")
_LINES = 8_192
_BOOLEANS = {"true": "1", "false": "0"}
_JOINED = "SageMakerOutput"
_ROW = msgspec.json.Decoder(dict[str, str | int | float | bool | None])


def transform_lines(
    scorer: Scorer,
    model: str,
    bundle: str,
    given: Path,
    output: Path,
    *,
    join: bool,
    threads: int = 0,
    tell: Callable[[int], None] = lambda _rows: None,
) -> Scored:
    """Score files of lines; a file that was written by an earlier run is not scored again.

    Args:
        scorer: The model.
        model: The version, for people.
        bundle: Digest of its bundle.
        given: A file or a folder.
        output: A folder.
        join: Whether an answer holds its line, too.
        threads: Files that are scored at once; 0 for as many as there are processors.
        tell: Is told of lines that are done.

    Raises:
        NotFound: When there is no file of lines.
        InvalidInput: When a line can't be used.
        Conflict: When the folder holds something else.
    """
    if not given.exists():
        raise NotFound("there is no such file or folder", where=str(given))
    files = [given] if given.is_file() else sorted(one for one in given.iterdir() if one.suffix in ENDINGS)
    if not files or any(one.suffix not in ENDINGS for one in files):
        raise NotFound("there is no file of lines", where=str(given), allowed=", ".join(ENDINGS))
    stamps = [(one.name, one.stat().st_size, one.stat().st_mtime_ns) for one in files]
    job = Job(digest_json([bundle, stamps, join]), {"kilter.model": model, "kilter.bundle": bundle})
    folder = FolderOutput(output, job, "csv", single=False)
    folder.begin(overwrite=False)
    left = [one for one in files if not folder.has(f"{one.name}.out")]
    lines = _Lines(scorer, join=join)

    def one_file(file: Path) -> int:
        counted = 0

        def write(target: Path) -> None:
            nonlocal counted
            with target.open("wb") as out:
                for answers in lines.answers(file):
                    out.writelines(answers)
                    counted += len(answers)
                    tell(len(answers))

        folder.put(f"{file.name}.out", write)
        return counted

    with ThreadPoolExecutor(threads or os.cpu_count() or 1, "kilter-batch") as pool:
        rows = sum(pool.map(one_file, left))
    folder.finish()
    return Scored(
        model=model,
        input=str(given),
        output=str(output),
        rows=rows,
        parts=len(left),
        kept=len(left) < len(files),
        bad_rows=0,
    )


class _Lines:
    """Answers to lines."""

    def __init__(self, scorer: Scorer, *, join: bool) -> None:
        signature = scorer.manifest.signature
        if signature.views:
            raise InvalidInput(
                "the model looks features up, and lines have no entity", where="--split", fix="score files of columns"
            )
        self._scorer = scorer
        self._reader = RowReader(signature)
        self._join = join

    def answers(self, file: Path) -> Iterator[list[bytes]]:
        """Yield the answers to a file's lines, some thousand at once."""
        start = 0
        with file.open("rb") as source:
            while lines := list(islice(source, _LINES)):
                where = f"{file.name}: line"
                yield self._json(lines, start, where) if file.suffix == ".jsonl" else self._csv(lines, start, where)
                start += len(lines)

    def _json(self, lines: list[bytes], start: int, where: str) -> list[bytes]:
        rows: list[dict[str, Any]] = []
        vectors = []
        for number, line in enumerate(lines):
            try:
                row = _ROW.decode(line)
            except msgspec.MsgspecError as error:
                raise InvalidInput(
                    "that is no row",
                    where=f"{where} {start + number + 1}",
                    allowed="a JSON object of columns and values",
                ) from error
            rows.append(row)
            vectors.append(self._reader.vector(row, start + number))
        answers = self._scorer.predict(np.asarray(vectors, dtype=np.float64)).tolist()
        told: list[Any] = [one[0] if len(one) == 1 else one for one in answers]
        if self._join:
            told = [row | {_JOINED: answer} for row, answer in zip(rows, told, strict=True)]
        return [msgspec.json.encode(one) + b"\n" for one in told]

    def _csv(self, lines: list[bytes], start: int, where: str) -> list[bytes]:
        names = self._reader.direct
        numbers = pl.col(*self._scorer.reader.kinds()).replace(_BOOLEANS).cast(pl.Float64)
        schema = dict.fromkeys(names, pl.String())
        try:
            frame = pl.read_csv(b"".join(lines), has_header=False, schema=schema, raise_if_empty=False)
            frame = frame.with_columns(numbers)
        except pl.exceptions.PolarsError as error:
            place = f"{where}s {start + 1} to {start + len(lines)}"
            raise InvalidInput(
                "a line can't be read", where=place, allowed=f"{len(names)} values: {', '.join(names)}"
            ) from error
        if frame.height != len(lines):
            raise InvalidInput("a line is empty or a value holds a line break", where=f"{where} {start + 1} and on")
        columns = self._scorer.score(frame, start=start)
        answers: Matrix = np.column_stack([one.to_numpy() for one in columns])
        told = [",".join(map(repr, one)) for one in answers.tolist()]
        if self._join:
            return [line.rstrip(b"\r\n") + b"," + one.encode() + b"\n" for line, one in zip(lines, told, strict=True)]
        return [one.encode() + b"\n" for one in told]
