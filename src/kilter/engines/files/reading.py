"""What lies at a place, and its rows in batches."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec
import obstore
import polars as pl
from obstore.exceptions import BaseError

from kilter.core.errors import Damaged, InvalidInput, KilterError, NotFound, Unavailable
from kilter.engines.location import Bucket, Folder, locate, s3_store
from kilter.engines.tables.paths import scan_path, version_of

Format = Literal["parquet", "csv", "arrow", "delta"]
FORMATS: dict[str, Format] = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}
"""The format of a file by its ending."""

_GUESSED = 1_000


class Piece(msgspec.Struct, frozen=True):
    """One file, or one version of a Delta table, to read.

    Args:
        uri: Where it lies: a path, or an ``s3://`` address.
        format: Its format.
        size: Its size in bytes; 0 for a Delta table.
        stamp: What changes when it changes: the modification time, the ETag, or the version.
    """

    uri: str
    format: Format
    size: int
    stamp: str


def pieces(place: str) -> tuple[Piece, ...]:
    """Return what is to be read at a place, in the order of names.

    Args:
        place: A file, a folder of files of one format, a Delta table's folder, or the same as ``s3://bucket/path`` (with
            ``?endpoint=URL&region=NAME``).

    Raises:
        NotFound: When nothing is there.
        InvalidInput: When the files are of no known format, or of several.
    """
    where = locate(place)
    version = version_of(where)
    if version is not None:
        return (Piece(where.url if isinstance(where, Bucket) else str(where.path), "delta", 0, str(version)),)
    found = _in_bucket(where) if isinstance(where, Bucket) else _in_folder(where)
    kinds = {piece.format for piece in found}
    if len(kinds) > 1:
        raise InvalidInput(
            f"the folder holds {', '.join(sorted(kinds))}", where=place, allowed="files of one format", fix="give one of them"
        )  # fmt: skip
    if not found:
        raise NotFound("there is no file to read", where=place, allowed=", ".join(FORMATS))
    return found


def batches(
    piece: Piece, place: str, *, rows: int, skip: int = 0, kinds: Mapping[str, pl.DataType] | None = None
) -> Iterator[pl.DataFrame]:
    """Yield a piece's rows in order, in frames of at most ``rows``; only a few of them are in memory at once.

    Args:
        piece: What to read.
        place: The place that it was found at; its options say how to reach a bucket.
        rows: Rows per frame.
        skip: How many rows to leave out at the beginning.
        kinds: For CSV, which is text: the types of the columns whose type matters. Others stay text.

    Raises:
        Damaged: When the file can't be read to its end.
        Unavailable: When it can't be reached.
    """
    with reading(piece.uri):
        frame = scan(piece, place, kinds)
        frame = frame.slice(skip) if skip else frame
        yield from frame.collect_batches(chunk_size=rows, maintain_order=True, lazy=True)


def scan(piece: Piece, place: str, kinds: Mapping[str, pl.DataType] | None = None) -> pl.LazyFrame:
    """Return a piece's rows, lazily."""
    where = locate(place)
    options = storage_options(where)
    match piece.format:
        case "parquet":
            return pl.scan_parquet(piece.uri, glob=False, storage_options=options)
        case "arrow":
            return pl.scan_ipc(piece.uri, glob=False, storage_options=options)
        case "csv":
            return pl.scan_csv(
                piece.uri, glob=False, storage_options=options, schema=_csv_schema(piece, options, kinds)
            )
        case "delta":
            return scan_path(where, int(piece.stamp))


def count(piece: Piece, place: str) -> int | None:
    """Return how many rows a piece has, or None when only reading it would tell."""
    if piece.format == "csv":
        return None
    with reading(piece.uri):
        return int(scan(piece, place).select(pl.len()).collect().item())


def head(piece: Piece, place: str, kinds: Mapping[str, pl.DataType] | None = None) -> pl.DataFrame:
    """Return a piece's columns, without rows."""
    with reading(piece.uri):
        return scan(piece, place, kinds).head(0).collect()


def storage_options(where: Folder | Bucket) -> dict[str, str] | None:
    """Return what Polars needs to reach a bucket; None for a folder."""
    if isinstance(where, Folder):
        return None
    options = {"aws_region": where.region}
    if where.endpoint:
        options |= {
            "aws_endpoint_url": where.endpoint,
            "aws_allow_http": str(where.endpoint.startswith("http:")).lower(),
        }
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        if name in os.environ:
            options[name.lower()] = os.environ[name]
    return options


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Raise what goes wrong while a file is read as Kilter's own errors."""
    try:
        yield
    except KilterError:
        raise
    except FileNotFoundError as error:
        raise NotFound("the file is not there", where=where) from error
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        said = str(error).split("\n", 1)[0]
        raise Damaged(f"the file can't be read: {said}", where=where, fix="mend or remove the file") from error
    except (OSError, BaseError) as error:
        said = str(error).split("\n", 1)[0]
        raise Unavailable(
            f"the file can't be read: {said}", where=where, fix="check the path and the rights"
        ) from error


def _csv_schema(
    piece: Piece, options: dict[str, str] | None, kinds: Mapping[str, pl.DataType] | None
) -> dict[str, pl.DataType]:
    """Return the columns' types: as asked, where a column of numbers that begins with true or false is one of booleans."""
    head = pl.scan_csv(piece.uri, glob=False, storage_options=options, infer_schema_length=_GUESSED)
    guessed = head.collect_schema()
    wanted = kinds or {}
    schema: dict[str, pl.DataType] = {}
    for name, guess in guessed.items():
        kind = wanted.get(name, pl.String())
        schema[name] = pl.Boolean() if kind.is_float() and guess == pl.Boolean else kind
    return schema


def _in_folder(where: Folder) -> tuple[Piece, ...]:
    path = where.path
    if path.is_file():
        return (_piece(path, str(path)),)
    if not path.is_dir():
        raise NotFound("there is no such file or folder", where=str(path))
    names = sorted(one for one in path.rglob("*") if one.is_file() and not _hidden(one.relative_to(path)))
    return tuple(_piece(one, str(path)) for one in names if one.suffix in FORMATS)


def _piece(path: Path, place: str) -> Piece:
    known = path.stat()
    return Piece(str(path), _format(path.suffix, place), known.st_size, str(known.st_mtime_ns))


def _in_bucket(where: Bucket) -> tuple[Piece, ...]:
    root = Bucket(where.name, "", where.endpoint, where.region)
    suffix = Path(where.prefix).suffix
    with reading(where.url):
        store = s3_store(root)
        if suffix in FORMATS:
            entries = [obstore.head(store, where.prefix)]
        else:
            entries = [entry for batch in obstore.list(store, where.prefix or None) for entry in batch]
        return tuple(
            Piece(f"s3://{where.name}/{entry['path']}", FORMATS[Path(entry["path"]).suffix], entry["size"], entry["e_tag"] or "")
            for entry in sorted(entries, key=lambda one: one["path"])
            if Path(entry["path"]).suffix in FORMATS and not _hidden(Path(entry["path"]))
        )  # fmt: skip


def _hidden(path: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)


def _format(suffix: str, where: str) -> Format:
    if suffix not in FORMATS:
        raise InvalidInput(
            f"a file that ends in {suffix!r} is of no known format", where=where, allowed=", ".join(FORMATS)
        )
    return FORMATS[suffix]
