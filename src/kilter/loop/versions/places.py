"""Where the rows of a batch come from and where its answers go, by their addresses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from kilter.core.errors import InvalidInput
from kilter.data.declare import Table
from kilter.data.service import DataService
from kilter.engines.files.reading import Format, Piece
from kilter.engines.files.writing import NOWHERE, Job, Output, open_output
from kilter.engines.sql.places import is_database, parse_place
from kilter.engines.sql.writing import DatabaseOutput
from kilter.features.answers import Answers
from kilter.loop.workspace import Workspace, connect
from kilter.packaging.records import Signature
from kilter.serving.scoring.files import Files, Input, Plan
from kilter.serving.scoring.kept import AnswersOutput
from kilter.serving.scoring.queries import QueryRows, write_note

TABLE = "table:"
"""What begins the name of a table of the store, where files could be meant."""

_APPENDED = 2_000
ONLINE = "online:"
"""What begins the name of a collection of the online store."""


def notes(workspace: Workspace) -> Path:
    """Return the folder in which batches note how far they are."""
    return workspace.store.folder / "batches"


def open_input(workspace: Workspace, plan: Plan, signature: Signature, query: str) -> Input:
    """Open the rows of a batch.

    Args:
        workspace: The store.
        plan: How; its input is the address.
        signature: The model's, whose key orders a query's rows when none is given.
        query: The query, when it is not in the address.

    Raises:
        InvalidInput: When the address can't be read.
        NotFound: When nothing is there.
    """
    if is_database(plan.input):
        place = parse_place(plan.input)
        if query:
            place = msgspec.structs.replace(place, query=query)
        key = plan.key or signature.key
        if not key:
            raise InvalidInput(
                "a query's rows need a key, which gives their order", where="key", fix="give --key COLUMN"
            )
        return QueryRows(place, key, plan.part_rows)
    if query:
        raise InvalidInput("a query goes to a database", where="query", allowed="--input postgresql://user@host/name")
    if plan.input.startswith(TABLE):
        return TableRows(workspace.data, plan.input.removeprefix(TABLE))
    return Files(plan.input)


def open_target(
    workspace: Workspace,
    plan: Plan,
    job: Job,
    signature: Signature,
    format: Format | None,  # noqa: A002
    *,
    overwrite: bool,
) -> Output:
    """Open where the answers of a batch go.

    Args:
        workspace: The store.
        plan: How; its output is the address.
        job: The job.
        signature: The model's, whose key and time a table has.
        format: The format of the parts in a folder.
        overwrite: Whether the output of another batch may be replaced.

    Raises:
        InvalidInput: When the address can't be written, or the format is not one for it.
        Conflict: When something else is there.
    """
    place, key = plan.output, plan.key or signature.key
    tables = place.startswith((TABLE, ONLINE)) or is_database(place)
    if tables and format is not None:
        raise InvalidInput(f"a table has no format {format!r}", where="format", fix="leave it out")
    if is_database(place):
        return DatabaseOutput(parse_place(place), job, key)
    if place.startswith(ONLINE):
        return AnswersOutput(Answers(workspace.online), place.removeprefix(ONLINE), job, key, workspace.clock.now)
    if place.startswith(TABLE):
        return TableOutput(workspace, place.removeprefix(TABLE), job, signature)
    return open_output(place, job, format=format, overwrite=overwrite)


class TableRows:
    """The rows of a table of the store, as they are known now, in the order of their keys.

    Args:
        data: The tables.
        name: Which.
    """

    def __init__(self, data: DataService, name: str) -> None:
        self._frame = data.frame(name).sort(data.info(name).key)
        self.pieces = (Piece(f"{TABLE}{name}", "parquet", self._frame.height, data.version(name).digest),)

    def batches(self, piece: Piece, rows: int, skip: int, kinds: Mapping[str, pl.DataType]) -> Iterator[pl.DataFrame]:
        """Yield the rows but the first ``skip``, in frames of at most ``rows``."""
        del piece, kinds
        return self._frame.slice(skip).iter_slices(rows)

    def head(self, piece: Piece, kinds: Mapping[str, pl.DataType]) -> pl.DataFrame:
        """Return the columns, without rows."""
        del piece, kinds
        return self._frame.clear()

    def total(self) -> int | None:
        """Return how many rows there are."""
        return self._frame.height


class TableOutput:
    """Parts that go into a table of the store; a part that comes twice changes nothing, because rows have a key.

    The row log has one writer. While a server runs on the store it is the server, which takes the rows then; each append has an id
    of its own, so that it is done once.

    Args:
        workspace: The store.
        name: Which table; it is declared if it is not there.
        job: The job.
        signature: The model's; its key and time are the table's.

    Raises:
        InvalidInput: When the model's rows have no key or no time.
    """

    def __init__(self, workspace: Workspace, name: str, job: Job, signature: Signature) -> None:
        if not signature.key or not signature.time:
            raise InvalidInput(
                "a table needs a key and a time, and the model's rows have none", where="output", fix="write to files"
            )
        self._store = workspace.store
        self._data = workspace.data
        self._name = name
        self._job = job.digest
        self._table = Table(name, signature.key, signature.time)
        self._note = notes(workspace) / f"{job.digest}.json"

    def last(self) -> tuple[int, int]:
        """Return the piece and the number of the last part that is there."""
        return msgspec.json.decode(self._note.read_bytes(), type=tuple[int, int]) if self._note.exists() else NOWHERE

    def write(self, piece: int, number: int, frame: pl.DataFrame) -> None:
        """Take a part's rows into the table."""
        running = self._store.run.living("server")
        if running is None:
            _declare(self._data, self._table)
            if frame.height:
                self._data.ingest(self._name, frame)
        else:
            with closing(connect(running.url, self._store.run.token())) as kilter:
                _declare(kilter.data, self._table)
                for start in range(0, frame.height, _APPENDED):
                    rows = _rows(frame.slice(start, _APPENDED))
                    kilter.data.append(self._name, rows, f"batch/{self._job}/{piece}/{number}/{start}")
        write_note(self._note, msgspec.json.encode((piece, number)))

    def finish(self) -> None:
        """Do nothing: the last part says it all."""


def _declare(data: DataService, table: Table) -> None:
    if all(one.name != table.name for one in data.tables()):
        data.declare(table)


def _rows(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Return rows as JSON can say them: times as RFC 3339, a time without a zone is UTC."""
    times = [
        (pl.col(name) if kind.time_zone else pl.col(name).dt.replace_time_zone("UTC"))
        .dt.convert_time_zone("UTC")
        .dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
        for name, kind in frame.schema.items()
        if isinstance(kind, pl.Datetime)
    ]
    days = [
        pl.col(name).dt.strftime("%Y-%m-%dT00:00:00Z")
        for name, kind in frame.schema.items()
        if isinstance(kind, pl.Date)
    ]
    words = pl.col(pl.Categorical, pl.Enum).cast(pl.String)
    return frame.with_columns(*times, *days, words, pl.col(pl.Float32, pl.Float64).fill_nan(None)).to_dicts()
