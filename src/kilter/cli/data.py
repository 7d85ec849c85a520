"""``kilter data``: tables, and rows from CSV, Parquet and JSON-lines files."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from kilter.cli.arguments import Parser, verbs
from kilter.cli.output import answer, fields, progress, records, say, table
from kilter.cli.target import connected
from kilter.core.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    import polars as pl

_BATCH = 2000
_KINDS = ".csv, .tsv, .parquet, .jsonl, .ndjson"


def build(parser: Parser, _command: str) -> None:
    """Add the verbs."""
    add = verbs(parser)
    add("tables", "all tables", _tables)
    add("describe", "a table and its rows", _describe).add_argument("table")
    add("versions", "the versions of a table's files", _versions).add_argument("table")
    version = add("version", "name the rows of a table by the digest of their content", _version)
    version.add_argument("table")
    version.add_argument("--known-by", help="only what had arrived by this time, RFC 3339")
    declare = add("declare", "make a table known", _declare)
    declare.add_argument("table")
    declare.add_argument("--key", required=True, help="the column that identifies a row")
    declare.add_argument("--time", required=True, help="the column of event time")
    declare.add_argument("--also-time", action="append", default=[], metavar="COLUMN", help="a further column of times")
    append = add("append", "take in rows from files, or parts of rows; sending a file twice is harmless", _append)
    append.add_argument("table")
    append.add_argument("files", nargs="+", type=Path, metavar="FILE", help=_KINDS)
    append.add_argument("--key", help="declare the table with this key, if it isn't known")
    append.add_argument("--time", help="and this column of event time")


def _tables(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        found = kilter.data.tables()
    columns = ("table", "key", "time", "columns", "parts", "version")
    rows = [(one.name, one.key, one.time, len(one.columns), one.parts, one.version) for one in found]
    answer(found, as_json=options.json, show=lambda: table(columns, rows))


def _describe(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        found = kilter.data.describe(options.table)

    def show() -> None:
        say(f"{found.table.name}: {found.rows:,} rows from {found.first} to {found.last}")
        columns = ("column", "kind", "missing")
        table(columns, ((one.name, one.kind, found.nulls.get(one.name, 0)) for one in found.table.columns))

    answer(found, as_json=options.json, show=show)


def _versions(options: argparse.Namespace) -> None:
    with connected(options) as kilter:
        found = kilter.data.versions(options.table)
    answer(found, as_json=options.json, show=lambda: records(found))


def _version(options: argparse.Namespace) -> None:
    from datetime import datetime  # noqa: PLC0415

    from kilter.core.clock import utc  # noqa: PLC0415

    try:
        known_by = utc(datetime.fromisoformat(options.known_by)) if options.known_by else None
    except ValueError:
        raise InvalidInput(
            f"{options.known_by!r} is not a time", where="--known-by", allowed="RFC 3339, like 2013-03-01T12:00:00Z"
        ) from None
    with connected(options) as kilter:
        found = kilter.data.version(options.table, known_by)
    answer(found, as_json=options.json, show=lambda: fields(found))


def _declare(options: argparse.Namespace) -> None:
    from kilter.data.declare import Table  # noqa: PLC0415

    with connected(options) as kilter:
        found = kilter.data.declare(Table(options.table, key=options.key, time=options.time), options.also_time)
    answer(found, as_json=options.json, show=lambda: fields(found))


def _append(options: argparse.Namespace) -> None:
    from kilter.data.declare import Table  # noqa: PLC0415

    taken, position = 0, -1
    with connected(options) as kilter:
        if all(one.name != options.table for one in kilter.data.tables()):
            if not (options.key and options.time):
                raise NotFound(
                    f"there is no table {options.table!r}", where="data append", fix="declare it: add --key and --time"
                )
            kilter.data.declare(Table(options.table, key=options.key, time=options.time))
        for path in options.files:
            frame = _read(path)
            name = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
            with progress(path.name, frame.height, quiet=options.json) as done:
                for start in range(0, frame.height, _BATCH):
                    rows = _rows(frame.slice(start, _BATCH))
                    try:
                        found = kilter.data.append(options.table, rows, f"{name}/{start}")
                    except InvalidInput as error:
                        before = f" (counted from row {start:,}; those before it were taken)" if start else ""
                        error.where = f"{path}: {error.where}{before}"
                        raise
                    taken += 0 if found.repeated else found.rows
                    position = max(position, found.position)
                    done(len(rows))
    result = {"table": options.table, "rows": taken, "position": position}
    answer(result, as_json=options.json, show=lambda: say(f"{taken:,} rows taken into {options.table}"))


def _read(path: Path) -> pl.DataFrame:
    """Return a file's rows.

    Raises:
        InvalidInput: When there is no such file, or it can't be read.
    """
    import polars as pl  # noqa: PLC0415 - half a second that only this verb pays

    if not path.is_file():
        raise InvalidInput("there is no such file", where=str(path))
    try:
        match path.suffix.lower():
            case ".csv" | ".tsv":
                separator = "\t" if path.suffix.lower() == ".tsv" else ","
                return pl.read_csv(path, separator=separator, try_parse_dates=False, infer_schema_length=None)
            case ".parquet":
                return pl.read_parquet(path)
            case ".jsonl" | ".ndjson":
                return pl.read_ndjson(path, infer_schema_length=None)
            case _:
                raise InvalidInput(f"{path.suffix!r} is no kind of file that is read", where=str(path), allowed=_KINDS)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InvalidInput(f"the file can't be read: {error}", where=str(path), allowed=_KINDS) from None


def _rows(frame: pl.DataFrame) -> list[dict[str, bool | int | float | str | None]]:
    """Return rows as JSON can say them: times as RFC 3339, a time without a zone is UTC."""
    import polars as pl  # noqa: PLC0415

    texts: list[pl.Expr] = []
    for name, kind in frame.schema.items():
        if isinstance(kind, pl.Datetime):
            moment = pl.col(name) if kind.time_zone else pl.col(name).dt.replace_time_zone("UTC")
            texts.append(moment.dt.convert_time_zone("UTC").dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ"))
        elif kind == pl.Date:
            texts.append(pl.col(name).dt.strftime("%Y-%m-%dT00:00:00Z"))
        elif kind in {pl.Categorical, pl.Enum}:
            texts.append(pl.col(name).cast(pl.String))
        elif kind.is_float():
            texts.append(pl.col(name).fill_nan(None))
    return frame.with_columns(texts).to_dicts()
